"""Keras models (.keras, .h5) on Keras 3: in inference, and as they may have been exported by mistake.

No code that a file names is run: layers of Keras itself are built, custom and Lambda layers are refused.
"""

import functools
import importlib.util
import json
import os
import zipfile

import numpy as np

SUFFIXES = (".keras", ".h5", ".hdf5")
EPS = (1e-5, 1e-3, 1e-6, 1e-4, 1e-2)
# JAX compiles every operation of every shape: a MobileNetV2 took 21 CPU s, on PyTorch 5.
PREFERRED = ("torch", "tensorflow")  # variants of the backend whose environment is taken where it is there
ENGINES = ("torch", "tensorflow", "jax")
LARGEST_CONFIG = 64 << 20
OWN = ("keras", "builtins", "tf_keras", "tensorflow.python.keras")


def opened(path, playing):
    return Model(path, playing)


class Model:
    beside = {}
    usual = ""

    def __init__(self, path, playing):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        if "KERAS_BACKEND" not in os.environ:
            os.environ["KERAS_BACKEND"] = next(name for name in ENGINES if importlib.util.find_spec(name))
        import keras

        self.keras, self.playing, self.taps, self.version = keras, playing, {}, keras.__version__
        refuse_code(config_of(path, playing), playing)
        self.model = keras.saving.load_model(path, compile=False, safe_mode=True)
        self.inputs = [(each.name, str(each.dtype), list(each.shape)) for each in inputs_of(self.model, playing)]
        self.norms = [each for each in layers_of(self.model) if isinstance(each, keras.layers.BatchNormalization)]

    def ways(self, batches):
        for name, action in (
            ("eval", self.tapped),
            ("nudged", lambda arrays: self.run(self.playing.nudged(arrays))),
            ("nudged16", self.rounded),
            ("train", lambda arrays: self.run(arrays, True)),
            ("batch", self.norms_alone),
            ("start", self.started),
        ):
            yield name, self.once(action, batches)
        for eps in EPS:
            if any(each.epsilon != eps for each in self.norms):
                yield "eps %g" % eps, self.once(functools.partial(self.with_eps, eps=eps), batches)

    def once(self, action, batches):
        """Its outputs, and the model as it was."""
        held = [np.array(each) for each in self.model.get_weights()]
        try:
            return self.playing.joined([action(batch) for batch in batches])
        finally:
            self.model.set_weights(held)

    def run(self, arrays, training=False):
        self.keras.utils.set_random_seed(0)
        out = self.model(arrays[0] if len(arrays) == 1 else list(arrays), training=training)
        flat = [self.keras.ops.convert_to_numpy(each) for each in self.keras.tree.flatten(out)]
        return self.playing.floats([each.astype(np.float32) if each.dtype.itemsize < 4 else each for each in flat])

    def tapped(self, arrays):
        def watched(layer, call):
            def inside(*given, **more):
                out = call(*given, **more)
                self.taps.setdefault(layer.name, self.keras.ops.convert_to_numpy(out))
                return out

            return inside

        return self.calling(watched, arrays)

    def norms_alone(self, arrays):
        def training(layer, call):
            return lambda *given, **more: call(*given, **dict(more, training=True))

        return self.calling(training, arrays)

    def calling(self, wrap, arrays):
        """A forward in inference with the layers' calls wrapped."""
        for layer in self.norms:
            object.__setattr__(layer, "call", wrap(layer, layer.call))
        try:
            return self.run(arrays)
        finally:
            for layer in self.norms:
                object.__delattr__(layer, "call")

    def rounded(self, arrays):
        """Every weight off by as much as float16 rounds at most."""
        dice = np.random.RandomState(2)
        held = [np.array(each) for each in self.model.get_weights()]
        self.model.set_weights(
            [
                each * (1 + 2.0**-11 * dice.uniform(-1, 1, each.shape)) if each.dtype.kind == "f" else each
                for each in held
            ]
        )
        return self.run(arrays)

    def started(self, arrays):
        for layer in self.norms:
            layer.moving_mean.assign(np.zeros(layer.moving_mean.shape, "float32"))
            layer.moving_variance.assign(np.ones(layer.moving_variance.shape, "float32"))
        return self.run(arrays)

    def with_eps(self, arrays, eps):
        own = [layer.epsilon for layer in self.norms]
        for layer in self.norms:
            layer.epsilon = eps
        try:
            return self.run(arrays)
        finally:
            for layer, value in zip(self.norms, own):
                layer.epsilon = value

    def weights(self):
        """Read from the file itself, without Keras."""
        return {}


def inputs_of(model, playing):
    found = getattr(model, "inputs", None)
    if not found:
        raise playing.PlayError("it does not say what it takes: a model that is built by its first call")
    return found


def layers_of(model):
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            for inner in layers_of(layer):
                yield inner
        elif hasattr(getattr(layer, "layer", None), "weights"):  # TimeDistributed, Bidirectional
            yield layer.layer


def config_of(path, playing):
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("config.json").file_size > LARGEST_CONFIG:
                raise playing.PlayError("its config is larger than bncheck reads")
            return json.loads(archive.read("config.json").decode("utf-8"))
    import h5py

    with h5py.File(path, "r") as file:
        text = file.attrs.get("model_config")
    if text is None:
        raise playing.PlayError("it holds weights, and no model")
    return json.loads(text if isinstance(text, str) else text.decode("utf-8"))


def refuse_code(config, playing):
    """Keras' own safe mode refuses Lambda alone, and not in every version."""
    found = [config]
    while found:
        each = found.pop()
        found += list(each.values()) if isinstance(each, dict) else each if isinstance(each, list) else []
        if not isinstance(each, dict) or "class_name" not in each:
            continue
        module = str(each.get("module") or "keras")
        custom = not any(module == name or module.startswith(name + ".") for name in OWN)
        if each["class_name"] in ("Lambda", "__lambda__", "function") or custom:
            where = "" if not custom else " of %s" % module
            raise playing.PlayError(
                "it holds %s%s, and bncheck runs no code that a file names" % (each["class_name"], where)
            )
