"""PyTorch: nn.BatchNorm modules (variant ""), and torch.batch_norm without the Python guard ("functional").

Channels last is the layer's axis = -1: the array is handed over as a permuted view, which is how PyTorch itself
spells that memory format. Runs on torch 1.1 to 2.13 (Python 3.7 syntax).
"""

import os

import numpy as np

TITLE = "PyTorch"
MODULE = "torch"
DISTRIBUTION = "torch"
DEFAULT_VERSION = "2.13.0"
VARIANTS = {
    "": "nn.BatchNorm1d/2d/3d",
    "functional": "torch.batch_norm, the operator without the module's n = 1 guard (what cuDNN computes)",
}
DEVICES = ("cpu", "cuda", "mps", "xpu")
REQUIREMENTS = [
    # Imported: 2.13.0 on 3.11, 2.0.1 on 3.11, 1.13.1 on 3.10, 1.1.0 on 3.6 and 3.7. On Linux the default index's
    # builds are CUDA builds: 1.1.0 takes 1.3 GB, 1.13.1 3.3 GB, 2.0.1 4.3 GB (neither imports without nvidia-*).
    {"versions": ">=2.3", "python": ">=3.8,<3.15", "packages": ["torch=={version}", "numpy>=1.22"]},
    {"versions": ">=2.0,<2.3", "python": ">=3.8,<3.13", "packages": ["torch=={version}", "numpy<2"]},
    {"versions": ">=1.11,<2.0", "python": ">=3.7,<3.12", "packages": ["torch=={version}", "numpy<2"]},
    {"versions": ">=1.4,<1.11", "python": ">=3.6,<3.10", "packages": ["torch=={version}", "numpy<1.24"]},
    {"versions": "<1.4", "python": ">=3.6,<3.8", "packages": ["torch=={version}", "numpy<1.22"]},
]
DOCUMENTED = [
    {
        "versions": ">=0.4",
        "variants": [""],
        "link": "https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html",
        "facets": {
            "update_on": "forward",
            "averaging": "exponential",
            "variance_divisor": "n-1",
            "statistic": "variance",
            "train_normaliser": "batch",
            "eval_normaliser": "running",
            "eps_placement": "inside",
            "initial_mean": 0.0,
            "initial_var": 1.0,
            "initial_beta": "zeros",
            "default_batch_weight": 0.1,
            "default_eps": 1e-05,
        },
    },
    {
        "versions": ">=0.4",
        "variants": ["functional"],
        "link": "https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.batch_norm.html",
        "facets": {"default_batch_weight": 0.1, "default_eps": 1e-05},
    },
]
WORD = "momentum"  # PyTorch's momentum is the weight of the new batch


def describe(variant, device):
    import torch

    kind = device.split(":")[0]
    if kind == "cuda" and not torch.cuda.is_available():
        built = "this build of torch has no CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
        raise RuntimeError(built)
    if kind in ("mps", "xpu") and not getattr(getattr(torch, kind, None), "is_available", lambda: False)():
        raise RuntimeError("torch sees no %s device" % kind)
    found = {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "mkldnn": bool(torch.backends.mkldnn.is_available()),
        "deterministic": bool(getattr(torch, "are_deterministic_algorithms_enabled", lambda: False)()),
        "CUDA": torch.version.cuda or "",
    }
    if kind == "cuda":
        found.update(
            gpu=torch.cuda.get_device_name(device),
            cudnn=torch.backends.cudnn.version(),
            cudnn_enabled=torch.backends.cudnn.enabled,
            cudnn_deterministic=torch.backends.cudnn.deterministic,
            tf32=bool(getattr(torch.backends.cudnn, "allow_tf32", False)),
        )
    return found


def build(network, params, dtype, variant, device):
    return Model(network, params, dtype, variant, device)


def functional_class(torch):
    """The operator behind the module, with the same parameters and buffers but none of its checks."""

    class FunctionalBatchNorm(torch.nn.modules.batchnorm._BatchNorm):
        def forward(self, x):
            batch = self.training or not self.track_running_stats
            if self.training and self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
            momentum = self.momentum
            if momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked) if self.training else 0.0
            return torch.batch_norm(
                x, self.weight, self.bias, self.running_mean, self.running_var, batch, momentum, self.eps, torch.backends.cudnn.enabled
            )

    return FunctionalBatchNorm


def batch_norm(torch, layer, variant):
    if variant == "functional":
        make = functional_class(torch)
    else:
        make = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d, 5: torch.nn.BatchNorm3d}[layer["rank"]]
    keywords = {"affine": layer["affine"], "track_running_stats": layer["track_running_stats"]}
    if layer["batch_weight"] is not None:
        keywords["momentum"] = layer["batch_weight"]
    if layer["averaging"] == "cumulative":
        keywords["momentum"] = None
    if layer["eps"] is not None:
        keywords["eps"] = layer["eps"]
    keywords.update(layer["native"].get("torch", {}))
    return make(layer["channels"], **keywords)


def make_layer(torch, layer, params, variant):
    kind, options, nn = layer["type"], layer["options"], torch.nn
    if kind == "batch_norm":
        return batch_norm(torch, layer, variant)
    if kind == "flatten":
        return flatten_class(torch)()
    if kind == "relu":
        return nn.ReLU()
    if kind == "global_avg_pool":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), flatten_class(torch)())
    weight = params[layer["name"] + "/weight"].shape
    if kind == "dense":
        return nn.Linear(weight[1], weight[0])
    if kind == "conv2d":
        return nn.Conv2d(weight[1], weight[0], weight[2:], stride=options.get("stride", 1), padding=options.get("padding", 0))
    raise NotImplementedError("this backend has no layer %r" % kind)


def flatten_class(torch):
    class Flatten(torch.nn.Module):  # nn.Flatten came with 1.2
        def forward(self, x):
            return x.reshape(x.shape[0], -1)

    return Flatten


class Model:
    """The worker's model contract on an nn.Sequential."""

    def __init__(self, network, params, dtype, variant, device):
        import torch

        self.torch, self.network, self.params, self.variant, self.device = torch, network, params, variant, device
        self.dtype = getattr(torch, dtype)
        self.wide = dtype == "bfloat16"
        self.specs = {layer["name"]: layer for layer in network["layers"] if layer["type"] == "batch_norm"}
        self.layers = list(self.specs)
        self.last_axis = any(spec["axis"] == -1 for spec in self.specs.values())
        self.returns = network.get("returns")
        self.net = self.assemble()
        self.seen, self.returned = {}, None
        self.tape, self.used_up = [], False

    def assemble(self):
        """Build the network with the host's parameters; one that is missing keeps PyTorch's own value."""
        torch = self.torch
        net = torch.nn.Sequential()
        for layer in self.network["layers"]:
            net.add_module(layer["name"], make_layer(torch, layer, self.params, self.variant))
        net = net.to(device=self.device, dtype=self.dtype)
        held = dict(net.named_parameters())
        held.update(net.named_buffers())
        words = {"gamma": "weight", "beta": "bias"}
        with torch.no_grad():
            for name, value in self.params.items():
                layer, what = name.split("/")
                tensor = held.get("%s.%s" % (layer, words.get(what, what)))
                if tensor is not None:
                    tensor.copy_(torch.from_numpy(np.array(value)).to(tensor.dtype))
        self.norms = {name: dict(net.named_children())[name] for name in self.layers}
        if len(self.network["layers"]) > 1:
            for name, child in net.named_children():
                if name in self.norms:
                    child.register_forward_hook(self.watch(name))
                if name == self.returns:
                    child.register_forward_hook(self.keep)
        return net

    def watch(self, name):
        def hook(module, given, out):
            self.seen[name] = (given[0], out)

        return hook

    def keep(self, module, given, out):
        self.returned = out

    # -- events -----------------------------------------------------------------------------------------------

    def tensor(self, x):
        data = self.torch.from_numpy(x).to(device=self.device, dtype=self.dtype)
        return data.permute(0, -1, *range(1, x.ndim - 1)) if self.last_axis and x.ndim > 2 else data

    def array(self, tensor):
        """NumPy view of a tensor in the scenario's layout; bfloat16 is widened."""
        tensor = tensor.detach()
        if self.last_axis and tensor.dim() > 2:
            tensor = tensor.permute(0, *range(2, tensor.dim()), 1)
        tensor = tensor.cpu()
        return (tensor.float() if self.wide else tensor).numpy()

    def forward(self, x, mode):
        data = self.tensor(x)
        if mode == "train" or mode == "no_grad":
            self.net.train()
        elif mode == "eval":
            self.net.eval()
        if mode == "eval" or mode == "no_grad":
            with self.torch.no_grad():
                out = self.net(data)
        else:
            data.requires_grad_()
            out = self.net(data)
            self.record(data, out)
        return self.finish(data, out, mode)

    def record(self, data, out):
        """A forward after a backward starts a new tape; several before one backward share it."""
        self.tape = [(data, out)] if self.used_up else self.tape + [(data, out)]
        self.used_up = False

    def finish(self, data, out, mode):
        if len(self.network["layers"]) == 1:
            self.seen = {name: (data, out) for name in self.layers}
        if mode == "eval" and self.returns and self.returned is not None:
            out = self.returned
        return self.array(out)

    def checkpointed_forward(self, x):
        from torch.utils.checkpoint import checkpoint

        data = self.tensor(x).requires_grad_()
        self.net.train()
        try:
            out = checkpoint(self.net, data, use_reentrant=False)
        except ValueError:  # before 1.11 there is only the re-entrant kind, without the keyword
            out = checkpoint(self.net, data)
        self.record(data, out)
        return self.finish(data, out, "train")

    def backward(self, dys):
        for tensor in [data for data, _ in self.tape] + list(self.net.parameters()):
            tensor.grad = None
        self.used_up = True
        grads = [self.tensor(dy) for dy in dys]
        self.torch.autograd.backward([out for _, out in self.tape], grads, retain_graph=True)
        last = self.tape[-1][0].grad
        found = {"input": None if last is None else self.array(last)}
        for name, norm in self.norms.items():
            for word, what in (("weight", "gamma"), ("bias", "beta")):
                held = getattr(norm, word, None)
                if held is not None and held.grad is not None:
                    found["%s/%s" % (name, what)] = held.grad.detach().cpu().double().numpy()
        return found

    def set_mode(self, training, layer=None):
        (self.net if layer is None else self.norms[layer]).train(training)

    def flush(self):
        """Wait for the device; CPU kernels are synchronous."""
        if self.device.startswith("cuda"):
            self.torch.cuda.synchronize()

    def reload(self, folder, strict=True, drop=()):
        """Save the state_dict to disk, build a fresh network, load it. ``drop`` leaves entries out (old checkpoints)."""
        path = os.path.join(folder, "state.pt")
        mode = self.net.training
        self.torch.save(self.net.state_dict(), path)
        held = {key: value for key, value in self.torch.load(path).items() if key.split(".")[-1] not in drop}
        self.net = self.assemble()
        self.net.load_state_dict(held, strict=strict)
        self.net.train(mode)
        self.tape, self.used_up = [], False
        return {"artifacts": ["state.pt"]}

    # -- what is recorded -------------------------------------------------------------------------------------

    def taps(self):
        return {name: (self.array(given), self.array(out)) for name, (given, out) in self.seen.items()}

    def axis(self, layer):
        return -1 if self.last_axis else 1

    def state(self, layer):
        norm = self.norms[layer]
        found = {"training": norm.training, "eps": norm.eps, "momentum": norm.momentum}
        for word, what in (("running_mean",) * 2, ("running_var",) * 2, ("weight", "gamma"), ("bias", "beta")):
            held = getattr(norm, word, None)
            if held is not None:
                held = held.detach().cpu()
                found[what] = held.float().numpy() if self.wide else held.numpy().copy()
        counter = getattr(norm, "num_batches_tracked", None)
        if counter is not None:
            found["counter"] = int(counter)
        return found

    def dtypes(self, layer):
        return {name: "bfloat16" for name in ("running_mean", "running_var", "gamma", "beta")} if self.wide else {}
