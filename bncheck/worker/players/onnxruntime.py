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

    def session(self, optimise):
        options, levels = self.api.SessionOptions(), self.api.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
        options.log_severity_level = 4
        return self.api.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])

    def ways(self, batches):
        joined, nudged = self.playing.joined, self.playing.nudged
        yield "plain", joined([self.run(self.plain, batch) for batch in batches])
        yield "nudged", joined([self.run(self.plain, nudged(batch)) for batch in batches])
        usual = self.session(True)
        yield "optimised", joined([self.run(usual, batch) for batch in batches])

    def run(self, session, arrays):
        feed = {name: array for (name, _, _), array in zip(self.inputs, arrays)}
        return self.playing.floats(session.run(None, feed))

    def weights(self):
        """Read from the file itself, without onnxruntime."""
        return {}


def shape_of(item):
    """Sizes of 0 and below stand for any."""
    return [size if isinstance(size, int) and size > 0 else None for size in item.shape]
