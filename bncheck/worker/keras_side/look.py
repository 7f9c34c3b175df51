"""What a Keras class or function of the user's makes: a layer that could stand in BatchNormalization's place, or a
model (model.py).

Loaded by subject/run.py by path; Python 3.7 syntax. It answers in the words of subject/look.py.
"""

import importlib.util
import json
import os

ENGINES = ("jax", "torch", "tensorflow")  # the first that is installed, where the user has not said


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
            "install one, or name another Python: --python PATH",
            "import",
        )
    os.environ["KERAS_BACKEND"] = chosen
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    custom, look = part("torch_side", "custom"), part("own_side", "look")
    kind = look.named(custom, part("subject", "look"), failed, job)
    if job["as"] == "model" or not is_layer(keras, kind):
        return dict(part("keras_side", "model").play(keras, part, failed, job, folder), framework="keras")
    hands = part("keras_side", "own").hands(keras, part("own_side", "layer"))
    return dict(look.layer_of(part, failed, job, hands, kind), engine=chosen, keras=keras.__version__)


def is_layer(keras, kind):
    return isinstance(kind, type) and issubclass(kind, keras.layers.Layer) and not issubclass(kind, keras.Model)
