"""A quantised ONNX file (QuantizeLinear and DequantizeLinear around float operators): read, and played without that."""

# The reader of files carries no annotations.
# mypy: disallow-untyped-calls=False
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bncheck.checkpoints.onnx_graph import dequantised, layer_of
from bncheck.checkpoints.recognise import Checkpoint
from bncheck.diagnosis.held.measured import Measured
from bncheck.diagnosis.held.outputs import Outputs, aligned, hold_against, readings
from bncheck.diagnosis.held.quantised import Origin, Quantised, Rounded, hint, origin_of, variants
from bncheck.diagnosis.held.quantised import readings as quantised_readings
from bncheck.diagnosis.held.reading import Reading, Sides
from bncheck.errors import EnvironmentFailure, UsageError
from bncheck.run_folder.answer import Row
from bncheck.subjects.folded import Weights
from bncheck.subjects.played_file import Played, play_unrounded
from bncheck.subjects.sides import Side
from bncheck.worker.onnx_side import file as onnx_file

# Operators that compute in whole numbers, so that no float stands in their place.
INTEGER = (
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "QGemm",
    "QLinearAdd",
    "DynamicQuantizeLinear",
)
WITHOUT = ("unrounded", "restored", "cut")
MADE = "_DequantizeLinear_Output"  # how onnxruntime names what a rounded weight becomes
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")


def is_quantised(side: Side) -> bool:
    """Whether any operator of an ONNX file rounds to few bits. What is damaged is for whoever plays it to say."""
    if side.kind != "onnx" or side.path is None:
        return False
    try:
        graph = onnx_file.read(str(side.path))
    except onnx_file.FileError:
        return False
    return any(node.kind in ("DequantizeLinear", *INTEGER) for node in graph.nodes)


def read_quantised(path: Path, other: Checkpoint) -> Quantised:
    """Where each of its rounded weights comes from on the other side. FileError where the file is damaged."""
    graph = onnx_file.read(str(path))
    whole = sorted({node.kind for node in graph.nodes if node.kind in INTEGER})
    rounded = {each.name: each for each in rounded_weights(graph)}
    if whole:
        how = f"{' and '.join(whole)} {'computes' if len(whole) == 1 else 'compute'} in whole numbers"
        return Quantised(weights=len(rounded), lacking=f"{how}; quantise with quant_format=QuantFormat.QDQ for that")
    if any(tensor.dtype in ("int8", "uint8") for tensor in other.tensors.values()):
        return Quantised(weights=len(rounded), lacking="both sides are quantised; compare each with the float model")
    biases = {each.bias for each in rounded.values() if each.bias}
    weights = Weights(other)
    origins: dict[str, Origin] = {}
    strange: dict[str, float] = {}
    for name, each in rounded.items():
        if name in biases:
            continue
        bias = rounded.get(each.bias)
        origin, off = origin_of(each, bias, candidates(each, other, weights))
        if origin is None:
            strange[name.removesuffix(MADE)] = off
            continue
        origins[name] = origin
        if bias is not None:
            value = np.zeros_like(bias.values) if origin.bias is None else origin.bias
            origins[bias.name] = Origin(word=origin.word, weight=value, bias=None)
    return Quantised(weights=len(rounded) - len(biases), origins=origins, strange=strange)


def played_without(side: Side, two: Played, one: Played, folder: Path, seconds: float) -> Played:
    """``two`` with what its rounding is and costs, where it is a quantised ONNX file."""
    if side.path is None or not is_quantised(side):
        return two
    found = read_quantised(side.path, one.checkpoint)
    if not found.lacking:
        try:
            plays = play_unrounded(side, two, found.restored, folder, seconds)
            found = replace(found, plays=plays)
        except (UsageError, EnvironmentFailure) as failure:
            found = replace(found, lacking=f"it does not run without rounding ({failure})")
    return replace(two, quantised=found, checkpoint=unrounded(two.checkpoint, side.path, found.origins))


def unrounded(checkpoint: Checkpoint, path: Path, origins: Mapping[str, Origin]) -> Checkpoint:
    """With gamma and beta of its layers as they were before they were rounded, where that is known."""
    known = {}
    for norm in onnx_file.batch_norms(onnx_file.read(str(path))):
        names = norm.node.inputs[1:5]
        known[layer_of(norm.layer, list(names))] = [origins.get(name) for name in names[:2]]
    layers = []
    for layer in checkpoint.holding.layers:
        gamma, beta = known.get(layer.layer, (None, None))
        layers.append(
            replace(
                layer,
                gamma=layer.gamma if gamma is None else gamma.weight.astype(np.float32).reshape(-1),
                beta=layer.beta if beta is None else beta.weight.astype(np.float32).reshape(-1),
            )
        )
    return replace(checkpoint, holding=replace(checkpoint.holding, layers=tuple(layers)))


def readings_of(sides: Sides, one: Played, two: Played, found: Mapping[str, Measured]) -> list[Reading]:
    """What the outputs of a quantised file say, with its rounding left out; nothing where they are equal, or where
    the file does not round."""
    usual = found.get("eval") or found["plain"]
    if two.quantised is None or usual.fits:
        return []
    said = readings(sides, found)
    if two.quantised.plays:
        plays = {way: hold_against(one.plays, aligned(outputs_of(one), two.quantised.plays[way])) for way in WITHOUT}
        unrounded, *others = (plays[way].get("eval") or plays[way]["plain"] for way in WITHOUT)
        whole = quantised_readings(sides, two.quantised, usual, unrounded, min(others, key=lambda each: each.gap))
        if whole:
            return whole
        for way in ("restored", "cut"):
            named = [each for each in readings(sides, plays[way]) if each.cause not in ("unexplained", "rounding")]
            if named:
                return [replace(each, title=f"{each.title} What quantisation adds is left out here.") for each in named]
    open_ones = [each for each in said if each.cause == "unexplained"]
    return [replace(each, title=each.title + hint(sides, two.quantised)) for each in open_ones] or said


def outputs_of(played: Played) -> Outputs:
    return played.plays.get("eval") or played.plays.get("plain") or ()


def with_folds(rows: Sequence[Row], quantised: Quantised | None) -> tuple[Row, ...]:
    """The rows of layers that were folded into rounded weights say so."""
    origins = {} if quantised is None else quantised.origins
    folded = {each.layer: (each.word, name.removesuffix(MADE)) for name, each in origins.items() if each.layer}
    words = {"folded": "folded, quantised", "start": "folds a new layer, quantised"}
    return tuple(
        replace(
            row,
            cells=(*row.cells[:-1], f"{words[folded[row.layer][0]]}: {folded[row.layer][1]}"),
            mark="agrees" if folded[row.layer][0] == "folded" else "defect",
        )
        if row.layer in folded
        else row
        for row in rows
    )


def rounded_weights(graph: Any) -> Iterator[Rounded]:
    """Constants that DequantizeLinear makes floats of; those of convolutions and matrices know their bias."""
    beside = {}
    for node in graph.nodes:
        if node.kind in WEIGHTED and len(node.inputs) > 1:
            beside[node.inputs[1]] = node.inputs[2] if len(node.inputs) > 2 else ""
    made = {name for node in graph.nodes if node.kind == "DequantizeLinear" for name in node.outputs}
    for node in graph.nodes:
        if node.kind == "DequantizeLinear" and node.outputs and all(name in graph.weights for name in node.inputs):
            found = dequantised(node, [graph.weights[name] for name in node.inputs])
            if found is not None:  # what is left rounded shows in its outputs
                bias = beside.get(node.outputs[0], "")
                yield Rounded(name=node.outputs[0], values=found[0], step=found[1], bias=bias if bias in made else "")


def candidates(rounded: Rounded, other: Checkpoint, weights: Weights) -> Iterator[Origin]:
    """Weights of the other side with as many numbers, the likeliest first, as they are and with each layer of their
    width folded in; with the axes of the file."""
    shape, size = rounded.values.shape, rounded.values.size
    for layer in other.holding.layers:
        if layer.gamma is not None and layer.gamma.shape == shape:
            beta = np.zeros(shape) if layer.beta is None else layer.beta.astype(np.float64)
            yield Origin(word="same", weight=layer.gamma.astype(np.float64), bias=beta)
    fitting = [key for key in weights.names() if other.tensors[key].size == size]
    for key in sorted(fitting, key=lambda name: name not in rounded.name):
        array = other.tensors[key].read().astype(np.float64)
        for turned, own in ((False, array), (True, array.T if array.ndim == 2 else None)):
            if own is None or own.shape != shape:
                continue
            # The axis of output channels first: the second of a matrix, and of a transposed convolution.
            for second in (turned,) if own.ndim < 3 else (False, True):
                first = own.swapaxes(0, 1) if second else own
                bias = weights.bias(key, first.shape[0])
                for each in variants(first, None if bias is None else bias.astype(np.float64), other.holding.layers):
                    yield replace(each, weight=each.weight.swapaxes(0, 1)) if second else each
