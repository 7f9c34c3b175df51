"""ONNX Runtime: an ONNX model made from the neutral network, one session for training_mode = 1, one for 0.

In ONNX BatchNormalization is a pure function: the running statistics are inputs and outputs, and what carries them
from one forward to the next is the caller, here this file. The operator has no initial values either; the usual
0, 1, 1, 0 are fed where the scenario gives none. Graph optimisation is off, so that nothing is folded or fused.
"""

import importlib.util
import os
import warnings

import numpy as np

WORKER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SPEC = importlib.util.spec_from_file_location("bncheck_beside", os.path.join(WORKER, "beside.py"))
BESIDE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(BESIDE)
part = BESIDE.part_of("onnx")

TITLE = "ONNX Runtime"
MODULE = "onnxruntime"
DISTRIBUTION = "onnxruntime"
DEFAULT_VERSION = "1.31.1"
VARIANTS = {
    "": "BatchNormalization of opset 15",
    "opset14": "BatchNormalization of opset 14, the first with training_mode",
    "opset9": "BatchNormalization of opset 9, inference only",
}
DEVICES = ("cpu", "cuda")
FILES = True  # takes network.file
REQUIREMENTS = [
    {
        "devices": ["cuda"],
        "versions": ">=1.21",
        "python": ">=3.10,<3.15",
        "distribution": "onnxruntime-gpu",
        "packages": ["onnxruntime-gpu[cuda,cudnn]=={version}", "onnx>=1.16", "numpy>=1.22"],
    },
    {"versions": ">=1.19", "python": ">=3.11,<3.15", "packages": ["onnxruntime=={version}", "onnx>=1.16", "numpy"]},
    {
        "versions": ">=1.11,<1.19",
        "python": ">=3.7,<3.12",
        "packages": ["onnxruntime=={version}", "onnx<1.17", "numpy<2"],
    },
]
DOCUMENTED = [
    {
        "versions": ">=1.11",
        "variants": ["", "opset14"],
        "link": "https://onnx.ai/onnx/operators/onnx__BatchNormalization.html",
        "facets": {
            "update_on": "forward",
            "averaging": "exponential",
            "variance_divisor": "n",
            "statistic": "variance",
            "train_normaliser": "batch",
            "eval_normaliser": "running",
            "eps_placement": "inside",
            "default_batch_weight": 0.1,
            "default_eps": 1e-05,
        },
    },
    {
        "versions": ">=1.11",
        "variants": ["opset9"],
        "link": "https://onnx.ai/onnx/operators/onnx__BatchNormalization.html#batchnormalization-9",
        "facets": {"eval_normaliser": "running", "eps_placement": "inside", "default_eps": 1e-05},
    },
]
WORD = "1 - momentum"  # ONNX's momentum is the weight of the old average
KINDS = ("batch_norm", "flatten", "relu", "global_avg_pool", "dense", "conv2d")
STATISTICS = ("running_mean", "running_var")
USUAL = {"gamma": 1.0, "beta": 0.0, "running_mean": 0.0, "running_var": 1.0}


def describe(variant, device):
    import onnx
    import onnxruntime

    if device.startswith("cuda") and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA and cuDNN from the wheels beside it
    available = onnxruntime.get_available_providers()
    if device.startswith("cuda") and "CUDAExecutionProvider" not in available:
        raise RuntimeError("this build of onnxruntime has no CUDA (onnxruntime-gpu has)")
    if device.startswith("cuda") and not takes(onnx, onnxruntime, providers(device)):
        raise RuntimeError("onnxruntime would run on the CPU: its CUDA provider does not load here")
    return {"version": onnxruntime.__version__, "onnx": onnx.__version__, "providers": available, "optimisation": "off"}


def takes(onnx, onnxruntime, wanted):
    """Whether a session runs on the first of these providers: onnxruntime goes on with the next where one cannot be
    loaded, because a library of it is missing, say, and only warns."""
    helper, options = onnx.helper, onnxruntime.SessionOptions()
    options.log_severity_level = 4
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "bncheck", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=wanted)
    return session.get_providers()[0] == (wanted[0] if isinstance(wanted[0], str) else wanted[0][0])


def build(network, params, dtype, variant, device):
    if network.get("file"):
        if variant:
            raise NotImplementedError("a file says its opset itself: it runs on onnxruntime without a variant")
        parts = (part(name) for name in ("file", "oracle", "judge"))
        return part("session").Model(*parts, network["file"], providers(device))
    if dtype == "bfloat16":
        raise NotImplementedError("NumPy arrays cannot carry bfloat16 into onnxruntime")
    return Model(network, params, dtype, variant, device)


def providers(device):
    if not device.startswith("cuda"):
        return ["CPUExecutionProvider"]
    return [("CUDAExecutionProvider", {"device_id": int(device.partition(":")[2] or 0)}), "CPUExecutionProvider"]


# ------------------------------------------------------------------------------------------------ ONNX graphs


def attributes_of(layer):
    """What the node says; a missing attribute has the default of the operator's own schema."""
    if layer["averaging"] == "cumulative":
        raise NotImplementedError("ONNX BatchNormalization has no cumulative average")
    if not layer["track_running_stats"]:
        raise NotImplementedError("ONNX BatchNormalization always takes running statistics")
    if layer["axis"] == -1 and layer["rank"] > 2:
        raise NotImplementedError("ONNX BatchNormalization has its channels on axis 1")
    found = {}
    if layer["batch_weight"] is not None:
        found["momentum"] = 1.0 - layer["batch_weight"]
    if layer["eps"] is not None:
        found["epsilon"] = layer["eps"]
    found.update(layer["native"].get("onnxruntime", {}))
    return found


class Graph:
    """An ONNX model in the making. Tapped values and new statistics become outputs of the graph."""

    def __init__(self, onnx, network, weights, dtype, *, opset, training):
        self.helper, self.kind = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.opset, self.training = opset, training
        self.nodes, self.inputs, self.outputs = [], [("x", None)], []
        self.weights = [
            onnx.numpy_helper.from_array(np.array(value, dtype=dtype), name) for name, value in weights.items()
        ]
        self.taps = {}
        value = "x"
        for layer in network["layers"]:
            before, value = value, self.add(layer, value)
            if layer["type"] == "batch_norm":
                self.taps[layer["name"]] = (before, value)
        self.result = value
        self.returned = next((name + "/y" for name in [network.get("returns")] if name and not training), value)
        wanted = [name for pair in self.taps.values() for name in pair] + [self.result, self.returned]
        self.outputs += [name for name in dict.fromkeys(wanted) if name != "x"]

    def node(self, kind, inputs, output, **attributes):
        self.nodes.append(
            self.helper.make_node(kind, inputs, output if isinstance(output, list) else [output], **attributes)
        )

    def add(self, layer, value):
        name, kind, options = layer["name"], layer["type"], layer["options"]
        out = name + "/y"
        if kind == "batch_norm":
            self.batch_norm(layer, value, out)
        elif kind == "flatten":
            self.node("Flatten", [value], out)
        elif kind == "relu":
            self.node("Relu", [value], out)
        elif kind == "global_avg_pool":
            self.node("GlobalAveragePool", [value], name + "/pool")
            self.node("Flatten", [name + "/pool"], out)
        elif kind == "dense":
            self.node("Gemm", [value, name + "/weight", name + "/bias"], out, transB=1)
        else:  # conv2d
            pad, step = options.get("padding", 0), options.get("stride", 1)
            self.node("Conv", [value, name + "/weight", name + "/bias"], out, pads=[pad] * 4, strides=[step] * 2)
        return out

    def batch_norm(self, layer, value, out):
        name, attributes = layer["name"], attributes_of(layer)
        names = [name + "/" + what for what in ("gamma", "beta") + STATISTICS]
        self.inputs += [(each, layer["channels"]) for each in names]
        outputs = [out]
        if self.training:
            attributes.setdefault("training_mode", 1)
            outputs += [name + "/new_" + what for what in STATISTICS]
            self.outputs += outputs[1:]
        self.node("BatchNormalization", [value] + names, outputs, **attributes)

    def model(self, rank):
        """The bytes of the model. Shapes stay open, so that one session serves every batch, an empty one too."""
        tensor = self.helper.make_tensor_value_info
        inputs = [tensor(name, self.kind, [None] * rank if width is None else [width]) for name, width in self.inputs]
        outputs = [tensor(name, self.kind, None) for name in self.outputs]
        graph = self.helper.make_graph(self.nodes, "bncheck", inputs, outputs, self.weights)
        opsets = [self.helper.make_opsetid("", self.opset)]
        return self.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


# ------------------------------------------------------------------------------------------------------ model


class Model:
    """The worker's model contract: sessions without state, and the state that is fed to them."""

    def __init__(self, network, params, dtype, variant, device):
        import onnx

        self.onnx, self.network, self.dtype, self.device = onnx, network, dtype, device
        for layer in network["layers"]:
            if layer["type"] not in KINDS:
                raise NotImplementedError("this backend has no layer %r" % layer["type"])
        self.opset = int(variant[5:]) if variant else 15
        self.specs = {layer["name"]: layer for layer in network["layers"] if layer["type"] == "batch_norm"}
        self.layers = list(self.specs)
        self.attributes = {name: attributes_of(layer) for name, layer in self.specs.items()}
        self.weights = {name: value for name, value in params.items() if name.split("/")[0] not in self.specs}
        self.held = {}
        for name, layer in self.specs.items():
            for what, usual in USUAL.items():
                value = params.get(name + "/" + what, np.full(layer["channels"], usual))
                self.held[name + "/" + what] = np.array(value, dtype=dtype)
        self.sessions, self.seen = {}, {}

    def session(self, training, rank):
        """(graph, session), made when first needed: a probe that never evaluates pays for one only."""
        if (training, rank) not in self.sessions:
            import onnxruntime

            graph = Graph(self.onnx, self.network, self.weights, self.dtype, opset=self.opset, training=training)
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.log_severity_level = 4
            options.intra_op_num_threads = 1  # starting a pool of threads costs more than a small cell
            try:
                made = onnxruntime.InferenceSession(graph.model(rank), options, providers=providers(self.device))
            except Exception as error:
                if type(error).__name__ != "NotImplemented":
                    raise
                raise NotImplementedError("onnxruntime has no kernel: %s" % error)
            if self.device.startswith("cuda") and "CUDAExecutionProvider" not in made.get_providers():
                raise RuntimeError("onnxruntime fell back to the CPU: its CUDA provider does not load here")
            self.sessions[training, rank] = (graph, made)
        return self.sessions[training, rank]

    def forward(self, x, mode):
        if mode == "as_is":
            raise NotImplementedError("an ONNX model holds no mode: training_mode is written in the file")
        training = mode != "eval"
        if training and self.opset < 14:
            raise NotImplementedError("BatchNormalization has no training_mode before opset 14")
        graph, session = self.session(training, x.ndim)
        feeds = dict(self.held, x=x.astype(self.dtype, copy=False))
        found = dict(zip(graph.outputs, session.run(graph.outputs, feeds)), x=feeds["x"])
        if training:
            for name in self.layers:
                for what in STATISTICS:
                    self.held[name + "/" + what] = found[name + "/new_" + what]
        self.seen = {name: (found[given], found[out]) for name, (given, out) in graph.taps.items()}
        return found[graph.returned]

    def backward(self, dys):
        raise NotImplementedError("onnxruntime runs models, it has no backward")

    def flush(self):
        """session.run returns when the outputs are there."""

    # -- what is recorded -------------------------------------------------------------------------------------

    def taps(self):
        return self.seen

    def axis(self, layer):
        return 1

    def state(self, layer):
        schema = self.onnx.defs.get_schema("BatchNormalization", self.opset).attributes
        found = {}
        for word, what in (("momentum", "momentum"), ("epsilon", "eps")):
            default = schema[word].default_value.f
            found[what] = self.attributes[layer].get(word, float(np.format_float_positional(np.float32(default))))
        named = ("gamma", "beta") + STATISTICS if self.specs[layer]["affine"] else STATISTICS
        found.update((what, self.held[layer + "/" + what]) for what in named)
        return found
