"""What a model of the user's gives on one batch, as it is meant and as it may have been exported by mistake.

Loaded by run.py by path; Python 3.7 syntax. ``state.npz`` holds its state, ``held.npz`` what its normalising layers
hold (model.py), ``outputs.npz``:

    ``input/<k>``             what went in, in the order of forward's arguments
    ``<candidate>/<k>``       outputs, in order: "eval", "train" (all layers), "batch" (normalising layers alone in
                              training mode), "start" (eval with mean 0 and variance 1), "eps <value>" (eval with it)
    ``eval64/<k>``, …         the same in float64, where the model can be: how far its own rounding goes
    ``nudged/<k>``            eval with an input that is off by a rounding
    ``nudged16/<k>``          eval with every weight off by as much as float16 rounds
    ``train, eps <value>/<k>`` two of these at once, for each eps of ``together`` in the job
    ``cast/<k>``              eval in the type ``cast`` of the job, weights and input
    ``restored/<k>``          eval with the weights of ``restored.npz`` (``w0``, …), which the job names in order
    ``tap/<name>``            eval: what each normalising layer gives, in the order in which they ran
"""

import os

import numpy as np

EPS = (1e-5, 1e-3, 1e-6, 1e-4, 1e-2)
LARGEST = 1 << 26  # numbers of an output that are kept


def play(torch, part, failed, job, thing, folder):
    custom, keeping = part("torch_side", "custom"), part("torch_side", "keeping")
    model, inputs, held = part("subject", "model"), part("subject", "inputs"), part("torch_side", "held")
    leaves = part("torch_side", "whole").leaves
    transformed = part("subject", "transformed")
    net, remarks = transformed.opened(thing.module)
    # The one forward that is asked about is the compiled one, where the whole was compiled.
    whole = thing.module if type(thing.module).__name__ == "OptimizedModule" else net
    norms = held.normalisers(torch, net, keeping)
    modes = {name: getattr(module, "training", None) for name, module in net.named_modules()}
    loaded = part("subject", "weights").load(torch, custom, failed, net, job["weights"]) if job["weights"] else None
    unbuilt = any(map(held.lazy, net.state_dict().values()))
    early = None if not unbuilt else inputs.choose(torch, custom, failed, net, job, norms)
    if early is not None:
        model.build(torch, net, early[0])
    np.savez(os.path.join(folder, "held.npz"), **held.arrays(torch, norms, keeping))
    state = {key: plain(value) for key, value in net.state_dict().items() if hasattr(value, "detach")}
    np.savez(os.path.join(folder, "state.npz"), **{key: value for key, value in state.items() if value is not None})
    batch, how = early or inputs.choose(torch, custom, failed, net, job, norms)
    found = {
        "kind": "model",
        "class": type(net).__name__,
        "torch": str(torch.__version__),
        "input": how,
        "weights": loaded,
        "layers": [held.describe(name, module, modes.get(name)) for name, module in norms.items()],
        "others": held.others(net, norms),
        "remarks": [] if whole is not net else remarks,
        "narrow": quantised(net),
        "halves": halves(net),
        "axes": axes(net),
    }
    found["layers"] = transformed.as_computed(net, found["layers"], transformed.sealed(net))
    arrays = {"input/%d" % place: plain(each) for place, each in enumerate(leaves(torch, batch).values())}
    every = Candidates(torch, model, leaves, net, norms, batch)
    every.whole, every.sealed = whole, transformed.sealed(net)
    every.together, every.restored = job.get("together", ()), restored(job, folder)
    every.cast = job.get("cast", "")
    for name, action in every.actions():
        try:
            with torch.no_grad():
                given = action()
        except (Exception, SystemExit) as error:
            if name == "eval":
                said = "its eval forward failed: %s" % model.raised(part, error, job)
                raise failed(said, "give a batch that it takes: --data batch.npz, or --input SHAPE")
            continue  # a candidate that cannot be played is none
        arrays.update(("%s/%d" % (name, place), each) for place, each in enumerate(given))
    arrays.update(every.taps)
    np.savez(os.path.join(folder, "outputs.npz"), **arrays)
    return found


# Where PyTorch's modules that compute in whole numbers are defined.
QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


def axes(net):
    """{key of the weight of a convolution or a linear layer: its axis of output channels}: the second where it is a
    transposed convolution's."""
    found = {name: axis_of_outputs(each) for name, each in net.named_modules()}
    return {("%s.weight" % name).lstrip("."): axis for name, axis in found.items() if axis is not None}


def axis_of_outputs(module):
    transposed, out = getattr(module, "transposed", None), getattr(module, "out_features", None)
    if isinstance(transposed, bool):
        return int(transposed)
    shape = tuple(getattr(getattr(module, "weight", None), "shape", ()))
    return 0 if type(module).__name__ == "Linear" and len(shape) == 2 and shape[0] == out else None


def quantised(net):
    """{"int8": how many of its modules hold such weights}; nothing where none does."""
    count = sum(type(each).__module__.startswith(QUANTISED) and hasattr(each, "weight") for each in net.modules())
    return {"int8": count} if count else {}


def halves(net):
    """{key: "float16" or "bfloat16"} of its parameters and buffers that are kept so; arrays of them are widened."""
    kinds = {key: str(value.dtype)[6:] for key, value in net.state_dict().items() if hasattr(value, "dtype")}
    return {key: kind for key, kind in kinds.items() if kind in ("float16", "bfloat16")}


def restored(job, folder):
    """{key: array} of weights that stand for the model's own."""
    if not job.get("restored"):
        return {}
    with np.load(os.path.join(folder, "restored.npz"), allow_pickle=False) as held:
        return {key: held["w%d" % place] for place, key in enumerate(job["restored"])}


def plain(tensor):
    """A NumPy array; None for what NumPy has no type for and no wider one."""
    data = tensor.detach().cpu()
    if str(data.dtype) in ("torch.bfloat16", "torch.float16"):
        data = data.float()
    try:
        return data.numpy().copy()
    except TypeError:
        return None


class Candidates:
    """The ways to run it. Each puts back what it changed; another type comes last, and stays."""

    def __init__(self, torch, model, leaves, net, norms, batch):
        self.torch, self.model, self.leaves = torch, model, leaves
        self.net, self.norms, self.batch = net, norms, batch
        self.taps = {}
        self.whole, self.sealed, self.together, self.restored, self.cast = net, None, (), {}, ""

    def actions(self):
        yield "eval", self.tapped
        if self.together:
            yield from self.pairs()
            return
        if self.cast:
            yield "cast", lambda: self.wide(self.net.eval, getattr(self.torch, self.cast))
            return
        if self.restored:
            yield "restored", self.with_weights
            return
        yield "nudged", self.nudged
        yield "nudged16", self.rounded
        yield "train", lambda: self.moded(lambda: self.net.train())
        yield "batch", lambda: self.moded(self.norms_alone)
        yield "start", self.started
        for eps in EPS:
            if any(self.eps(module) not in (None, eps) for module in self.norms.values()):
                yield "eps %g" % eps, lambda eps=eps: self.with_eps(eps)
        yield "eval64", lambda: self.wide(lambda: self.net.eval())
        yield "train64", lambda: self.wide(lambda: self.net.train())

    def pairs(self):
        """Each of these eps alone, and with each other way to run it."""
        ways = (
            ("", None),
            ("train, ", lambda: self.moded(lambda: self.net.train())),
            ("batch, ", lambda: self.moded(self.norms_alone)),
            ("start, ", self.started),
        )
        for eps in self.together:
            for way, action in ways:
                yield "%seps %g" % (way, eps), lambda eps=eps, action=action: self.with_eps(eps, action)

    def run(self, batch=None, net=None):
        self.torch.manual_seed(0)
        out = self.leaves(self.torch, self.model.call(net or self.net, batch or self.batch)).values()
        return [plain(each) for each in out if each.is_floating_point() and each.numel() <= LARGEST]

    def tapped(self):
        if self.sealed:
            return self.eval_run()
        hooks = []

        def keeping(name):
            def hook(module, given, out):
                if hasattr(out, "detach") and "tap/%s" % name not in self.taps and out.numel() <= LARGEST:
                    self.taps["tap/%s" % name] = plain(out)

            return hook

        self.net.eval()
        for name, module in self.norms.items():
            if isinstance(module._buffers, dict):  # a scripted layer takes no hook
                hooks.append(module.register_forward_hook(keeping(name)))
        try:
            return self.run(net=self.whole)
        finally:
            for hook in hooks:
                hook.remove()

    def eval_run(self):
        """Without a look at its layers; a program of torch.export has its mode fixed."""
        try:
            self.net.eval()
        except NotImplementedError:
            pass
        return self.run()

    def nudged(self):
        self.net.eval()

        def nudge(value):
            if hasattr(value, "is_floating_point") and value.is_floating_point():
                noise = self.torch.rand(value.shape, generator=self.torch.Generator().manual_seed(1)).to(value.dtype)
                return value * (1 + 2.0**-22 * (noise - 0.5))
            return value

        return self.run((tuple(map(nudge, self.batch[0])), {key: nudge(each) for key, each in self.batch[1].items()}))

    def kept(self):
        return {key: value.detach().clone() for key, value in self.net.state_dict().items() if hasattr(value, "detach")}

    def moded(self, switch):
        held = self.kept()
        self.net.eval()
        switch()
        try:
            return self.run()
        finally:
            self.net.load_state_dict(held, strict=False)
            self.net.eval()

    def rounded(self):
        held, dice = self.kept(), self.torch.Generator().manual_seed(2)
        self.net.eval()
        for value in self.net.state_dict().values():
            if hasattr(value, "is_floating_point") and value.is_floating_point():
                value.mul_(1 + 2.0**-11 * (2 * self.torch.rand(value.shape, generator=dice) - 1).to(value))
        try:
            return self.run()
        finally:
            self.net.load_state_dict(held, strict=False)

    def with_weights(self):
        held = self.kept()
        self.net.eval()
        self.net.load_state_dict(
            {key: self.torch.from_numpy(value) for key, value in self.restored.items()}, strict=False
        )
        try:
            return self.run()
        finally:
            self.net.load_state_dict(held, strict=False)

    def norms_alone(self):
        for module in self.norms.values():
            module.train()

    def started(self):
        held = self.kept()
        self.net.eval()
        for module in self.norms.values():
            if getattr(module, "running_mean", None) is None or getattr(module, "running_var", None) is None:
                raise ValueError("a layer under other names")
            module.running_mean.zero_()
            module.running_var.fill_(1)
        try:
            return self.run()
        finally:
            self.net.load_state_dict(held, strict=False)

    def eps(self, module):
        value = getattr(module, "eps", None)
        return float(value) if isinstance(value, (int, float)) else None

    def with_eps(self, eps, action=None):
        self.net.eval()
        own = {name: module.eps for name, module in self.norms.items() if self.eps(module) is not None}
        for name in own:
            self.norms[name].eps = eps
        try:
            return (action or self.run)()
        finally:
            for name, value in own.items():
                self.norms[name].eps = value

    def wide(self, switch, dtype=None):
        dtype = dtype or self.torch.float64

        def double(value):
            return value.to(dtype) if hasattr(value, "is_floating_point") and value.is_floating_point() else value

        self.net.to(dtype)
        held = self.kept()
        self.net.eval()
        switch()
        try:
            return self.run(
                (tuple(map(double, self.batch[0])), {key: double(each) for key, each in self.batch[1].items()})
            )
        finally:
            self.net.load_state_dict(held, strict=False)
