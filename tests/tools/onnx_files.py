"""Write small ONNX files, good and bad ones; run by a Python that has the package onnx.

python tests/tools/onnx_files.py FOLDER                    all of them, for the tests
python tests/tools/onnx_files.py scenarios/models shipped  the ones that scenarios ship

Every file is conv (2 -> 3, 3x3, no bias), BatchNormalization, Relu, GlobalAveragePool, Flatten, Gemm, unless its name
says otherwise; weights are short binary fractions, so that a file is the same on every machine.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

KINDS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE}


def fractions(shape, step):
    """Numbers between -2 and 2 with few binary digits."""
    return ((np.arange(np.prod(shape)) * step) % 61 - 30).reshape(shape) / 16.0


def make(opset, *, training=None, outputs=1, dtype="float32", statistics="float32", affine=None, var=(1.0, 2.0, 0.25),
         norm=True, dropout=None, shape=(None, 2, 6, 6), extra=None, far=0.0, ir=8):  # fmt: skip
    """One model; ``outputs`` counts those of the BatchNormalization node, ``far`` is added by the convolution's bias
    and taken away by the running mean."""
    weights = {
        "w": fractions((3, 2, 3, 3), 7).astype(dtype),
        "gamma": np.array([1.0, 2.0, 0.5], dtype=affine or dtype),
        "beta": np.array([0.0, 1.0, -1.0], dtype=affine or dtype),
        "b": np.full(3, far, dtype=dtype),
        "mean": np.array([0.125, 0.25, -0.5], dtype=statistics) + np.array(far, dtype=statistics),
        "var": np.array(var, dtype=statistics),
        "fc.w": fractions((4, 3), 11).astype(dtype),
        "fc.b": fractions((4,), 5).astype(dtype),
    }
    names = ["bn.y", "bn.mean", "bn.var", "bn.saved_mean", "bn.saved_var"][:outputs]
    attributes = {} if training is None else {"training_mode": training}
    nodes = [helper.make_node("Conv", ["x", "w", "b"] if far else ["x", "w"], ["conv.y"], name="conv")]
    if norm:
        read = ["conv.y", "gamma", "beta", "mean", "var"]
        nodes.append(
            helper.make_node("BatchNormalization", read, names, name="features/bn", epsilon=1e-3, **attributes)
        )
    value = names[0] if norm else "conv.y"
    if dropout is not None:
        weights["ratio"], weights["drops"] = np.array(0.5, dtype=np.float32), np.array(dropout)
        nodes.append(helper.make_node("Dropout", [value, "ratio", "drops"], ["drop.y"], name="drop"))
        value = "drop.y"
    if extra:
        nodes.append(helper.make_node(extra, [value], ["extra.y"], name="extra"))
        value = "extra.y"
    nodes += [
        helper.make_node("Relu", [value], ["relu.y"], name="relu"),
        helper.make_node("GlobalAveragePool", ["relu.y"], ["pool.y"], name="pool"),
        helper.make_node("Flatten", ["pool.y"], ["flat.y"], name="flatten"),
        helper.make_node("Gemm", ["flat.y", "fc.w", "fc.b"], ["y"], name="fc", transB=1),
    ]
    used = {name for node in nodes for name in node.input}
    held = [numpy_helper.from_array(array, name) for name, array in weights.items() if name in used]
    told = [helper.make_tensor_value_info("y", KINDS[dtype], [None, 4])]
    told += [helper.make_tensor_value_info(name, KINDS[statistics], [3]) for name in (names[1:] if norm else [])]
    given = [helper.make_tensor_value_info("x", KINDS[dtype], list(shape))]
    graph = helper.make_graph(nodes, "bncheck", given, told, held)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir, producer_name="bncheck").SerializeToString()


def make_fresh(*, training=False, last=None, first=None):
    """Conv 3x3, BatchNormalization, Conv 1x1, BatchNormalization as in a network just made: gamma and variance 1, beta
    and mean 0. The second batch mean is 0 in real arithmetic; ``first`` is the stored size of the batch axis."""
    held = {"w": fractions((3, 2, 3, 3), 7), "v": fractions((3, 3, 1, 1), 11)}
    nodes = []
    for place, (given, weight) in enumerate((("x", "w"), ("y1", "v")), 1):
        held.update({f"gamma{place}": np.ones(3), f"beta{place}": np.zeros(3)})
        held.update({f"mean{place}": np.zeros(3), f"var{place}": np.ones(3)})
        read = [f"c{place}", f"gamma{place}", f"beta{place}", f"mean{place}", f"var{place}"]
        outputs = [f"y{place}"] + ([f"mean.out{place}", f"var.out{place}"] if training else [])
        mode = {"training_mode": 1} if training else {}
        nodes.append(helper.make_node("Conv", [given, weight], [f"c{place}"], name=f"conv{place}"))
        nodes.append(helper.make_node("BatchNormalization", read, outputs, name=f"bn{place}", **mode))
    if last:
        nodes.append(helper.make_node(last, ["y2"], ["y"], name="last"))
    weights = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in held.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 6, 6])
    y = helper.make_tensor_value_info("y" if last else "y2", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "bncheck", [x], [y], weights)
    if first is not None:
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = first
    opsets = [helper.make_opsetid("", 15)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="bncheck").SerializeToString()


def make_constant():
    """A BatchNormalization node in training mode that normalises a constant, added to the input: no batch reaches it.
    Another one reads the input, and nothing reads it."""
    held = {"k": fractions((2, 2, 3, 3), 7), "one": np.ones(2), "zero": np.zeros(2)}
    nodes = [
        helper.make_node("BatchNormalization", [given, "one", "zero", "zero", "one"],
                         [f"{name}.y", f"{name}.mean", f"{name}.var"], name=name, training_mode=1)
        for name, given in (("of.constant", "k"), ("unread", "x"))
    ]  # fmt: skip
    nodes.append(helper.make_node("ReduceMean", ["of.constant.y"], ["m"], axes=[0, 2, 3], keepdims=1))
    nodes.append(helper.make_node("Add", ["x", "m"], ["y"]))
    weights = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in held.items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2, None, None]) for name in "xy")
    graph = helper.make_graph(nodes, "bncheck", [x], [y], weights)
    opsets = [helper.make_opsetid("", 15)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def make_direct(*, var=None, scale=None, held=2, last=None, read=("gamma", "beta", "mean", "var")):
    """BatchNormalization of the input itself, with ``held`` values per parameter. ``var`` names the operators that
    compute its variance from the stored one, ``scale`` says that its scale is added to a mean of the batch."""
    values = {"gamma": np.ones(held), "beta": np.zeros(held), "mean": np.zeros(held), "var": np.arange(held) + 2.0}
    nodes, read = [], list(read)
    for kind in var or ():
        nodes.append(helper.make_node(kind, [read[3]] * (2 if kind == "Mul" else 1), [f"var.{kind}"], name=kind))
        read[3] = f"var.{kind}"
    if scale:
        nodes.append(helper.make_node("ReduceMean", ["x"], ["m"], axes=[0, 2, 3], keepdims=0))
        nodes.append(helper.make_node("Add", ["gamma", "m"], ["scale"]))
        read[0] = "scale"
    nodes.append(helper.make_node("BatchNormalization", ["x", *read], ["bn.y"], name="bn"))
    if last == "Add":
        values["k"] = np.ones(5)
    if last:
        nodes.append(helper.make_node(last, ["bn.y", "k"] if last == "Add" else ["bn.y"], ["y"], name="last"))
    used = {name for node in nodes for name in node.input}
    weights = [
        numpy_helper.from_array(array.astype(np.float32), name) for name, array in values.items() if name in used
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2, None, None])
    y = helper.make_tensor_value_info("y" if last else "bn.y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "bncheck", [x], [y], weights)
    opsets = [helper.make_opsetid("", 15)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


SHIPPED = {
    "opset9": {"opset": 9, "ir": 4},
    "opset9-training": {"opset": 9, "outputs": 5, "ir": 4},
    "opset14": {"opset": 14},
    "opset14-training": {"opset": 14, "training": 1, "outputs": 3},
    "opset15": {"opset": 15},
    "opset15-training": {"opset": 15, "training": 1, "outputs": 3},
    "negative-variance": {"opset": 15, "var": (1.0, -0.5, 0.25)},
    "far-mean": {"opset": 15, "far": 2.0**20},
    "fresh-training": {"make": make_fresh, "training": True},
}
OTHERS = {
    "opset7": {"opset": 7, "ir": 4},
    "opset6": {"opset": 6, "ir": 4},
    "opset22": {"opset": 22, "ir": 10},
    "opset999": {"opset": 999},
    "float16-opset15": {"opset": 15, "dtype": "float16", "ir": 9},
    "float16-opset14-mixed": {"opset": 14, "dtype": "float16", "affine": "float32"},
    "opset9-mixed": {"opset": 9, "dtype": "float16", "statistics": "float32", "ir": 4},
    "three-outputs-opset9": {"opset": 9, "outputs": 3, "ir": 4},
    "training-one-output": {"opset": 15, "training": 1, "outputs": 1},
    "no-batch-norm": {"opset": 15, "norm": False},
    "dropout-eval": {"opset": 15, "dropout": False},
    "dropout-training": {"opset": 15, "dropout": True},
    "fixed-shape": {"opset": 15, "shape": (1, 2, 8, 8)},
    "other-operator": {"opset": 15, "extra": "Softsign"},
    "draws-at-random": {"opset": 15, "extra": "RandomUniformLike"},
    "nan-variance": {"opset": 15, "var": (1.0, float("nan"), 0.25)},
    "softsign-fresh-training": {"make": make_fresh, "training": True, "last": "Softsign"},
    "hard-sigmoid": {"make": make_fresh, "last": "HardSigmoid"},
    "minus-one": {"make": make_fresh, "first": -1},
    "zero": {"make": make_fresh, "first": 0},
    "on-a-constant": {"make": make_constant},
    "computed-variance": {"make": make_direct, "var": ("Identity", "Mul")},
    "negated-variance": {"make": make_direct, "var": ("Neg",)},
    "scale-of-the-batch": {"make": make_direct, "scale": True},
    "more-values-than-channels": {"make": make_direct, "held": 3},
    "parameter-left-out": {"make": make_direct, "read": ("gamma", "", "mean", "var")},
    "shapes-that-do-not-meet": {"make": make_direct, "last": "Add"},
    "normalised-softsign": {"make": make_direct, "last": "Softsign"},
}


def main(folder, which=""):
    folder.mkdir(parents=True, exist_ok=True)
    for name, words in {**SHIPPED, **({} if which == "shipped" else OTHERS)}.items():
        build = words.get("make", make)
        (folder / f"{name}.onnx").write_bytes(build(**{key: word for key, word in words.items() if key != "make"}))
    if which != "shipped":
        write_broken(folder)


def write_broken(folder):
    """Files that are damaged in one way each."""
    good = make(15)
    (folder / "truncated.onnx").write_bytes(good[: len(good) * 2 // 3])
    (folder / "corrupt.onnx").write_bytes(good[:40] + bytes(255 - byte for byte in good[40:400]) + good[400:])
    (folder / "text.onnx").write_text("this is no protobuf at all\n")
    (folder / "empty.onnx").write_bytes(b"")
    with (folder / "huge.onnx").open("wb") as handle:  # sparse: it takes no room on the disk
        handle.write(good)
        handle.truncate(2**31 + 1)
    outside = onnx.load_from_string(good)
    for weight in outside.graph.initializer:
        if weight.name == "w":
            weight.ClearField("raw_data")
            weight.data_location = TensorProto.EXTERNAL
            entry = weight.external_data.add()
            entry.key, entry.value = "location", "../elsewhere.bin"
    (folder / "climbs-out.onnx").write_bytes(outside.SerializeToString())


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
