"""A function of the user's is called with a model: what the model was before, and what it is after.

Loaded by path, by backends/torch.py and by subject/; Python 3.7 syntax. The model is evaluated before and after, on the
same batch; those evaluations leave its state, its modes and the random numbers as they were, so that what is found is
the function's doing.
"""

import inspect
import os

import numpy as np

LARGEST = 1 << 22  # numbers of an output that are kept
MOST_NAMES = 200  # of tensors and modules that are told by name


def apply(torch, part, text, net, batch, kwargs=None):
    """(the model after it, notes, arrays): ``text`` is ``/path/file.py:function``, ``batch`` a tuple of tensors.

    ``arrays``: ``before/<place>/<quantity>`` and ``after/…`` (held.py), outputs of eval ``eval/<k>``, ``nudged/<k>``
    (an input that is off by a rounding), ``given/<k>`` (after it) and ``restored/<k>`` (after it, with what its
    normalising layers held before put back)."""
    custom, held, keeping = part("custom"), part("held"), part("keeping")
    batch = (tuple(batch), dict(kwargs or {}))
    function = found(custom, text)
    plays = Plays(torch, part)
    notes, arrays = {"function": text.rpartition(":")[2], "unplayed": {}, "precision": 0.0}, {}
    plays.into(arrays, notes, "eval", net, batch)
    plays.into(arrays, notes, "nudged", net, nudged(torch, batch))
    before = Look(torch, held, keeping, net)
    given = call(torch, custom, text, function, net, batch)
    after_net, notes["returned"] = model_of(torch, given, net)
    empty = held.without_numbers(after_net)
    if empty:
        raise custom.CustomLayerError("%s leaves a model without numbers: %s" % (notes["function"], empty))
    after = Look(torch, held, keeping, after_net)
    plays.into(arrays, notes, "given", after_net, batch)
    if before.put_back(torch, after):
        plays.into(arrays, notes, "restored", after_net, batch)
        after.put_back(torch, after)
    for name, look in (("before", before), ("after", after)):
        notes[name] = look.notes
        arrays.update(("%s/%s" % (name, key), value) for key, value in look.arrays.items())
    notes.update(changes(torch, before, after))
    return after_net, notes, arrays


def found(custom, text):
    path, _, name = text.rpartition(":")
    if not os.path.isfile(path):
        raise custom.CustomLayerError("there is no file %s: name the function as path/to/file.py:function" % path)
    function = getattr(custom.import_file(path), name, None)
    if not callable(function):
        raise custom.CustomLayerError("%s has no function %s" % (path, name))
    return function


def call(torch, custom, text, function, net, batch):
    """The function gets the model; one that cannot do without more gets the batch too."""
    path, _, name = text.rpartition(":")
    torch.manual_seed(0)
    try:
        return function(net, *batch[0][: more_than_the_model(function)])
    except (Exception, SystemExit) as error:
        raise custom.failed("%s raises %s%s" % (name, custom.said(error), custom.line_in(path, error)), error)


def more_than_the_model(function):
    kinds, empty = inspect.Parameter, inspect.Parameter.empty
    try:
        known = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 0
    places = (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    return max(0, sum(each.kind in places and each.default is empty for each in known) - 1)


def model_of(torch, given, net):
    """(the model that the function leaves behind, where it comes from)."""
    nets = [each for each in given if isinstance(each, torch.nn.Module)] if isinstance(given, (tuple, list)) else []
    new = given if isinstance(given, torch.nn.Module) else nets[0] if len(nets) == 1 else net
    return new, "" if new is net else "a new %s" % type(new).__name__


# --------------------------------------------------------------------------------------------------------- a look


class Look:
    """A model at one moment: what its normalising layers hold, every mode, every other tensor."""

    def __init__(self, torch, held, keeping, net):
        self.norms = held.normalisers(torch, net, keeping)
        everything = held.arrays(torch, self.norms, keeping)
        self.arrays = {key: value for key, value in everything.items() if value.dtype.kind != "U"}
        self.modes = {name: bool(module.training) for name, module in net.named_modules()}
        self.kinds = {name: type(module).__name__ for name, module in net.named_modules() if name}
        layers = [held.describe(name, each, bool(each.training)) for name, each in self.norms.items()]
        for place, layer in enumerate(layers):
            own = "%d/" % place
            layer["texts"] = {
                key[len(own) :]: str(value)
                for key, value in everything.items()
                if key.startswith(own) and value.dtype.kind == "U"
            }
            parameters = list(self.norms[layer["name"]].parameters())
            layer["frozen"] = bool(parameters) and not any(each.requires_grad for each in parameters)
        self.notes = {"layers": layers, "training": bool(net.training), "class": type(net).__name__}
        own = tuple("" if module is net else name + "." for name, module in self.norms.items())
        self.others = {
            key: value.detach().clone()
            for key, value in net.state_dict().items()
            if not key.startswith(own) and hasattr(value, "detach") and not held.lazy(value)
        }
        self.kept = {}  # (layer, quantity): the tensor, and what it holds now
        for place, name in enumerate(self.norms):
            for what in ("running_mean", "running_var", "gamma", "beta"):
                word = str(everything.get("%d/%s/key" % (place, what), ""))
                if word:
                    tensor = getattr(self.norms[name], word)
                    self.kept[name, what] = (tensor, tensor.detach().clone())
        self.eps = {
            name: each.eps for name, each in self.norms.items() if isinstance(getattr(each, "eps", None), float)
        }

    def put_back(self, torch, other):
        """Write what the layers held into those of ``other``; False where none of it is different."""
        places = {name: place_of(name, other.norms) for name in self.norms}
        changed = False
        with torch.no_grad():
            for (name, what), (_, value) in self.kept.items():
                into = other.kept.get((places[name], what), (None,))[0]
                if into is not None and into.shape == value.shape and not alike(torch, into.detach(), value):
                    into.copy_(value)
                    changed = True
        for name, eps in self.eps.items():
            if places[name] in other.eps and other.norms[places[name]].eps != eps:
                other.norms[places[name]].eps = eps
                changed = True
        return changed


def place_of(name, norms):
    """A layer's name in a model that may hold the one that it was in as a part."""
    found = [name] if name in norms else [each for each in norms if each.endswith("." + name)]
    return found[0] if len(found) == 1 else ""


def changes(torch, before, after):
    """What differs beside the normalising layers: tensors of the same name, and modes of other modules."""
    shared = [key for key in before.others if key in after.others]
    apart = [key for key in shared if not alike(torch, before.others[key], after.others[key])]
    flipped = [
        name for name, mode in before.modes.items() if after.modes.get(name, mode) != mode and name not in before.norms
    ]
    replaced = [
        "%s: %s → %s" % (name, kind, after.kinds[name])
        for name, kind in before.kinds.items()
        if after.kinds.get(name, kind) != kind and name not in before.norms
    ]
    return {
        "others": {"same": len(shared) - len(apart), "different": apart[:MOST_NAMES]},
        "flipped": flipped[:MOST_NAMES],
        "replaced": replaced[:MOST_NAMES],
    }


def alike(torch, one, two):
    if one.shape != two.shape or one.dtype != two.dtype:
        return False
    one, two = one.cpu(), two.cpu()
    return bool(((one == two) | (torch.isnan(one) & torch.isnan(two))).all())


# ---------------------------------------------------------------------------------------------------- evaluations


def nudged(torch, batch):
    def nudge(value):
        if hasattr(value, "is_floating_point") and value.is_floating_point():
            generator = torch.Generator()
            generator.manual_seed(1)
            noise = torch.rand(value.shape, generator=generator).to(dtype=value.dtype, device=value.device)
            return value * (1 + 2 * torch.finfo(value.dtype).eps * (noise - 0.5))
        return value

    return tuple(map(nudge, batch[0])), {key: nudge(value) for key, value in batch[1].items()}


class Plays:
    """Evaluations that leave no trace."""

    def __init__(self, torch, part):
        self.torch, self.custom, self.leaves = torch, part("custom"), part("whole").leaves

    def into(self, arrays, notes, name, net, batch):
        try:
            outputs = self.run(net, batch)
        except (Exception, SystemExit) as error:
            notes["unplayed"][name] = self.custom.said(error).split("\n")[0]
            return
        arrays.update(("%s/%d" % (name, place), plain(each)) for place, each in enumerate(outputs))
        notes["precision"] = max([notes["precision"]] + [self.torch.finfo(each.dtype).eps for each in outputs])

    def run(self, net, batch):
        torch = self.torch
        modes = [(module, module.training) for module in net.modules()]
        state = {key: value.detach().clone() for key, value in net.state_dict().items() if hasattr(value, "detach")}
        dice = torch.get_rng_state()
        try:
            torch.manual_seed(0)
            net.eval()
            with torch.no_grad():
                out = net(*batch[0], **batch[1])
            return [each.detach().clone() for each in self.leaves(torch, out).values() if self.kept(each)]
        finally:
            torch.set_rng_state(dice)
            for module, training in modes:
                module.training = training
            with torch.no_grad():
                for key, value in net.state_dict().items():
                    if key in state and not alike(torch, value.detach(), state[key]):
                        value.copy_(state[key])

    def kept(self, tensor):
        return tensor.is_floating_point() and tensor.numel() <= LARGEST


def plain(tensor):
    data = tensor.detach().cpu()
    wide = data.float() if str(data.dtype) in ("torch.bfloat16", "torch.float16") else data
    return np.array(wide.numpy())


# ---------------------------------------------------------------------------------------------------- in a program


# Ways to run a network that hold on to the one that was built, or to copies of it.
NOT_WITH = ("compile", "jit", "trace", "export", "functional", "ddp", "ddp_local", "ddp_sync")


def in_cell(model, part, function, x):
    """The event of a program: ``model`` is the backend's; what the function leaves behind plays on."""
    if model.variant in NOT_WITH or model.network.get("replicas") or model.network.get("copied"):
        raise NotImplementedError("a function is called with plain networks alone, not as torch[%s]" % model.variant)
    with model.unwatched():
        net, notes, arrays = apply(model.torch, part, function, model.net, (model.tensor(x),))
        known = {name: each for name, each in net.named_modules() if hasattr(each, "running_mean")}
        for name in list(model.norms):
            place = place_of(name, known)
            if place:
                model.norms[name], model.places[name] = known[place], place
            elif name not in model.gone:
                model.gone[name] = model.state(name)
                del model.places[name]
        model.net = net
    model.call = part("variants").runner(model, model.variant)
    model.tape, model.used_up = [], False
    model.seen = {name: each for name, each in model.seen.items() if name not in model.gone}
    return {"arrays": {"applied/" + key: value for key, value in arrays.items()}, "notes": {"applied": notes}}
