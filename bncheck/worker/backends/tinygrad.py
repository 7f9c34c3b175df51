"""tinygrad: nn.BatchNorm on its Python device, which needs no compiler, or on the CPU through clang ("clang").

tinygrad is lazy: every forward here realises its output and the statistics at once, as a training loop's optimiser
would. Its training mode is one switch of the process. Channels lie on axis 1. Kernels of the Python device are
interpreted: exact, but tens of milliseconds each; a scenario with images wants ``tinygrad[clang]``.

Of a TinyJit ("jit") the first call runs as without, the second captures its kernels, and all others run those again: a
training loop's third step and the rest. Those are what is played: the two before come from the same state, which is put
back. A captured mode stays: each has a TinyJit of its own, and so has each shape.
"""

import os
import shutil

import numpy as np

TITLE = "tinygrad"
MODULE = "tinygrad"
DISTRIBUTION = "tinygrad"
DEFAULT_VERSION = "0.14.0"
VARIANTS = {
    "": "nn.BatchNorm, kernels interpreted in Python",
    "clang": "nn.BatchNorm, kernels compiled by clang",
    "jit": "nn.BatchNorm in a TinyJit, from the third call on: captured kernels, interpreted in Python",
    "plain_input": "nn.BatchNorm with gradients of the parameters alone: the input asks for none",
}
DEVICES = ("cpu", "cpu:1", "cuda", "metal")
REQUIREMENTS = [{"versions": ">=0.14", "python": ">=3.11,<3.15", "packages": ["tinygrad=={version}", "numpy"]}]
DOCUMENTED = [
    {
        "versions": ">=0.14",
        "variants": ["", "clang", "jit", "plain_input"],
        "link": "https://docs.tinygrad.org/nn/#tinygrad.nn.BatchNorm",
        # Its documentation gives the signature and the paper; the rules are not put into words.
        "facets": {"default_batch_weight": 0.1, "default_eps": 1e-05},
    },
]
# Values in one batch that are still interpreted: 8 x 3 x 32 x 32 take 1.8 s, a hundred forwards of them longer than a
# cell may run.
INTERPRETED = 8192
WORD = "momentum"  # tinygrad's momentum is the weight of the new batch
WORDS = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var"}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
UNITS = {"cuda": "CUDA", "metal": "METAL"}


def unit_of(variant, device):
    """tinygrad's own name of a device: PYTHON, CPU:1, CUDA. Of a CPU it opens as many as it is asked for."""
    kind, _, number = device.partition(":")
    name = ("CPU" if variant == "clang" else "PYTHON") if kind == "cpu" else UNITS[kind]
    return name + ":" + number if int(number or 0) else name


def describe(variant, device):
    kind, _, number = device.partition(":")
    if kind == "cpu" and variant == "clang" and shutil.which(os.environ.get("CC", "clang")) is None:
        raise RuntimeError(
            "tinygrad compiles its CPU kernels with clang, which is not on PATH (plain tinygrad needs no compiler)"
        )
    unit = unit_of(variant, device)
    os.environ["DEV"] = unit.partition(":")[0]  # read once, when tinygrad is imported
    from importlib import metadata

    from tinygrad import Device, Tensor
    from tinygrad.helpers import JIT

    if variant == "jit" and not JIT:
        raise RuntimeError("the environment variable JIT is 0: no TinyJit captures anything. Unset it")
    try:
        works = Tensor([1.0, 2.0], device=unit).sum().item() == 3.0
    except Exception as error:
        raise RuntimeError(
            "tinygrad's device %s does not work here: %s: %s" % (unit, type(error).__name__, str(error)[:300])
        )
    if not works:
        raise RuntimeError("tinygrad's device %s cannot add 1 and 2" % unit)
    found = {"version": metadata.version("tinygrad"), "unit": Device.canonicalize(unit), "number": number}
    return dict(found, input_gradient=False) if variant == "plain_input" else found


def build(network, params, dtype, variant, device):
    return Model(network, params, dtype, variant, unit_of(variant, device))


def batch_norm(nn, layer):
    if layer["averaging"] == "cumulative":
        raise NotImplementedError("tinygrad has no cumulative average")
    if layer["axis"] == -1 and layer["rank"] > 2:
        raise NotImplementedError("tinygrad's BatchNorm has its channels on axis 1")
    keywords = {"affine": layer["affine"], "track_running_stats": layer["track_running_stats"]}
    if layer["batch_weight"] is not None:
        keywords["momentum"] = layer["batch_weight"]
    if layer["eps"] is not None:
        keywords["eps"] = layer["eps"]
    keywords.update(layer["native"].get("tinygrad", {}))
    return nn.BatchNorm(layer["channels"], **keywords)


def make_layer(nn, layer, params):
    kind, options = layer["type"], layer["options"]
    if kind == "batch_norm":
        return batch_norm(nn, layer)
    if kind == "flatten":
        return lambda x: x.flatten(1)
    if kind == "relu":
        return lambda x: x.relu()
    if kind == "global_avg_pool":
        return lambda x: x.mean(axis=tuple(range(2, x.ndim)))
    if kind not in ("dense", "conv2d"):
        raise NotImplementedError("this backend has no layer %r" % kind)
    weight = params[layer["name"] + "/weight"].shape
    if kind == "dense":
        return nn.Linear(weight[1], weight[0])
    step, pad = options.get("stride", 1), options.get("padding", 0)
    return nn.Conv2d(weight[1], weight[0], weight[2:], stride=step, padding=pad)


class Model:
    """The worker's model contract on a list of callables."""

    def __init__(self, network, params, dtype, variant, unit):
        import tinygrad
        from tinygrad.helpers import TRAINING

        self.tinygrad, self.switch, self.unit = tinygrad, TRAINING, unit
        self.dtype, self.wide = getattr(tinygrad.dtypes, dtype), dtype == "bfloat16"
        self.specs = {layer["name"]: layer for layer in network["layers"] if layer["type"] == "batch_norm"}
        self.layers = list(self.specs)
        self.returns = network.get("returns")
        self.blocks = [(layer["name"], make_layer(tinygrad.nn, layer, params)) for layer in network["layers"]]
        for name, block in self.blocks:
            self.move(block)
            self.start(name, block, params)
        self.norms = {name: block for name, block in self.blocks if name in self.specs}
        self.to_the_input = network.get("input_gradient", True) and variant != "plain_input"
        self.jits = {} if variant == "jit" else None  # (what, its mode, its shape) → a TinyJit that has captured
        self.seen, self.returned = {}, None
        self.tape, self.used_up = [], False
        self.set_mode(False)

    def move(self, block):
        """A layer is made on the first device of its kind; what it holds goes to the one that was asked for."""
        for word, held in vars(block).items() if hasattr(block, "__dict__") else ():
            if isinstance(held, self.tinygrad.Tensor):
                setattr(block, word, held.to(self.unit).contiguous().realize())

    def start(self, name, block, params):
        """Put the host's parameters into a layer; one that is missing keeps tinygrad's own value."""
        for what in tuple(WORDS) + ("weight", "bias"):
            word = WORDS.get(what, what)
            held, value = getattr(block, word, None), params.get(name + "/" + what)
            if held is not None and value is not None:
                setattr(block, word, self.tensor(value))
            elif held is not None and held.dtype != self.dtype and name in self.specs:
                setattr(block, word, held.cast(self.dtype).contiguous().realize())

    # -- events -----------------------------------------------------------------------------------------------

    def tensor(self, x):
        data = self.tinygrad.Tensor(np.array(x), device=self.unit)
        return (data if data.dtype == self.dtype else data.cast(self.dtype)).contiguous().realize()

    def array(self, tensor):
        if tensor.device is None:  # a constant; reading it would start the CPU device, and with it clang
            tensor = tensor.clone(self.unit)
        return np.array((tensor.cast("float32") if tensor.dtype == self.tinygrad.dtypes.bfloat16 else tensor).numpy())

    def forward(self, x, mode):
        if x.size > INTERPRETED and self.unit.startswith("PYTHON"):
            raise NotImplementedError(
                "tinygrad interprets its kernels in Python here, which takes seconds for %d values: "
                "install clang and name tinygrad[clang]" % x.size
            )
        data = self.tensor(x)
        if mode != "as_is":
            self.set_mode(mode != "eval")
        before = self.snapshot()
        if self.jits is None:
            out = self.play(data)
            self.tinygrad.Tensor.realize(out, *self.statistics())
        else:
            out, self.returned, self.seen = self.replay(self.walk, data)
        if mode in ("train", "as_is"):
            # A forward after a backward starts a new tape; several before one backward share it.
            entry = [(data, self.training, before)]
            self.tape = entry if self.used_up else self.tape + entry
            self.used_up = False
        return self.array(self.returned if mode == "eval" and self.returned is not None else out)

    def play(self, x):
        self.seen, self.returned = {}, None
        for name, block in self.blocks:
            before, x = x, block(x)
            if name in self.norms:
                self.seen[name] = (before, x)
            if name == self.returns:
                self.returned = x
        return x

    def walk(self, data):
        """``play`` for a TinyJit, whose results are always the tensors of its capture: of what is looked at it writes
        copies, or the batch it was captured with would be seen for each later one."""
        out = self.play(data)
        seen = {name: (given.clone(), made.clone()) for name, (given, made) in self.seen.items()}
        self.tinygrad.Tensor.realize(out, *self.statistics())
        return out, None if self.returned is None else self.returned.clone(), seen

    def replay(self, function, *given):
        """The function by kernels that are captured; what captures them leaves the statistics as they were."""
        key = function.__name__, self.training, given[0].shape
        if key not in self.jits:
            held = [(tensor, self.array(tensor)) for tensor in self.statistics()]
            jit = self.tinygrad.TinyJit(function)
            for _ in range(2):
                jit(*given)
            self.jits[key] = jit
            for tensor, value in held:
                tensor.assign(self.tinygrad.Tensor(value, device=self.unit, dtype=tensor.dtype)).realize()
        return self.jits[key](*given)

    def backward(self, dys):
        """Through every forward on the tape; a gradient by a parameter is their sum.

        Realising an output drops its graph, so each forward is built again from the statistics it began with, and
        the statistics are put back afterwards.
        """
        if not self.to_the_input and not self.asked():
            raise NotImplementedError("neither the input nor any parameter asks for a gradient")
        self.used_up = True
        seen, mode = (self.seen, self.returned), self.training
        total, last = None, None
        for (data, training, before), dy in zip(self.tape, dys):
            self.set_mode(training)
            held = [self.tensor(value) for values in before.values() for value in values.values()]
            if self.jits is None:
                grads = self.gradients(data, self.tensor(dy), *held)
            else:  # the next one through this TinyJit comes back in the same tensors
                grads = [grad.clone().realize() for grad in self.replay(self.gradients, data, self.tensor(dy), *held)]
            last = grads.pop(0) if self.to_the_input else None
            total = grads if total is None else [one + other for one, other in zip(total, grads)]
        found = {"%s/%s" % key: self.array(grad).astype("float64") for key, grad in zip(self.affine(), total)}
        found["input"] = None if last is None else self.array(last)
        self.set_mode(mode)
        self.seen, self.returned = seen
        return found

    def gradients(self, data, dy, *before):
        own = self.lend(before)
        try:
            targets = ([data] if self.to_the_input else []) + self.asked()
            found = self.play(data).gradient(*targets, gradient=dy)
            self.tinygrad.Tensor.realize(*found)
        finally:
            for norm, word, tensor in own:
                setattr(norm, word, tensor)
        return found

    def affine(self):
        return [(name, what) for name, norm in self.norms.items() for what in ("gamma", "beta") if self.has(norm, what)]

    def asked(self):
        """Parameters that gradients are taken by: those of the BatchNorm layers, or what else there is."""
        found = [getattr(self.norms[name], WORDS[what]) for name, what in self.affine()]
        if found or self.to_the_input:
            return found
        others = [getattr(block, word, None) for _, block in self.blocks for word in ("weight", "bias")]
        return [held for held in others if held is not None]

    def snapshot(self):
        """NumPy copies of the running statistics: tinygrad assigns in place."""
        return {
            name: {word: self.array(getattr(norm, word)) for word in STATISTICS[:2] if hasattr(norm, word)}
            for name, norm in self.norms.items()
        }

    def lend(self, statistics):
        """Give every layer tensors of its own on these running statistics, and return those it had."""
        own, rest = [], iter(statistics)
        for norm in self.norms.values():
            own += [(norm, word, getattr(norm, word)) for word in STATISTICS if hasattr(norm, word)]
            for word in STATISTICS[:2]:
                if hasattr(norm, word):
                    setattr(norm, word, self.tinygrad.Tensor(next(rest).uop))
            norm.num_batches_tracked = self.tinygrad.Tensor.zeros(dtype="long", device=self.unit)
        return own

    def set_mode(self, training, layer=None):
        if layer is not None:
            raise NotImplementedError("tinygrad's mode belongs to the process, not to a layer")
        self.training = bool(training)
        self.switch.value = int(training)

    def flush(self):
        self.tinygrad.Tensor.realize(*self.statistics())

    # -- what is recorded -------------------------------------------------------------------------------------

    def has(self, norm, what):
        return getattr(norm, WORDS[what], None) is not None

    def statistics(self):
        return [getattr(norm, word) for norm in self.norms.values() for word in STATISTICS if hasattr(norm, word)]

    def taps(self):
        return {name: (self.array(given), self.array(out)) for name, (given, out) in self.seen.items()}

    def axis(self, layer):
        return 1

    def state(self, layer):
        norm = self.norms[layer]
        found = {
            "eps": norm.eps,
            "momentum": norm.momentum,
            "training": self.training,
            "counter": int(self.array(norm.num_batches_tracked)),
        }
        found.update((what, self.array(getattr(norm, word))) for what, word in WORDS.items() if self.has(norm, what))
        return found

    def dtypes(self, layer):
        return {what: "bfloat16" for what in WORDS if self.wide and self.has(self.norms[layer], what)}
