"""TFLite files on LiteRT's interpreter: without a delegate, and as it runs them by default (XNNPACK)."""

import numpy as np

TITLE = "LiteRT"
MODULE = "ai_edge_litert"
DISTRIBUTION = "ai-edge-litert"
DEFAULT_VERSION = "2.3.0"
DEVICES = ("cpu",)
SUFFIXES = (".tflite",)
REQUIREMENTS = [{"versions": ">=1.0", "python": ">=3.10,<3.15", "packages": ["ai-edge-litert=={version}", "numpy"]}]
# Operators with a weight, and its axes in the order of PyTorch: output channels first, input channels second.
WEIGHTED = {
    "CONV_2D": (0, 3, 1, 2), "TRANSPOSE_CONV": (0, 3, 1, 2), "DEPTHWISE_CONV_2D": (3, 0, 1, 2),
    "FULLY_CONNECTED": (0, 1),
}  # fmt: skip


def opened(path, playing):
    return Model(path, playing)


class Model:
    usual = "through the XNNPACK delegate than without"

    def __init__(self, path, playing):
        import ai_edge_litert
        from ai_edge_litert import interpreter

        self.api, self.path, self.playing, self.taps = interpreter, path, playing, {}
        self.version = getattr(ai_edge_litert, "__version__", "") or distribution_version()
        self.plain = self.interpreter(False)
        details = self.plain.get_input_details()
        self.inputs = [(each["name"], float_kind(each), shape_of(each)) for each in details]
        self.beside, self.axes = self.convolutions()

    def interpreter(self, delegates):
        kinds = self.api.OpResolverType
        kind = kinds.AUTO if delegates else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        return self.api.Interpreter(model_path=self.path, num_threads=1, experimental_op_resolver_type=kind)

    def ways(self, batches):
        yield "plain", self.playing.joined([self.run(self.plain, batch) for batch in batches])
        yield "nudged", self.playing.joined([self.run(self.plain, self.playing.nudged(batch)) for batch in batches])
        usual = self.interpreter(True)
        yield "optimised", self.playing.joined([self.run(usual, batch) for batch in batches])

    def run(self, interpreter, arrays):
        for each, array in zip(interpreter.get_input_details(), arrays):
            if tuple(each["shape"]) != array.shape:
                interpreter.resize_tensor_input(each["index"], array.shape)
        interpreter.allocate_tensors()
        for each, array in zip(interpreter.get_input_details(), arrays):
            interpreter.set_tensor(each["index"], quantised(array, each))
        interpreter.invoke()
        outputs = interpreter.get_output_details()
        return self.playing.floats([dequantised(interpreter.get_tensor(each["index"]), each) for each in outputs])

    def weights(self):
        """The constants: what is there before anything ran, and is no input."""
        fresh, found = self.interpreter(False), {}
        for each in fresh.get_tensor_details():
            try:
                value = fresh.get_tensor(each["index"])
            except ValueError:
                continue  # it has no value yet
            axes = self.axes.get(each["name"], ())
            found[each["name"]] = value.transpose(axes) if len(axes) == value.ndim else value
        return found

    def convolutions(self):
        """({weight: the bias beside it}, {weight: its axes in PyTorch's order}), where the interpreter tells nodes."""
        biases, axes = {}, {}
        if not hasattr(self.plain, "_get_ops_details"):
            return biases, axes
        names = {each["index"]: each["name"] for each in self.plain.get_tensor_details()}
        for node in self.plain._get_ops_details():
            places = [names.get(place, "") for place in node["inputs"]]
            if node["op_name"] in WEIGHTED and len(places) > 1:
                axes[places[1]] = WEIGHTED[node["op_name"]]
                if len(places) > 2 and node["op_name"] != "TRANSPOSE_CONV":
                    biases[places[1]] = places[2]
        return biases, axes


def distribution_version():
    from importlib import metadata

    return metadata.version(DISTRIBUTION)


def scale_of(details):
    scale, zero = details["quantization"]
    return scale, zero


def float_kind(details):
    """What a caller gives: numbers, where the file wants them quantised."""
    return "float32" if scale_of(details)[0] else np.dtype(details["dtype"]).name


def shape_of(details):
    known = details.get("shape_signature", details["shape"])
    return [None if size < 0 else int(size) for size in (known if len(known) else details["shape"])]


def quantised(array, details):
    scale, zero = scale_of(details)
    if not scale:
        return array.astype(details["dtype"])
    limits = np.iinfo(details["dtype"])
    return np.clip(np.round(array / scale) + zero, limits.min, limits.max).astype(details["dtype"])


def dequantised(array, details):
    scale, zero = scale_of(details)
    return (array.astype(np.float32) - zero) * np.float32(scale) if scale else array
