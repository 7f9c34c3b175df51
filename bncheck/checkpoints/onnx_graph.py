"""ONNX: what BatchNormalization nodes hold, with their eps, momentum and mode; the other weights by their own names."""

# The reader of files carries no annotations.
# mypy: disallow-untyped-calls=False
from __future__ import annotations

from pathlib import Path
from typing import Any

from bncheck.checkpoints.tensor import Tensor, in_memory
from bncheck.errors import CheckpointError
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
    for norm in norms:
        inputs = dict(zip(ROLES, norm.node.inputs[1:5], strict=True))
        layer = layer_of(norm.layer, list(inputs.values()))
        for role, word in ROLES.items():
            if norm.held[role] is not None:
                tree[f"{layer}.{word}"] = tensor(graph, inputs[role])
                used.add(inputs[role])
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


def layer_of(node: str, inputs: list[str]) -> str:
    """The path of a layer in the model that was exported, where its weights still carry it ("bn1.weight")."""
    prefixes = {name.rpartition(".")[0] for name in inputs}
    (first, *rest) = prefixes
    return first if first and not rest else node
