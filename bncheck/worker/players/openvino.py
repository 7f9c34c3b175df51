"""OpenVINO files (.xml with its .bin) on OpenVINO's CPU plugin: in float32, and at its own default precision."""

TITLE = "OpenVINO"
MODULE = "openvino"
DISTRIBUTION = "openvino"
DEFAULT_VERSION = "2026.4.1"
DEVICES = ("cpu",)
SUFFIXES = (".xml",)
REQUIREMENTS = [{"versions": ">=2023.1", "python": ">=3.10,<3.15", "packages": ["openvino=={version}", "numpy"]}]
PRECISIONS = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
WEIGHTED = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")


def opened(path, playing):
    return Model(path, playing)


class Model:
    def __init__(self, path, playing):
        import openvino

        self.core, self.playing, self.taps, self.usual = openvino.Core(), playing, {}, ""
        self.version = str(openvino.__version__).partition("-")[0]
        self.model = self.core.read_model(path)
        self.inputs = [(name_of(port), kind_of(port), shape_of(port)) for port in self.model.inputs]
        self.beside = self.biases()

    def ways(self, batches):
        plain = self.core.compile_model(self.model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        yield "plain", self.playing.joined([self.run(plain, batch) for batch in batches])
        yield "nudged", self.playing.joined([self.run(plain, self.playing.nudged(batch)) for batch in batches])
        usual = self.core.compile_model(self.model, "CPU")
        precision = usual.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.usual = "in %s, its default on this processor, than in float32" % PRECISIONS.get(precision, precision)
        yield "optimised", self.playing.joined([self.run(usual, batch) for batch in batches])

    def run(self, compiled, arrays):
        outputs = compiled(arrays)
        return self.playing.floats([outputs[port] for port in compiled.outputs])

    def weights(self):
        found = {op.get_friendly_name(): flat(op.data) for op in self.model.get_ops() if constant(op)}
        for op in self.model.get_ops():
            weight = behind(op.input_value(1).get_node()) if op.get_type_name() == "GroupConvolution" else None
            if weight is not None and constant(weight) and len(weight.data.shape) > 3:  # (groups, out, in, …)
                found[weight.get_friendly_name()] = weight.data.reshape((-1,) + tuple(weight.data.shape[2:]))
        return found

    def biases(self):
        """Weight → bias: the constant of an Add right behind a convolution or a product."""
        found = {}
        for op in self.model.get_ops():
            if op.get_type_name() not in WEIGHTED:
                continue
            weight = behind(op.input_value(1).get_node())
            for target in op.output(0).get_target_inputs():
                node = target.get_node()
                if node.get_type_name() == "Add":
                    others = [behind(port.get_node()) for port in node.input_values()]
                    bias = next((each for each in others if constant(each)), None)
                    if bias is not None and constant(weight):
                        found[weight.get_friendly_name()] = bias.get_friendly_name()
        return found


def constant(op):
    return op.get_type_name() == "Constant"


def behind(op):
    """The constant in front of what unpacks it: IR keeps float16 and converts."""
    while op.get_type_name() in ("Convert", "Reshape") and op.get_input_size():
        op = op.input_value(0).get_node()
    return op


def flat(array):
    """A bias (1, C, 1, 1) as (C,)."""
    return array.reshape(-1) if array.ndim > 1 and max(array.shape) == array.size else array


def name_of(port):
    return port.get_any_name() if port.get_names() else port.get_node().get_friendly_name()


def kind_of(port):
    return port.get_element_type().to_dtype().name


def shape_of(port):
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return None
    return [None if size.is_dynamic else size.get_length() for size in shape]
