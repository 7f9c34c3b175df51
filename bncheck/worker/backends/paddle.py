"""PaddlePaddle: nn.BatchNorm1D/2D/3D (variant ""), and nn.functional.batch_norm ("functional").

Channels last is Paddle's own data_format (NLC, NHWC, NDHWC). Runs on paddle 2.6 to 3.x.
"""

import importlib.util
import os
import sys

import numpy as np

WORKER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SPEC = importlib.util.spec_from_file_location("bncheck_beside", os.path.join(WORKER, "beside.py"))
BESIDE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(BESIDE)
part = BESIDE.part_of("paddle")

TITLE = "PaddlePaddle"
MODULE = "paddle"
DISTRIBUTION = "paddlepaddle"
DEFAULT_VERSION = "3.3.1"
VARIANTS = {
    "": "nn.BatchNorm1D/2D/3D",
    "functional": "nn.functional.batch_norm",
    "builtin": "nn.BatchNorm1D/2D/3D also where the scenario puts a layer of your own in its place",
    "to_static": "nn.BatchNorm1D/2D/3D through paddle.jit.to_static, layer by layer",
    "plain_input": "nn.BatchNorm1D/2D/3D on an input that asks for no gradient (stop_gradient stays True)",
}
CUSTOM = True  # takes network.custom
WHOLE = True  # takes network.model
DEVICES = ("cpu", "cuda")
REQUIREMENTS = [
    # Under a name of its own; builds of 3.x are on paddle's own index only (set PIP_EXTRA_INDEX_URL to it).
    {
        "devices": ["cuda"],
        "versions": ">=3",
        "python": ">=3.9,<3.14",
        "distribution": "paddlepaddle-gpu",
        "packages": ["paddlepaddle-gpu=={version}", "numpy", "setuptools"],
    },
    {
        "devices": ["cuda"],
        "versions": ">=2.5,<3",
        "python": ">=3.8,<3.12",
        "distribution": "paddlepaddle-gpu",
        "packages": ["paddlepaddle-gpu=={version}", "numpy<2", "setuptools<81"],
    },
    {"versions": ">=3", "python": ">=3.9,<3.14", "packages": ["paddlepaddle=={version}", "numpy", "setuptools"]},
    {
        "versions": ">=2.6,<3",
        "python": ">=3.8,<3.13",
        "packages": ["paddlepaddle=={version}", "numpy<2", "setuptools<81"],
    },
]
DOCUMENTED = [
    {
        "versions": ">=2.0",
        "variants": ["", "builtin", "to_static", "plain_input"],
        "link": "https://www.paddlepaddle.org.cn/documentation/docs/en/api/paddle/nn/BatchNorm2D_en.html",
        "facets": {
            "averaging": "exponential",
            "variance_divisor": "n",
            "statistic": "variance",
            "train_normaliser": "batch",
            "eval_normaliser": "running",
            "eps_placement": "inside",
            "initial_gamma": "ones",
            "initial_beta": "zeros",
            "default_batch_weight": 0.1,
            "default_eps": 1e-05,
        },
    },
    {
        "versions": ">=2.0",
        "variants": ["functional"],
        "link": "https://www.paddlepaddle.org.cn/documentation/docs/en/api/paddle/nn/functional/batch_norm_en.html",
        "facets": {"default_batch_weight": 0.1, "default_eps": 1e-05},
    },
]
WORD = "1 - momentum"  # Paddle's momentum is the weight of the old average
NAMES = {"running_mean": "_mean", "running_var": "_variance", "gamma": "weight", "beta": "bias"}
FORMATS = {2: ("NC", "NC"), 3: ("NCL", "NLC"), 4: ("NCHW", "NHWC"), 5: ("NCDHW", "NDHWC")}


def describe(variant, device):
    import paddle

    built = paddle.is_compiled_with_cuda()
    if device.startswith("cuda"):
        if not built:
            raise RuntimeError("this build of paddle has no CUDA (paddlepaddle-gpu has)")
        if not paddle.device.cuda.device_count():
            raise RuntimeError("paddle sees no CUDA device")
    paddle.set_device(device.replace("cuda", "gpu"))
    found = {"version": paddle.__version__, "CUDA": str(paddle.version.cuda()) if built else ""}
    flags = ("FLAGS_cudnn_deterministic", "FLAGS_cudnn_batchnorm_spatial_persistent") if built else ()
    if variant == "plain_input":
        found["input_gradient"] = False
    for name, value in paddle.get_flags(list(flags)).items() if flags else ():
        found[name] = value
    if device.startswith("cuda"):
        found.update(gpu=paddle.device.cuda.get_device_name(), cudnn=str(paddle.version.cudnn()))
    return found


def watch(recorder):
    """Follow nn.BatchNorm1D/2D/3D and SyncBatchNorm in dynamic mode; what runs inside to_static is not looked at."""
    import paddle
    from paddle.nn.layer import norm

    parts = sys.modules["bncheck_watching_recorder"].part
    watcher = parts("watching/layers").Watcher(
        recorder,
        parts("torch_side/moments"),
        "paddle",
        paddle.__version__,
        [os.path.dirname(paddle.__file__)],
        {paddle.nn.Layer.__call__.__code__},
    )
    eye = parts("watching/layers").Eye(
        name=lambda layer: layer.full_name(),
        seen=lambda layer, args, kwargs: seen(paddle, args[0] if args else kwargs.get("input")),
        training=lambda layer, args, kwargs: trains(layer),
        state=lambda layer: dict(statistics(layer), gamma=layer.weight, beta=layer.bias),
        settings=settings,
        array=lambda value: np.array(value.detach().numpy()),
        gradients=paddle.is_grad_enabled,
        device=lambda layer: str(layer._mean.place).replace("Place(", "").rstrip(")"),
    )
    for kind in (norm._BatchNormBase, norm.SyncBatchNorm):
        if "forward" in kind.__dict__:
            watcher.wrap(kind, "forward", eye)
    for kind in vars(paddle.optimizer).values():
        if isinstance(kind, type) and "step" in kind.__dict__:
            watcher.steps(kind, "step")
    watcher.modes(paddle.nn.Layer, lambda layer: layer.sublayers(include_self=True))


def seen(paddle, x):
    if isinstance(x, paddle.Tensor) and paddle.in_dynamic_mode() and x.dtype != paddle.bfloat16:
        return x
    return None


def trains(layer):
    """Whether it normalises with the batch: use_global_stats says so in either mode, where it is set."""
    asked = layer._use_global_stats
    return bool(layer.training) if asked is None else not asked


def statistics(layer):
    return {"mean": layer._mean, "var": layer._variance}


def settings(layer, x):
    last = layer._data_format in ("NLC", "NHWC", "NDHWC")
    trainable = any(each is not None and not each.stop_gradient for each in (layer.weight, layer.bias))
    return {
        "axis": -1 if last and len(x.shape) > 2 else 1,
        "eps": layer._epsilon,
        "momentum": layer._momentum,
        "trainable": trainable,
    }


def build(network, params, dtype, variant, device):
    if dtype in ("float16", "bfloat16") and device == "cpu":
        raise NotImplementedError("paddle has no %s BatchNorm kernel for the CPU" % dtype)
    if variant == "to_static" and (network.get("custom") or network.get("model")):
        raise NotImplementedError("in a static program nothing can be seen of your layers: paddle plays them")
    if network.get("custom") and variant != "builtin":
        return part("layers").with_own_layers(Model, part)(network, params, dtype, variant, device)
    if network.get("model"):
        if variant == "functional":
            raise NotImplementedError("a whole network (network.model) has layers of its own: paddle alone plays it")
        return part("whole").whole(Model, part)(network, params, dtype, variant, device)
    return Model(network, params, dtype, variant, device)


def keywords_of(layer):
    found = {}
    if layer["averaging"] == "cumulative":
        raise NotImplementedError("paddle has no cumulative average")
    if not layer["track_running_stats"]:
        raise NotImplementedError("paddle always tracks running statistics")
    if layer["batch_weight"] is not None:
        found["momentum"] = 1.0 - layer["batch_weight"]
    if layer["eps"] is not None:
        found["epsilon"] = layer["eps"]
    if not layer["affine"]:
        found.update(weight_attr=False, bias_attr=False)
    found["data_format"] = data_format(layer, layer["rank"])
    found.update(layer["native"].get("paddle", {}))
    return found


def data_format(layer, rank):
    if layer["axis"] not in (1, -1) or rank not in FORMATS:
        raise NotImplementedError("paddle has channels on axis 1 or -1 of 2 to 5 axes")
    return FORMATS[rank][0 if layer["axis"] == 1 else 1]


def functional_class(paddle):
    """The function behind the layers, with their parameters."""

    class FunctionalBatchNorm(paddle.nn.layer.norm._BatchNormBase):
        def forward(self, x):
            options = (self.training, self._momentum, self._epsilon, self._data_format)
            return paddle.nn.functional.batch_norm(x, self._mean, self._variance, self.weight, self.bias, *options)

    return FunctionalBatchNorm


def viewed(paddle, data, view):
    """The same values, laid out in memory otherwise; what lies between them is NaN, so that nobody reads it unseen."""
    shape, order = list(data.shape), list(range(data.ndim))
    if view == "permuted":
        order[1], order[-1] = order[-1], order[1]
        return data.transpose(order).contiguous().transpose(order)
    if view == "strided":
        wide = paddle.full(shape[:-1] + [2 * shape[-1] + 1], float("nan"), data.dtype)
        wide[..., 1::2] = data
        return wide[..., 1::2]
    if view == "sliced":
        wide = paddle.full([shape[0], shape[1] + 2] + shape[2:], float("nan"), data.dtype)
        wide[:, 1:-1] = data
        return wide[:, 1:-1]
    return data


def batch_norm(paddle, layer, variant):
    nn, keywords = paddle.nn, keywords_of(layer)
    if variant == "functional":
        make = functional_class(paddle)
    else:
        make = {2: nn.BatchNorm1D, 3: nn.BatchNorm1D, 4: nn.BatchNorm2D, 5: nn.BatchNorm3D}[layer["rank"]]
        if layer["rank"] == 2:
            keywords["data_format"] = "NCL"  # BatchNorm1D's word for (N, C) too
    return make(layer["channels"], **keywords)


def make_layer(paddle, layer, params, variant):
    kind, options, nn = layer["type"], layer["options"], paddle.nn
    last = layer["axis"] == -1
    if kind == "batch_norm":
        return batch_norm(paddle, layer, variant)
    if kind == "flatten":
        return nn.Flatten()
    if kind == "relu":
        return nn.ReLU()
    if kind == "global_avg_pool":
        return lambda x: x.mean(axis=list(range(1, x.ndim - 1) if last else range(2, x.ndim)))
    if kind not in ("dense", "conv2d"):
        raise NotImplementedError("this backend has no layer %r" % kind)
    weight = params[layer["name"] + "/weight"].shape
    if kind == "dense":
        return nn.Linear(weight[1], weight[0])
    return nn.Conv2D(
        weight[1],
        weight[0],
        weight[2:],
        stride=options.get("stride", 1),
        padding=options.get("padding", 0),
        data_format="NHWC" if last else "NCHW",
    )


class Model:
    """The worker's model contract on a list of layers."""

    def __init__(self, network, params, dtype, variant, device):
        import paddle

        self.paddle, self.network, self.params, self.dtype, self.variant = paddle, network, params, dtype, variant
        self.specs = {layer["name"]: layer for layer in network["layers"] if layer["type"] == "batch_norm"}
        self.layers = list(self.specs)
        self.returns, self.view = network.get("returns"), "contiguous"
        self.to_the_input = network.get("input_gradient", True) and variant != "plain_input"
        self.assemble()
        for name, block in self.blocks:
            self.start(name, block)

    def assemble(self):
        """Fresh layers with Paddle's own initial values."""
        paddle = self.paddle
        before = paddle.get_default_dtype()
        paddle.set_default_dtype(self.dtype)  # the dtype of new parameters
        try:
            self.blocks = [(layer["name"], self.static(self.make(layer))) for layer in self.network["layers"]]
        finally:
            paddle.set_default_dtype(before)
        self.norms = {name: block for name, block in self.blocks if name in self.specs}
        self.seen, self.returned = {}, None
        self.tape, self.used_up = [], False

    def make(self, layer):
        return make_layer(self.paddle, layer, self.params, self.variant)

    def start(self, name, block):
        start(self.paddle, block, name, self.params)

    # -- events -----------------------------------------------------------------------------------------------

    def forward(self, x, mode):
        paddle = self.paddle
        data = viewed(paddle, self.tensor(x), self.view)
        if mode != "as_is":
            self.set_mode(mode != "eval")
        if mode in ("eval", "no_grad"):
            with paddle.no_grad():
                out = self.play(data)
        else:
            data.stop_gradient = not self.to_the_input
            out = self.play(data)
            # A forward after a backward starts a new tape; several before one backward share it.
            self.tape = [(data, out)] if self.used_up else self.tape + [(data, out)]
            self.used_up = False
        return self.array(self.returned if mode == "eval" and self.returned is not None else out)

    def static(self, block):
        """A layer as a static program where the variant asks for one; a function of ours has nothing to trace."""
        if self.variant == "to_static" and isinstance(block, self.paddle.nn.Layer):
            return self.paddle.jit.to_static(block, full_graph=True)
        return block

    def play(self, x):
        self.seen, self.returned = {}, None
        for name, block in self.blocks:
            before, x = x, block(x)
            if name in self.norms:
                self.seen[name] = (before, x)
            if name == self.returns:
                self.returned = x
        return x

    def backward(self, dys):
        if self.used_up and self.variant == "to_static":
            # retain_graph=True does not keep it: PreconditionNotMetError, "Tensor holds no memory".
            raise NotImplementedError("nobody goes back twice through a forward of paddle.jit.to_static")
        for tensor in [data for data, _ in self.tape] + self.parameters():
            tensor.clear_gradient(False)
        self.used_up = True
        heads = [self.tensor(dy) for dy in dys]
        self.paddle.autograd.backward([out for _, out in self.tape], heads, retain_graph=True)
        last = self.tape[-1][0].grad
        found = {"input": None if last is None else self.array(last)}
        for name in self.layers:
            for what, held in self.held(name).items():
                if held.grad is not None:
                    found["%s/%s" % (name, what)] = self.array(held.grad).astype("float64")
        return found

    def parameters(self):
        return [held for _, block in self.blocks if hasattr(block, "parameters") for held in block.parameters()]

    def set_mode(self, training, layer=None):
        blocks = [block for _, block in self.blocks] if layer is None else [self.norms[layer]]
        for block in blocks:
            if hasattr(block, "train"):
                block.train() if training else block.eval()

    def freeze(self, layer=None):
        """stop_gradient: what Paddle calls freezing. The statistics move all the same."""
        for block in [block for _, block in self.blocks] if layer is None else [self.norms[layer]]:
            for parameter in block.parameters() if hasattr(block, "parameters") else ():
                parameter.stop_gradient = True

    def flush(self):
        """Wait for the device; CPU kernels are synchronous."""
        if self.paddle.get_device() != "cpu":
            self.paddle.device.synchronize()

    def reload(self, folder):
        """Save the state dictionaries to disk, build fresh layers, load them."""
        path = os.path.join(folder, "state.pdparams")
        kept = [(name, block) for name, block in self.blocks if hasattr(block, "state_dict")]
        self.paddle.save({name: block.state_dict() for name, block in kept}, path)
        modes = {name: block.training for name, block in kept}
        self.assemble()
        loaded = self.paddle.load(path)
        for name, block in self.blocks:
            if name in loaded:
                block.set_state_dict(loaded[name])
                block.train() if modes[name] else block.eval()
        return {"artifacts": ["state.pdparams"]}

    # -- what is recorded -------------------------------------------------------------------------------------

    def tensor(self, x):
        data = self.paddle.to_tensor(x)
        return data if str(x.dtype) == self.dtype else data.astype(self.dtype)

    def array(self, tensor):
        tensor = tensor.detach()
        return (tensor.astype("float32") if "bfloat16" in str(tensor.dtype) else tensor).numpy()

    def taps(self):
        return {name: (self.array(given), self.array(out)) for name, (given, out) in self.seen.items()}

    def axis(self, layer):
        return self.specs[layer]["axis"]

    def held(self, layer):
        """{quantity: tensor} of what the layer holds."""
        norm = self.norms[layer]
        found = {what: getattr(norm, word, None) for what, word in NAMES.items()}
        return {what: tensor for what, tensor in found.items() if tensor is not None}

    def state(self, layer):
        norm = self.norms[layer]
        found = {"training": norm.training, "eps": norm._epsilon, "momentum": norm._momentum}
        found.update((what, np.array(self.array(tensor))) for what, tensor in self.held(layer).items())
        return found

    def dtypes(self, layer):
        return {what: "bfloat16" for what, tensor in self.held(layer).items() if "bfloat16" in str(tensor.dtype)}


def start(paddle, block, name, params):
    """Put the host's parameters into a layer; one that is missing keeps Paddle's own value."""
    for what in tuple(NAMES) + ("weight", "bias"):
        value, held = params.get(name + "/" + what), getattr(block, NAMES.get(what, what), None)
        if value is not None and held is not None:
            dense = what == "weight" and value.ndim == 2  # nn.Linear holds (in, out)
            held.set_value(paddle.to_tensor(np.array(value.T if dense else value)).astype(held.dtype))
