"""One-node ONNX models, each by onnxruntime and by bncheck's oracle: prints {name: largest difference, or an error}.

python onnx_operators.py FOLDER_OF_ONNX_SIDE; needs onnx, onnxruntime and NumPy. Used by test_onnx_operators.py.
"""

import importlib.util
import json
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

onnxruntime.set_default_logger_severity(4)
R = np.random.default_rng(0)
X = (R.normal(size=(2, 4, 5, 6)) * 2).astype("f4")
FLAT = R.normal(size=(3, 7)).astype("f4")
IMAGE = R.normal(size=(1, 2, 4, 5)).astype("f4")
C4, ONE = R.normal(size=4).astype("f4"), np.ones(4, "f4")


def i8(*values):
    return np.array(values, dtype="i8")


def f4(*values):
    return np.array(values, dtype="f4")


# name → (operator, inputs, attributes, opset, number of outputs)
CASES = {
    **{name: (name, [X], {}, 17, 1) for name in (
        "Erf", "Abs", "Neg", "Exp", "Floor", "Ceil", "Round", "Sign", "Reciprocal", "Sin", "Cos", "Softplus", "Elu",
        "Selu", "Celu", "GlobalMaxPool", "HardSwish", "HardSigmoid", "LogSoftmax", "ReduceLogSumExp",
    )},
    "Gelu": ("Gelu", [X], {}, 20, 1),
    "Gelu tanh": ("Gelu", [X], {"approximate": "tanh"}, 20, 1),
    "Mish": ("Mish", [X], {}, 18, 1),
    "Elu alpha": ("Elu", [X], {"alpha": 0.3}, 17, 1),
    "Celu alpha": ("Celu", [X], {"alpha": 2.0}, 17, 1),
    "PRelu": ("PRelu", [X, R.normal(size=(4, 1, 1)).astype("f4")], {}, 17, 1),
    "Log": ("Log", [np.abs(X) + 0.5], {}, 17, 1),
    "Div": ("Div", [X, np.abs(X) + 1], {}, 17, 1),
    "Div whole": ("Div", [i8(7, -7, 9), i8(2, 2, 3)], {}, 17, 1),
    "Mod": ("Mod", [i8(7, -7), i8(3, 3)], {}, 17, 1),
    "Mod float": ("Mod", [f4(7.5, -7.5), f4(2, 2)], {"fmod": 1}, 17, 1),
    "Cast": ("Cast", [f4(1.7, -1.7, 0.2)], {"to": TensorProto.INT64}, 17, 1),
    "Where": ("Where", [X > 0, X, -X], {}, 17, 1),
    "Less": ("Less", [X, X[::-1].copy()], {}, 17, 1),
    "Equal": ("Equal", [i8(1, 2), i8(1, 3)], {}, 17, 1),
    "Not": ("Not", [X > 0], {}, 17, 1),
    "And": ("And", [X > 0, X < 1], {}, 17, 1),
    "Max": ("Max", [X, -X, X * 0 + 1], {}, 17, 1),
    "Min": ("Min", [X, X * 0], {}, 17, 1),
    "Sum": ("Sum", [X, X, X], {}, 17, 1),
    "Mean": ("Mean", [X, X * 0], {}, 17, 1),
    **{f"{name} axes": (name, [X], {"axes": [2, 3], "keepdims": 0}, 13, 1) for name in (
        "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceSumSquare", "ReduceLogSumExp", "ReduceMean",
    )},
    "ReduceMax input": ("ReduceMax", [X, i8(1)], {}, 18, 1),
    "ReduceMean all": ("ReduceMean", [X], {}, 17, 1),
    "ArgMax": ("ArgMax", [X], {"axis": 1}, 17, 1),
    "ArgMin": ("ArgMin", [X], {"axis": -1, "keepdims": 0}, 17, 1),
    "Softmax": ("Softmax", [X], {"axis": 1}, 17, 1),
    "LogSoftmax 11": ("LogSoftmax", [X], {"axis": 2}, 11, 1),
    "LayerNormalization": ("LayerNormalization", [X, R.normal(size=6).astype("f4"), np.ones(6, "f4")], {}, 17, 1),
    "LayerNormalization 2": (
        "LayerNormalization", [X, R.normal(size=(5, 6)).astype("f4")], {"axis": 2, "epsilon": 0.1}, 17, 1),
    "InstanceNormalization": ("InstanceNormalization", [X, C4, ONE], {"epsilon": 0.01}, 17, 1),
    "GroupNormalization": ("GroupNormalization", [X, C4, ONE], {"num_groups": 2}, 21, 1),
    "LpNormalization": ("LpNormalization", [FLAT], {"axis": 1, "p": 2}, 17, 1),
    "LRN": ("LRN", [X], {"size": 3, "alpha": 0.1, "beta": 0.6, "bias": 1.5}, 17, 1),
    "Split": ("Split", [X], {"axis": 1}, 17, 2),
    "Split sizes": ("Split", [X, i8(1, 3)], {"axis": 1}, 17, 2),
    "Split attribute": ("Split", [X], {"axis": 3, "split": [2, 4]}, 11, 2),
    "Split uneven": ("Split", [FLAT], {"axis": 1, "num_outputs": 2}, 18, 2),
    "Pad": ("Pad", [X, i8(0, 0, 1, 2, 0, 0, 0, 1), np.array(1.5, "f4")], {}, 17, 1),
    "Pad reflect": ("Pad", [X, i8(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "reflect"}, 17, 1),
    "Pad edge": ("Pad", [X, i8(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "edge"}, 17, 1),
    "Pad cut": ("Pad", [X, i8(0, 0, -1, 0, 0, 0, 0, -2)], {}, 17, 1),
    "Pad attribute": ("Pad", [X], {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "value": 2.0}, 10, 1),
    "Tile": ("Tile", [FLAT, i8(2, 1)], {}, 17, 1),
    "ConstantOfShape": ("ConstantOfShape", [i8(2, 3)], {}, 17, 1),
    "ConstantOfShape whole": (
        "ConstantOfShape", [i8(2, 3)], {"value": numpy_helper.from_array(i8(7))}, 17, 1),
    "Range": ("Range", [np.array(1, "i8"), np.array(9, "i8"), np.array(3, "i8")], {}, 17, 1),
    "GatherElements": ("GatherElements", [FLAT, i8(0, 2, 1)[None].repeat(3, 0)], {"axis": 1}, 17, 1),
    "GatherND": ("GatherND", [X, np.array([[0, 1], [1, 3]], "i8")], {}, 17, 1),
    "GatherND batch": ("GatherND", [X, np.array([[1], [3]], "i8")], {"batch_dims": 1}, 17, 1),
    "ScatterND": ("ScatterND", [FLAT, np.array([[0], [2]], "i8"), FLAT[:2] * 0], {}, 17, 1),
    "TopK": ("TopK", [FLAT, i8(3)], {"axis": 1}, 17, 2),
    "TopK smallest": ("TopK", [FLAT, i8(2)], {"axis": 0, "largest": 0}, 17, 2),
    "DepthToSpace": ("DepthToSpace", [X], {"blocksize": 2}, 17, 1),
    "DepthToSpace CRD": ("DepthToSpace", [X], {"blocksize": 2, "mode": "CRD"}, 17, 1),
    "SpaceToDepth": ("SpaceToDepth", [X[:, :, :4]], {"blocksize": 2}, 17, 1),
    "Trilu": ("Trilu", [FLAT], {"upper": 0}, 17, 1),
    "OneHot": ("OneHot", [i8(1, -1, 2), i8(4), f4(0, 2)], {}, 17, 1),
    "Einsum": ("Einsum", [FLAT, FLAT], {"equation": "ij,kj->ik"}, 17, 1),
    "Clip": ("Clip", [X, np.array(-1, "f4")], {}, 17, 1),
    "Squeeze": ("Squeeze", [X[:1], i8(0)], {}, 17, 1),
    "Unsqueeze": ("Unsqueeze", [FLAT, i8(0, -1)], {}, 17, 1),
    "Gather": ("Gather", [FLAT, i8(2, -1)], {"axis": 1}, 17, 1),
    "MaxPool ceil": ("MaxPool", [X], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, 17, 1),
    "MaxPool ceil pads": (
        "MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}, 17, 1),
    "AveragePool ceil": ("AveragePool", [X], {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}, 17, 1),
    "AveragePool pads": (
        "AveragePool", [X],
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}, 17, 1),
    "MaxPool dilated": ("MaxPool", [X], {"kernel_shape": [2, 2], "dilations": [2, 2]}, 17, 1),
    "ConvTranspose": (
        "ConvTranspose", [IMAGE, R.normal(size=(2, 3, 3, 3)).astype("f4")],
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}, 17, 1),
    "ConvTranspose same": (
        "ConvTranspose", [IMAGE, R.normal(size=(2, 3, 3, 3)).astype("f4")],
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, 17, 1),
    "ConvTranspose shape": (
        "ConvTranspose", [IMAGE, R.normal(size=(2, 3, 3, 3)).astype("f4")],
        {"strides": [2, 2], "output_shape": [8, 11]}, 17, 1),
    "Resize aspect 1.5": ("Resize", [IMAGE, f4(), f4(1, 1, 1.5, 1.5)], {"mode": "nearest"}, 17, 1),
    **{
        f"Resize {mode} {rule} {name}": (
            "Resize", [IMAGE, f4(), *given], {"mode": mode, "coordinate_transformation_mode": rule}, 17, 1)
        for mode in ("nearest", "linear")
        for rule in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
        for name, given in {
            "twice": [f4(1, 1, 2, 2)], "half": [f4(1, 1, 0.5, 0.5)], "sizes": [f4(), i8(1, 2, 7, 3)],
        }.items()
    },
    "Resize floor": (
        "Resize", [IMAGE, f4(), f4(1, 1, 2, 2)],
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, 17, 1),
    "Resize axes": ("Resize", [IMAGE, f4(), f4(2, 2)], {"mode": "nearest", "axes": [2, 3]}, 18, 1),
    "Resize 10": ("Resize", [IMAGE, f4(1, 1, 2, 3)], {"mode": "nearest"}, 10, 1),
    "Resize 10 linear": ("Resize", [IMAGE, f4(1, 1, 2, 3)], {"mode": "linear"}, 10, 1),
    "Upsample": ("Upsample", [IMAGE, f4(1, 1, 2, 3)], {"mode": "linear"}, 9, 1),
}  # fmt: skip


def by_path(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def runtime(kind, given, attributes, opset, count):
    names, outputs = [f"i{place}" for place in range(len(given))], [f"o{place}" for place in range(count)]
    used = ["" if each.size == 0 else name for name, each in zip(names, given, strict=True)]
    stored = [numpy_helper.from_array(each, name) for name, each in zip(names, given, strict=True) if each.size]
    graph = helper.make_graph(
        [helper.make_node(kind, used, outputs, name="node", **attributes)], "g", [],
        [onnx.ValueInfoProto(name=name) for name in outputs], stored,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {})


def oracle_of(oracle, files, kind, given, attributes, opset, count):
    held = {key: (numpy_helper.to_array(value), "") if hasattr(value, "dims") else value
            for key, value in attributes.items()}  # fmt: skip
    node = files.Node(kind, "node", ["" if not each.size else "i" for each in given],
                      [f"o{place}" for place in range(count)], held)  # fmt: skip
    found = oracle.operate(files, node, [oracle.wide(each) if each.size else None for each in given], opset)
    return found if isinstance(found, (list, tuple)) else [found]


def apart(one, two):
    if np.shape(one) != np.shape(two):
        return f"shapes {np.shape(one)} and {np.shape(two)}"
    a, b = np.asarray(one, "f8"), np.asarray(two, "f8")
    return float(np.max(np.abs(a - b) / (1 + np.abs(a)))) if a.size else 0.0


def main(folder):
    files, oracle = by_path(folder + "/file.py", "files"), by_path(folder + "/oracle.py", "oracle")
    found = {}
    for name, case in CASES.items():
        try:
            right = runtime(*case)
        except Exception as error:
            found[name] = f"onnxruntime: {str(error)[:200]}"
            continue
        try:
            ours = oracle_of(oracle, files, *case)
            found[name] = max(
                (apart(*each) for each in zip(right, ours, strict=False)), key=lambda gap: (isinstance(gap, str), gap)
            )
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))


main(sys.argv[1])
