"""What a Keras class or function of the user's makes: a layer that could stand in BatchNormalization's place, or a
model (model.py).

Loaded by subject/run.py by path; Python 3.7 syntax. It answers in the words of subject/look.py.
"""

import importlib.util
import inspect
import json
import os
import warnings

import numpy as np

ENGINES = ("jax", "torch", "tensorflow")  # the first that is installed, where the user has not said
CHANNELS = (4, 8, 32)
SAMPLES = 8
SIDES = {2: (), 3: (6,), 4: (5, 5), 5: (3, 4, 3)}
RANKS = {"1d": (3, 2), "2d": (4,), "3d": (5,)}
# What the layer is tried with before bncheck knows which it takes.
TRIED = {"averaging": "exponential", "track_running_stats": True, "affine": True, "axis": -1}


def engine(called):
    """``called``, which the file computes with by itself; else as Keras chooses (KERAS_BACKEND, its configuration
    file); else one that is there."""
    asked = called or os.environ.get("KERAS_BACKEND", "")
    path = os.path.join(os.environ.get("KERAS_HOME", os.path.expanduser("~/.keras")), "keras.json")
    if not asked and os.path.isfile(path):
        try:
            with open(path, encoding="utf-8") as handle:
                asked = str(json.load(handle).get("backend", ""))
        except (OSError, ValueError, AttributeError):
            asked = ""  # Keras will say what is wrong with it, where it matters
    if asked in ENGINES and importlib.util.find_spec(asked) is not None:
        return asked
    return next((name for name in ENGINES if importlib.util.find_spec(name) is not None), "")


def play(part, failed, job, folder):
    chosen = engine(job.get("engine", ""))
    if not chosen:
        raise failed(
            "%s has Keras, and no JAX, PyTorch or TensorFlow to run it on" % job["python"],
            "install one, or name another Python: --python PATH", "import",
        )  # fmt: skip
    os.environ["KERAS_BACKEND"] = chosen
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    custom, own = part("torch_side", "custom"), part("keras_side", "own")
    kind = named(keras, custom, part("subject", "look"), failed, job)
    if job["as"] == "model" or not is_layer(keras, kind):
        return dict(part("keras_side", "model").play(keras, part, failed, job, folder), framework="keras")
    reason = ""
    shapes = [tuple(each["shape"]) for each in job["inputs"]]
    for channels in [shape[-1] for shape in shapes[:1] if len(shape) > 1] or CHANNELS:
        for shape in shapes[:1] or [(SAMPLES,) + SIDES[rank] + (channels,) for rank in ranks(kind)]:
            found, why = tried(keras, custom, own, job, kind, shape)
            if found is not None:
                return dict(found, engine=chosen, keras=keras.__version__)
            reason = reason or why
    raise failed("%s is no layer in BatchNormalization's place: %s" % (job["name"], reason), "give a shape: --input")


def named(keras, custom, look, failed, job):
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


def is_layer(keras, kind):
    return isinstance(kind, type) and issubclass(kind, keras.layers.Layer) and not issubclass(kind, keras.Model)


def ranks(kind):
    names = " ".join(each.__name__.lower() for each in kind.__mro__[:-1])
    return next((RANKS[word] for word in RANKS if word in names), ()) or (4, 2, 3, 5)


def tried(keras, custom, own, job, kind, shape):
    """(what is said of the layer, "") or (None, why it cannot stand there)."""
    text, given = "%s:%s" % (job["module"], job["name"]), dict(job["with"])
    spec = dict(TRIED, channels=shape[-1], rank=len(shape), batch_weight=0.01, eps=1e-3)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = own.make(keras, custom, text, spec, "float32", given)
            x = np.random.default_rng(0).standard_normal(shape).astype("float32")
            out = made.layer(x, **({"training": True} if made.told else {}))
    except (Exception, SystemExit) as error:
        return None, str(error).split("\n")[0][:400]
    if tuple(getattr(out, "shape", ())) != tuple(shape):
        return None, "it makes %s of %s" % (tuple(getattr(out, "shape", ())), tuple(shape))
    if any(sum(size > 1 for size in each.shape) > 1 for each in made.layer.trainable_variables):
        return None, "it holds weights of more than one axis"
    layer = made.layer
    held = {word: own.find(layer, word) for word in ("eps", "momentum")}
    affine = {word: own.find(layer, word) for word in ("gamma", "beta")}
    return {
        "kind": "layer", "class": kind.__name__, "shape": list(shape), "channels": shape[-1],
        "left_out": sorted(made.left_out), "defaults": defaults(own, kind),
        "held": {word: float(value) for word, value in held.items() if value is not None},
        "affine": all(held is not None for held in affine.values()),
        "single": [word for word, held in affine.items()
                   if held is not None and shape[-1] > 1 and int(np.prod(held.shape)) == 1],
    }, ""  # fmt: skip


def defaults(own, kind):
    """{neutral word: default} of eps and momentum, as the constructor's signature says them."""
    try:
        known = inspect.signature(kind.__init__).parameters
    except (TypeError, ValueError):
        return {}
    found = {}
    for word in ("eps", "momentum"):
        for name in own.NAMES[word]:
            value = getattr(known.get(name), "default", None)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                found[word] = float(value)
    return found
