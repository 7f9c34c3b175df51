"""MXNet's ``.params``: a list of arrays, then their names, as ``NDArray::Save`` and ``mx.nd.save`` lay them out."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from bncheck.checkpoints.tensor import WIDTHS, Stretch, Tensor, checked_shape, damaged, dense, whole_file

MAGIC = struct.pack("<Q", 0x112)
# First number of an array: since 0.11 (V1), since 1.0 (V2), with the shapes of NumPy (V3); before, its number of axes.
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
TYPES = (
    "float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool", "int16", "uint16", "uint32", "uint64",
    "bfloat16",
)  # fmt: skip
MOST = 200_000
BLOCK = 4096
LONGEST_NAME = 10_000


class Cursor:
    """Numbers one behind the other."""

    def __init__(self, file: Stretch) -> None:
        self.file, self.at = file, len(MAGIC)
        self.block, self.begin = b"", 0  # the part of the file that was read last

    def take(self, form: str) -> int:
        size = struct.calcsize(form)
        if not self.begin <= self.at <= self.begin + len(self.block) - size:
            self.begin = self.at
            self.block = self.file.read(self.at, max(min(BLOCK, self.file.size - self.at), size))
        (found,) = struct.unpack_from("<" + form, self.block, self.at - self.begin)
        self.at += size
        return int(found)


def read(path: Path) -> dict[str, Tensor]:
    """Name → tensor. ``arg:`` and ``aux:`` stay part of the names."""
    file = whole_file(path)
    cursor = Cursor(file)
    cursor.take("Q")
    arrays = [array_of(cursor) for _ in range(count_of(cursor))]
    names = []
    for _ in range(count_of(cursor)):
        length = cursor.take("Q")
        if length > LONGEST_NAME:
            raise damaged(path, f"it declares a name of {length:,} bytes")
        names.append(file.read(cursor.at, length).decode("utf-8", "replace"))
        cursor.at += length
    if not names:
        names = [str(place) for place in range(len(arrays))]
    if len(names) != len(arrays):
        raise damaged(path, f"it has {len(arrays)} arrays and {len(names)} names")
    return {name: tensor for name, tensor in zip(names, arrays, strict=True) if tensor is not None}


def count_of(cursor: Cursor) -> int:
    count = cursor.take("Q")
    if count > MOST:
        raise damaged(cursor.file.path, f"it declares {count:,} arrays")
    return count


def array_of(cursor: Cursor) -> Tensor | None:
    """The array at the cursor, which is left behind it; None for one that holds nothing."""
    path, first = cursor.file.path, cursor.take("I")
    if first in (V2, V3) and cursor.take("i") not in (0, -1):
        raise damaged(path, "it holds sparse arrays, which bncheck does not read")
    if first in (V1, V2, V3):
        axes, size = cursor.take("i"), "q"
    else:
        axes, size = first, "I"
    if axes <= 0 and first != V3:
        return None
    if axes > 32 or axes < 0:
        raise damaged(path, f"it declares an array of {axes} axes")
    shape = checked_shape(path, [cursor.take(size) for _ in range(axes)])
    cursor.take("Q")  # the device that it lay on
    kind = cursor.take("i")
    if not 0 <= kind < len(TYPES):
        raise damaged(path, f"it declares an array of type {kind}")
    found = dense(cursor.file, cursor.at, shape, TYPES[kind])
    cursor.at += math.prod(shape) * np.dtype(WIDTHS[TYPES[kind]]).itemsize
    if cursor.at > cursor.file.size:
        raise damaged(path, "it ends in the middle of an array")
    return found
