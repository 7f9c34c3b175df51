"""ONNX files on onnxruntime: without graph optimisation, and with all of it."""

SUFFIXES = (".onnx",)
TYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(int64)": "int64",
    "tensor(int32)": "int32", "tensor(bool)": "bool", "tensor(uint8)": "uint8",
}  # fmt: skip


def opened(path, playing):
    return Model(path, playing)


class Model:
    beside = {}
    usual = "with graph optimisation than without"

    def __init__(self, path, playing):
        import onnxruntime

        self.api, self.path, self.playing, self.taps = onnxruntime, path, playing, {}
        self.version = onnxruntime.__version__
        self.plain = self.session(False)
        self.inputs = [(each.name, TYPES.get(each.type, ""), shape_of(each)) for each in self.plain.get_inputs()]

    def session(self, optimise, model=None):
        options, levels = self.api.SessionOptions(), self.api.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
        options.log_severity_level = 4
        return self.api.InferenceSession(model or self.path, options, providers=["CPUExecutionProvider"])

    def ways(self, batches):
        joined, nudged = self.playing.joined, self.playing.nudged
        yield "plain", joined([self.run(self.plain, batch) for batch in batches])
        yield "nudged", joined([self.run(self.plain, nudged(batch)) for batch in batches])
        usual = self.session(True)
        yield "optimised", joined([self.run(usual, batch) for batch in batches])

    def run(self, session, arrays):
        feed = {name: array for (name, _, _), array in zip(self.inputs, arrays)}
        return self.playing.floats(session.run(None, feed))

    def unrounded(self, batches, restored):
        """What a quantised file gives when its activations are not rounded; when ``restored`` floats (name of the
        float tensor → array) stand for its rounded weights, or any others, as well; and so, but cut at the ends of
        the ranges."""
        try:
            import onnx.helper
            import onnx.numpy_helper
        except ImportError:
            raise self.playing.PlayError("the package onnx is not beside onnxruntime: pip install onnx")
        joined = self.playing.joined
        for way, weights, cut in (("unrounded", {}, False), ("restored", restored, False), ("cut", restored, True)):
            model = onnx.load(self.path)
            float_graph(onnx, model.graph, weights, cut)
            session = self.session(False, model.SerializeToString())
            yield way, joined([self.run(session, batch) for batch in batches])

    def weights(self):
        """Read from the file itself, without onnxruntime."""
        return {}


def float_graph(onnx, graph, weights, cut):
    """Activations go on without being rounded; ``weights`` take the place of what rounded ones become. A range that
    begins at 0 stands for the Relu that it made needless, one that is ``cut`` at both ends for a Relu6 too."""
    for item in graph.initializer:
        if item.name in weights:
            item.CopyFrom(onnx.numpy_helper.from_array(weights[item.name], item.name))
    stored = {item.name: item for item in graph.initializer}
    given, nodes = {item.name for item in graph.input}, []
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.output[0] in weights:
            graph.initializer.append(onnx.numpy_helper.from_array(weights[node.output[0]], node.output[0]))
        elif node.op_type == "QuantizeLinear" and node.input[0] not in stored:
            low, high = (None, None) if node.input[0] in given else span_of(onnx, stored, node)
            nodes += passed_on(onnx, graph, node, low, high if cut else None, cut)
        elif node.op_type == "DequantizeLinear" and node.input[0] not in stored:
            nodes.append(onnx.helper.make_node("Identity", [node.input[0]], [node.output[0]]))
        else:
            nodes.append(node)
    del graph.node[:], graph.value_info[:]  # a quantised tensor is a float now
    graph.node.extend(nodes)


def span_of(onnx, stored, node):
    """The smallest and largest float that the whole numbers of a QuantizeLinear stand for; None where the graph
    computes them, or where each channel has its own."""
    names = [name for name in node.input[1:] if name]
    if not names or any(name not in stored for name in names):
        return None, None
    scale, *zero = [onnx.numpy_helper.to_array(stored[name]) for name in names]
    zero = zero[0] if zero else scale.astype("uint8") * 0
    if scale.size != 1 or zero.dtype.kind not in "iu" or zero.dtype.itemsize > 2:
        return None, None
    ends = (-(2 ** (8 * zero.dtype.itemsize - 1)), 2 ** (8 * zero.dtype.itemsize - 1) - 1)
    low, high = ends if zero.dtype.kind == "i" else (0, ends[1] - ends[0])
    return (low - int(zero.item())) * float(scale.item()), (high - int(zero.item())) * float(scale.item())


def passed_on(onnx, graph, node, low, high, cut):
    """What stands in the place of a QuantizeLinear."""
    x, y = node.input[0], node.output[0]
    if low is None or (low != 0 and not cut):
        return [onnx.helper.make_node("Identity", [x], [y])]
    if not cut:
        return [onnx.helper.make_node("Relu", [x], [y])]
    for name, value in (("low", low), ("high", high)):
        number = onnx.helper.make_tensor("bncheck/%s/%s" % (name, y), onnx.TensorProto.FLOAT, [], [value])
        graph.initializer.append(number)
    return [onnx.helper.make_node("Clip", [x, "bncheck/low/%s" % y, "bncheck/high/%s" % y], [y])]


def shape_of(item):
    """Sizes of 0 and below stand for any."""
    return [size if isinstance(size, int) and size > 0 else None for size in item.shape]
