"""Somebody's own normalising layer in the place of keras.layers.BatchNormalization: load it, make it, find its state.

Loaded by backends/keras.py by path. Python 3.7 syntax. ``custom`` is torch_side/custom.py, whose loading of files knows
no framework. The file is code that the user named on purpose; it runs in the worker with the worker's rights.
"""

import inspect

import numpy as np

# Own layers spell their state differently; the first name that exists is read.
NAMES = {
    "running_mean": ("moving_mean", "running_mean"),
    "running_var": ("moving_variance", "moving_var", "running_var", "running_variance"),
    "counter": ("num_batches_tracked",),
    "gamma": ("gamma", "weight", "scale"),
    "beta": ("beta", "bias", "offset"),
    "momentum": ("momentum",),
    "eps": ("epsilon", "eps"),
}
TENSORS = ("running_mean", "running_var", "counter", "gamma", "beta")
USUAL = {"gamma": 1.0, "beta": 0.0, "running_mean": 0.0, "running_var": 1.0}
# What a constructor may call the number of channels, which most Keras layers learn from their input instead.
CHANNELS = ("channels", "num_channels", "num_features", "features", "filters", "units", "dim")
# A word of the scenario → what a constructor may call it.
WORDS = {"axis": ("axis",), "momentum": NAMES["momentum"], "eps": NAMES["eps"], "affine": ("affine",),
         "center": ("center",), "scale": ("scale",)}  # fmt: skip


def load_class(keras, custom, text):
    """The class that ``path.py:Name`` names, or ``package.module:Name``."""
    path, _, name = text.rpartition(":")
    found = custom.import_package(path) if not path.endswith(".py") else custom.import_file(path)
    for word in name.split("."):
        found = getattr(found, word, None)
    if found is None:
        raise custom.CustomLayerError("%s has no class %s" % (path, name))
    if not (isinstance(found, type) and issubclass(found, keras.layers.Layer)):
        raise custom.CustomLayerError("%s in %s is not a subclass of keras.layers.Layer" % (name, path))
    return found


def make(keras, custom, text, spec, dtype, more=None):
    """A built layer. What its constructor takes no argument for is left out, and kept in ``bncheck_left_out``."""
    kind = load_class(keras, custom, text)
    asked = {"axis": spec["axis"], "affine": spec["affine"], "center": spec["affine"], "scale": spec["affine"]}
    if spec["batch_weight"] is not None:
        asked["momentum"] = 1.0 - spec["batch_weight"]
    if spec["eps"] is not None:
        asked["eps"] = spec["eps"]
    given, left_out = arguments_for(keras, custom, kind, asked, spec["channels"], dict(more or {}))
    call = "%s(%s)" % (kind.__name__, ", ".join("%s=%r" % item for item in sorted(given.items())))
    try:
        layer = kind(**given, **({"dtype": dtype} if takes(kind, "dtype") else {}))
        turned = is_turned(layer, spec, given)
        shape = [None] * spec.get("rank", 2)
        shape[-1 if turned else spec["axis"]] = spec["channels"]
        layer.build(tuple(shape))
    except (Exception, SystemExit) as error:
        where = custom.line_in(text.rpartition(":")[0], error)
        raise custom.failed("%s raises %s%s" % (call, custom.said(error), where), error)
    layer.built = True
    return Own(layer, turned, left_out, accepts_training(layer))


class Own:
    """A layer of the user's. ``turned``: it takes channels last where the scenario has them second; ``told``: its call
    takes ``training``."""

    def __init__(self, layer, turned, left_out, told):
        self.layer, self.turned, self.left_out, self.told = layer, turned, left_out, told


def is_turned(layer, spec, given):
    """Whether the layer normalises the last axis where the scenario's channels lie second."""
    own = given.get("axis", getattr(layer, "axis", -1))
    own = own[0] if isinstance(own, (list, tuple)) and len(own) == 1 else own
    return spec["axis"] == 1 and spec.get("rank", 2) > 2 and own != 1


def parameters(kind):
    try:
        return inspect.signature(kind.__init__).parameters
    except (TypeError, ValueError):
        return {}


def takes(kind, word):
    known = parameters(kind)
    return word in known or any(each.kind == inspect.Parameter.VAR_KEYWORD for each in known.values())


def arguments_for(keras, custom, kind, asked, channels, more):
    """(keywords, [words that the constructor has no argument for]). A **kwargs is Keras's own (name, dtype) unless the
    class is a BatchNormalization, which takes the rest."""
    known = parameters(kind)
    through = issubclass(kind, keras.layers.BatchNormalization) and takes(kind, "axis")
    base = parameters(keras.layers.BatchNormalization) if through else {}
    given, left_out = dict(more), []
    for word, value in asked.items():
        name = next((each for each in WORDS[word] if each in known or each in base), None)
        if name is not None:
            given.setdefault(name, value)
        else:
            left_out.append(word)
    empty, rest = inspect.Parameter.empty, (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    lacks = [
        each.name for each in list(known.values())[1:]
        if each.default is empty and each.kind not in rest and each.name not in given
    ]  # fmt: skip
    for name in [each for each in lacks if each in CHANNELS]:
        given[name] = channels
        lacks.remove(name)
    if lacks:
        raise custom.CustomLayerError(
            "%s%s needs %s, which bncheck does not know; it gives axis, momentum, epsilon, center and scale. Write a "
            "class that knows the rest" % (kind.__name__, inspect.signature(kind), " and ".join(lacks))
        )
    return given, [word for word in left_out if not is_switch(word, left_out)]


def is_switch(word, left_out):
    """``affine`` and ``center`` with ``scale`` are two ways to ask for one thing."""
    return word == "affine" or (word in ("center", "scale") and "affine" not in left_out)


def accepts_training(layer):
    try:
        known = inspect.signature(layer.call).parameters
    except (TypeError, ValueError):
        return True
    return "training" in known or any(each.kind == inspect.Parameter.VAR_KEYWORD for each in known.values())


# ----------------------------------------------------------------------------------------------------- its state


def find(layer, what):
    """The layer's variable or number for a neutral word, None where it has none."""
    held = attribute(layer, what)
    return held if held is not None else attribute(holder(layer), what)


def holder(layer):
    """The layer that keeps the statistics: the layer itself, or the only one inside it that does (a wrapper)."""
    if attribute(layer, "running_mean") is not None:
        return layer
    inner = [each for each in layer._flatten_layers(include_self=False) if attribute(each, "running_mean") is not None]
    return inner[0] if len(inner) == 1 else layer


def attribute(layer, what):
    found = [getattr(layer, name, None) for name in NAMES[what]]
    wanted = is_variable if what in TENSORS else is_number
    return next((held for held in found if wanted(held)), None)


def is_variable(held):
    return hasattr(held, "assign") and hasattr(held, "shape")


def is_number(held):
    return isinstance(held, (int, float)) and not isinstance(held, bool)


def put(custom, own, what, value):
    """Set one of the scenario's initial values; a sentence where the layer keeps its own instead, "" else."""
    held, name = find(own.layer, what), type(own.layer).__name__
    usual = bool((value == USUAL[what]).all())
    if held is None and usual:
        return ""
    if held is None:
        raise custom.CustomLayerError(
            "the scenario's initial %s cannot be put into %s: bncheck looks for a variable %s. Call it so, or take %s "
            "out of the scenario's `initial`" % (what, name, " or ".join(NAMES[what]), what)
        )
    size = int(np.prod(held.shape))
    if size == value.size:
        held.assign(np.reshape(value, tuple(held.shape)))
    elif size == 1 and bool((value == value.reshape(-1)[0]).all()):
        held.assign(np.reshape(value.reshape(-1)[:1], tuple(held.shape)))
    else:
        return "%s holds %s in the shape %s: it keeps its own values, not the scenario's %d" % (
            name, what, tuple(held.shape), value.size,
        )  # fmt: skip
    return ""


def per_channel(array, channels):
    """What a layer holds as one number per channel: (1, 1, 1, C) is (C,), and one value is every channel's."""
    flat = array.reshape(-1)
    return flat.repeat(channels) if flat.size == 1 and channels > 1 else flat


def gradient_word(own, variable):
    """gamma or beta, by which of the layer's variables it is; "" for another one."""
    return next((what for what in ("gamma", "beta") if find(own.layer, what) is variable), "")


# ------------------------------------------------------------------------------------------- what is said of it


def facts(own, spec, remarks):
    """What the cell says of one layer: its class, what could not be asked of it, whether all its state is saved."""
    layer, name = own.layer, type(own.layer).__name__
    said = list(remarks)
    shown = {"momentum": None if spec["batch_weight"] is None else 1.0 - spec["batch_weight"], "eps": spec["eps"]}
    for word in [each for each in own.left_out if each in shown and shown[each] is not None]:
        held, asked = find(layer, word), shown[word]
        if held is not None and abs(held - asked) <= 1e-9:
            said.append("%s takes no %s: its %s is %r, as %s=%r asks" % (name, word, word, held, word, asked))
        else:
            shows = "what it uses instead is not known" if held is None else "its %s is %r" % (word, held)
            said.append("%s takes no %s: the scenario asks for %s=%r, and %s" % (name, word, word, asked, shows))
    if not own.told:
        said.append("%s.call takes no `training`: it does the same in training and in inference" % name)
    return {"class": name, "left_out": sorted(own.left_out), "remarks": said, "moves": moves(own)}


def moves(own):
    """Actions on a layer, each "ok" or the error: what saving and loading a model does."""
    return {"get_config and from_config": attempt(lambda: again(own.layer))}


def again(layer):
    type(layer).from_config(layer.get_config())


def attempt(action):
    try:
        action()
    except Exception as error:
        return "%s: %s" % (type(error).__name__, " ".join(str(error).split())[:300])
    return "ok"
