"""Flax's msgpack: nested mappings, with arrays as extensions of type 1 (shape, type, bytes)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bncheck.checkpoints.tensor import WIDTHS, Stretch, Tensor, checked_shape, damaged, dense, natural, whole_file
from bncheck.errors import CheckpointError

LARGEST = 4 * 2**30  # the whole file is in memory
DEEPEST = 64
MOST = 2_000_000  # values
CHUNKED = "__msgpack_chunked_array__"
FIXED = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i",
         0xD3: ">q"}  # fmt: skip
BYTES = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}
TEXT = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}
LISTS, MAPS = {0xDC: ">H", 0xDD: ">I"}, {0xDE: ">H", 0xDF: ">I"}
EXTENSIONS = {0xC7: ">B", 0xC8: ">H", 0xC9: ">I"}


def read(path: Path) -> Any:
    """The tree: mappings with tensors as leaves."""
    file = whole_file(path)
    if file.size > LARGEST:
        raise CheckpointError(f"{path} has {file.size:,} bytes, more than bncheck reads of a msgpack file.")
    reader = Reader(path, memoryview(file.read(0, file.size)))
    try:
        return reader.value(0)
    except (struct.error, IndexError, UnicodeDecodeError, RecursionError) as error:
        raise damaged(path, f"it is no msgpack ({type(error).__name__})") from None


class Reader:
    """Values one behind the other."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self.path, self.data, self.at, self.count = path, data, 0, 0

    def take(self, size: int) -> memoryview:
        if size > len(self.data) - self.at:
            raise damaged(self.path, f"{size:,} bytes are declared where {len(self.data) - self.at:,} are left")
        found = self.data[self.at : self.at + size]
        self.at += size
        return found

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def value(self, depth: int) -> Any:
        self.count += 1
        if depth > DEEPEST or self.count > MOST:
            raise damaged(self.path, "it is nested too deep, or holds too many values")
        code = self.take(1)[0]
        if code <= 0x7F or code >= 0xE0:
            return code if code <= 0x7F else code - 256
        if code <= 0x8F or code in MAPS:
            return self.mapping(code & 15 if code <= 0x8F else self.number(MAPS[code]), depth)
        if code <= 0x9F or code in LISTS:
            size = code & 15 if code <= 0x9F else self.number(LISTS[code])
            return [self.value(depth + 1) for _ in range(min(size, len(self.data)))]
        if code <= 0xBF or code in TEXT:
            return str(self.take(code & 31 if code <= 0xBF else self.number(TEXT[code])), "utf-8", "replace")
        if code in BYTES:
            return bytes(self.take(self.number(BYTES[code])))
        if code in FIXED:
            return self.number(FIXED[code])
        if code in EXTENSIONS or 0xD4 <= code <= 0xD8:
            size = self.number(EXTENSIONS[code]) if code in EXTENSIONS else 1 << (code - 0xD4)
            return self.extension(size)
        return {0xC2: False, 0xC3: True}.get(code)

    def mapping(self, size: int, depth: int) -> Any:
        found: dict[Any, Any] = {}
        for _ in range(min(size, len(self.data))):
            key = self.value(depth + 1)
            found[key if isinstance(key, str | int) else str(type(key))] = self.value(depth + 1)
        if CHUNKED in found:
            return whole_of(self.path, found)
        return {key: found[key] for key in sorted(found, key=lambda key: natural(str(key)))}

    def extension(self, size: int) -> Any:
        kind = self.number(">b")
        begin = self.at
        held = self.take(size)
        return tensor_of(self.path, held, begin) if kind in (1, 3) else None  # an array, a scalar of NumPy


def tensor_of(path: Path, held: memoryview, begin: int) -> Tensor | None:
    """An array: a list of three, its shape, the name of its type, its bytes (which stay in the file)."""
    reader = Reader(path, held)
    if reader.take(1)[0] != 0x93:
        raise damaged(path, "an array is no list of shape, type and bytes")
    shape, word = reader.value(1), reader.value(1)
    word = word.decode("utf-8", "replace") if isinstance(word, bytes) else word
    if not isinstance(shape, list) or not isinstance(word, str):
        raise damaged(path, "an array has no shape")
    sides = checked_shape(path, shape)
    code = reader.take(1)[0]
    size = reader.number(BYTES[code]) if code in BYTES else -1
    if word not in WIDTHS:
        return None
    tensor = dense(Stretch(path, begin + reader.at, max(size, 0)), 0, sides, word)
    if tensor.size * np.dtype(WIDTHS[word]).itemsize != size or size > len(held) - reader.at:
        raise damaged(path, f"an array of shape {sides} has {size:,} bytes")
    return tensor


def whole_of(path: Path, chunked: dict[Any, Any]) -> Any:
    """An array that was too large for one entry: its chunks are no normaliser's."""
    shape = chunked.get("shape")
    sides = [shape[key] for key in sorted(shape, key=str)] if isinstance(shape, dict) else []
    chunks = chunked.get("chunks")
    first = chunks.get("0") if isinstance(chunks, dict) else None
    if not isinstance(first, Tensor):
        return None

    def read() -> NDArray[Any]:
        raise CheckpointError(f"{path} holds an array in chunks, which bncheck does not read.")

    return Tensor(shape=checked_shape(path, sides), dtype=first.dtype, read=read)
