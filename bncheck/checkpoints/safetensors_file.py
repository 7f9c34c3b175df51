"""safetensors: a header in JSON, and the numbers as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from bncheck.checkpoints.tensor import WIDTHS, Stretch, Tensor, checked_shape, damaged, dense, whole_file
from bncheck.errors import CheckpointError

LARGEST_HEADER = 64 * 2**20  # 300,000 tensors; the format itself allows 100 MB
TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "BOOL": "bool",
}  # fmt: skip


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(name → tensor, the metadata of the file)."""
    file = whole_file(path)
    length = int.from_bytes(file.read(0, 8), "little")
    if length > LARGEST_HEADER or 8 + length > file.size:
        raise damaged(path, f"it declares a header of {length:,} bytes")
    try:
        header = json.loads(file.read(8, length))
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"its header is no JSON ({type(error).__name__})") from None
    if not isinstance(header, dict):
        raise damaged(path, "its header is no mapping")
    said = header.pop("__metadata__", {})
    metadata = {str(key): str(value)[:1000] for key, value in said.items()} if isinstance(said, dict) else {}
    return {name: tensor_of(file, name, entry, 8 + length) for name, entry in header.items()}, metadata


def tensor_of(file: Stretch, name: str, entry: Any, start: int) -> Tensor:
    path, what = file.path, f"{name[:80]!r}"
    if not isinstance(entry, dict) or not isinstance(entry.get("shape"), list):
        raise damaged(path, f"{what} has no shape")
    shape, word = checked_shape(path, entry["shape"], what), entry.get("dtype")
    offsets = entry.get("data_offsets")
    if not isinstance(word, str):
        raise damaged(path, f"{what} has no type")
    if not isinstance(offsets, list) or len(offsets) != 2:
        raise damaged(path, f"{what} has no place in the file")
    begin, end = checked_shape(path, offsets, f"the place of {what}")
    if not begin <= end <= file.size - start:
        raise damaged(path, f"{what} lies behind the end of the file")
    if word not in TYPES:  # four and eight bits: no normaliser's
        return Tensor(shape=shape, dtype=str(word)[:20], read=lambda: unread(path, str(word)[:20]))
    tensor = dense(file, start + begin, shape, TYPES[word])
    if tensor.size * np.dtype(WIDTHS[TYPES[word]]).itemsize != end - begin:
        raise damaged(path, f"{what} has {end - begin:,} bytes for the shape {shape}")
    return tensor


def unread(path: Path, word: str) -> Any:
    raise CheckpointError(f"{path} holds numbers of type {word}, which bncheck does not read.")
