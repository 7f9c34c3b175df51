"""Apache MXNet: gluon.nn.BatchNorm (variant ""), the same hybridized, the operator nd.BatchNorm ("raw"), and the layer
read without waiting for the engine ("unwaited").

MXNet runs asynchronously: every read of state waits for all work first, or it is stale (315 of 400 reads on 1.7.0).
Runs on mxnet 1.2 to 2.0.0b1 (Python 3.7 syntax); from 2.0 on Gluon takes mx.np arrays only.
"""

import ctypes
import glob
import importlib.util
import os
import sys

import numpy as np

WORKER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SPEC = importlib.util.spec_from_file_location("bncheck_beside", os.path.join(WORKER, "beside.py"))
BESIDE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(BESIDE)
part = BESIDE.part_of("mxnet")

TITLE = "Apache MXNet"
MODULE = "mxnet"
DISTRIBUTION = "mxnet"
DEFAULT_VERSION = "1.9.1"
VARIANTS = {
    "": "gluon.nn.BatchNorm",
    "hybrid": "gluon.nn.BatchNorm, hybridized",
    "raw": "the operator nd.BatchNorm (npx.batch_norm in 2.0)",
    "builtin": "gluon.nn.BatchNorm also where the scenario puts a layer of your own in its place",
    "unwaited": "gluon.nn.BatchNorm, its statistics read right after backward, without mx.nd.waitall()",
    "plain_input": "gluon.nn.BatchNorm on an input that asks for no gradient (no x.attach_grad())",
}
CUSTOM = True  # takes network.custom
WHOLE = True  # takes network.model
DEVICES = ("cpu", "cuda")
REQUIREMENTS = [
    # libmxnet.so of mxnet-cu112 asks for these by name (readelf -d): CUDA 11 runtime libraries and cuDNN 8, which come
    # as wheels. With them loaded only the driver's libcuda.so.1 is missing. No kernels for GPUs after sm_86; never run.
    {
        "devices": ["cuda"],
        "versions": ">=1.9,<2",
        "python": ">=3.8,<3.12",
        "distribution": "mxnet-cu112",
        "packages": [
            "mxnet-cu112=={version}",
            "numpy<1.24",
            "nvidia-cuda-runtime-cu11>=11.7,<12",
            "nvidia-cublas-cu11>=11.10,<12",
            "nvidia-cudnn-cu11>=8.9,<9",
            "nvidia-cufft-cu11",
            "nvidia-curand-cu11",
            "nvidia-cusolver-cu11",
            "nvidia-cuda-nvrtc-cu11",
            "nvidia-nccl-cu11",
            "nvidia-nvtx-cu11",
        ],
    },
    {"versions": ">=2.0.0a0", "python": ">=3.8,<3.10", "packages": ["mxnet=={version}", "numpy<1.24"]},
    # 1.9.1 asks for any numpy and then uses np.bool, which 1.24 removed.
    {"versions": ">=1.8,<2", "python": ">=3.8,<3.12", "packages": ["mxnet=={version}", "numpy<1.24"]},
    # 1.5.1, 1.6.0, 1.7.0.post2 import on 3.11 with numpy 1.23, 1.6.0 and 1.7.0.post2 also on 3.8 with 1.19.
    {"versions": ">=1.5,<1.8", "python": ">=3.6,<3.12", "packages": ["mxnet=={version}", "numpy<1.24"]},
    # These ask for numpy < 1.15, which has no wheels beyond Python 3.7.
    {"versions": "<1.5", "python": ">=3.6,<3.8", "packages": ["mxnet=={version}", "numpy<1.15"]},
]
DOCUMENTED = [
    {
        "versions": ">=1.2,<2.1",
        "variants": ["", "hybrid", "builtin", "unwaited", "plain_input"],
        "link": "https://mxnet.apache.org/versions/1.9.1/api/python/docs/api/gluon/nn/index.html#mxnet.gluon.nn.BatchNorm",
        "facets": {
            "averaging": "exponential",
            "statistic": "variance",
            "train_normaliser": "batch",
            "eval_normaliser": "running",
            "eps_placement": "inside",
            "initial_mean": 0.0,
            "initial_var": 1.0,
            "initial_gamma": "ones",
            "initial_beta": "zeros",
            "default_batch_weight": 0.1,
            "default_eps": 1e-05,
        },
    },
    {
        "versions": ">=1.2,<2.1",
        "variants": ["raw"],
        "link": "https://mxnet.apache.org/versions/1.9.1/api/python/docs/api/legacy/ndarray/op/index.html#mxnet.ndarray.op.BatchNorm",
        "facets": {"averaging": "exponential", "default_batch_weight": 0.1, "default_eps": 1e-03},
    },
]
WORD = "1 - momentum"  # MXNet's momentum is the weight of the old average


def context(mx, device):
    kind, _, number = device.partition(":")
    return mx.gpu(int(number or 0)) if kind == "cuda" else mx.cpu()


def describe(variant, device):
    if device.startswith("cuda"):
        load_cuda()
    import mxnet as mx

    if device.startswith("cuda"):
        count = mx.context.num_gpus()
        if not count:
            raise RuntimeError("mxnet sees no GPU (its CPU wheel is installed, or there is none)")
    if takes_np_arrays(mx):
        mx.npx.set_np()  # without it an array without elements is one of unknown shape
    features = getattr(mx, "runtime", None)
    enabled = [] if features is None else sorted(name for name, on in features.Features().items() if on.enabled)
    found = {"version": mx.__version__, "features": enabled}
    if variant == "plain_input":
        found["input_gradient"] = False
    if device.startswith("cuda"):
        found.update({name: os.environ.get(name, "default") for name in FLAGS})
    return found


# What MXNet reads from the environment and what decides which kernels a GPU runs.
FLAGS = ("MXNET_CUDNN_AUTOTUNE_DEFAULT", "MXNET_CUDA_ALLOW_TENSOR_CORE", "MXNET_ENFORCE_DETERMINISM",
         "NVIDIA_TF32_OVERRIDE")  # fmt: skip


def load_cuda():
    """Load the libraries of the nvidia-* wheels of this environment: libmxnet.so finds them by name when it is loaded.

    In rounds, because they need each other and nothing tells the order."""
    left = sorted(
        path for folder in sys.path for path in glob.glob(os.path.join(folder, "nvidia", "*", "lib", "*.so.*"))
    )
    for _ in range(4):
        left = [path for path in left if not loads(path)]


def loads(path):
    try:
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False  # in a later round; what never loads is named by the import of mxnet
    return True


def watch(recorder):
    """Follow Gluon's BatchNorm: each forward by itself, and the state around calls of hybridized blocks."""
    sys.modules["bncheck_watching_recorder"].part("mxnet_side/watching").install(recorder)


def build(network, params, dtype, variant, device):
    if dtype == "bfloat16":
        raise NotImplementedError("mxnet's NDArray has no bfloat16 that NumPy can read")
    return kind_of(network, variant)(network, params, dtype, variant, device)


def kind_of(network, variant):
    """The model for a network: of layers, with layers of the user's, or the user's whole."""
    users = network.get("model") or (network.get("custom") if variant != "builtin" else None)
    if users and variant in ("raw", "unwaited"):
        raise NotImplementedError("layers and models of your own are Gluon's: mxnet plays them, not this variant")
    if network.get("model") and variant == "hybrid":
        raise NotImplementedError("in a hybridized model nothing can be seen of its layers: mxnet plays it")
    if network.get("model"):
        return part("whole").whole(Model, part)
    return part("layers").with_own_layers(Model, part) if users else Model


def keywords_of(layer):
    found = {"axis": layer["axis"], "center": layer["affine"], "scale": layer["affine"]}
    if layer["batch_weight"] is not None:
        found["momentum"] = 1.0 - layer["batch_weight"]
    if layer["eps"] is not None:
        found["epsilon"] = layer["eps"]
    if layer["averaging"] == "cumulative":
        raise NotImplementedError("mxnet has no cumulative average")
    if not layer["track_running_stats"]:
        raise NotImplementedError("mxnet always tracks running statistics")
    found.update(layer["native"].get("mxnet", {}))
    return found


def takes_np_arrays(mx):
    return int(mx.__version__.split(".")[0]) >= 2


def raw_class(mx):
    """nd.BatchNorm with the parameters of the gluon layer; its defaults differ (eps 1e-3, gamma fixed)."""

    class RawBatchNorm(mx.gluon.nn.BatchNorm):
        def __init__(self, asked, **keywords):
            self.asked = asked
            mx.gluon.nn.BatchNorm.__init__(self, **keywords)

        if takes_np_arrays(mx):  # a Gluon that refuses classes with a hybrid_forward

            def forward(self, x):
                held = [getattr(self, what).data() for what in ("gamma", "beta", "running_mean", "running_var")]
                return mx.npx.batch_norm(x, *held, **self.asked)

        else:

            def hybrid_forward(self, F, x, gamma, beta, running_mean, running_var):  # noqa: N803 - gluon passes it by name
                return F.BatchNorm(x, gamma, beta, running_mean, running_var, **self.asked)

    return RawBatchNorm


def raw_batch_norm(mx, layer):
    keywords = keywords_of(layer)
    asked = {"axis": keywords["axis"]}
    if "momentum" in keywords:
        asked["momentum"] = keywords["momentum"]
    if "epsilon" in keywords:
        asked["eps"] = keywords["epsilon"]
    if layer["eps"] is not None or layer["batch_weight"] is not None:
        asked["fix_gamma"] = False  # else the defaults are being measured: gamma fixed
    return raw_class(mx)(asked, in_channels=layer["channels"], **keywords)


def make_layer(mx, layer, params, variant):
    nn, kind, options = mx.gluon.nn, layer["type"], layer["options"]
    if kind == "batch_norm":
        if variant == "raw":
            return raw_batch_norm(mx, layer)
        return nn.BatchNorm(in_channels=layer["channels"], **keywords_of(layer))
    if kind == "flatten":
        return nn.Flatten()
    if kind == "relu":
        return nn.Activation("relu")
    if kind == "global_avg_pool":
        pool = nn.HybridSequential()
        pool.add(nn.GlobalAvgPool2D(), nn.Flatten())
        return pool
    if kind not in ("dense", "conv2d"):
        raise NotImplementedError("this backend has no layer %r" % kind)
    weight = params[layer["name"] + "/weight"].shape
    if kind == "dense":
        return nn.Dense(weight[0], in_units=weight[1], flatten=False)
    steps = {"strides": options.get("stride", 1), "padding": options.get("padding", 0)}
    return nn.Conv2D(weight[0], weight[2:], in_channels=weight[1], **steps)


def parameters_of(block):
    """All parameters of a block."""
    return list(block.collect_params().values())


def trained(parameter):
    return parameter.grad_req != "null"


class Model:
    """The worker's model contract on a list of gluon blocks."""

    def __init__(self, network, params, dtype, variant, device):
        import mxnet as mx

        self.mx, self.network, self.dtype = mx, network, dtype
        self.context = context(mx, device)
        self.specs = {layer["name"]: layer for layer in network["layers"] if layer["type"] == "batch_norm"}
        self.layers = list(self.specs)
        self.returns, self.params, self.variant = network.get("returns"), params, variant
        self.assemble()
        self.seen, self.returned = {}, None
        self.training = False
        self.tape, self.used_up = [], False
        self.to_the_input = network.get("input_gradient", True) and variant != "plain_input"
        # What a training loop reads that does not wait. Up to 1.7.0 the statistics are no dependency of the read: after
        # 166 of 200 backwards through (16, 64, 32, 32) it gave those of the batch before; 0 of 200 on 1.9.1.
        self.unwaited, self.hasty = variant == "unwaited", {}

    def assemble(self):
        """All layers, with the host's parameters, or values of their own where there are none."""
        self.blocks = [(layer["name"], self.make(layer)) for layer in self.network["layers"]]
        for name, block in self.blocks:
            self.start(name, block, self.params)
            if self.variant == "hybrid":
                block.hybridize()
        self.norms = {name: block for name, block in self.blocks if name in self.specs}

    def make(self, layer):
        return make_layer(self.mx, layer, self.params, self.variant)

    def start(self, name, block, params):
        block.initialize(ctx=self.context)
        if self.dtype != "float32":
            block.cast(self.dtype)
        for what in ("gamma", "beta", "running_mean", "running_var", "weight", "bias"):
            held = getattr(block, what, None)
            value = params.get(name + "/" + what)
            if held is not None and value is not None:
                held.set_data(self.array(value, dtype=held.dtype))

    def array(self, x, dtype):
        if takes_np_arrays(self.mx):
            return self.mx.np.array(x, ctx=self.context, dtype=dtype)
        return self.mx.nd.array(x, ctx=self.context, dtype=dtype)

    # -- events -----------------------------------------------------------------------------------------------

    def forward(self, x, mode):
        mx = self.mx
        data = self.array(x, dtype=self.dtype)
        train = self.training if mode == "as_is" else mode != "eval"
        self.training = train
        if mode in ("eval", "no_grad"):
            with mx.autograd.pause(train_mode=train):
                out = self.play(data)
        else:
            if self.to_the_input:
                data.attach_grad()
            with mx.autograd.record(train_mode=train):
                out = self.play(data)
        array = out.asnumpy()  # waits, so an error of this forward is raised here
        if mode in ("train", "as_is"):
            self.tape = [(data, out, train)] if self.used_up else self.tape + [(data, out, train)]
            self.used_up = False
        return self.returned.asnumpy() if mode == "eval" and self.returned is not None else array

    def play(self, x):
        self.seen, self.returned, self.hasty = {}, None, {}
        for name, block in self.blocks:
            before, x = x, self.called(name, block, x)
            if name in self.norms:
                self.seen[name] = (before, x)
            if name == self.returns:
                self.returned = x
        return x

    def called(self, name, block, x):
        return block(x)

    def backward(self, dys):
        mx = self.mx
        inside = [each for _, block in self.blocks for each in parameters_of(block)]
        if not self.to_the_input and not any(map(trained, inside)):
            raise NotImplementedError("neither the input nor any parameter asks for a gradient")
        self.used_up = True
        heads = [self.array(dy, dtype=self.dtype) for dy in dys]
        # The mode of a backward is the caller's to say: that of the forward it belongs to, not of an eval in between.
        train = self.tape[-1][2]
        mx.autograd.backward([out for _, out, _ in self.tape], heads, retain_graph=True, train_mode=train)
        if self.unwaited:
            self.hasty = {layer: self.held(layer) for layer in self.layers}
        mx.nd.waitall()
        last = self.tape[-1][0].grad
        found = {"input": None if last is None else last.asnumpy()}
        for name in self.norms:
            for what in ("gamma", "beta"):
                held = self.parameter(name, what)
                if held is not None and held.grad_req != "null":
                    found["%s/%s" % (name, what)] = held.grad(self.context).asnumpy().astype("float64")
        return found

    def parameter(self, layer, what):
        return getattr(self.norms[layer], what)

    def reload(self, folder):
        """save_parameters of every block, new blocks, load_parameters."""
        self.mx.nd.waitall()
        paths = {name: os.path.join(folder, name + ".params") for name, block in self.blocks if parameters_of(block)}
        if not all(hasattr(block, "save_parameters") for _, block in self.blocks):
            raise NotImplementedError("this version of mxnet has no save_parameters")
        for name, block in self.blocks:
            if name in paths:
                block.save_parameters(paths[name])
        self.assemble()
        for name, block in self.blocks:
            if name in paths:
                block.load_parameters(paths[name], ctx=self.context)
        return {"artifacts": [os.path.basename(path) for path in paths.values()]}

    def set_mode(self, training, layer=None):
        if layer is not None:
            raise NotImplementedError("mxnet's mode belongs to autograd, not to a layer")
        self.training = training

    def flush(self):
        self.hasty = {}
        self.mx.nd.waitall()

    # -- what is recorded -------------------------------------------------------------------------------------

    def taps(self):
        return {name: (given.asnumpy(), out.asnumpy()) for name, (given, out) in self.seen.items()}

    def axis(self, layer):
        return self.specs[layer]["axis"]

    def state(self, layer):
        if layer in self.hasty:
            return self.hasty[layer]
        self.mx.nd.waitall()
        return self.held(layer)

    def held(self, layer):
        norm = self.norms[layer]
        held = norm._kwargs
        # The mode belongs to autograd's scope, not to the layer: what the next call runs in.
        found = {"momentum": held.get("momentum"), "eps": held.get("eps"), "training": self.training}
        if hasattr(norm, "asked"):
            found.update({"momentum": norm.asked.get("momentum", 0.9), "eps": norm.asked.get("eps", 1e-3)})
        for what in ("running_mean", "running_var", "gamma", "beta"):
            found[what] = np.array(getattr(norm, what).data(self.context).asnumpy())
        return found
