"""Normalising layers of a user's model whose state has unusual names: found by what it does in one training forward.

A layer that is called once with a tensor, and keeps two tensors of one number per channel, of which one moves towards
the mean of that input and another towards its variance, its deviation or one over that, keeps running statistics. Its
gamma and beta are the weights that its output shows. What is found is written into own_side/layer.py's ``SHOWN``; what
the model holds is as before. Loaded by path beside a backend's model of a network; Python 3.7 syntax, no framework is
known here.
"""

import numpy as np

NEAR = 1e-2  # of the largest: how near a weight is to the gamma or beta that an output shows; eps is not known
FEWEST, LARGEST = 2, 1 << 16  # channels
FORMS = {1: "", 2: ", which it holds as a standard deviation", -2: ", which it holds as one over a standard deviation"}
DEPTH = 2  # of layers inside a layer, that keep its statistics


def see(shared, behaviour, model, batch):
    """Have a model know its layers of unusual names by what they do with a batch; its state and modes stay."""
    net = model.root()
    modes = model.modes(net)
    found = learn(shared, behaviour, model, batch)
    model.set_modes(net, modes)
    if found:
        model.layers = list(model.found())
        model.replace(net)


def learn(shared, behaviour, model, batch):
    """Whether any was found."""
    net, hands = model.root(), model.hands
    suspects = {name: each for name, each in layers(model, net).items() if worth(shared, hands, each)}
    if not suspects:
        return False
    whole = {key: (each, np.array(hands.array(each))) for key, each in model.everything(net).items()}
    before = {name: kept(hands, each) for name, each in suspects.items()}
    known = len(shared.SHOWN)
    try:
        try:
            with model.followed(suspects) as ran:
                model.in_training(net, batch)
        except (Exception, SystemExit):
            return False  # the play itself says why
        after = {name: kept(hands, each) for name, each in suspects.items()}
        look(shared, behaviour, model, suspects, ran, before, after)
    finally:
        for name, each in suspects.items():
            put_back(shared, hands, each, before[name])
        for held, value in whole.values():
            model.put(held, value)
    return len(shared.SHOWN) > known


def look(shared, behaviour, model, suspects, ran, before, after):
    """Write down what is known of the suspects by the calls that ``ran``; what is in another layer is that one's."""
    hands, claimed = model.hands, set()
    for name in sorted(suspects, key=lambda each: -each.count(".")):
        layer, calls = suspects[name], [call for call in ran if call.name == name]
        if len(calls) == 1 and calls[0].given is not None and calls[0].out is not None:
            x, y = (np.asarray(model.array(each), dtype=np.float64) for each in (calls[0].given, calls[0].out))
            words = words_of(hands, behaviour, layer, x, y, before[name], after[name])
            if not words and moved(before[name], after[name], x.shape):
                words = by_itself(shared, behaviour, hands, layer, x, before[name])
            used = {id(shared.reached(layer, name)) for name, _ in words.values()}
            if words and not used & claimed:
                claimed |= used
                shared.SHOWN[type(layer)] = words


def moved(before, after, shape):
    """Whether anything that it keeps for one of its input's axes moved."""
    return any(
        each.size in shape[1:] and not np.array_equal(each, after.get(name, each)) for name, each in before.items()
    )


def by_itself(shared, behaviour, hands, layer, x, before):
    """``words_of`` it once more, by itself: means of 0, or equal variances, show nothing, as behind another
    normalisation."""
    axis = hands.axis % x.ndim
    wide = [1] * x.ndim
    wide[axis] = x.shape[axis]
    grow = np.linspace(0.5, 2.0, x.shape[axis]).reshape(wide)
    given = (x * grow + np.flip(grow, axis)).astype("float32")
    put_back(shared, hands, layer, before)
    try:
        out = np.asarray(hands.array(hands.run(shared.Own(hands, layer), given)), dtype=np.float64)
        return words_of(hands, behaviour, layer, given.astype(np.float64), out, before, kept(hands, layer))
    except (Exception, SystemExit):
        return {}  # it takes no such call


def taken(shared, norms):
    """A sentence per class of ``norms`` ({name: layer}) on what was taken for its statistics."""
    kinds = {type(each): shared.SHOWN[type(each)] for each in norms.values() if type(each) in shared.SHOWN}
    said = "By what they do in training, %s and %s of %s were taken for its running mean and variance%s."
    return [
        said % (words["running_mean"][0], words["running_var"][0], kind.__name__, FORMS[words["running_var"][1]])
        for kind, words in kinds.items()
    ]


def layers(model, net):
    return dict({"": net}, **model.modules(net))


def worth(shared, hands, layer):
    """Whether it keeps two tensors of one size, and none under names that are known."""
    if type(layer) in shared.SHOWN or shared.normalises(hands, shared.holder(hands, layer)):
        return False
    sizes = [each.size for each in kept(hands, layer).values()]
    return any(sizes.count(size) > 1 for size in set(sizes))


def kept(hands, layer, depth=0):
    """{dotted attribute: values} of what it, and layers inside it, keep and do not train, a number per channel."""
    found = {}
    for name, each in hands.kept(layer).items():
        size = int(np.prod(each.shape)) if "." not in name else 0
        if FEWEST <= size <= LARGEST and max(each.shape) == size:
            value = np.array(hands.array(each)).reshape(-1)
            found.update({name: value} if value.dtype.kind == "f" else {})
    if depth < DEPTH:
        for attribute, inner in hands.children(layer).items():
            held = kept(hands, inner, depth + 1)
            found.update(("%s.%s" % (attribute, name), value) for name, value in held.items())
    return found


def put_back(shared, hands, layer, held):
    for name, value in held.items():
        owner, _, last = name.rpartition(".")
        owner = shared.reached(layer, owner) if owner else layer
        hands.assign(owner, last, value.reshape(tuple(getattr(owner, last).shape)))


def words_of(hands, behaviour, layer, x, y, before, after):
    """{neutral word: (dotted attribute, power)}; {} where it keeps no running statistics of this input."""
    for size in sorted({each.size for each in before.values()}):
        axes = [axis for axis in range(1, x.ndim) if x.shape[axis] == size]
        if not axes:
            continue
        axis = hands.axis % x.ndim if hands.axis % x.ndim in axes else axes[-1]
        rows = np.moveaxis(x, axis, 0).reshape(size, -1)
        if rows.shape[1] < 2 or not np.isfinite(rows).all():
            continue
        steps = {name: (old, after[name]) for name, old in before.items() if old.size == size and name in after}
        found = statistics(behaviour, steps, rows.mean(1), rows.var(1), rows.shape[1])
        if found and x.shape == y.shape:
            out = np.moveaxis(y, axis, 0).reshape(size, -1)
            found.update(weights(hands, layer, rows, out))
        if found:
            return found
    return {}


def statistics(behaviour, steps, mean, var, n):
    """``steps``: {name: (before, after)}."""
    moved = {name: pair for name, pair in steps.items() if not np.array_equal(*pair)}
    both = [var, var * n / (n - 1.0)]
    goals = {1: both, 2: [np.sqrt(each) for each in both]}
    if (var > 0).all():
        goals[-2] = [1.0 / np.sqrt(each) for each in both]
    first = behaviour.nearest(moved, [mean])
    others = {name: pair for name, pair in moved.items() if name != first}
    for power, values in goals.items():
        second = behaviour.nearest(others, values)
        if first and second:
            return {"running_mean": (first, 1), "running_var": (second, power)}
    return {}


def weights(hands, layer, rows, out):
    """gamma and beta: the weights that are the slope of its output by what is normalised, and its mean."""
    mean, spread = rows.mean(1), rows.std(1)
    centred = rows - mean[:, None]
    with np.errstate(all="ignore"):
        slope = (centred * out).sum(1) / (centred * centred).sum(1)
    shown = {"gamma": slope * spread, "beta": out.mean(1)}
    learned = {name: np.array(hands.array(each)).reshape(-1) for name, each in hands.learned(layer).items()}
    found = {}
    for what, values in shown.items():
        near = [
            name
            for name, each in learned.items()
            if each.size == len(values) and np.abs(each - values).max() <= NEAR * max(np.abs(values).max(), NEAR)
        ]
        if len(near) == 1 and np.isfinite(values).all():
            found[what] = (near[0], 1)
    return found
