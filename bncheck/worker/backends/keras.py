"""Keras 3 on JAX (variant "" or "jax"), TensorFlow or PyTorch: keras.layers.BatchNormalization.

Gradients come from the engine (keras_side/engines.py): jax.vjp over stateless_call, a GradientTape, or torch.autograd.
"""

import importlib
import importlib.util
import os
import sys

import numpy as np

WORKER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SPEC = importlib.util.spec_from_file_location("bncheck_beside", os.path.join(WORKER, "beside.py"))
BESIDE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(BESIDE)
part = BESIDE.part_of("jax")

TITLE = "Keras"
MODULE = "keras"
DISTRIBUTION = "keras"
DEFAULT_VERSION = "3.15.1"
VARIANTS = {
    "": "keras.layers.BatchNormalization on JAX, the smallest engine to install",
    "jax": "keras.layers.BatchNormalization on JAX",
    "tensorflow": "keras.layers.BatchNormalization on TensorFlow",
    "torch": "keras.layers.BatchNormalization on PyTorch",
    "builtin": "on JAX, keras.layers.BatchNormalization also where the scenario puts a layer of your own in its place",
    "builtin_tensorflow": "the same on TensorFlow",
    "builtin_torch": "the same on PyTorch",
    "tensorflow_function": "on TensorFlow, the network in a tf.function, as fit() runs it",
    "tensorflow_jit_compile": "on TensorFlow, the network in a tf.function(jit_compile=True), which XLA compiles",
    "plain_input": "on JAX, with gradients of the parameters alone: the input asks for none",
    "tensorflow_plain_input": "the same on TensorFlow (no tape.watch(x))",
    "torch_plain_input": "the same on PyTorch (no x.requires_grad_())",
}
CUSTOM = True  # takes network.custom
WHOLE = True  # takes network.model
DEVICES = ("cpu", "cuda")
REQUIREMENTS = [
    {"versions": ">=3.12", "python": ">=3.11,<3.14", "packages": ["keras=={version}", "numpy>=1.26"]},
    {"versions": ">=3.4,<3.12", "python": ">=3.10,<3.13", "packages": ["keras=={version}", "numpy>=1.26,<2.2"]},
]  # fmt: skip
VARIANT_REQUIREMENTS = {
    "": ["jax>=0.4.30,<0.13"],
    "@cuda": ["jax[cuda12]>=0.4.30,<0.13"],
    "jax": ["jax>=0.4.30,<0.13"],
    "jax@cuda": ["jax[cuda12]>=0.4.30,<0.13"],
    "builtin": ["jax>=0.4.30,<0.13"],
    "builtin@cuda": ["jax[cuda12]>=0.4.30,<0.13"],
    "plain_input": ["jax>=0.4.30,<0.13"],
    "plain_input@cuda": ["jax[cuda12]>=0.4.30,<0.13"],
    "tensorflow": ["tensorflow-cpu>=2.16"],
    "tensorflow_function": ["tensorflow-cpu>=2.16"],
    "tensorflow_function@cuda": ["tensorflow[and-cuda]>=2.16"],
    "tensorflow_jit_compile": ["tensorflow-cpu>=2.16"],
    "tensorflow_jit_compile@cuda": ["tensorflow[and-cuda]>=2.16"],
    "tensorflow_plain_input": ["tensorflow-cpu>=2.16"],
    "tensorflow_plain_input@cuda": ["tensorflow[and-cuda]>=2.16"],
    "builtin_tensorflow": ["tensorflow-cpu>=2.16"],
    "builtin_tensorflow@cuda": ["tensorflow[and-cuda]>=2.16"],
    "tensorflow@cuda": ["tensorflow[and-cuda]>=2.16"],
    # Pinned: an open range takes whatever CUDA build is newest (7 GB). This is the version of the torch target.
    "torch": ["torch==2.13.0"],
    "builtin_torch": ["torch==2.13.0"],
    "torch_plain_input": ["torch==2.13.0"],
}
DOCUMENTED = [
    {
        "versions": ">=3.0",
        "variants": [
            "", "jax", "tensorflow", "torch", "builtin", "builtin_tensorflow", "builtin_torch", "tensorflow_function",
            "tensorflow_jit_compile", "plain_input", "tensorflow_plain_input", "torch_plain_input",
        ],
        "link": "https://keras.io/api/layers/normalization_layers/batch_normalization/",
        "facets": {
            "update_on": "forward", "averaging": "exponential", "statistic": "variance", "eps_placement": "inside",
            "train_normaliser": "batch", "eval_normaliser": "running", "initial_mean": 0.0, "initial_var": 1.0,
            "initial_gamma": "ones", "initial_beta": "zeros", "default_batch_weight": 0.01, "default_eps": 1e-03,
        },
    },
]  # fmt: skip
WORD = "1 - momentum"  # Keras's momentum is the weight of the old average
WORDS = {"gamma": "gamma", "beta": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


BUILTIN = "builtin"


def engine_of(variant):
    return next((name for name in ("tensorflow", "torch") if name in variant.split("_")), "jax")


def describe(variant, device):
    engine = engine_of(variant)
    keras = start_keras(engine, device)
    if keras.backend.backend() != engine:
        raise RuntimeError("keras runs on %s here, not on %s" % (keras.backend.backend(), engine))
    look = {"jax": look_at_jax, "tensorflow": look_at_tensorflow, "torch": look_at_torch}[engine]
    found = dict(look(device.startswith("cuda")), version=keras.__version__, engine=engine)
    return dict(found, input_gradient=False) if variant.endswith("plain_input") else found


def watch(recorder):
    """Follow BatchNormalization: each forward, or, where Keras compiles them, the state around each step."""
    sys.modules["bncheck_watching_recorder"].part("keras_side/watching").install(recorder)


def start_keras(engine, device):
    """Import Keras on an engine. What it may see of GPUs has to be settled before."""
    kind, _, number = device.partition(":")
    os.environ["KERAS_BACKEND"] = engine
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    if kind == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    elif number and os.environ.setdefault("CUDA_VISIBLE_DEVICES", number) != number:
        raise RuntimeError("CUDA_VISIBLE_DEVICES is set: unset it to choose GPU %s here" % number)
    part("start").keep_compiled()
    import keras

    return keras


def look_at_jax(gpu):
    import jax

    try:
        devices = jax.devices("cuda" if gpu else "cpu")
    except RuntimeError as error:
        raise RuntimeError("jax sees no CUDA device: %s" % str(error).splitlines()[0])
    found = {"jax": jax.__version__, "unit": str(devices[0])}
    found["matmul_precision"] = str(jax.config.jax_default_matmul_precision or "default")
    return dict(found, gpu=devices[0].device_kind, **part("start").flags()) if gpu else found


def look_at_tensorflow(gpu):
    import tensorflow as tf

    if gpu and not tf.config.list_physical_devices("GPU"):
        raise RuntimeError("tensorflow sees no GPU")
    found = {"tensorflow": tf.__version__, "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default")}
    if gpu:
        found.update(
            gpu=str(tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])),
            tf32=tf.config.experimental.tensor_float_32_execution_enabled(),
            deterministic=tf.config.experimental.is_op_determinism_enabled(),
        )
    return found


def look_at_torch(gpu):
    import torch

    if gpu and not torch.cuda.is_available():
        raise RuntimeError("torch sees no CUDA device")
    found = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if gpu:
        found.update(part("gpu", "torch").flags(torch), gpu=torch.cuda.get_device_name())
    return found


def build(network, params, dtype, variant, device):
    keras = start_keras(engine_of(variant), device)
    if keras.backend.backend() == "jax":
        import jax

        # float64 needs this switch, which belongs to the process; compiled functions are kept apart by it.
        jax.config.update("jax_enable_x64", dtype == "float64")
    engines = part("engines", "keras").engines(variant)
    if network.get("model"):
        if variant.startswith(BUILTIN):
            raise NotImplementedError("network.model has no layers of yours that a built-in one could replace")
        return part("whole", "keras").whole(Model, engines, part)(keras, network, params, dtype, variant)
    own = "" if variant.startswith(BUILTIN) else network.get("custom") or ""
    return Model(keras, network, params, dtype, own, variant)


def keywords_of(layer):
    if layer["averaging"] == "cumulative":
        raise NotImplementedError("keras has no cumulative average")
    if not layer["track_running_stats"]:
        raise NotImplementedError("keras always tracks running statistics")
    found = {"axis": layer["axis"], "center": layer["affine"], "scale": layer["affine"]}
    if layer["batch_weight"] is not None:
        found["momentum"] = 1.0 - layer["batch_weight"]
    if layer["eps"] is not None:
        found["epsilon"] = layer["eps"]
    found.update(layer["native"].get("keras", {}))
    return found


def make_layer(layers, layer, params, dtype):
    """A built layer, or None where an operation is enough. TensorFlow on CPU has only channels-last convolutions."""
    kind, options = layer["type"], layer["options"]
    if kind in ("flatten", "relu", "global_avg_pool"):
        return None
    weight = np.shape(params.get(layer["name"] + "/weight"))
    if kind == "batch_norm":
        made = layers.BatchNormalization(dtype=dtype, **keywords_of(layer))
        shape = [None] * layer.get("rank", 2)
        shape[layer["axis"]] = layer["channels"]
    elif kind == "dense":
        made, shape = layers.Dense(weight[0], dtype=dtype), (None, weight[1])
    elif kind == "conv2d":
        made = layers.Conv2D(weight[0], weight[2:], options.get("stride", 1), data_format="channels_last", dtype=dtype)
        shape = (None, None, None, weight[1])
    else:
        raise NotImplementedError("this backend has no layer %r" % kind)
    made.build(tuple(shape))
    return made


class Model:
    """The worker's model contract."""

    def __init__(self, keras, network, params, dtype, own="", variant=""):
        self.to_the_input = network.get("input_gradient", True) and not variant.endswith("plain_input")
        self.variant = variant
        self.custom, self.arguments, self.remarks = own, dict(network.get("arguments") or {}) if own else {}, {}
        self.keras, self.rows, self.dtype, self.params = keras, network["layers"], dtype, params
        self.shapes = {name: list(np.shape(value)) for name, value in params.items() if name.endswith("/weight")}
        self.specs = {layer["name"]: layer for layer in network["layers"] if layer["type"] == "batch_norm"}
        self.layers, self.returns = list(self.specs), network.get("returns")
        self.last = any(spec["axis"] == -1 for spec in self.specs.values())
        self.assemble()
        for name, value in params.items():
            self.put(name, np.asarray(value))
        # ``training`` is an argument of the call; this is what the next "as_is" forward passes. Without it: inference.
        self.modes = dict.fromkeys(self.layers, False)
        self.start()

    def start(self):
        self.engine = part("engines", "keras").engines(self.variant)[self.keras.backend.backend()](self)
        self.tape, self.used_up, self.seen, self.first = [], False, {}, None

    def assemble(self):
        """All layers, built, with values of their own."""
        self.own = {name: self.make_own(spec) for name, spec in self.specs.items() if self.custom}
        found = [
            (layer["name"], make_layer(self.keras.layers, layer, self.params, self.dtype))
            for layer in self.rows
            if layer["name"] not in self.own
        ]
        self.made = {name: layer for name, layer in found if layer is not None}
        self.made.update((name, each.layer) for name, each in self.own.items())

    def make_own(self, spec):
        if self.custom and (spec["averaging"] == "cumulative" or not spec["track_running_stats"]):
            keywords_of(spec)  # says what Keras has no word for
        shared, custom, behaviour = part("layer", "own"), part("custom", "torch"), part("behaviour", "torch")
        asked = (self.custom, spec, self.dtype, self.arguments)
        return part("own", "keras").make(self.keras, shared, custom, behaviour, *asked)

    def put(self, name, value):
        """Set one of the host's parameters; dense and conv kernels are (…, in, out)."""
        layer, what = name.split("/")
        if layer in self.own:
            said = part("layer", "own").put(part("custom", "torch"), self.own[layer], what, value)
            self.remarks.setdefault(layer, []).extend([said] if said else [])
            return
        held = getattr(self.made.get(layer), dict(WORDS, weight="kernel", bias="bias")[what], None)
        if held is not None:
            if what == "weight":
                value = value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0)
            held.assign(np.ascontiguousarray(value).astype("float32" if self.dtype == "bfloat16" else self.dtype))

    def walk(self, x):
        return part("engines", "keras").walk(
            (self.keras.ops, self.rows, self.made, self.last, self.own),
            self.modes,
            x,
            lambda name, layer, x, **keywords: layer(x, **keywords),
        )

    # -- events -----------------------------------------------------------------------------------------------

    def forward(self, x, mode):
        if mode != "as_is":
            self.modes = dict.fromkeys(self.layers, mode != "eval")
        data = self.engine.tensor(x, self.dtype)
        if mode in ("eval", "no_grad"):
            out, self.seen = getattr(self.engine, "forward", self.walk)(data)
        else:
            out, self.seen, kept = self.engine.record(data)
            # A forward after a backward starts a new tape; several before one backward share it.
            self.tape = [kept] if self.used_up else [*self.tape, kept]
            self.used_up = False
        own = self.rows[0]["name"] in self.specs and x.dtype.name == self.dtype
        self.first = x if own else None
        return self.array(self.seen[self.returns][1] if mode == "eval" and self.returns else out)

    def array(self, value):
        found = np.asarray(self.keras.ops.convert_to_numpy(value))
        return found.astype(np.float32) if found.dtype.name == "bfloat16" else found

    def backward(self, dys):
        """Sum of the gradients of all taped forwards; the input's is that of the last one."""
        self.used_up = True
        total = {"input": None}
        for kept, dy in zip(self.tape, dys):
            total["input"], grads = self.engine.backward(kept, self.engine.tensor(dy, self.dtype))
            for layer in self.layers:
                for held, grad in zip(self.made[layer].trainable_variables, grads[layer]):
                    if grad is not None:
                        name = layer + "/" + self.word_of(layer, held)
                        total[name] = self.array(grad).astype(np.float64).reshape(-1) + total.get(name, 0.0)
        total["input"] = None if total["input"] is None else self.array(total["input"])
        return total

    def word_of(self, layer, held):
        return part("own", "keras").gradient_word(self.own[layer], held) if layer in self.own else held.name

    def set_mode(self, training, layer=None):
        for name in self.layers if layer is None else [layer]:
            self.modes[name] = bool(training)

    def freeze(self, layer=None):
        """trainable = False: a BatchNormalization then runs in inference mode, even when called with training=True.

        On new layers: what is compiled holds on to the old ones, and later networks share it."""
        fresh = {}
        for row in self.rows:
            name = row["name"]
            if name in self.made and layer in (None, name):
                if name in self.own:
                    self.own[name] = self.make_own(row)
                    fresh[name] = self.own[name].layer
                else:
                    fresh[name] = make_layer(self.keras.layers, row, self.params, self.dtype)
                for held, old in zip(fresh[name].variables, self.made[name].variables):
                    held.assign(old)
                fresh[name].trainable = False
        self.made = dict(self.made, **fresh)
        self.start()

    def reload(self, folder, drop=()):
        """get_weights() of every layer into a file, new layers, set_weights() of what the file holds."""
        if drop:
            raise NotImplementedError("Keras loads all weights of a layer or none")
        path = os.path.join(folder, "state.npz")
        held = {
            "%s/%d" % (name, place): self.array(each)
            for name, layer in self.made.items()
            for place, each in enumerate(layer.weights)
        }
        np.savez(path, **held)
        trainable = {name: layer.trainable for name, layer in self.made.items()}
        self.assemble()
        with np.load(path) as found:
            for name, layer in self.made.items():
                layer.set_weights([found["%s/%d" % (name, place)] for place in range(len(layer.weights))])
                layer.trainable = trainable[name]
        self.start()
        return {"artifacts": ["state.npz"]}

    def flush(self):
        """Every array that was recorded has been waited for already."""

    # -- what is recorded -------------------------------------------------------------------------------------

    def taps(self):
        found = {}
        for name in self.layers:
            given, out = self.seen[name]
            # The scenario's own array where there is one: its moments are then measured once, not once per cell.
            own = self.first is not None and name == self.layers[0]
            found[name] = (self.first if own else self.array(given), self.array(out))
        return found

    def axis(self, layer):
        return self.specs[layer]["axis"]

    def state(self, layer):
        if layer in self.own:
            return self.own_state(layer)
        norm = self.made[layer]
        # The mode belongs to the call, not to the layer: what the next call passes.
        found = {"momentum": norm.momentum, "eps": norm.epsilon, "training": self.modes[layer]}
        for what, word in WORDS.items():
            held = getattr(norm, word, None)
            if held is not None:
                found[what] = np.array(self.array(held))
        return found

    def dtypes(self, layer):
        return dict.fromkeys(WORDS, "bfloat16") if self.dtype == "bfloat16" else {}

    # -- a layer of the user's -----------------------------------------------------------------------------------

    def own_state(self, layer):
        found = part("layer", "own").state(self.own[layer], self.specs[layer]["channels"])
        return dict(found, training=self.modes[layer])

    def facts(self):
        """About the whole cell, after its last event: only a layer of the user's has any."""
        own, shared = part("own", "keras"), part("layer", "own")
        found = {
            name: own.facts(shared, each, self.specs[name], self.remarks.get(name, ()))
            for name, each in self.own.items()
        }
        return {"custom": found} if found else {}
