"""MLX: mlx.nn.BatchNorm, on the CPU (or "metal", the GPU of an Apple machine).

MLX has channels last only: a scenario in channels first is handed over transposed, and so is its result. MLX is
functional: a training step runs forward and gradient in one call. Here they are two events, so ``backward`` runs the
network again from the state that the forward began with, and puts the running statistics back afterwards.

``compile`` makes each of the two one function of mx.compile, with the state of the layers as inputs and outputs, as
MLX's guide has it. Python walks the layers once per shape; a mode that is traced stays: each has functions of its own.
"""

import os
import re

import numpy as np

TITLE = "MLX"
MODULE = "mlx"
DISTRIBUTION = "mlx"
DEFAULT_VERSION = "0.32.4"
VARIANTS = {
    "": "nn.BatchNorm",
    "compile": "nn.BatchNorm in functions of mx.compile; on a CPU g++ compiles their kernels",
    "plain_input": "nn.BatchNorm with gradients of the parameters alone: the input asks for none",
}
DEVICES = ("cpu", "metal", "cuda")
REQUIREMENTS = [
    # On Linux the library itself is in mlx-cpu (or mlx-cuda); without it mlx does not import.
    {"versions": ">=0.26", "python": ">=3.10,<3.15", "packages": ["mlx[cpu]=={version}", "numpy"]},
]
DOCUMENTED = [
    {
        "versions": ">=0.20",
        "variants": ["", "compile", "plain_input"],
        "link": "https://ml-explore.github.io/mlx/build/html/python/nn/_autosummary/mlx.nn.BatchNorm.html",
        "facets": {
            "averaging": "exponential",
            "statistic": "variance",
            "eps_placement": "inside",
            "initial_gamma": "ones",
            "initial_beta": "zeros",
            "default_batch_weight": 0.1,
            "default_eps": 1e-05,
        },
    },
]
WORD = "momentum"  # MLX's momentum is the weight of the new batch
WORDS = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var"}
STATISTICS = ("running_mean", "running_var")
ENDLESS_UP_TO = (0, 32, 4)  # the version that it was seen on


def describe(variant, device):
    import mlx.core as mx

    kind, _, number = device.partition(":")
    if kind == "metal" and not mx.metal.is_available():
        raise RuntimeError("this machine or this build of mlx has no Metal")
    if kind == "cuda" and not getattr(getattr(mx, "cuda", None), "is_available", lambda: False)():
        raise RuntimeError("this machine or this build of mlx has no CUDA (mlx[cuda] has)")
    mx.set_default_device(mx.cpu if kind == "cpu" else mx.Device(mx.gpu, int(number or 0)))
    if variant == "compile":
        try_compiling(mx)
    found = {"version": mx.__version__, "default_device": str(mx.default_device())}
    return dict(found, input_gradient=False) if variant == "plain_input" else found


def try_compiling(mx):
    """Where MLX finds no compiler, mx.compile hands the function back as it is and says nothing."""
    walks = []

    def walk(x):
        walks.append(x.shape)
        return mx.exp(x) + x

    compiled = mx.compile(walk)
    given = mx.zeros(1), mx.ones(1)  # before any operation there is no stream, and what is compiled then is not kept
    try:
        mx.eval(*map(compiled, given))
    except RuntimeError as error:
        raise RuntimeError("mx.compile does not work here: %s" % str(error)[:300])
    if len(walks) > 1:
        remedy = "unset MLX_DISABLE_COMPILE" if "MLX_DISABLE_COMPILE" in os.environ else "on a CPU it needs g++ on PATH"
        raise RuntimeError("mx.compile compiles nothing here: %s" % remedy)


def build(network, params, dtype, variant, device):
    if dtype == "float64" and device != "cpu":
        raise NotImplementedError("MLX has float64 on the CPU only")
    return Model(network, params, dtype, variant, device)


def batch_norm(nn, layer):
    if layer["averaging"] == "cumulative":
        raise NotImplementedError("MLX has no cumulative average")
    if layer["rank"] > 4:
        raise NotImplementedError("MLX's BatchNorm takes 2 to 4 axes")
    keywords = {"affine": layer["affine"], "track_running_stats": layer["track_running_stats"]}
    if layer["batch_weight"] is not None:
        keywords["momentum"] = layer["batch_weight"]
    if layer["eps"] is not None:
        keywords["eps"] = layer["eps"]
    keywords.update(layer["native"].get("mlx", {}))
    return nn.BatchNorm(layer["channels"], **keywords)


def make_layer(mx, nn, layer, params, first):
    """A callable; ``first`` says that the scenario has channels on axis 1."""
    kind, options = layer["type"], layer["options"]
    if kind == "batch_norm":
        return batch_norm(nn, layer)
    if kind == "flatten":
        # In the scenario's order, or a dense layer after it would meet other features.
        return lambda x: (to_first(mx, x) if first else x).reshape(x.shape[0], -1)
    if kind == "relu":
        return nn.ReLU()
    if kind == "global_avg_pool":
        return lambda x: x.mean(axis=tuple(range(1, x.ndim - 1)))
    if kind not in ("dense", "conv2d"):
        raise NotImplementedError("this backend has no layer %r" % kind)
    weight = params[layer["name"] + "/weight"].shape
    if kind == "dense":
        return nn.Linear(weight[1], weight[0])
    step, pad = options.get("stride", 1), options.get("padding", 0)
    return nn.Conv2d(weight[1], weight[0], weight[2:], stride=step, padding=pad)


def release(version):
    """(0, 32, 4) of "0.32.4.dev20261101"."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def to_first(mx, x):
    return mx.moveaxis(x, -1, 1) if x.ndim > 2 else x


def viewed(mx, data, view):
    """The same values, laid out in memory otherwise; what lies between them is NaN, so that nobody reads it unseen.

    Evaluated at once: a lazy slice would be computed together with the layer that reads it."""
    shape = list(data.shape)
    if view == "permuted":
        data = mx.contiguous(data.swapaxes(1, -1)).swapaxes(1, -1)
    if view == "strided":
        wide = mx.full(shape[:-1] + [2 * shape[-1] + 1], float("nan"), dtype=data.dtype)
        wide[..., 1::2] = data
        data = wide[..., 1::2]
    if view == "sliced":
        wide = mx.full([shape[0], shape[1] + 2] + shape[2:], float("nan"), dtype=data.dtype)
        wide[:, 1:-1] = data
        data = wide[:, 1:-1]
    if view != "contiguous":
        mx.eval(data)
    return data


class Model:
    """The worker's model contract on a list of modules."""

    def __init__(self, network, params, dtype, variant, device):
        import mlx.core as mx
        from mlx import nn

        self.mx, self.nn, self.network, self.params = mx, nn, network, params
        self.dtype = getattr(mx, dtype)
        self.wide, self.device, self.variant = dtype == "bfloat16", device, variant
        self.to_the_input = network.get("input_gradient", True) and variant != "plain_input"
        self.specs = {layer["name"]: layer for layer in network["layers"] if layer["type"] == "batch_norm"}
        self.layers = list(self.specs)
        self.first = any(spec["axis"] == 1 for spec in self.specs.values())
        if self.first and any(spec["axis"] == -1 and spec["rank"] > 2 for spec in self.specs.values()):
            raise NotImplementedError("this backend takes one layout for the whole network")
        self.returns, self.view = network.get("returns"), "contiguous"
        self.assemble()
        for name, block in self.blocks:
            self.start(name, block)

    def assemble(self):
        """Fresh modules with MLX's own initial values."""
        make = (make_layer(self.mx, self.nn, layer, self.params, self.first) for layer in self.network["layers"])
        self.blocks = [(layer["name"], block) for layer, block in zip(self.network["layers"], make)]
        for _, block in self.blocks:
            if isinstance(block, self.nn.Module):
                block.set_dtype(self.dtype)
        self.norms = {name: block for name, block in self.blocks if name in self.specs}
        self.seen, self.returned = {}, None
        self.tape, self.used_up = [], False
        self.functions = {}  # (what, the layers' modes) → its compiled function

    def start(self, name, block):
        """Put the host's parameters into a module; one that is missing keeps MLX's own value."""
        for what in tuple(WORDS) + ("weight", "bias"):
            value, word = self.params.get(name + "/" + what), WORDS.get(what, what)
            if value is not None and word in block:
                value = np.moveaxis(value, 1, -1) if value.ndim == 4 else value  # a kernel is (out, h, w, in)
                setattr(block, word, self.mx.array(np.ascontiguousarray(value), dtype=self.dtype))

    # -- events -----------------------------------------------------------------------------------------------

    def tensor(self, x):
        if self.first and x.ndim > 2:
            x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        return self.mx.array(x, dtype=self.dtype)

    def array(self, tensor):
        """A NumPy copy in MLX's layout; bfloat16 is widened."""
        return np.array(tensor.astype(self.mx.float32) if self.wide else tensor)

    def result(self, tensor):
        found = self.array(tensor)
        return np.moveaxis(found, -1, 1) if self.first and found.ndim > 2 else found

    def forward(self, x, mode):
        data = viewed(self.mx, self.tensor(x), self.view)
        if mode != "as_is":
            self.set_mode(mode != "eval")
        before = self.snapshot()
        self.refuse_endless(data)
        out, self.returned, self.seen = self.run(self.walk, data)
        self.mx.eval(out, *self.statistics())  # MLX is lazy: without it an error would surface at a later read
        if mode in ("train", "as_is"):
            # A forward after a backward starts a new tape; several before one backward share it.
            self.tape = [(data, before)] if self.used_up else self.tape + [(data, before)]
            self.used_up = False
        return self.result(self.returned if mode == "eval" and self.returned is not None else out)

    def refuse_endless(self, data):
        """In half of the runs, the sum over an empty batch does not end on the CPU: a debugger finds its thread in
        nd_loop, below reduction_op. From Python there is no way out, and no two runs would give the same."""
        summed = any(norm.training or "running_mean" not in norm for norm in self.norms.values())
        if not data.size and summed and self.device == "cpu" and release(self.mx.__version__) <= ENDLESS_UP_TO:
            raise NotImplementedError(
                "MLX %s may not come to an end of the sum over an empty batch; the process could only be killed"
                % self.mx.__version__
            )

    def play(self, x):
        self.seen, self.returned = {}, None
        for name, block in self.blocks:
            before, x = x, block(x)
            if name in self.norms:
                self.seen[name] = (before, x)
            if name == self.returns:
                self.returned = x
        return x

    def walk(self, x):
        """``play``, with all that is looked at."""
        return self.play(x), self.returned, self.seen

    def run(self, function, *given):
        """The function, in the variant's way."""
        if self.variant != "compile":
            return function(*given)
        key = function.__name__, tuple(norm.training for norm in self.norms.values())
        state = [block.state for _, block in self.blocks if isinstance(block, self.nn.Module)]
        if key not in self.functions:
            self.functions[key] = self.mx.compile(function, inputs=state, outputs=state)
        before = [dict(held) for held in state]
        try:
            return self.functions[key](*given)
        except BaseException:
            # MLX leaves what it traced with in the layers, and any read of it is an error. Who goes on puts these back.
            for held, values in zip(state, before):
                held.update(values)
            raise

    def backward(self, dys):
        """Through every forward on the tape by mx.vjp; a gradient by a parameter is their sum."""
        if not self.to_the_input and not self.asked():
            raise NotImplementedError("neither the input nor any parameter asks for a gradient")
        self.used_up = True
        now, seen = self.snapshot(), (self.seen, self.returned)
        total, last = None, None
        try:
            for (data, before), dy in zip(self.tape, dys):
                self.restore(before)
                grads = self.run(self.gradients, data, self.tensor(dy))
                last = grads.pop(0) if self.to_the_input else None
                total = grads if total is None else [one + other for one, other in zip(total, grads)]
            self.mx.eval([] if last is None else last, *total)
        finally:
            self.restore(now)
            self.seen, self.returned = seen
        found = {"input": None if last is None else self.result(last)}
        for (name, what), grad in zip(self.affine(), total):
            found["%s/%s" % (name, what)] = self.array(grad).astype("float64")
        return found

    def gradients(self, data, dy):
        """By the input, where it asks for one, and by each of ``asked``."""
        asked = self.asked()
        held = [block[word] for block, word in asked]

        def run(*values):
            x, values = (values[0], values[1:]) if self.to_the_input else (data, values)
            for (block, word), value in zip(asked, values):
                setattr(block, word, value)
            return self.play(x)

        _, grads = self.mx.vjp(run, ([data] if self.to_the_input else []) + held, [dy])
        for (block, word), value in zip(asked, held):
            setattr(block, word, value)
        return grads

    def asked(self):
        """(module, its word) of each parameter that gradients are taken by: gamma and beta, or what else there is."""
        found = [(self.norms[name], WORDS[what]) for name, what in self.affine()]
        if found or self.to_the_input:
            return found
        modules = [block for _, block in self.blocks if isinstance(block, self.nn.Module)]
        return [(block, word) for block in modules for word in ("weight", "bias") if word in block]

    def affine(self):
        return [(name, what) for name, norm in self.norms.items() for what in ("gamma", "beta") if WORDS[what] in norm]

    def statistics(self):
        return [norm[what] for norm in self.norms.values() for what in STATISTICS if what in norm]

    def snapshot(self):
        """Modes and running statistics. MLX's arrays never change in place, so keeping them is enough."""
        return {
            name: (norm.training, {what: norm[what] for what in STATISTICS if what in norm})
            for name, norm in self.norms.items()
        }

    def restore(self, snapshot):
        for name, (training, statistics) in snapshot.items():
            self.norms[name].train(training)
            for what, value in statistics.items():
                setattr(self.norms[name], what, value)

    def set_mode(self, training, layer=None):
        for block in [block for _, block in self.blocks] if layer is None else [self.norms[layer]]:
            if isinstance(block, self.nn.Module):
                block.train(training)

    def flush(self):
        self.mx.eval(*self.statistics())
        self.mx.synchronize()

    def reload(self, folder):
        """Save the weights to disk, build fresh modules, load them."""
        # The safetensors of MLX have no float64, its npz no bfloat16.
        path = os.path.join(folder, "state-%s." + ("npz" if self.dtype == self.mx.float64 else "safetensors"))
        modules = [
            (name, block) for name, block in self.blocks if isinstance(block, self.nn.Module) and block.parameters()
        ]
        modes = {name: block.training for name, block in modules}
        for name, block in modules:
            block.save_weights(path % name)
        self.assemble()
        for name, block in self.blocks:
            if name in modes:
                block.load_weights(path % name)
                block.train(modes[name])
        return {"artifacts": [os.path.basename(path % name) for name in modes]}

    # -- what is recorded -------------------------------------------------------------------------------------

    def taps(self):
        return {name: (self.array(given), self.array(out)) for name, (given, out) in self.seen.items()}

    def axis(self, layer):
        return -1

    def state(self, layer):
        norm = self.norms[layer]
        found = {"training": norm.training, "eps": norm.eps, "momentum": norm.momentum}
        found.update((what, self.array(norm[word])) for what, word in WORDS.items() if word in norm)
        return found

    def dtypes(self, layer):
        norm = self.norms[layer]
        return {
            what: "bfloat16" for what, word in WORDS.items() if word in norm and norm[word].dtype == self.mx.bfloat16
        }
