"""What a class of the user's makes in a framework other than PyTorch: a layer that could stand in BatchNorm's place.

Loaded by subject/run.py by path, for what own_side/layer.py has hands on. Python 3.7 syntax; it answers in the words of
subject/look.py.
"""

import inspect
import os
import warnings

import numpy as np

CHANNELS = (4, 8, 32)
SAMPLES = 8
SIDES = {2: (), 3: (6,), 4: (5, 5), 5: (3, 4, 3)}
RANKS = {"1d": (3, 2), "2d": (4,), "3d": (5,)}
# What the layer is tried with before bncheck knows which it takes.
TRIED = {"averaging": "exponential", "track_running_stats": True, "affine": True}


def play(part, failed, job, folder, hands, version):
    """The layer of a job in the words of subject/look.py; ``failed`` is raised for what cannot stand there."""
    custom = part("torch_side", "custom")
    custom.RUNS.update(title=hands.title, target=hands.target)
    kind = named(custom, part("subject", "look"), failed, job)
    if job.get("play"):
        raise failed("diff plays no code of %s" % hands.title, "hold its checkpoints against each other", "usage")
    if isinstance(kind, type) and not issubclass(kind, hands.base):
        raise failed(
            "%s is no subclass of %s, the layers of %s that check takes" % (job["name"], hands.usual, hands.title),
            "name such a class",
            "usage",
        )
    if job["as"] == "model" or not isinstance(kind, type):
        return part("own_side", "model").play_built(part, failed, job, folder, hands, version)
    found = layer_of(part, failed, job, hands, kind)
    return dict(
        found,
        framework=hands.target,
        version=version,
        title=hands.title,
        axis=hands.axis,
        like=hands.like_of(len(found["shape"])),
        in_backward=hands.in_backward,
    )


def layer_of(part, failed, job, hands, kind):
    """What is said of a class whose layer can stand in BatchNorm's place; ``failed`` is raised for one that cannot."""
    custom, shared, reason = part("torch_side", "custom"), part("own_side", "layer"), ""
    shapes = [tuple(each["shape"]) for each in job["inputs"]]
    for channels in [shape[hands.axis] for shape in shapes[:1] if len(shape) > 1] or CHANNELS:
        for shape in shapes[:1] or [shape_of(hands, rank, channels) for rank in ranks(kind)]:
            found, why = tried(custom, shared, part("torch_side", "behaviour"), hands, job, kind, shape)
            if found is not None:
                return found
            reason = reason or why
    lacks = "which bncheck does not know" in reason
    remedy = "say what: --with KEY=VALUE" if lacks else "give a shape: --input; a model is played with --as model"
    raise failed("%s is no layer in BatchNorm's place: %s" % (job["name"], reason), remedy)


def shape_of(hands, rank, channels):
    shape = [SAMPLES, *SIDES[rank]]
    shape.insert(1 if hands.axis == 1 else len(shape), channels)
    return tuple(shape)


def named(custom, look, failed, job):
    """The class or function of that name."""
    module, name = job["module"], job["name"]
    try:
        found = custom.import_file(module) if module.endswith(".py") else custom.import_package(module)
    except custom.CustomLayerError as error:
        raise failed(*look.about_import(error, module, job))
    short = os.path.basename(module) if module.endswith(".py") else module
    for word in name.split("."):
        owner, found = found, getattr(found, word, None)
        if found is None:
            raise failed("%s has no %s" % (short, name), look.known_names(owner))
    if not callable(found):
        kind = type(found).__name__
        raise failed("%s in %s is neither a class nor a function (%s)" % (name, short, kind), "name another")
    return found


def ranks(kind):
    names = " ".join(each.__name__.lower() for each in kind.__mro__[:-1])
    return next((RANKS[word] for word in RANKS if word in names), ()) or (4, 2, 3, 5)


def tried(custom, shared, behaviour, hands, job, kind, shape):
    """(what is said of the layer, "") or (None, why it cannot stand there)."""
    text, given = "%s:%s" % (job["module"], job["name"]), dict(job["with"])
    channels = shape[hands.axis]
    spec = dict(TRIED, axis=hands.axis, channels=channels, rank=len(shape), batch_weight=0.01, eps=1e-3)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = shared.make(hands, custom, text, spec, "float32", given)
            x = np.random.default_rng(0).standard_normal(shape).astype("float32")
            out, wanted = shared.trial(made, x)
            shared.learn_names(made, behaviour, shape, hands.axis)
    except (Exception, SystemExit) as error:
        return None, str(error).split("\n")[0][:400]
    if tuple(getattr(out, "shape", ())) != wanted:
        got = tuple(out.shape) if hasattr(out, "shape") else "a %s" % type(out).__name__
        return None, "it makes %s of %s" % (got, wanted)
    if any(sum(size > 1 for size in each.shape) > 1 for each in hands.weights(made.layer)):
        return None, "it holds weights of more than one axis"
    return dict(said(hands, made, kind, channels), shape=list(shape), defaults=defaults(hands, kind)), ""


def said(hands, made, kind, channels):
    """What is found of a layer that runs."""
    held = {word: made.find(word) for word in ("eps", "momentum")}
    affine = {word: made.find(word) for word in ("gamma", "beta")}
    return {
        "kind": "layer",
        "class": kind.__name__,
        "channels": channels,
        "left_out": sorted(made.left_out),
        "held": {word: float(value) for word, value in held.items() if value is not None},
        "affine": all(held is not None for held in affine.values()),
        "single": [
            word for word, held in affine.items() if held is not None and channels > 1 and int(np.prod(held.shape)) == 1
        ],
    }


def defaults(hands, kind):
    """{neutral word: default} of eps and momentum, as the constructor's signature says them."""
    try:
        known = inspect.signature(kind.__init__).parameters
    except (TypeError, ValueError):
        return {}
    found = {}
    for word in ("eps", "momentum"):
        for name in hands.names[word]:
            value = getattr(known.get(name), "default", None)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                found[word] = float(value)
    return found
