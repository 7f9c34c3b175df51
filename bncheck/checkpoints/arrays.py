"""Arrays of NumPy: as ``.npy`` and ``.npz`` hold them, and as pickles describe them."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bncheck.checkpoints.pickled import HostileError, Machine, PickleError, Thing, mapping_of
from bncheck.checkpoints.tensor import Stretch, Tensor, checked_shape, damaged, refuse_large, whole_file
from bncheck.checkpoints.zipped import entries
from bncheck.errors import CheckpointError

LONGEST_HEADER = 100_000


def read_npz(path: Path) -> dict[str, Any]:
    found = {name: entry for name, entry in entries(path).items() if name.endswith(".npy")}
    if not found:
        raise CheckpointError(f"{path} is a zip archive without arrays of NumPy.")
    return {name.removesuffix(".npy"): npy_of(path, entry.on_demand()) for name, entry in found.items()}


def read_npy(path: Path) -> Any:
    """A single array, or what np.save made of a dictionary."""
    return npy_of(path, whole_file(path))


def npy_of(path: Path, stretch: Stretch) -> Any:
    head = stretch.read(0, min(stretch.size, 12))
    if head[:6] != b"\x93NUMPY" or len(head) < 12:
        raise damaged(path, "an array without the header of NumPy")
    start = 10 if head[6] == 1 else 12
    length = int.from_bytes(head[8:start], "little")
    if length > LONGEST_HEADER:
        raise damaged(path, f"an array declares a header of {length:,} bytes")
    shape, fortran, dtype = header_of(path, stretch.read(0, start + length))
    if dtype.hasobject:
        return pickled_array(path, stretch.read(start + length, stretch.size - start - length))

    def read() -> NDArray[Any]:
        refuse_large(path, shape)
        flat = np.frombuffer(stretch.read(start + length, math.prod(shape) * dtype.itemsize), dtype)
        return flat.reshape(shape, order="F" if fortran else "C").astype(dtype.newbyteorder("="))

    return Tensor(shape=shape, dtype=dtype.name, read=read)


def header_of(path: Path, head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    stream = io.BytesIO(head)
    try:
        major, _ = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one that Python 2 wrote is read all the same
            shape, fortran, dtype = read(stream)
    except Exception as error:  # NumPy's parser of headers raises ValueError, SyntaxError, tokenize errors, …
        raise damaged(path, f"the header of an array: {type(error).__name__}") from None
    return checked_shape(path, shape), fortran, dtype


def pickled_array(path: Path, raw: bytes) -> Any:
    """What an array of objects holds: the dictionary that np.save was handed, where it was one."""
    try:
        thing = Machine(io.BytesIO(raw)).load()
    except HostileError as hostile:
        raise CheckpointError(
            f"{path} would call {hostile.name} as soon as it is unpickled; bncheck ran nothing."
        ) from None
    except PickleError as error:
        raise damaged(path, str(error)) from None
    state = thing.state if isinstance(thing, Thing) else None
    held = state[4] if isinstance(state, tuple) and len(state) == 5 else None
    return filled(path, held[0]) if isinstance(held, list) and len(held) == 1 else thing


def filled(path: Path, node: Any, depth: int = 0, made: dict[int, Any] | None = None) -> Any:
    """A tree of plain mappings and lists with tensors in the places of pickled arrays. Each node is made once: a pickle
    of a kilobyte can name one list in 2^60 places."""
    made = {} if made is None else made
    if depth > 32:
        return None
    if id(node) in made:
        return made[id(node)]
    if (held := mapping_of(node)) is not None:
        whole = made[id(node)] = {}
        whole |= {key: filled(path, value, depth + 1, made) for key, value in held.items()}
        return whole
    if isinstance(node, Thing):
        made[id(node)] = array_of(path, node)
        return made[id(node)]
    if isinstance(node, list | tuple):
        row: list[Any] = []
        made[id(node)] = row
        row += [filled(path, value, depth + 1, made) for value in node]
        return row
    return node


def array_of(path: Path, thing: Thing) -> Any:
    """The array that a pickled Thing stands for; the Thing where it is none."""
    word = thing.name.rpartition(".")[2]
    state = thing.state
    if word == "_reconstruct" and isinstance(state, tuple) and len(state) == 5:
        shape, dtype, fortran, raw = state[1], dtype_of(state[2]), bool(state[3]), bytes_of(state[4])
    elif word == "_frombuffer" and len(thing.args) == 4:
        shape, dtype, fortran, raw = (
            thing.args[2],
            dtype_of(thing.args[1]),
            thing.args[3] == "F",
            bytes_of(thing.args[0]),
        )
    elif word == "scalar" and thing.name.startswith("numpy") and len(thing.args) == 2:
        shape, dtype, fortran, raw = (), dtype_of(thing.args[0]), False, bytes_of(thing.args[1])
    else:
        return thing
    if dtype is None or raw is None or not isinstance(shape, tuple):
        return thing
    sides = checked_shape(path, shape)
    if len(raw) != math.prod(sides) * dtype.itemsize:
        raise damaged(path, f"an array of shape {sides} has {len(raw):,} bytes")

    def read() -> NDArray[Any]:
        flat = np.frombuffer(raw, dtype)
        return flat.reshape(sides, order="F" if fortran else "C").astype(dtype.newbyteorder("="))

    return Tensor(shape=sides, dtype=dtype.name, read=read)


def dtype_of(thing: Any) -> np.dtype[Any] | None:
    """A plain number type out of numpy.dtype("f4"), with the byte order of its state; None for any other."""
    if not isinstance(thing, Thing) or not thing.args or not isinstance(thing.args[0], str):
        return None
    word, state = thing.args[0], thing.state
    if word not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1", "c8", "c16"):
        return None
    order = state[1] if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">") else "<"
    return np.dtype(order + word)


def bytes_of(value: Any) -> bytes | None:
    """Bytes as a pickle writes them: as they are, or (protocol 2) as text that _codecs.encode would turn back."""
    if isinstance(value, Thing) and value.name == "_codecs.encode" and value.args and isinstance(value.args[0], str):
        value = value.args[0]
    if isinstance(value, Thing) and value.name in ("builtins.bytearray", "builtins.bytes"):
        value = bytes_of(value.args[0]) if value.args else b""
    try:
        return value.encode("latin-1") if isinstance(value, str) else value if isinstance(value, bytes) else None
    except UnicodeEncodeError:
        return None
