"""A user's normalising layer where a framework's would be: load it, make it, find its state, say what it lacks.

Loaded by path beside a backend that takes such layers. Python 3.7 syntax; no framework is known here: what one does in
its own way is a ``Hands`` in its own folder (keras_side/own.py, paddle_side/own.py). ``custom`` is
torch_side/custom.py, whose loading of files knows no framework either. The file is code that the user named on purpose;
it runs in the worker with the worker's rights.
"""

import importlib.util
import inspect
import os

import numpy as np

WORKER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SPEC = importlib.util.spec_from_file_location("bncheck_beside", os.path.join(WORKER, "beside.py"))
BESIDE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(BESIDE)
HANDS = BESIDE.part_of("own")("hands")
NAMES, WORDS, Hands, Powered = HANDS.NAMES, HANDS.WORDS, HANDS.Hands, HANDS.Powered

TENSORS = ("running_mean", "running_var", "counter", "gamma", "beta")
USUAL = {"gamma": 1.0, "beta": 0.0, "running_mean": 0.0, "running_var": 1.0}
SHOWN = {}  # class → {what: (attribute, perhaps "stats.mu", power that makes a variance of it)}; unusual.py finds it
# What a constructor may call the number of channels.
CHANNELS = ("num_features", "num_channels", "in_channels", "channels", "features", "filters", "units", "dim")


class Own:
    """A layer of the user's. ``turned``: (axis of the scenario's channels, of the layer's) where these are two;
    ``left_out``: words that its constructor does not take; ``shown``: names of its state that its behaviour showed,
    where they are unusual. ``again()`` makes another one like it."""

    def __init__(self, hands, layer, turned=None, left_out=(), again=None):
        self.hands, self.layer, self.turned, self.left_out = hands, layer, turned, left_out
        self.shown, self.again = {}, again
        self.call, self.quiet = "", []  # how it was made: the call, and what it got besides

    def find(self, what):
        held = find(self.hands, self.layer, what)
        return getattr(self.layer, self.shown[what], None) if held is None and what in self.shown else held

    def put(self, what, value):
        """Give what ``find`` finds another value."""
        owner = self.layer if name_of(self.hands, self.layer, what) else holder(self.hands, self.layer)
        name = name_of(self.hands, owner, what)
        if name:
            path, _, last = name.rpartition(".")
            power = SHOWN.get(type(owner), {}).get(what, (name, 1))[1]
            self.hands.assign(reached(owner, path), last, value if power == 1 else np.asarray(value) ** (1.0 / power))
        else:
            self.hands.assign(self.layer, self.shown[what], value)


# ---------------------------------------------------------------------------------------------------- it is made


def load_class(hands, custom, text):
    """The class that ``path.py:Name`` names, or ``package.module:Name``."""
    path, _, name = text.rpartition(":")
    custom.RUNS.update(title=hands.title, target=hands.target)
    found = custom.import_theirs(path)
    for word in name.split("."):
        found = getattr(found, word, None)
    if found is None:
        raise custom.CustomLayerError("%s has no class %s" % (path, name))
    if not (isinstance(found, type) and issubclass(found, hands.base)):
        raise custom.CustomLayerError("%s in %s is not a subclass of %s" % (name, path, hands.usual))
    return found


def make(hands, custom, text, spec, dtype, more=None):
    """A layer that can run. What its constructor takes no argument for is left out, and kept in ``left_out``. ``text``
    may be a layer that is there already (alone.py)."""
    if not isinstance(text, str):
        return standing(hands, text.layer)
    kind = load_class(hands, custom, text)
    asked = hands.switches(spec)
    if spec["batch_weight"] is not None:
        asked["momentum"] = 1.0 - spec["batch_weight"]
    if spec["eps"] is not None:
        asked["eps"] = spec["eps"]
    given, left_out = arguments_for(hands, custom, kind, asked, spec, dict(more or {}))
    call = "%s(%s)" % (kind.__name__, ", ".join("%s=%r" % item for item in sorted(given.items())))
    try:
        quiet = {word: value for word, value in hands.quietly(spec, dtype).items() if takes(kind, word)}
        layer = kind(**dict(quiet, **given))
        turned = (spec["axis"], hands.axis_of(layer, given)) if hands.turned(layer, spec, given) else None
        shape = [None] * spec.get("rank", 2)
        shape[turned[1] if turned else spec["axis"]] = spec["channels"]
        hands.finish(layer, tuple(shape), dtype)
    except (Exception, SystemExit) as error:
        where = custom.line_in(text.rpartition(":")[0], error)
        raise custom.failed("%s raises %s%s" % (call, custom.said(error), where), error)
    own = Own(hands, layer, turned, left_out, lambda: make(hands, custom, text, spec, dtype, more))
    own.call, own.quiet = call, sorted(quiet)
    return own


def standing(hands, layer):
    """One that nobody has to make. Its gamma and beta may have unusual names: the one parameter of ones, of zeros."""
    own = Own(hands, layer)
    held = own.find("running_mean")
    channels = int(np.prod(held.shape)) if held is not None else 0
    own.shown = alike(own, [what for what in ("gamma", "beta") if own.find(what) is None], channels)
    return own


def parameters(kind):
    try:
        return inspect.signature(kind.__init__).parameters
    except (TypeError, ValueError):
        return {}


def takes(kind, word):
    known = parameters(kind)
    return word in known or any(each.kind == inspect.Parameter.VAR_KEYWORD for each in known.values())


def arguments_for(hands, custom, kind, asked, spec, more):
    """(keywords, [words that the constructor has no argument for]). A **kwargs is the framework's own (a name, a
    prefix) unless the class is a built-in BatchNorm's, which takes the rest."""
    known = parameters(kind)
    through = [each for each in hands.builtin if issubclass(kind, each)] if takes(kind, "anything else") else []
    base = parameters(through[0]) if through else {}
    given, left_out = dict(more), []
    for word, value in asked.items():
        name = next((each for each in hands.words[word] if each in known or each in base), None)
        if name is not None:
            given.setdefault(name, hands.value(name, value, spec))
        else:
            left_out.append(word)
    empty, rest = inspect.Parameter.empty, (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    lacks = [
        each.name
        for each in list(known.values())[1:]
        if each.default is empty
        and each.kind not in rest
        and each.name not in given
        and each.name not in hands.quietly(spec, "float32")
    ]
    for name in channels_of(hands, known, base, lacks, given):
        given[name] = spec["channels"]
    lacks = [name for name in lacks if name not in given]
    if lacks:
        raise custom.CustomLayerError(
            "%s%s needs %s, which bncheck does not know; it gives %s. Write a class that knows the rest"
            % (kind.__name__, called(known), " and ".join(lacks), sentence(hands))
        )
    return given, [word for word in left_out if not is_switch(word, left_out)]


def channels_of(hands, known, base, lacks, given):
    """The arguments that get the number of channels."""
    if hands.learns:
        return [name for name in lacks if name in CHANNELS]
    usual = [name for name in CHANNELS if (name in known or name in base) and name not in given]
    return usual[:1] if usual or any(name in given for name in CHANNELS) else lacks[:1]


def called(known):
    """A constructor's arguments, without ``self``."""
    return inspect.Signature(list(known.values())[1:])


def sentence(hands):
    words = [hands.words[word][0] for word in hands.words if word != "affine"]
    words = ([] if hands.learns else ["the number of channels"]) + [
        "epsilon" if word == "eps" else word for word in words
    ]
    return "%s and %s" % (", ".join(words[:-1]), words[-1])


def is_switch(word, left_out):
    """``affine`` and ``center`` with ``scale`` are two ways to ask for one thing."""
    return word == "affine" or (word in ("center", "scale") and "affine" not in left_out)


def accepts(hands, layer, *words):
    """The first of the words that the layer's call takes; "" where it takes none of them."""
    try:
        known = hands.signature(layer)
    except (TypeError, ValueError):
        return words[0]
    rest = any(each.kind == inspect.Parameter.VAR_KEYWORD for each in known.values())
    return next((word for word in words if word in known), words[0] if rest else "")


# ----------------------------------------------------------------------------------------------------- its state


def find(hands, layer, what):
    """The layer's variable or number for a neutral word, None where it has none."""
    held = attribute(hands, layer, what)
    return held if held is not None else attribute(hands, holder(hands, layer), what)


def holder(hands, layer):
    """The layer that keeps the statistics: the layer itself, or the only one inside it that does (a wrapper)."""
    if attribute(hands, layer, "running_mean") is not None:
        return layer
    inner = [each for each in hands.inner(layer) if attribute(hands, each, "running_mean") is not None]
    return inner[0] if len(inner) == 1 else layer


def attribute(hands, layer, what):
    """What the layer itself holds for a neutral word, None where it has nothing of such a name."""
    shown = SHOWN.get(type(layer), {}).get(what)
    if shown is not None:
        return reached(layer, shown[0]) if shown[1] == 1 else Powered(reached(layer, shown[0]), shown[1])
    name = name_of(hands, layer, what)
    held = getattr(layer, name) if name else None
    if what in TENSORS or name:
        return held if what in TENSORS else hands.number(held)
    return hands.setting(layer, what)


def name_of(hands, layer, what):
    """The attribute of the layer's that holds it, "" for none."""
    shown = SHOWN.get(type(layer), {}).get(what)
    if shown is not None:
        return shown[0]
    for name in [prefix + word for word in hands.names[what] for prefix in ("", "_")]:
        held = getattr(layer, name, None)
        if held is not None and (hands.is_tensor(held) if what in TENSORS else hands.number(held) is not None):
            return name
    return ""


def reached(layer, path):
    """What lies at a dotted attribute of it; itself for none."""
    for word in path.split(".") if path else ():
        layer = getattr(layer, word)
    return layer


def normalises(hands, layer):
    """Whether a layer itself holds a running mean and a variance."""
    return all(attribute(hands, layer, what) is not None for what in ("running_mean", "running_var"))


def trial(own, x):
    """(output, shape that it should have) of a training forward on NumPy's ``x``, in the scenario's layout."""
    data = np.moveaxis(x, *own.turned) if own.turned else x
    return own.hands.run(own, np.ascontiguousarray(data)), data.shape


def learn_names(own, behaviour, shape, axis):
    """Find state of unusual names by what it does in one training forward of another layer like it: statistics move
    towards those of the batch; of two parameters gamma is the one of ones, beta that of zeros."""
    hands = own.hands
    wanted = [what for what in ("running_mean", "running_var", "gamma", "beta") if own.find(what) is None]
    if not wanted or own.again is None:
        return
    one, channels = own.again(), shape[axis]
    dice = np.random.default_rng(0)
    by_channel = [1] * len(shape)
    by_channel[axis] = channels
    x = dice.standard_normal(shape) * (1 + np.arange(channels)).reshape(by_channel) + np.arange(channels)[::-1].reshape(
        by_channel
    )
    x = x.astype("float32")
    before = flat(hands, hands.kept(one.layer), channels)
    trial(one, x)
    after = flat(hands, hands.kept(one.layer), channels)
    rows = np.moveaxis(x.astype(np.float64), axis, 0).reshape(channels, -1)
    mean, var = rows.mean(1), rows.var(1)
    unbiased = var * rows.shape[1] / (rows.shape[1] - 1)
    steps = {name: (before[name], after[name]) for name in after if name in before}
    moved = {name: pair for name, pair in steps.items() if not np.array_equal(*pair)}
    found = {
        "running_mean": behaviour.nearest(moved, [mean]),
        "running_var": behaviour.nearest(moved, [var, unbiased]),
    }
    found.update(alike(own, ("gamma", "beta"), channels))
    own.shown = {what: found[what] for what in wanted if found.get(what)}


def alike(own, wanted, channels):
    """{what: name} of gamma and beta: the only parameter that holds nothing but ones, nothing but zeros."""
    learned, found = flat(own.hands, own.hands.learned(own.layer), channels), {}
    for what in wanted:
        names = [name for name, value in learned.items() if (value == USUAL[what]).all()]
        found.update({what: names[0]} if len(names) == 1 else {})
    return found


def flat(hands, held, channels):
    """{name: values} of those that have one per channel. A name with a dot lies in a layer inside."""
    found = {name: np.array(hands.array(each)).reshape(-1) for name, each in held.items() if "." not in name}
    return {name: each for name, each in found.items() if each.size == channels and each.dtype.kind == "f"}


def put(custom, own, what, value):
    """Set one of the scenario's initial values; a sentence where the layer keeps its own instead, "" else."""
    held, name = own.find(what), type(own.layer).__name__
    usual = bool((value == USUAL[what]).all())
    if held is None and usual:
        return ""
    if held is None:
        raise custom.CustomLayerError(
            "the scenario's initial %s cannot be put into %s: bncheck looks for a variable %s. Call it so, or take %s "
            "out of the scenario's `initial`" % (what, name, " or ".join(own.hands.names[what]), what)
        )
    size = int(np.prod(held.shape))
    if size == value.size:
        own.put(what, np.reshape(value, tuple(held.shape)))
    elif size == 1 and bool((value == value.reshape(-1)[0]).all()):
        own.put(what, np.reshape(value.reshape(-1)[:1], tuple(held.shape)))
    else:
        return "%s holds %s in the shape %s: it keeps its own values, not the scenario's %d" % (
            name,
            what,
            tuple(held.shape),
            value.size,
        )
    return ""


def per_channel(array, channels):
    """What a layer holds as one number per channel: (1, 1, 1, C) is (C,), and one value is every channel's."""
    flat = array.reshape(-1)
    return flat.repeat(channels) if flat.size == 1 and channels > 1 else flat


def state(own, channels):
    """{quantity: array or number} of what the layer holds, as copies."""
    found = {what: own.find(what) for what in ("momentum", "eps")}
    found = {what: held for what, held in found.items() if held is not None}
    for what in ("running_mean", "running_var", "gamma", "beta"):
        held = own.find(what)
        if held is not None:
            found[what] = per_channel(np.array(own.hands.array(held)), channels)
    counter = own.find("counter")
    if counter is not None:
        found["counter"] = float(np.array(own.hands.array(counter)).reshape(-1)[0])
    return found


# ------------------------------------------------------------------------------------------- what is said of it


def facts(own, spec, remarks):
    """What the cell says of one layer: its class, what could not be asked of it, whether all its state is saved."""
    name = type(own.layer).__name__
    said = list(remarks)
    shown = {"momentum": None if spec["batch_weight"] is None else 1.0 - spec["batch_weight"], "eps": spec["eps"]}
    for word in [each for each in own.left_out if each in shown and shown[each] is not None]:
        held, asked = own.find(word), shown[word]
        if held is not None and abs(held - asked) <= 1e-9:
            said.append("%s takes no %s: its %s is %r, as %s=%r asks" % (name, word, word, held, word, asked))
        else:
            shows = "what it uses instead is not known" if held is None else "its %s is %r" % (word, held)
            said.append("%s takes no %s: the scenario asks for %s=%r, and %s" % (name, word, word, asked, shows))
    return {
        "class": name,
        "left_out": sorted(own.left_out),
        "remarks": said,
        "moves": own.hands.moves(own),
        "made": made(own),
    }


def made(own):
    """What a script needs to make it again and to read its state: ``names`` are attributes of the layer itself."""
    names = {what: name_of(own.hands, own.layer, what) or own.shown.get(what, "") for what in TENSORS}
    return {
        "call": own.call,
        "quiet": own.quiet,
        "turned": list(own.turned or ()),
        "flags": own.hands.called(own.layer),
        "names": {what: name for what, name in names.items() if name},
    }


def attempt(action):
    try:
        lost = action()
    except Exception as error:
        return "%s: %s" % (type(error).__name__, " ".join(str(error).split())[:300])
    return lost or "ok"


def lost(own, other):
    """What of the state of ``own`` its copy ``other``, saved and loaded, does not have; "" where all is there."""
    gone = []
    for what in ("running_mean", "running_var", "gamma", "beta"):
        held, there = own.find(what), other.find(what)
        if held is not None and (there is None or not same(own.hands.array(held), own.hands.array(there))):
            gone.append(what)
    return "%s %s not saved with it" % (" and ".join(gone), "is" if len(gone) == 1 else "are") if gone else ""


def same(one, other):
    one, other = np.array(one), np.array(other)
    return one.shape == other.shape and bool(((one == other) | (np.isnan(one) & np.isnan(other))).all())
