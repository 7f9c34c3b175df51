"""Legacy Keras 2 on TensorFlow: tf_keras.layers.BatchNormalization, fused where it can be (variant "") or never.

The fused kernel takes 4-D and 5-D input that is not float64, and averages the n − 1 variance; all else averages the n
one: the divisor depends on rank and dtype.
Layers are called eagerly but in the variants that say otherwise; gradients come from a GradientTape.
"""

import os

import numpy as np

TITLE = "Keras 2 (tf_keras)"
MODULE = "tf_keras"
DISTRIBUTION = "tf-keras"
DEFAULT_VERSION = "2.21.0"
VARIANTS = {
    "": "BatchNormalization, fused where TensorFlow can (4-D and 5-D, not float64)",
    "unfused": "BatchNormalization(fused=False)",
    "function": "BatchNormalization in a tf.function, as fit() runs it",
    "jit_compile": "BatchNormalization in a tf.function(jit_compile=True), which XLA compiles",
    "plain_input": "BatchNormalization on an input that asks for no gradient (no tape.watch(x))",
}
DEVICES = ("cpu", "cuda")
REQUIREMENTS = [
    # tf-keras asks for the package tensorflow of its own minor version; that one runs on the CPU as it is.
    {"versions": ">=2.20", "python": ">=3.10,<3.14", "packages": ["tf-keras=={version}", "numpy>=1.26"]},
    {"versions": ">=2.16,<2.20", "python": ">=3.9,<3.13",
     "packages": ["tf-keras=={version}", "numpy>=1.26,<2.2", "setuptools<81"]},
    {"versions": ">=2.15,<2.16", "python": ">=3.9,<3.12",
     "packages": ["tf-keras=={version}", "tensorflow-cpu==2.15.1", "numpy<2", "setuptools<81"]},
]  # fmt: skip
DEVICE_REQUIREMENTS = {"cuda": ["tensorflow[and-cuda]"]}
DOCUMENTED = [
    {
        "versions": ">=2.15",
        "variants": ["", "unfused", "function", "jit_compile", "plain_input"],
        "link": "https://www.tensorflow.org/versions/r2.15/api_docs/python/tf/keras/layers/BatchNormalization",
        "facets": {
            "update_on": "forward", "averaging": "exponential", "statistic": "variance", "eps_placement": "inside",
            "train_normaliser": "batch", "eval_normaliser": "running", "initial_mean": 0.0, "initial_var": 1.0,
            "initial_gamma": "ones", "initial_beta": "zeros", "default_batch_weight": 0.01, "default_eps": 1e-03,
        },
    },
]  # fmt: skip
WORD = "1 - momentum"  # Keras's momentum is the weight of the old average
WORDS = {"gamma": "gamma", "beta": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def describe(variant, device):
    tf, keras = start(device)
    if device.startswith("cuda") and not tf.config.list_physical_devices("GPU"):
        raise RuntimeError("tensorflow sees no GPU")
    found = {"version": keras.__version__, "tensorflow": tf.__version__}
    found["onednn"] = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default")
    if variant == "plain_input":
        found["input_gradient"] = False
    if device.startswith("cuda"):
        found.update(
            gpu=str(tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])),
            tf32=tf.config.experimental.tensor_float_32_execution_enabled(),
            deterministic=tf.config.experimental.is_op_determinism_enabled(),
        )
    return found


def start(device):
    """Import both. What TensorFlow may see of GPUs has to be settled before."""
    kind, _, number = device.partition(":")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    if kind == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    elif number and os.environ.setdefault("CUDA_VISIBLE_DEVICES", number) != number:
        raise RuntimeError("CUDA_VISIBLE_DEVICES is set: unset it to choose GPU %s here" % number)
    import tensorflow as tf
    import tf_keras

    return tf, tf_keras


def build(network, params, dtype, variant, device):
    return Model(network, params, dtype, variant, device)


def keywords_of(layer, variant):
    if layer["averaging"] == "cumulative":
        raise NotImplementedError("tf_keras has no cumulative average")
    if not layer["track_running_stats"]:
        raise NotImplementedError("tf_keras always tracks running statistics")
    found = {"axis": layer["axis"], "center": layer["affine"], "scale": layer["affine"]}
    if layer["batch_weight"] is not None:
        found["momentum"] = 1.0 - layer["batch_weight"]
    if layer["eps"] is not None:
        found["epsilon"] = layer["eps"]
    if variant == "unfused":
        found["fused"] = False
    found.update(layer["native"].get("tf_keras", {}))
    return found


def make_layer(keras, layer, params, dtype, variant):
    """A built layer, or None where an operation is enough. TensorFlow on CPU has only channels-last convolutions."""
    kind, options, layers = layer["type"], layer["options"], keras.layers
    if kind in ("flatten", "relu", "global_avg_pool"):
        return None
    if kind == "batch_norm":
        made = layers.BatchNormalization(dtype=dtype, **keywords_of(layer, variant))
        shape = [None] * layer.get("rank", 2)
        shape[layer["axis"]] = layer["channels"]
    elif kind == "dense":
        weight = params[layer["name"] + "/weight"].shape
        made, shape = layers.Dense(weight[0], dtype=dtype), (None, weight[1])
    elif kind == "conv2d":
        weight = params[layer["name"] + "/weight"].shape
        made = layers.Conv2D(weight[0], weight[2:], options.get("stride", 1), data_format="channels_last", dtype=dtype)
        shape = (None, None, None, weight[1])
    else:
        raise NotImplementedError("this backend has no layer %r" % kind)
    made.build(tuple(shape))
    return made


class Model:
    """The worker's model contract."""

    def __init__(self, network, params, dtype, variant, device):
        self.tf, keras = start(device)
        self.network, self.dtype, self.variant = network, dtype, variant
        self.to_the_input = network.get("input_gradient", True) and variant != "plain_input"
        self.specs = {layer["name"]: layer for layer in network["layers"] if layer["type"] == "batch_norm"}
        self.layers, self.returns = list(self.specs), network.get("returns")
        self.last = any(spec["axis"] == -1 for spec in self.specs.values())
        found = [(layer["name"], make_layer(keras, layer, params, dtype, variant)) for layer in network["layers"]]
        self.made = {name: layer for name, layer in found if layer is not None}
        for name, value in params.items():
            self.put(name, np.asarray(value))
        # ``training`` is an argument of the call; this is what the next "as_is" forward passes. Without it: inference.
        self.modes = dict.fromkeys(self.layers, False)
        self.tape, self.used_up, self.seen, self.first = [], False, {}, None
        self.functions = {}  # mode → what runs the network in it

    def put(self, name, value):
        """Set one of the host's parameters; dense and conv kernels are (…, in, out)."""
        layer, what = name.split("/")
        held = getattr(self.made.get(layer), dict(WORDS, weight="kernel", bias="bias")[what], None)
        if held is not None:
            if what == "weight":
                value = value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0)
            # With virtual_batch_size a layer holds one value per channel in the shape (1, 1, C).
            value = value.reshape(tuple(held.shape)) if value.size == int(np.prod(held.shape)) else value
            held.assign(self.tensor(np.ascontiguousarray(value), held.dtype))

    def tensor(self, x, dtype):
        return self.tf.cast(self.tf.convert_to_tensor(x), dtype)

    def walk(self, x):
        """(output, {layer: (input, output)}). Flattening is in channels-first order: that is how dense weights come."""
        tf, last, seen = self.tf, self.last, {}
        for layer in self.network["layers"]:
            name, kind, before, rank = layer["name"], layer["type"], x, len(x.shape)
            if kind == "batch_norm":
                x = self.made[name](x, training=self.modes[name])
            elif kind == "dense":
                x = self.made[name](x)
            elif kind == "conv2d":
                x = self.convolve(layer, x, last)
            elif kind == "relu":
                x = tf.nn.relu(x)
            elif kind == "flatten":
                turned = tf.transpose(x, (0, rank - 1, *range(1, rank - 1))) if last and rank > 2 else x
                x, last = tf.reshape(turned, (x.shape[0], int(np.prod(x.shape[1:])))), False
            else:
                x, last = tf.reduce_mean(x, axis=tuple(range(1, rank - 1) if last else range(2, rank))), False
            seen[name] = (before, x)
        return x, seen

    def convolve(self, layer, x, last):
        tf, pad = self.tf, layer["options"].get("padding", 0)
        x = x if last else tf.transpose(x, (0, 2, 3, 1))
        if pad:
            x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        x = self.made[layer["name"]](x)
        return x if last else tf.transpose(x, (0, 3, 1, 2))

    # -- events -----------------------------------------------------------------------------------------------

    def forward(self, x, mode):
        if mode != "as_is":
            self.modes = dict.fromkeys(self.layers, mode != "eval")
        data = self.tensor(x, self.dtype)
        if mode in ("eval", "no_grad"):
            out, self.seen = self.run(data)
        else:
            with self.tf.GradientTape(persistent=True) as tape:
                if self.to_the_input:
                    tape.watch(data)
                out, self.seen = self.run(data)
            # A forward after a backward starts a new tape; several before one backward share it.
            self.tape = [(tape, data, out)] if self.used_up else [*self.tape, (tape, data, out)]
            self.used_up = False
        own = self.network["layers"][0]["name"] in self.specs and x.dtype.name == self.dtype
        self.first = x if own else None
        return self.array(self.seen[self.returns][1] if mode == "eval" and self.returns else out)

    def run(self, data):
        """``walk``, in the variant's way. A function holds the modes of its layers, and what is trained of them."""
        if self.variant not in ("function", "jit_compile"):
            return self.walk(data)
        key = (repr(self.modes), tuple(layer.trainable for layer in self.made.values()))
        if key not in self.functions:
            compiled = True if self.variant == "jit_compile" else None
            self.functions[key] = self.tf.function(self.walk, autograph=False, jit_compile=compiled)
        return self.functions[key](data)

    def array(self, value):
        found = value.numpy()
        return found.astype(np.float32) if found.dtype.name == "bfloat16" else found

    def backward(self, dys):
        """Sum of the gradients of all taped forwards; the input's is that of the last one."""
        self.used_up = True
        variables = {
            "%s/%s" % (layer, what): getattr(self.made[layer], what)
            for layer in self.layers
            for what in ("gamma", "beta")
            if getattr(self.made[layer], what, None) is not None
        }
        total = {"input": None}
        for (tape, data, out), dy in zip(self.tape, dys):
            last, grads = tape.gradient(out, (data, variables), output_gradients=self.tensor(dy, self.dtype))
            total["input"] = None if last is None else self.array(last)
            for name, grad in grads.items():
                if grad is not None:
                    total[name] = self.array(grad).astype(np.float64).reshape(-1) + total.get(name, 0.0)
        return total

    def set_mode(self, training, layer=None):
        for name in self.layers if layer is None else [layer]:
            self.modes[name] = bool(training)

    def freeze(self, layer=None):
        """trainable = False: a BatchNormalization then runs in inference mode, even when called with training=True."""
        for name in self.made if layer is None else [layer]:
            self.made[name].trainable = False

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
        norm = self.made[layer]
        # The mode belongs to the call, not to the layer: what the next call passes.
        found = {"momentum": norm.momentum, "eps": norm.epsilon, "training": self.modes[layer]}
        for what, word in WORDS.items():
            held = getattr(norm, word, None)
            if held is not None:
                found[what] = np.array(self.array(held)).reshape(-1)
        return found

    def dtypes(self, layer):
        held = {what: getattr(self.made[layer], word, None) for what, word in WORDS.items()}
        return {
            what: "bfloat16" for what, value in held.items() if value is not None and value.dtype.name == "bfloat16"
        }
