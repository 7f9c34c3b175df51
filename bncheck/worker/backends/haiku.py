"""Haiku on JAX: hk.BatchNorm, whose running averages are zero-debiased (the first batch has weight 1).

running_mean and running_var are the ``average`` of Haiku's two moving averages; a value given by the host is put
there, and hidden stays 0 as Haiku itself starts it. One jitted function per network, shared by all its cells.
"""

import importlib.util
import json
import os

import numpy as np

WORKER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SPEC = importlib.util.spec_from_file_location("bncheck_beside", os.path.join(WORKER, "beside.py"))
BESIDE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(BESIDE)
part = BESIDE.part_of("jax")

TITLE = "Haiku"
MODULE = "haiku"
DISTRIBUTION = "dm-haiku"
DEFAULT_VERSION = "0.0.17"
VARIANTS = {
    "": "hk.BatchNorm",
    "plain_input": "hk.BatchNorm with gradients of the parameters alone: the input asks for none",
}
DEVICES = ("cpu", "cpu:1", "cuda", "rocm", "tpu")
REQUIREMENTS = [
    {
        "versions": ">=0.0.17",
        "python": ">=3.12,<3.15",
        "packages": ["dm-haiku=={version}", "jax>=0.11.1,<0.13", "numpy>=2.2"],
    },
    {
        "versions": ">=0.0.12,<0.0.17",
        "python": ">=3.10,<3.13",
        "packages": ["dm-haiku=={version}", "jax>=0.4.30,<0.4.36", "numpy>=1.26"],
    },
]
DEVICE_REQUIREMENTS = {"cuda": ["jax[cuda12]"]}
DOCUMENTED = [
    {
        "versions": "",
        "variants": ["", "plain_input"],
        "link": "https://dm-haiku.readthedocs.io/en/latest/api.html#batchnorm",
        "facets": {
            "averaging": "debiased",
            "train_normaliser": "batch",
            "eval_normaliser": "running",
            "initial_mean": 0.0,
            "initial_var": 0.0,
            "initial_gamma": "ones",
            "initial_beta": "zeros",
            "default_eps": 1e-05,
        },
    },
]
WORD = "1 - decay_rate"  # Haiku's decay_rate is the weight of the old average; it has no default
AFFINE = (("gamma", "scale"), ("beta", "offset"))
NO_DECAY = "hk.BatchNorm has no default decay_rate: give the layer a batch_weight"


def describe(variant, device):
    start = part("start")
    jax = start.import_jax(device)
    import haiku as hk

    found = {"version": hk.__version__, **start.describe(jax, device)}
    return dict(found, input_gradient=False) if variant == "plain_input" else found


def build(network, params, dtype, variant, device):
    start = part("start")
    jax = start.import_jax(device)
    # float64 needs this switch, which belongs to the process; compiled functions are kept apart by it.
    jax.config.update("jax_enable_x64", dtype == "float64")
    jax.config.update("jax_default_device", start.find_device(jax, device))
    return Model(jax, network, params, dtype, variant)


def keywords_of(layer):
    if layer["averaging"] == "cumulative":
        raise NotImplementedError("haiku has no cumulative average")
    if not layer["track_running_stats"]:
        raise NotImplementedError("haiku always tracks running statistics")
    # Without a decay_rate the layer cannot train, but its initial state and eps are still there to be seen.
    weight = 0.1 if layer["batch_weight"] is None else layer["batch_weight"]
    found = {
        "create_scale": layer["affine"],
        "create_offset": layer["affine"],
        "decay_rate": 1.0 - weight,
        "data_format": "N...C" if layer["axis"] == -1 else "NC...",
    }
    if layer["eps"] is not None:
        found["eps"] = layer["eps"]
    found.update(layer["native"].get("haiku", {}))
    return found


# ------------------------------------------------------------------------------------------------ the network


def call_layer(hk, layer, x, training, last):
    """One layer inside a transformed function. Flattening is channels first: that is how dense weights come."""
    kind, name = layer["type"], layer["module"]
    if kind == "batch_norm":
        return hk.BatchNorm(name=name, **keywords_of(layer))(x, is_training=training)
    if kind == "dense":
        return hk.Linear(layer["shape"][0], name=name)(x)
    if kind == "conv2d":
        pad, stride = layer["options"].get("padding", 0), layer["options"].get("stride", 1)
        order = "NHWC" if last else "NCHW"
        kernel, padding = layer["shape"][2:], [(pad, pad)] * 2
        return hk.Conv2D(layer["shape"][0], kernel, stride, padding=padding, data_format=order, name=name)(x)
    if kind == "relu":
        return x * (x > 0)
    if kind == "flatten":
        turned = x.transpose(0, x.ndim - 1, *range(1, x.ndim - 1)) if last else x
        return turned.reshape(x.shape[0], -1)
    return x.mean(axis=tuple(range(1, x.ndim - 1)) if last else tuple(range(2, x.ndim)))


def functions(jax, text, to_the_input=True, _made={}):  # noqa: B006 - the cache: one compilation per network and shape
    """Jitted forward, recorded forward and backward of the network that ``text`` describes as JSON. ``to_the_input``:
    whether the input asks for a gradient, too."""
    key = text, to_the_input
    if key in _made:
        return _made[key]
    import haiku as hk

    description = json.loads(text)

    def network(x, modes):
        last, seen = description["last"], {}
        for layer, training in zip(description["layers"], modes):
            before = x
            x = call_layer(hk, layer, x, training, last)
            if layer["type"] in ("flatten", "global_avg_pool"):
                last = False
            seen[layer["name"]] = (before, x)
        return x, seen

    transformed = hk.transform_with_state(network)

    def forward(modes, params, stats, x):
        (out, seen), moved = transformed.apply(params, stats, None, x, modes)
        return out, (moved, seen)

    def recorded(modes, params, stats, x):
        if not to_the_input:
            return jax.vjp(lambda p: forward(modes, p, stats, x), params, has_aux=True)
        return jax.vjp(lambda p, v: forward(modes, p, stats, v), params, x, has_aux=True)

    _made[key] = {
        "forward": jax.jit(forward, static_argnums=0),
        "recorded": jax.jit(recorded, static_argnums=0),
        "backward": jax.jit(lambda pull, dy: pull(dy)),
    }
    return _made[key]


def initial(jax, layer, dtype):
    """(params, state) of one BatchNorm layer as Haiku itself starts them."""
    import haiku as hk

    example = [1] * layer.get("rank", 2)
    example[layer["axis"]] = layer["channels"]
    alone = hk.transform_with_state(lambda x: call_layer(hk, layer, x, True, False))
    return alone.init(jax.random.PRNGKey(0), jax.numpy.zeros(example, dtype))


class Model:
    """The worker's model contract."""

    def __init__(self, jax, network, params, dtype, variant):
        self.jax, self.dtype = jax, jax.numpy.dtype(dtype)
        shapes = {name.split("/")[0]: np.shape(value) for name, value in params.items() if name.endswith("/weight")}
        rows = [dict(layer, module="layer%d" % k) for k, layer in enumerate(network["layers"])]
        for row in rows:
            if row["type"] not in ("batch_norm", "dense", "conv2d", "flatten", "relu", "global_avg_pool"):
                raise NotImplementedError("this backend has no layer %r" % row["type"])
            row["shape"] = shapes.get(row["name"], ())
        self.rows = {row["name"]: row for row in rows}
        self.specs = {row["name"]: row for row in rows if row["type"] == "batch_norm"}
        self.keywords = {name: keywords_of(row) for name, row in self.specs.items()}
        self.layers, self.returns = list(self.specs), network.get("returns")
        self.last = any(row["axis"] == -1 for row in self.specs.values())
        self.to_the_input = network.get("input_gradient", True) and variant != "plain_input"
        text = json.dumps({"layers": rows, "last": self.last}, sort_keys=True)
        self.run = functions(jax, text, self.to_the_input)
        self.params, self.stats = {}, {}
        for row in self.specs.values():
            found = initial(jax, row, self.dtype)
            self.params.update(found[0])
            self.stats.update(found[1])
        self.put_all(params)
        # is_training is an argument of the call that has no default; this is what the next "as_is" forward passes.
        self.modes = dict.fromkeys(self.layers, None)
        self.tape, self.used_up, self.seen, self.first = [], False, {}, None

    def put_all(self, params):
        """Set the host's parameters in the dtype in which Haiku holds them; dense and conv kernels are (…, in, out)."""
        asarray = self.jax.numpy.asarray
        for name, value in params.items():
            layer, what = name.split("/")
            module = self.rows[layer]["module"]
            where = self.place(layer, what) if layer in self.specs else None
            if where is not None:
                kept, word = where
                kept[word] = asarray(np.reshape(value, kept[word].shape), dtype=kept[word].dtype)
            elif what == "weight":
                turned = value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0)
                self.params.setdefault(module, {})["w"] = asarray(turned, dtype=self.dtype)
                wide = (-1,) if value.ndim == 2 or self.last else (-1, 1, 1)
                bias = params.get(layer + "/bias", np.zeros(len(value)))
                self.params[module]["b"] = asarray(np.reshape(bias, wide), dtype=self.dtype)

    def place(self, layer, what):
        """(dictionary, key) where Haiku holds a quantity of a BatchNorm layer, or None."""
        module = self.rows[layer]["module"]
        if what in ("running_mean", "running_var"):
            return self.stats["%s/~/%s_ema" % (module, what[8:])], "average"
        word = dict(AFFINE)[what]
        return (self.params[module], word) if word in self.params.get(module, {}) else None

    # -- events -----------------------------------------------------------------------------------------------

    def forward(self, x, mode):
        if mode != "as_is":
            self.modes = dict.fromkeys(self.layers, mode != "eval")
        if None in self.modes.values():
            raise NotImplementedError(
                "haiku has no default mode: a call has to say is_training, and nobody set one yet"
            )
        if any(training and self.specs[name]["batch_weight"] is None for name, training in self.modes.items()):
            raise NotImplementedError(NO_DECAY)
        data = self.jax.numpy.asarray(x, dtype=self.dtype)
        modes = tuple(self.modes.get(name) for name in self.rows)
        if mode in ("eval", "no_grad"):
            out, (moved, seen) = self.run["forward"](modes, self.params, self.stats, data)
        else:
            out, pull, (moved, seen) = self.run["recorded"](modes, self.params, self.stats, data)
            # A forward after a backward starts a new tape; several before one backward share it.
            self.tape = [pull] if self.used_up else [*self.tape, pull]
            self.used_up = False
        self.stats = {name: dict(held) for name, held in moved.items()}
        self.seen = seen
        self.first = x if next(iter(self.rows)) in self.specs and x.dtype == self.dtype else None
        return self.array(seen[self.returns][1] if mode == "eval" and self.returns else out)

    def array(self, value):
        found = np.asarray(value)
        return found.astype(np.float32) if found.dtype.name == "bfloat16" else found

    def backward(self, dys):
        """Sum of the gradients of all taped forwards; the input's is that of the last one."""
        self.used_up = True
        total = {"input": None}
        for pull, dy in zip(self.tape, dys):
            pulled = self.run["backward"](pull, self.jax.numpy.asarray(dy, dtype=self.dtype))
            grads, total["input"] = pulled if self.to_the_input else (pulled[0], None)
            for layer, row in self.specs.items():
                for what, word in AFFINE:
                    found = grads.get(row["module"], {}).get(word)
                    if found is not None:
                        name = layer + "/" + what
                        total[name] = np.asarray(found, dtype=np.float64).reshape(-1) + total.get(name, 0.0)
        total["input"] = None if total["input"] is None else self.array(total["input"])
        return total

    def set_mode(self, training, layer=None):
        for name in self.layers if layer is None else [layer]:
            self.modes[name] = bool(training)

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
        row, used = self.rows[layer], self.keywords[layer]
        # The mode belongs to the call, not to the layer: what the next call passes.
        found = {"eps": used.get("eps", 1e-5), "counter": int(self.stats[row["module"] + "/~/mean_ema"]["counter"])}
        if row["batch_weight"] is not None:
            found["momentum"] = used["decay_rate"]
        if self.modes[layer] is not None:
            found["training"] = self.modes[layer]
        for what in ("running_mean", "running_var", "gamma", "beta"):
            where = self.place(layer, what)
            if where is not None:
                found[what] = np.array(self.array(where[0][where[1]]).reshape(-1))
        return found

    def dtypes(self, layer):
        names = ("running_mean", "running_var", "gamma", "beta") if self.dtype.name == "bfloat16" else ()
        return dict.fromkeys(names, "bfloat16")
