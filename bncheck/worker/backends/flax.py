"""Flax on JAX: nnx.BatchNorm (variant "") and linen.BatchNorm, each with the fast or the exact variance.

Everything runs through one jitted function per layer stack, with jax.vjp for the gradients. Layers are static
arguments that compare by value, so cells of one network and shape share one compilation.
"""

import importlib.util
import os
import sys

import numpy as np

WORKER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SPEC = importlib.util.spec_from_file_location("bncheck_beside", os.path.join(WORKER, "beside.py"))
BESIDE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(BESIDE)
part = BESIDE.part_of("jax")

TITLE = "Flax"
MODULE = "flax"
DISTRIBUTION = "flax"
DEFAULT_VERSION = "0.12.12"
VARIANTS = {
    "": "nnx.BatchNorm",
    "exact": "nnx.BatchNorm(use_fast_variance=False): two passes instead of E[x²] − E[x]²",
    "linen": "linen.BatchNorm, the older functional interface",
    "linen_exact": "linen.BatchNorm(use_fast_variance=False)",
    "builtin": "nnx.BatchNorm also where the scenario puts a layer of your own in its place",
    "plain_input": "nnx.BatchNorm with gradients of the parameters alone: the input asks for none",
    "shard_map": "nnx.BatchNorm under jax.shard_map: each replica on a device of its own, with its own statistics",
    "shard_map_axis_name": "the same with nnx.BatchNorm(axis_name=…): statistics over all replicas",
}
CUSTOM = True  # takes network.custom
WHOLE = True  # takes network.model
REPLICAS = True
DEVICES = ("cpu", "cpu:1", "cuda", "rocm", "tpu")
REQUIREMENTS = [
    {"versions": ">=0.12.9", "python": ">=3.12,<3.15",
     "packages": ["flax=={version}", "jax>=0.11.1,<0.13", "numpy>=2.2"]},
    {"versions": ">=0.11,<0.12.9", "python": ">=3.11,<3.15",
     "packages": ["flax=={version}", "jax>=0.7,<0.8", "numpy>=2"]},
]  # fmt: skip
DEVICE_REQUIREMENTS = {"cuda": ["jax[cuda12]"]}
DOCUMENTED = [
    {
        "versions": ">=0.11",
        "variants": ["", "exact", "builtin", "plain_input", "shard_map", "shard_map_axis_name"],
        "link": "https://flax.readthedocs.io/en/latest/api_reference/flax.nnx/nn/normalization.html",
        "facets": {
            "update_on": "forward", "averaging": "exponential", "train_normaliser": "batch",
            "eval_normaliser": "running", "eps_placement": "inside", "initial_gamma": "ones", "initial_beta": "zeros",
            "default_batch_weight": 0.01, "default_eps": 1e-05,
        },
    },
    {
        "versions": ">=0.11",
        "variants": ["linen", "linen_exact"],
        "link": "https://flax.readthedocs.io/en/latest/api_reference/flax.linen/layers.html#flax.linen.BatchNorm",
        "facets": {
            "update_on": "forward", "averaging": "exponential", "train_normaliser": "batch",
            "eval_normaliser": "running", "eps_placement": "inside", "initial_gamma": "ones", "initial_beta": "zeros",
            "default_batch_weight": 0.01, "default_eps": 1e-05,
        },
    },
]  # fmt: skip
WORD = "1 - momentum"  # Flax's momentum is the weight of the old average
FLAX_NAMES = (("gamma", "scale"), ("beta", "bias"))
STATISTICS = (("running_mean", "mean"), ("running_var", "var"))


def describe(variant, device):
    start = part("start")
    jax = start.import_jax(device, part("replicas").MOST if variant in part("replicas").SYNCHRONISED else 1)
    import flax

    found = {"version": flax.__version__, **start.describe(jax, device)}
    return dict(found, input_gradient=False) if variant == "plain_input" else found


def watch(recorder):
    """Follow nnx.BatchNorm: each eager forward, and the state around each call of nnx.jit."""
    sys.modules["bncheck_watching_recorder"].part("flax_side/watching").install(recorder)


def build(network, params, dtype, variant, device):
    start = part("start")
    jax = start.import_jax(device)
    # float64 needs this switch, which belongs to the process; compiled functions are kept apart by it.
    jax.config.update("jax_enable_x64", dtype == "float64")
    jax.config.update("jax_default_device", start.find_device(jax, device))
    return kind_of(network, variant)(jax, network, params, dtype, variant)


def kind_of(network, variant):
    """The model for a network: of layers, on replicas, with layers of the user's, or the user's whole."""
    users = network.get("model") or (network.get("custom") if variant != "builtin" else None)
    if users and network.get("replicas"):
        raise NotImplementedError("replicas hold built-in layers here, not a layer or model of your own")
    if users and (variant.startswith("linen") or variant.startswith("shard_map")):
        raise NotImplementedError("layers and models of your own are modules of nnx: flax plays them, not this variant")
    if network.get("model"):
        return part("whole", "flax").whole(Model, NnxPart, part)
    if users:
        return part("layers", "flax").with_own_layers(Model, NnxPart, part)
    return part("replicas").replicated(Model, compiled, play) if network.get("replicas") else Model


def keywords_of(layer, dtype, variant):
    if layer["averaging"] == "cumulative":
        raise NotImplementedError("flax has no cumulative average")
    if not layer["track_running_stats"]:
        raise NotImplementedError("flax always tracks running statistics")
    found = {
        "axis": layer["axis"],
        "use_bias": layer["affine"],
        "use_scale": layer["affine"],
        "dtype": dtype,
        "param_dtype": dtype,
    }
    if layer["batch_weight"] is not None:
        found["momentum"] = 1.0 - layer["batch_weight"]
    if layer["eps"] is not None:
        found["epsilon"] = layer["eps"]
    if variant.endswith("exact"):
        found["use_fast_variance"] = False
    found.update(layer["native"].get("flax", {}))
    return found


def convolution(layer, weight):
    """(features in, keywords) of either Conv: channels last, padding as pairs."""
    pad = layer["options"].get("padding", 0)
    return weight[1], {
        "kernel_size": tuple(weight[2:]),
        "strides": layer["options"].get("stride", 1),
        "padding": ((pad, pad), (pad, pad)),
    }


# ------------------------------------------------------------------------------------------- the two interfaces


def make_nnx(layer, shapes, dtype, variant):
    """An nnx module; it holds its own parameters, statistics and mode."""
    from flax import nnx

    rngs, kind = nnx.Rngs(0), layer["type"]
    if kind == "batch_norm":
        return nnx.BatchNorm(layer["channels"], rngs=rngs, **keywords_of(layer, dtype, variant))
    weight = shapes[layer["name"]]
    if kind == "dense":
        return nnx.Linear(weight[1], weight[0], dtype=dtype, param_dtype=dtype, rngs=rngs)
    features, keywords = convolution(layer, weight)
    return nnx.Conv(features, weight[0], dtype=dtype, param_dtype=dtype, rngs=rngs, **keywords)


def make_linen(layer, shapes, dtype, variant):
    """A linen module: a description only, its variables live outside."""
    from flax import linen

    kind = layer["type"]
    if kind == "batch_norm":
        return linen.BatchNorm(**keywords_of(layer, dtype, variant))
    weight = shapes[layer["name"]]
    if kind == "dense":
        return linen.Dense(weight[0], dtype=dtype, param_dtype=dtype)
    return linen.Conv(weight[0], dtype=dtype, param_dtype=dtype, **convolution(layer, weight)[1])


class NnxPart:
    """One nnx module, taken apart for JAX and put together again."""

    def __init__(self, module):
        from flax import nnx

        self.nnx, self.module = nnx, module

    def split(self, training):
        if training is not None:
            self.module.train() if training else self.module.eval()
        static, params, stats = self.nnx.split(self.module, self.nnx.Param, ...)
        return static, params, stats

    @staticmethod
    def call(static, params, stats, x, training):
        from flax import nnx

        module = nnx.merge(static, params, stats, copy=True)  # a copy: it may be changed inside jax.vjp
        return module(x), nnx.split(module, nnx.Param, ...)[2]

    def keep(self, stats):
        self.nnx.update(self.module, stats)

    def get(self, name):
        held = getattr(self.module, name, None)
        return None if held is None else held[...]

    def put(self, name, value):
        getattr(self.module, name)[...] = value

    def arrays(self):
        """{place in its state: array}; keys of random generators are no numbers, and stay a new module's."""
        return {str(place): leaf for place, leaf in enumerate(self.leaves()[0]) if not is_key(leaf)}

    def load(self, found):
        leaves, tree = self.leaves()
        self.nnx.update(self.module, tree.unflatten([found.get(str(place), old) for place, old in enumerate(leaves)]))

    def leaves(self):
        import jax

        return jax.tree.flatten(self.nnx.state(self.module))

    def held(self):
        norm = self.module
        return {"momentum": norm.momentum, "eps": norm.epsilon, "training": not norm.use_running_average}


def is_key(leaf):
    import jax

    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


class LinenPart:
    """One linen module with its variables beside it."""

    def __init__(self, jax, module, example):
        self.module = module
        asked = {"use_running_average": False} if hasattr(module, "use_running_average") else {}
        found = module.init(jax.random.key(0), example, **asked)
        self.params, self.stats = dict(found.get("params", {})), dict(found.get("batch_stats", {}))

    def split(self, training):
        return self.module, self.params, self.stats

    @staticmethod
    def call(static, params, stats, x, training):
        if training is None:
            return static.apply({"params": params}, x), stats
        y, moved = static.apply(
            {"params": params, "batch_stats": stats}, x, use_running_average=not training, mutable=["batch_stats"]
        )
        return y, moved["batch_stats"]

    def keep(self, stats):
        self.stats = dict(stats)

    def get(self, name):
        return self.params.get(name, self.stats.get(name))

    def put(self, name, value):
        (self.params if name in self.params else self.stats)[name] = value

    def arrays(self):
        return dict(self.params, **self.stats)

    def load(self, found):
        self.params = {name: found[name] for name in self.params}
        self.stats = {name: found[name] for name in self.stats}

    def held(self):
        # In linen the mode belongs to the call, not to the layer: ``state`` adds what the next call passes.
        return {"momentum": self.module.momentum, "eps": self.module.epsilon}


def plain(jnp, kind, x, last):
    """Layers without parameters. Flattening is in channels-first order: that is how dense weights come."""
    if kind == "relu":
        return x * (x > 0)
    if kind == "flatten":
        return (jnp.moveaxis(x, -1, 1) if last else x).reshape(x.shape[0], -1)
    return x.mean(axis=tuple(range(1, x.ndim - 1)) if last else tuple(range(2, x.ndim)))


def play(steps, last, params, stats, x):
    """(output, (new statistics, {layer: (input, output)})) of the whole network; pure."""
    import jax.numpy as jnp

    moved, seen = {}, {}
    for name, kind, call, static, training in steps:
        before = x
        if call is None:
            x = plain(jnp, kind, x, last)
            if kind in ("flatten", "global_avg_pool"):
                last = False
        elif kind == "conv2d" and not last:
            x = jnp.moveaxis(call(static, params[name], {}, jnp.moveaxis(x, 1, -1), None)[0], -1, 1)
        else:
            x, found = call(static, params[name], stats.get(name, {}), x, training)
            if kind == "batch_norm":
                moved[name], seen[name] = found, (before, x)
        seen["output of " + name] = x
    return x, (moved, seen)


def compiled(jax, play, to_the_input=True, _made={}):  # noqa: B006 - the default is the cache
    """One set of jitted functions per ``play``, and per whether the input asks for a gradient."""
    key = play, to_the_input
    if key not in _made:
        _made[key] = part("jitted", "flax").functions(jax, play, jax.jit, to_the_input)
    return _made[key]


class Model:
    """The worker's model contract."""

    play = staticmethod(play)  # what it runs, pure

    def __init__(self, jax, network, params, dtype, variant):
        self.jax, self.network, self.dtype = jax, network, jax.numpy.dtype(dtype)
        self.to_the_input = network.get("input_gradient", True) and variant != "plain_input"
        self.run = compiled(jax, play, self.to_the_input)
        self.specs = {layer["name"]: layer for layer in network["layers"] if layer["type"] == "batch_norm"}
        self.layers = list(self.specs)
        self.last = any(spec["axis"] == -1 for spec in self.specs.values())
        self.returns = network.get("returns")
        shapes = {name.split("/")[0]: np.shape(value) for name, value in params.items() if name.endswith("/weight")}
        self.shapes, self.variant = shapes, variant
        self.assemble()
        for name, value in params.items():
            self.put(name, np.asarray(value))
        # What the next "as_is" forward does; None is what the module itself was built with, and linen has no default.
        self.modes = dict.fromkeys(self.layers, None)
        self.tape, self.used_up, self.seen = [], False, {}

    def assemble(self):
        """All layers, with values of their own."""
        self.parts = {}
        for layer in self.network["layers"]:
            if layer["type"] in ("batch_norm", "dense", "conv2d"):
                self.parts[layer["name"]] = self.part(layer, self.shapes, self.variant)
            elif layer["type"] not in ("flatten", "relu", "global_avg_pool"):
                raise NotImplementedError("this backend has no layer %r" % layer["type"])

    def part(self, layer, shapes, variant):
        if variant.startswith("linen"):
            module = make_linen(layer, shapes, self.dtype, variant)
            width = layer["channels"] if layer["type"] == "batch_norm" else shapes[layer["name"]][1]
            example = [1] * (layer.get("rank", 2) if layer["type"] == "batch_norm" else len(shapes[layer["name"]]))
            example[layer["axis"] if layer["type"] == "batch_norm" else -1] = width
            return LinenPart(self.jax, module, self.jax.numpy.zeros(example, self.dtype))
        return NnxPart(make_nnx(layer, shapes, self.dtype, variant))

    def put(self, name, value):
        """Set one of the host's parameters in the dtype that Flax holds; dense and conv kernels are (…, in, out)."""
        layer, what = name.split("/")
        word = dict(FLAX_NAMES + STATISTICS + (("weight", "kernel"), ("bias", "bias")))[what]
        held = self.parts[layer].get(word) if layer in self.parts else None
        if held is None:
            return
        if what == "weight":
            value = value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0)
        self.parts[layer].put(word, self.jax.numpy.asarray(value, dtype=held.dtype))

    # -- events -----------------------------------------------------------------------------------------------

    def forward(self, x, mode):
        if mode != "as_is":
            self.modes = dict.fromkeys(self.layers, mode != "eval")
        if any(self.modes[name] is None and isinstance(self.parts[name], LinenPart) for name in self.layers):
            raise NotImplementedError(
                "linen has no default mode: a call has to say use_running_average, and nobody set one yet"
            )
        data = self.jax.numpy.asarray(x, dtype=self.dtype)
        steps, params, stats = self.pieces()
        if mode in ("eval", "no_grad"):
            out, (moved, seen) = self.run["forward"](steps, self.last, params, stats, data)
        else:
            out, pull, (moved, seen) = self.run["recorded"](steps, self.last, params, stats, data)
            # A forward after a backward starts a new tape; several before one backward share it.
            self.tape = [pull] if self.used_up else self.tape + [pull]
            self.used_up = False
        self.remember(moved, seen, x)
        return self.array(seen["output of " + self.returns] if mode == "eval" and self.returns else out)

    def remember(self, moved, seen, x):
        for name, found in moved.items():
            self.parts[name].keep(found)
        self.seen = {name: seen[name] for name in self.layers}
        self.first = x if self.network["layers"][0]["name"] in self.specs and x.dtype == self.dtype else None

    def pieces(self):
        steps, params, stats = [], {}, {}
        for layer in self.network["layers"]:
            name, part = layer["name"], self.parts.get(layer["name"])
            if part is None:
                steps.append((name, layer["type"], None, None, None))
                continue
            training = self.modes.get(name)
            static, params[name], stats[name] = part.split(training)
            steps.append((name, layer["type"], part.call, static, training))
        return tuple(steps), params, stats

    def array(self, value):
        found = np.asarray(value)
        return found.astype(np.float32) if found.dtype.name == "bfloat16" else found

    def backward(self, dys):
        """Sum of the gradients of all taped forwards; the input's is that of the last one."""
        self.used_up = True
        total = {"input": None}
        for pull, dy in zip(self.tape, dys):
            found = self.run["backward"](pull, self.jax.numpy.asarray(dy, dtype=self.dtype))
            grads, total["input"] = found if self.to_the_input else (found[0], None)
            for layer in self.layers:
                for what, found in self.gradients(layer, grads).items():
                    name = layer + "/" + what
                    total[name] = np.asarray(found, dtype=np.float64) + total.get(name, 0.0)
        total["input"] = None if total["input"] is None else self.array(total["input"])
        return total

    def gradients(self, layer, grads):
        """{"gamma" or "beta": gradient} of one layer."""
        return {what: grads[layer][word][...] for what, word in FLAX_NAMES if word in grads[layer]}

    def reload(self, folder):
        """The arrays of every layer into a file, new layers, the arrays into them."""
        self.write(folder, self.parts)
        self.assemble()
        self.read(folder, self.parts)
        for name in self.layers:  # a new module is as its constructor made it; the mode is its user's to set
            if isinstance(self.parts[name], NnxPart):
                self.parts[name].split(self.modes[name])
        return {"artifacts": ["state.npz"]}

    def write(self, folder, parts):
        held = {"%s/%s" % (name, key): each for name, part in parts.items() for key, each in part.arrays().items()}
        np.savez(os.path.join(folder, "state.npz"), **{name: self.array(each) for name, each in held.items()})

    def read(self, folder, parts):
        """What was written, in the dtypes that the new layers hold."""
        with np.load(os.path.join(folder, "state.npz")) as found:
            for name, part in parts.items():
                part.load(
                    {
                        key: self.jax.numpy.asarray(found["%s/%s" % (name, key)], dtype=each.dtype)
                        for key, each in part.arrays().items()
                    }
                )

    def set_mode(self, training, layer=None):
        for name in self.layers if layer is None else [layer]:
            self.modes[name] = bool(training)
            if isinstance(self.parts[name], NnxPart):
                self.parts[name].split(training)

    def flush(self):
        """Every array that was recorded has been waited for already."""

    # -- what is recorded -------------------------------------------------------------------------------------

    def taps(self):
        found = {name: (self.array(given), self.array(out)) for name, (given, out) in self.seen.items()}
        if self.first is not None:
            # The scenario's own array: its moments are then measured once, not once per cell.
            name = self.layers[0]
            found[name] = (self.first, found[name][1])
        return found

    def axis(self, layer):
        return self.specs[layer]["axis"]

    def state(self, layer):
        part = self.parts[layer]
        found = part.held()
        if isinstance(part, LinenPart) and self.modes[layer] is not None:
            found["training"] = self.modes[layer]
        for what, word in FLAX_NAMES + STATISTICS:
            value = part.get(word)
            if value is not None:
                found[what] = np.array(self.array(value))
        return found

    def dtypes(self, layer):
        part = self.parts[layer]
        held = {what: part.get(word) for what, word in FLAX_NAMES + STATISTICS}
        return {
            what: "bfloat16" for what, value in held.items() if value is not None and value.dtype.name == "bfloat16"
        }
