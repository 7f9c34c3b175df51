"""ONNX: what BatchNormalization nodes hold, with their eps, momentum and mode; the other weights by their own names."""

# The reader of files carries no annotations.
# mypy: disallow-untyped-calls=False
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bncheck.checkpoints.tensor import Tensor, in_memory
from bncheck.errors import CheckpointError
from bncheck.trace import Array
from bncheck.worker.onnx_side import file as onnx_file

ROLES = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var"}
MATRICES = ("Conv", "ConvTranspose", "Gemm")


def read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """(the names of its layers and weights, weight → the bias beside it)."""
    try:
        graph = onnx_file.read(str(path))
        norms = onnx_file.batch_norms(graph)
    except (onnx_file.FileError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", "export it again") from None
    tree: dict[str, Any] = {}
    used: set[str] = set()
    rounded = floats(graph)
    for norm in norms:
        inputs = dict(zip(ROLES, norm.node.inputs[1:5], strict=True))
        layer = layer_of(norm.layer, list(inputs.values()))
        for role, word in ROLES.items():
            if norm.held[role] is not None:
                tree[f"{layer}.{word}"] = tensor(graph, inputs[role])
                used.add(inputs[role])
            elif inputs[role] in rounded:
                tree[f"{layer}.{word}"] = in_memory(rounded[inputs[role]].astype(np.float32))
        tree |= {f"{layer}.eps": norm.eps, f"{layer}.momentum": norm.momentum, f"{layer}.training": norm.training}
    biases = {}
    for node in graph.nodes:
        if node.kind in MATRICES and len(node.inputs) > 2 and node.inputs[2] in graph.weights:
            biases[node.inputs[1]] = node.inputs[2]
    tree |= {name: tensor(graph, name) for name in graph.weights if name not in used and name not in tree}
    return tree, biases


def tensor(graph: Any, name: str) -> Tensor:
    array, dtype = graph.weights[name], graph.types.get(name, "")
    held = in_memory(array)
    return Tensor(shape=held.shape, dtype=dtype or held.dtype, read=held.read)


def floats(graph: Any) -> dict[str, Array]:
    """What DequantizeLinear makes of constants, by the names of its outputs."""
    found = {}
    for node in graph.nodes:
        if node.kind == "DequantizeLinear" and node.outputs and all(name in graph.weights for name in node.inputs):
            made = dequantised(node, [graph.weights[name] for name in node.inputs])
            if made is not None:
                found[node.outputs[0]] = made[0]
    return found


def dequantised(node: Any, given: list[Array]) -> tuple[Array, Array] | None:
    """((q − zero)·scale, scale), both with the axes of q; None for scales that are neither one number nor one per
    channel (blocks), or no positive numbers."""
    whole, scale = given[0].astype(np.float64), given[1].astype(np.float64)
    zero = given[2].astype(np.float64) if len(given) > 2 else np.zeros_like(scale)
    if zero.size != scale.size or not (np.isfinite(scale).all() and (scale > 0).all()):
        return None
    if scale.size > 1:
        axis = int(node.get("axis", 1))
        if scale.ndim != 1 or not -whole.ndim <= axis < whole.ndim or whole.shape[axis] != scale.size:
            return None
        shape = [1] * whole.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
        return (whole - zero) * scale, scale
    return (whole - zero.reshape(())) * scale.reshape(()), scale.reshape(())


def layer_of(node: str, inputs: list[str]) -> str:
    """The path of a layer in the model that was exported, where its weights still carry it ("bn1.weight")."""
    prefixes = {name.rpartition(".")[0] for name in inputs}
    (first, *rest) = prefixes
    return first if first and not rest else node
