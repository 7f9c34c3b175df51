"""The event ``apply`` in frameworks other than PyTorch: a function of the user's is called with the model, which is
looked at before and after.

Loaded by path beside a backend that takes whole models; Python 3.7 syntax. It answers in the words of
torch_side/applied.py. The model is evaluated before and after on the same batch; those evaluations leave what it holds,
and its modes, as they were. What a framework does in its own way is a method of its Whole model, under "what apply asks
for".
"""

import numpy as np

LARGEST = 1 << 22  # numbers of an output that are kept
MOST_NAMES = 200
HELD = ("running_mean", "running_var", "gamma", "beta")


def in_cell(model, part, text, x):
    """The event of a program: ``model`` is the whole network of the cell; what the function leaves behind plays on."""
    custom, applied = part("custom", "torch"), part("applied", "torch")
    function = applied.found(custom, text)
    batch = np.asarray(x, dtype="float32" if model.dtype == "bfloat16" else str(model.dtype))
    dice = np.random.default_rng(1).random(batch.shape)
    close = (batch * (1 + 2 * np.finfo(batch.dtype).eps * (dice - 0.5))).astype(batch.dtype)
    notes, arrays = {"function": text.rpartition(":")[2], "unplayed": {}, "precision": 0.0}, {}
    model.untap()
    old = model.root()
    into(custom, model, arrays, notes, "eval", batch)
    into(custom, model, arrays, notes, "nudged", close)
    before = Look(model)
    try:
        given = function(old, *[model.handed(batch)][: applied.more_than_the_model(function)])
    except (Exception, SystemExit) as error:
        path, name = text.rpartition(":")[0], notes["function"]
        raise custom.failed("%s raises %s%s" % (name, custom.said(error), custom.line_in(path, error)), error)
    finally:
        model.tap()
    new = model_of(model, given, old)
    unusable = model.unusable(new) if new is not old else ""
    if unusable:
        raise custom.CustomLayerError("the model that %s returns %s" % (notes["function"], unusable))
    model.replace(new)
    model.untap()
    after = Look(model)
    into(custom, model, arrays, notes, "given", batch)
    if before.put_back(model, after):
        into(custom, model, arrays, notes, "restored", batch)
        after.put_back(model, after)
    model.tap()
    for name, look in (("before", before), ("after", after)):
        notes[name] = look.notes
        arrays.update(("%s/%s" % (name, key), value) for key, value in look.arrays.items())
    notes.update(changes(before, after), returned="" if new is old else "a new %s" % type(new).__name__)
    return {"arrays": {"applied/" + key: value for key, value in arrays.items()}, "notes": {"applied": notes}}


def model_of(model, given, old):
    """The model that the function leaves behind: the one that it returns, alone or among other things."""
    nets = [each for each in given if model.is_model(each)] if isinstance(given, (tuple, list)) else []
    return given if model.is_model(given) else nets[0] if len(nets) == 1 else old


class Look:
    """A model at one moment: what its normalising layers hold, which are frozen, every mode, every other weight."""

    def __init__(self, model):
        net = model.root()
        self.norms, self.arrays, self.held, layers = dict(model.found()), {}, {}, []
        self.modes, self.kinds = model.modes(net), model.kinds(net)
        for place, (name, layer) in enumerate(self.norms.items()):
            number = {what: model.find(layer, what) for what in ("eps", "momentum")}
            for what in HELD:
                held = model.find(layer, what)
                if held is not None:
                    value = self.arrays["%d/%s" % (place, what)] = np.array(model.hands.array(held))
                    self.held[name, what] = (held, value)
            texts = {"%s/dtype" % what: str(held.dtype) for (own, what), (held, _) in self.held.items() if own == name}
            layers.append(
                dict(
                    number,
                    name=name,
                    kind=type(layer).__name__,
                    training=self.modes.get(name),
                    cumulative=False,
                    tracks=True,
                    own=type(layer).__module__.partition(".")[0] != model.hands.target,
                    texts=texts,
                    frozen=model.frozen(layer),
                )
            )
        self.notes = {"layers": layers, "training": self.modes.get("", False), "class": type(net).__name__}
        own = {id(held) for held, _ in self.held.values()}
        self.others = {
            path: np.array(model.hands.array(each))
            for path, each in model.everything(net).items()
            if id(each) not in own
        }

    def put_back(self, model, other):
        """Write what the layers held into those of ``other``; False where none of it is different."""
        changed = False
        for key, (_, value) in self.held.items():
            held = other.held.get(key, (None,))[0]
            if held is not None and tuple(held.shape) == value.shape and not same(model.hands.array(held), value):
                model.put(held, value)
                changed = True
        return changed


def into(custom, model, arrays, notes, name, batch):
    """One evaluation into ``arrays``; the variables and modes of the model are afterwards what they were."""
    net = model.root()
    held = [(each, np.array(model.hands.array(each))) for each in model.everything(net).values()]
    modes = model.modes(net)
    try:
        out = model.evaluated(net, batch)
    except (Exception, SystemExit) as error:
        notes["unplayed"][name] = custom.said(error).split("\n")[0]
        return
    finally:
        for each, value in held:
            if not same(model.hands.array(each), value):
                model.put(each, value)
        model.set_modes(net, modes)
    found = [np.array(model.hands.array(each)) for each in leaves(out)]
    found = [each for each in found if each.dtype.kind == "f" and each.size <= LARGEST]
    arrays.update(("%s/%d" % (name, place), each) for place, each in enumerate(found))
    notes["precision"] = max([notes["precision"]] + [float(np.finfo(each.dtype).eps) for each in found])


def leaves(out):
    """The tensors of what a model returns, in order."""
    if hasattr(out, "shape"):
        return [out]
    inner = out.values() if hasattr(out, "values") else out if isinstance(out, (list, tuple)) else ()
    return [each for part in inner for each in leaves(part)]


def changes(before, after):
    """What differs beside the normalising layers."""
    shared = [key for key in before.others if key in after.others]
    apart = [key for key in shared if not same(before.others[key], after.others[key])]
    replaced = [
        "%s: %s → %s" % (name, kind, after.kinds[name])
        for name, kind in before.kinds.items()
        if after.kinds.get(name, kind) != kind and name not in before.norms
    ]
    known = set(before.norms) | {""}
    flipped = [name for name, mode in before.modes.items() if name not in known and after.modes.get(name, mode) != mode]
    return {
        "others": {"same": len(shared) - len(apart), "different": apart[:MOST_NAMES]},
        "flipped": flipped[:MOST_NAMES],
        "replaced": replaced[:MOST_NAMES],
    }


def same(one, two):
    return one.shape == two.shape and np.array_equal(one, two, equal_nan=one.dtype.kind == "f")
