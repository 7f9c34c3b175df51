"""PyTorch: nn.BatchNorm modules (variant ""), the operator behind them ("functional"), other ways to run them.

A layer with axis = -1 is handed over as a permuted view: the channels lie last in the scenario's array, and second
in what PyTorch sees. Runs on torch 1.1 to 2.13 (Python 3.7 syntax). Its larger parts are ../torch_*.py.
"""

import contextlib
import importlib.util
import os
import sys
from functools import partial

WORKER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SPEC = importlib.util.spec_from_file_location("bncheck_beside", os.path.join(WORKER, "beside.py"))
BESIDE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(BESIDE)
part = BESIDE.part_of("torch")

TITLE = "PyTorch"
MODULE = "torch"
DISTRIBUTION = "torch"
DEFAULT_VERSION = "2.13.0"
VARIANTS = {
    "": "nn.BatchNorm1d/2d/3d",
    "functional": "torch.batch_norm, the operator without the module's n = 1 guard (what cuDNN computes)",
    "builtin": "nn.BatchNorm1d/2d/3d also where the scenario puts a layer of your own in its place",
    "timed": "like torch, and times a layer of your own against the built-in one",
    "channels_last": "memory_format=torch.channels_last",
    "compile": "torch.compile",
    "jit": "torch.jit.script, layer by layer",
    "trace": "torch.jit.trace, one program per mode and shape",
    "export": "torch.export, one program per mode",
    "checkpoint": "every training forward through torch.utils.checkpoint, so that backward runs it again",
    "autocast": "torch.autocast in bfloat16: layers and statistics in float32, products of matrices in bfloat16",
    "autocast_float16": "the same in float16, which holds numbers up to 65504",
    "plain_input": "the input asks for no gradient (no x.requires_grad_()), as in front of a network's first layer",
    "no_onednn": "oneDNN switched off: PyTorch's own CPU kernels",
    "ddp": "DistributedDataParallel, one process per replica (gloo on a CPU): replica 0's buffers go to all",
    "ddp_local": "DistributedDataParallel(broadcast_buffers=False): every replica keeps its own buffers",
    "ddp_sync": "DistributedDataParallel on SyncBatchNorm",
    "onnx": "nn.BatchNorm1d/2d/3d with onnx and onnxruntime beside it, for export_onnx and run_exported",
}
CUSTOM = True  # takes network.custom
WHOLE = True  # takes network.model
REPLICAS = COPIES = SHARES = True
# Its import starts no threads. Not here: what starts processes of its own, or compiles in some.
FORKS = ("", "functional", "builtin", "timed", "channels_last", "jit", "trace", "checkpoint", "autocast",
         "autocast_float16", "plain_input", "no_onednn")  # fmt: skip
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
VARIANT_REQUIREMENTS = {
    # The legacy exporter needs onnx since 1.13, the dynamo one onnxscript too; neither comes with torch.
    "onnx": ["onnx", "onnxruntime", "onnxscript; python_version >= '3.9'"],
}
DOCUMENTED = [
    {
        "versions": ">=0.4",
        "variants": [
            "",
            "builtin",
            "timed",
            "channels_last",
            "compile",
            "jit",
            "trace",
            "export",
            "checkpoint",
            "plain_input",
            "no_onednn",
            "autocast",
            "autocast_float16",
            "onnx",
            "ddp",
            "ddp_local",
            "ddp_sync",
        ],
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
WORDS = {"counter": "num_batches_tracked", "gamma": "weight", "beta": "bias"}  # PyTorch's own, where they differ


def describe(variant, device):
    import torch

    part("variants").refuse(torch, variant)
    part("replicas").refuse(torch, variant, device)

    kind = device.split(":")[0]
    if kind == "cuda" and not torch.cuda.is_available():
        built = "this build of torch has no CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
        raise RuntimeError(built)
    if kind in ("mps", "xpu") and not getattr(getattr(torch, kind, None), "is_available", lambda: False)():
        raise RuntimeError("torch sees no %s device" % kind)
    found = {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "mkldnn": bool(hasattr(torch.backends, "mkldnn") and torch.backends.mkldnn.is_available()),
        "deterministic": bool(getattr(torch, "are_deterministic_algorithms_enabled", lambda: False)()),
        "CUDA": torch.version.cuda or "",
    }
    if variant == "plain_input":
        found["input_gradient"] = False
    if kind == "cuda":
        found.update(part("gpu").flags(torch), gpu=torch.cuda.get_device_name(device))
    return found


def watch(recorder):
    """Hooks on every module of this process; what they see goes to the recorder (../watching)."""
    import torch

    part("watching").install(torch, recorder, part)


def build(network, params, dtype, variant, device):
    kind = Model
    if network.get("replicas"):
        kind = part("replicas").replicated(Model, os.path.abspath(__file__))
    elif network.get("copied"):
        kind = part("copies").copied(Model)
    return kind(network, params, dtype, variant, device)


def bfloat16(tensor):
    """Whether NumPy has no type for it."""
    return str(tensor.dtype) == "torch.bfloat16"


@contextlib.contextmanager
def no_blame():
    yield


class Model:
    """The worker's model contract on an nn.Sequential."""

    words = WORDS

    def __init__(self, network, params, dtype, variant, device):
        import torch

        self.torch, self.network, self.params, self.variant, self.device = torch, network, params, variant, device
        self.dtype = getattr(torch, dtype)
        self.wide = dtype == "bfloat16"
        self.specs = {layer["name"]: layer for layer in network["layers"] if layer["type"] == "batch_norm"}
        self.layers = list(self.specs)
        self.last_axis = any(spec["axis"] == -1 for spec in self.specs.values())
        self.rank = network["layers"][0]["rank"] if network["layers"] else 2
        self.returns = network.get("returns")
        self.to_the_input = network.get("input_gradient", True) and variant != "plain_input"
        own = None if variant == "builtin" else network.get("custom")
        if variant == "builtin" and network.get("oracle", "batch_norm") != "batch_norm":
            raise NotImplementedError(
                "nn.BatchNorm does no %s: there is no built-in layer to compare" % network["oracle"]
            )
        self.parts = network.get("parts", 1) if own else 1
        more = network.get("arguments") or {} if own else {}  # keywords for the layer's constructor alone
        self.custom = partial(part("arguments").make, torch, part("custom"), own, more=more) if own else None
        if self.parts != 1:
            adapter = part("parts").adapter_class(torch, part("custom").CustomLayerError)
            self.custom = partial(
                part("arguments").make_parts, torch, part("custom"), own, self.parts, adapter, more=more
            )
        part("custom").remember_lines(torch, bool(own)) if own or "bncheck_torch_custom" in sys.modules else None
        self.whole = bool(network.get("model"))
        # Whether NumPy sees what its tensors hold, and they are called as PyTorch calls them.
        self.plain = not (own or self.whole or self.wide or device != "cpu" or variant.startswith("autocast"))
        code = own or network.get("model")
        self.blame = partial(part("custom").naming_the_line, code.rpartition(":")[0]) if code else no_blame
        if self.whole and variant in part("whole").NOT_WITH:
            raise NotImplementedError("network.model does not run as torch[%s]" % variant)
        if variant in ("export", "trace") and self.returns:
            raise NotImplementedError("a program has no inner layers whose output it could return")
        self.keep_graph, self.part, self.view = True, part, "contiguous"
        self.remarks = {}  # layer of the user's: sentences about what could not be asked of it
        self.gone = {}  # layer that a function of the user's took away: its last state
        self.inside = part("inside").Inside(self) if self.whole else None
        if self.whole:  # what is asked of a whole network alone
            self.see, self.calls, self.taken_out = self.inside.see, self.inside.calls, self.inside.taken_out
            self.ran = self.inside.ran
        self.behind = {}  # layer: {buffer: autograd nodes behind it after each event}
        self.tape, self.used_up = [], False
        self.recomputed = variant == "checkpoint"
        self.assemble()

    def assemble(self):
        """Build the network with the host's parameters; one that is missing keeps PyTorch's own value."""
        torch = self.torch
        if self.whole:
            net = part("whole").build(
                torch,
                part("custom"),
                part("arguments"),
                self.network["model"],
                self.network["arguments"],
                self.network.get("output"),
            )
            self.inside.settle(net)
            self.places = part("inside").places(torch, part, net)  # of layers in the network
            self.layers = list(self.places)
        else:
            net = torch.nn.Sequential()
            for layer in self.network["layers"]:
                first = layer.get("same_as")
                made = part("layers").make(torch, layer, self.params, self.variant, self.custom, first and net)
                net.add_module(layer["name"], made)
        self.net = part("starting").move(self, net)
        children = dict(self.net.named_modules() if self.whole else self.net.named_children())
        if self.whole:
            children.update({name: children[place] for name, place in self.places.items()})
        self.layouts = {}
        for name in self.layers if self.parts != 1 else ():
            children[name] = children[name].inner
            self.layouts[name] = part("parts").Layout(children[name], self.parts, self.specs[name]["channels"])
        self.norms = {name: children[name] for name in self.layers}
        if not self.whole:  # a layer at its second place holds its first; one of the user's may call a buffer so
            again = {name for name in self.layers if self.specs[name].get("same_as")}
            self.norms = {
                name: getattr(norm, "first", norm) if name in again else norm for name, norm in self.norms.items()
            }
            self.places = {name: name for name in self.layers}
        shown = part("shown").learn_layers(self) if self.custom and self.parts == 1 else {}
        with torch.no_grad():
            part("starting").put(self, children)
        for name, said in shown.items():
            self.remarks[name] = said + self.remarks.get(name, [])
        self.seen, self.returned, self.hooks = {}, None, []
        self.watch()
        self.call = part("variants").runner(self, self.variant)

    def held(self, module, what):
        """A layer's tensor (or number) by its neutral word, None where it has none."""
        if self.own(module):
            return part("custom").find(module, what)
        return getattr(module, WORDS.get(what, what), None)

    def own(self, module):
        """Whether a layer is the user's, and may hold things under names and in shapes of its own."""
        if not self.custom and not self.whole:
            return False
        theirs = type(module).__module__.startswith("torch.")
        return module in self.norms.values() and not (self.whole and theirs)

    # -- looking inside ---------------------------------------------------------------------------------------

    def watch(self):
        """Hooks on the layers; with one layer alone they would only repeat what the network's ends show."""
        if len(self.network["layers"]) > 1 or self.whole:
            layers = {place: name for name, place in self.places.items()}
            for name, child in self.net.named_modules():
                if name in layers:
                    self.hooks.append(part("keeping").hook_on(child, part("layers").seeing(self, layers[name])))
                if name in layers and self.whole and self.variant != "compile":
                    self.hooks += self.inside.following(child, layers[name])
                if name == self.returns:
                    self.hooks.append(child.register_forward_hook(part("layers").keeping(self)))

    @contextlib.contextmanager
    def unwatched(self):
        """Without hooks: exporters would trace through them, and a deep copy would copy what they hold on to."""
        for hook in self.hooks:
            hook.remove()
        had, self.hooks = bool(self.hooks), []
        try:
            yield
        finally:
            if had:
                self.watch()

    # -- events -----------------------------------------------------------------------------------------------

    def tensor(self, x):
        data = self.torch.from_numpy(x).to(device=self.device, dtype=self.dtype)
        return data.permute(0, -1, *range(1, x.ndim - 1)) if self.last_axis and x.ndim > 2 else data

    def array(self, tensor):
        """NumPy view of a tensor in the scenario's layout; bfloat16 is widened."""
        tensor = tensor.detach()
        if self.plain and not self.last_axis:
            return tensor.numpy()
        if self.last_axis and tensor.dim() > 2:
            tensor = tensor.permute(0, *range(2, tensor.dim()), 1)
        tensor = tensor.cpu()
        return (tensor.float() if self.wide or bfloat16(tensor) else tensor).numpy()

    def forward(self, x, mode):
        data = part("layers").viewed(self.tensor(x), self.view)
        if mode in ("train", "no_grad"):
            self.net.train()
        elif mode == "eval":
            self.net.eval()
        if self.whole:
            self.seen = {}  # a layer that this forward passes by has none
        quiet = mode in ("eval", "no_grad")
        if not quiet and self.to_the_input:
            data.requires_grad_()
        out = self.run(data, mode, not quiet)
        if not quiet:
            self.record(data, out)
        return self.finish(data, out, mode)

    def run(self, data, mode, gradients):
        if not (self.custom or self.whole):
            with self.torch.set_grad_enabled(gradients):
                return self.call(data)
        with self.blame(), self.beside_builtin(data, mode), self.torch.set_grad_enabled(gradients):
            return self.inside.call(mode, data) if self.whole else self.call(data)

    @contextlib.contextmanager
    def beside_builtin(self, data, mode):
        """An error of a layer of the user's that the built-in one raises as well, out of torch's own code, is torch's
        refusal: the network with built-in layers is asked."""
        try:
            yield
        except Exception as error:
            alike = part("custom").raises_alike
            if self.custom and not self.network.get("replicas") and alike(self, error, data, mode):
                error.origin = "framework"
            raise

    def builtin(self):
        return type(self)(self.network, self.params, str(self.dtype).rpartition(".")[2], "builtin", self.device)

    def record(self, data, out):
        """A forward after a backward starts a new tape; several before one backward share it."""
        self.tape = [(data, out)] if self.used_up else self.tape + [(data, out)]
        self.used_up = False

    def finish(self, data, out, mode):
        if len(self.network["layers"]) == 1:
            self.seen = dict.fromkeys(self.layers, (data, out))
        if mode == "eval" and self.returns and self.returned is not None:
            out = self.returned
        return self.array(out)

    def checkpointed_forward(self, x):
        data = part("layers").viewed(self.tensor(x), self.view).requires_grad_()
        self.net.train()
        out = part("variants").checkpointed(self, data)
        self.record(data, out)
        return self.finish(data, out, "train")

    def backward(self, dys):
        if not self.to_the_input and not any(out.requires_grad for _, out in self.tape):
            raise NotImplementedError("neither the input nor any parameter asks for a gradient")
        for tensor in [data for data, _ in self.tape] + list(self.net.parameters()):
            tensor.grad = None
        self.used_up = True
        grads = [self.tensor(dy).to(out.dtype) for dy, (_, out) in zip(dys, self.tape)]  # noqa: B905 - Python 3.7
        with self.blame():
            part("sowing").backward(self.torch, [out for _, out in self.tape], grads, self.keep_graph)
        last = self.tape[-1][0].grad
        found = {"input": None if last is None else self.array(last)}
        for name, norm in self.norms.items():
            for what in ("gamma", "beta"):
                held = self.held(norm, what)
                if held is not None and held.grad is not None:
                    found["%s/%s" % (name, what)] = held.grad.detach().cpu().double().numpy().reshape(-1)
        return found

    def set_mode(self, training, layer=None):
        (self.net if layer is None else self.norms[layer]).train(training)

    def freeze(self, layer=None):
        for parameter in (self.net if layer is None else self.norms[layer]).parameters():
            parameter.requires_grad = False

    def flush(self):
        """Wait for the device; CPU kernels are synchronous."""
        if self.device.startswith("cuda"):
            self.torch.cuda.synchronize()

    def reload(self, folder, strict=True, drop=()):
        """Save the state_dict, build a fresh network, load it. ``drop`` leaves states out (old checkpoints)."""
        drop = [WORDS.get(name, name) for name in drop]
        path = os.path.join(folder, "state.pt")
        mode = self.net.training
        self.torch.save(self.net.state_dict(), path)
        held = {key: value for key, value in self.torch.load(path).items() if key.split(".")[-1] not in drop}
        self.assemble()
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
        if layer in self.gone:
            return self.gone[layer]
        norm = self.norms[layer]
        own, found = self.own(norm), {"training": norm.training}
        for what in ("eps", "momentum"):
            value = self.held(norm, what) if own else getattr(norm, what, None)
            if isinstance(value, (int, float)):
                found[what] = value
        found.update(self.layouts[layer].state() if layer in self.layouts else {})
        for what in ("running_mean", "running_var", "gamma", "beta") if layer not in self.layouts else ():
            held = self.held(norm, what) if own else getattr(norm, WORDS.get(what, what), None)
            if held is not None and self.plain:
                found[what] = held.detach().numpy().copy()
            elif held is not None:
                held = held.detach().cpu()
                found[what] = held.float().numpy() if bfloat16(held) else held.numpy().copy()
                if own:
                    meant = part("custom").as_meant(norm, what, found[what])
                    found[what] = part("custom").per_channel(meant, self.channels(layer))
        counter = self.held(norm, "counter") if own else getattr(norm, WORDS["counter"], None)
        if counter is not None:
            found["counter"] = int(counter)
        if self.custom:
            behind = self.behind.setdefault(layer, {})
            found.update(part("custom").graph_state(self.torch, norm, behind, not self.recomputed))
        return found

    def channels(self, layer):
        return (
            self.specs[layer]["channels"]
            if layer in self.specs
            else self.held(self.norms[layer], "running_mean").numel()
        )

    def dtypes(self, layer):
        if not self.wide:
            return {}
        held = {what: self.held(self.norms[layer], what) for what in part("custom").TENSORS}
        return {what: "bfloat16" for what, each in held.items() if each is not None and bfloat16(each)}

    def facts(self):
        """About the whole cell, after its last event: only what is the user's own has any."""
        if not self.custom:
            return self.inside.facts() if self.whole else {}
        custom, facts = part("custom"), part("facts").facts
        return {"custom": {name: facts(self, custom, name, part("layers").batch_norm) for name in self.layers}}

    def draw_graph(self, folder, layer=None):
        return part("graph").draw(self, folder, layer)

    def eval_in_batches(self, x, sizes, samples=None):
        return part("batches").compare(self, x, sizes, samples)

    def apply(self, function, x):
        return part("applied").in_cell(self, part, function, x)

    # -- ONNX -------------------------------------------------------------------------------------------------

    def export_onnx(self, folder, x, **arguments):
        return part("onnx").export(self, folder, x, **arguments)

    def run_exported(self, folder, x):
        return part("onnx").run(self, x)
