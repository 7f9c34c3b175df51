"""What each module without others in it got, held and gave in one forward in inference, in a framework other than
PyTorch (torch_side/leaves.py), as digests and a few sums; and between which of them a normalising layer runs that runs
more than once.

Loaded by path beside a backend's model of a whole network; Python 3.7 syntax, no framework is known here. Two targets
that play one network hold them side by side. Where they compute by other kernels the first module already gives other
last digits: the sums tell those from the module that differs by itself.
"""

import hashlib

import numpy as np

MOST = 400  # modules; more would take longer than the play
FEW = 16  # sums of an array


def look(where, model, batch):
    """``modules``: {"eval": [[name, class, input, weights, output, sums of the input, sums of the output]]} in the
    order in which they ran; what got or gave no single tensor is left out. ``places``: as places.py (``where``) says
    them. The model is as before."""
    net, parts = model.root(), modules(model)
    if len(parts) > MOST:
        return {}
    whole = [(each, np.array(model.hands.array(each))) for each in model.everything(net).values()]
    modes, rows = model.modes(net), []
    held = {
        name: digest([model.hands.array(each) for each in model.everything(part).values()])
        for name, part in parts.items()
    }
    model.untap()  # to follow a layer takes away what is put around its call
    try:
        with model.followed(parts) as calls:
            model.evaluated(net, batch)
        for call in calls:
            if call.given is not None and call.out is not None:
                given, out = (np.asarray(model.array(each)) for each in (call.given, call.out))
                row = [call.name, type(parts[call.name]).__name__, digest([given]), held[call.name], digest([out])]
                rows.append(row + [sums(given), sums(out)])
    except (Exception, SystemExit):
        return {}  # the play itself says why
    finally:
        model.tap()
        for each, value in whole:
            model.put(each, value)
        model.set_modes(net, modes)
    weigh = set(where.leaves(model, net)) | set(model.norms)
    places = where.several([call.name for call in calls if call.name in weigh], set(model.norms))
    return dict({"places": places} if places else {}, **({"modules": {"eval": rows}} if rows else {}))


def modules(model):
    """{name: module} of those that hold no other, and of the normalising layers, which go by their own names."""
    hands, inner = model.hands, set()
    for norm in model.norms.values():
        inner |= {id(norm)} | {id(each) for each in hands.inner(norm)}
    known = model.modules(model.root())
    found = {name: each for name, each in known.items() if id(each) not in inner and not hands.inner(each)}
    return dict(found, **model.norms)


def digest(arrays):
    found = hashlib.sha256()
    for each in arrays:
        found.update(("%s%s" % (each.dtype, each.shape)).encode())
        found.update(np.ascontiguousarray(each).tobytes())
    return found.hexdigest()[:16]


def sums(array):
    """Sums of every sixteenth number, with signs by chance, over the root of how many they are, and the size of the
    largest number; none where one is not finite. Rounding moves them by what it moves one number by."""
    flat = np.asarray(array).reshape(-1)
    if not flat.size or flat.dtype.kind not in "fiu" or not np.isfinite(flat).all():
        return []
    flat = flat.astype(np.float64)
    signed = flat * (2.0 * np.random.RandomState(0).randint(0, 2, flat.size) - 1.0)
    parts = [signed[place::FEW] for place in range(min(FEW, flat.size))]
    return [float(each.sum() / np.sqrt(each.size)) for each in parts] + [float(np.abs(flat).max())]
