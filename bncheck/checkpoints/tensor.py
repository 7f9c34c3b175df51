"""An array that lies in a file: its shape and type are known, its numbers are read when somebody asks.

A checkpoint of 10 GB has 100 kB of running statistics: nothing else of it is ever in memory.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bncheck.bounded import is_folder, open_regular
from bncheck.errors import CheckpointError

# Elements of the largest array that is read: 2 GiB of float32. The largest convolution known has 80 M.
LARGEST = 2**29
MOST_AXES = 32

# How a format writes a type → NumPy's type of what lies in the file.
WIDTHS = {
    "float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "u2", "int64": "i8", "int32": "i4", "int16": "i2",
    "int8": "i1", "uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8", "bool": "b1", "complex64": "c8",
    "complex128": "c16",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """``read`` gives the array in its own dtype (bfloat16 widened to float32); CheckpointError where it is damaged."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], NDArray[Any]]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Stretch:
    """Bytes of a file from ``start`` on. Asking for more than it has is an error, not a large allocation."""

    path: Path
    start: int
    size: int

    def read(self, offset: int, count: int) -> bytes:
        if offset < 0 or count < 0 or offset + count > self.size:
            raise damaged(self.path, f"{count:,} bytes are declared where {max(self.size - offset, 0):,} are left")
        with open_regular(self.path) as handle:
            handle.seek(self.start + offset)
            found = handle.read(count)
        if len(found) != count:
            raise damaged(self.path, "it ends in the middle of an array")
        return found

    def part(self, start: int, size: int) -> Stretch:
        """A stretch of this one, cut at its end."""
        start = min(start, self.size)
        return replace(self, start=self.start + start, size=max(min(size, self.size - start), 0))


@dataclass(frozen=True)
class Unpacked(Stretch):
    """Bytes that are in memory, because they lay compressed."""

    raw: bytes = b""

    def read(self, offset: int, count: int) -> bytes:
        if offset < 0 or count < 0 or offset + count > self.size:
            raise damaged(self.path, f"{count:,} bytes are declared where {max(self.size - offset, 0):,} are left")
        return self.raw[self.start + offset : self.start + offset + count]


def whole_file(path: Path) -> Stretch:
    """The bytes of a regular file. CheckpointError where there is none."""
    try:
        with open_regular(path) as handle:
            return Stretch(path=path, start=0, size=os.fstat(handle.fileno()).st_size)
    except FileNotFoundError:
        raise CheckpointError(f"There is no file {path}.", "check the path") from None
    except PermissionError:
        raise CheckpointError(f"{path} cannot be read: permission denied.", "look at the file's permissions") from None
    except OSError as error:
        if is_folder(path):
            raise CheckpointError(f"{path} is a folder.", "name the file in it that holds the weights") from None
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.", "name a regular file") from None


def natural(name: str) -> list[tuple[bool, int, str]]:
    """A key by which ``bn_2`` comes before ``bn_10``, and ``bn`` before both: formats that sort names by letters do not
    keep the order of layers."""
    parts = re.findall(r"[0-9]{1,9}|[^0-9]+", name)
    digits = [part[0] in "0123456789" for part in parts]  # str.isdigit takes ², and int does not
    return [(whole, int(part) if whole else 0, part) for part, whole in zip(parts, digits, strict=True)]


def damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {why[:300]}.", "copy or download it again, or save it again")


def widened(raw: bytes, dtype: str, order: str = "<") -> NDArray[Any]:
    """The numbers of bytes: in NumPy's own type, bfloat16 as float32."""
    found: NDArray[Any] = np.frombuffer(raw, np.dtype(order + WIDTHS[dtype]))
    if dtype == "bfloat16":
        return (found.astype(np.uint32) << 16).view(np.float32)
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def checked_shape(path: Path, shape: Sequence[Any], name: str = "an array") -> tuple[int, ...]:
    """A shape out of a file: whole numbers, none below zero, of a product that can be an array."""
    good = len(shape) <= MOST_AXES and all(isinstance(side, int) and 0 <= side < 2**48 for side in shape)
    if not good:
        raise damaged(path, f"{name} declares a shape that is none")
    found = tuple(int(side) for side in shape)
    if math.prod(found) >= 2**48:
        raise damaged(path, f"{name} declares {math.prod(found):,} numbers")
    return found


def dense(stretch: Stretch, offset: int, shape: tuple[int, ...], dtype: str, order: str = "<") -> Tensor:
    """An array whose numbers lie one behind the other, ``offset`` bytes into a stretch."""

    def read() -> NDArray[Any]:
        refuse_large(stretch.path, shape)
        raw = stretch.read(offset, math.prod(shape) * np.dtype(WIDTHS[dtype]).itemsize)
        return widened(raw, dtype, order).reshape(shape)

    return Tensor(shape=shape, dtype=dtype, read=read)


def refuse_large(path: Path, shape: tuple[int, ...]) -> None:
    if math.prod(shape) > LARGEST:
        raise CheckpointError(f"{path} holds an array of shape {shape}, larger than bncheck reads ({LARGEST:,}).")


def in_memory(array: NDArray[Any]) -> Tensor:
    return Tensor(shape=array.shape, dtype=str(array.dtype), read=lambda: array)
