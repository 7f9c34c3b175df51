"""PyTorch: the zip archives of torch.save since 1.6 (and TorchScript's), and the stream of pickles before it.

Weights only, and nothing is executed: the pickle is read as data (:mod:`bncheck.checkpoints.pickled`); storages are
read when their numbers are asked for.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bncheck.bounded import open_regular
from bncheck.checkpoints.arrays import array_of
from bncheck.checkpoints.pickled import Global, HostileError, Machine, PickleError, Thing, mapping_of
from bncheck.checkpoints.tensor import (
    WIDTHS,
    Stretch,
    Tensor,
    checked_shape,
    damaged,
    refuse_large,
    whole_file,
    widened,
)
from bncheck.checkpoints.zipped import Entry, entries
from bncheck.errors import CheckpointError

LARGEST_PICKLE = 512 * 2**20
MAGIC = 0x1950A86A20F9469CFC6C  # of a stream
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "UntypedStorage": "uint8",
}  # fmt: skip
DTYPES = {"double": "float64", "float": "float32", "half": "float16", "long": "int64", "int": "int32", "short": "int16"}

Find = Callable[[str], tuple[Stretch, int]]  # storage key → where it lies, and from which byte on


def read_zip(path: Path) -> Any:
    """The tree of a zip archive of torch."""
    found = entries(path)
    pickles = [name for name in found if name.rpartition("/")[2] == "data.pkl"]
    if not pickles:
        raise CheckpointError(f"{path} is a zip archive without data.pkl: torch.save has not written it.")
    root = pickles[0].removesuffix("data.pkl")
    order = ">" if f"{root}byteorder" in found and found[f"{root}byteorder"].read(100).strip() == b"big" else "<"
    tree = load(path, io.BytesIO(found[pickles[0]].read(LARGEST_PICKLE)))

    def find(key: str) -> tuple[Stretch, int]:
        entry: Entry | None = found.get(f"{root}data/{key}") or found.get(f"{root}tensors/{key}")
        if entry is None:
            raise damaged(path, f"it has no storage {key[:80]!r}")
        return entry.whole(), 0

    return resolved(path, tree, find, order)


def read_stream(path: Path) -> Any:
    """The tree of a file that torch.save wrote before 1.6: five pickles, then the storages."""
    file = whole_file(path)
    with open_regular(path) as handle:
        magic, protocol, system = (load(path, handle) for _ in range(3))
        if magic != MAGIC or protocol != 1001 or not isinstance(system, Mapping):
            raise CheckpointError(f"{path} is a pickle, but not one of torch.save.")
        tree, keys = load(path, handle), load(path, handle)
        at = handle.tell()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise damaged(path, "its list of storages is none")
    order = "<" if system.get("little_endian", True) else ">"
    widths = storage_widths(tree)
    places: dict[str, tuple[Stretch, int]] = {}
    for key in keys:
        (count,) = struct.unpack(order + "q", file.read(at, 8))
        size = count * widths.get(key, 1)
        if count < 0 or at + 8 + size > file.size:
            raise damaged(path, f"storage {key[:80]!r} is longer than the file")
        places[key] = (file, at + 8)
        at += 8 + size

    def find(key: str) -> tuple[Stretch, int]:
        if key not in places:
            raise damaged(path, f"it has no storage {key[:80]!r}")
        return places[key]

    return resolved(path, tree, find, order)


def load(path: Path, stream: Any) -> Any:
    try:
        return Machine(stream).load()
    except HostileError as hostile:
        raise CheckpointError(
            f"{path} would call {hostile.name} as soon as it is unpickled; no weights need that. bncheck ran nothing "
            "of it and reads no further.",
            "do not load it; get the weights as .safetensors from somebody you trust",
        ) from None
    except PickleError as error:
        raise damaged(path, str(error)) from None


def walk(tree: Any) -> list[Thing]:
    """Every Thing below a node, each once."""
    waiting, seen, found = [tree], {id(tree)}, []
    while waiting:
        node = waiting.pop()
        below: list[Any] = []
        if isinstance(node, Thing):
            found.append(node)
            below = [*node.args, node.state, node.items, node.listed]
        elif isinstance(node, Mapping):
            below = list(node.values())
        elif isinstance(node, list | tuple):
            below = list(node)
        for each in below:
            if isinstance(each, Thing | Mapping | list | tuple) and id(each) not in seen:
                seen.add(id(each))
                waiting.append(each)
    return found


def storage_of(thing: Any) -> tuple[str, str, int] | None:
    """(dtype, key, bytes that it begins later: a view of another) of what the pickle says a storage is."""
    given = thing.args[0] if isinstance(thing, Thing) and thing.name == "persistent" else None
    if not isinstance(given, tuple) or len(given) < 5 or given[0] != "storage" or not isinstance(given[1], Global):
        return None
    dtype = STORAGES.get(given[1].name.rpartition(".")[2], "")
    view = given[5] if len(given) > 5 else None
    skipped = view[1] if isinstance(view, tuple) and len(view) == 3 and isinstance(view[1], int) else 0
    return dtype, str(given[2])[:200] if isinstance(given[2], str | int) else "", skipped


def storage_widths(tree: Any) -> dict[str, int]:
    """Storage key → bytes of one of its numbers: a stream only says how many there are."""
    found = (storage_of(thing) for thing in walk(tree))
    return {key: np.dtype(WIDTHS[dtype]).itemsize for dtype, key, _ in filter(None, found) if dtype}


def resolved(path: Path, tree: Any, find: Find, order: str) -> Any:
    """The tree with tensors in the places of what would rebuild them. Changed in place, as a tree may be a cycle."""
    made: dict[int, Any] = {}

    def value(node: Any) -> Any:
        if not isinstance(node, Thing):
            return node
        if id(node) not in made:
            made[id(node)] = node
            made[id(node)] = rebuilt(path, node, find, order, value)
        return made[id(node)]

    containers: list[Any] = [tree]
    seen = {id(tree)}
    top = value(tree)
    if top is not tree:
        containers.append(top)
    while containers:
        node = containers.pop()
        pairs: list[Any] = []
        if isinstance(node, Thing):
            pairs = [node.state, node.items, *(node.state if isinstance(node.state, tuple) else ())]
        elif isinstance(node, dict):
            node.update({key: value(each) for key, each in node.items()})
            pairs = list(node.values())
        elif isinstance(node, list):
            node[:] = [value(each) for each in node]
            pairs = node
        elif isinstance(node, tuple):
            pairs = [value(each) for each in node]
        for each in pairs:
            if isinstance(each, Thing | dict | list | tuple) and id(each) not in seen:
                seen.add(id(each))
                containers.append(each)
    return top


def rebuilt(path: Path, thing: Thing, find: Find, order: str, value: Callable[[Any], Any]) -> Any:
    """What a Thing stands for: a tensor, a mapping, an array of NumPy; itself where nobody here knows it."""
    word, args = thing.name.rpartition(".")[2], thing.args
    if word in ("_rebuild_parameter", "_rebuild_parameter_with_state") and args:
        return value(args[0])
    if word == "_rebuild_from_type_v2" and len(args) >= 3 and isinstance(args[0], Global):
        inner = Thing(name=args[0].name, args=args[2] if isinstance(args[2], tuple) else ())
        return rebuilt(path, inner, find, order, value)
    if word in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3") and len(args) >= 4:
        return tensor_of(path, args, find, order)
    if word == "_rebuild_meta_tensor_no_storage" and len(args) >= 2:
        return without_numbers(path, args)
    if (held := mapping_of(thing)) is not None:
        return held
    if thing.name == "torch.Size" and args:
        return args[0]
    return array_of(path, thing)


def without_numbers(path: Path, args: tuple[Any, ...]) -> Tensor:
    """A tensor of the meta device, of (dtype, size, …): asking for its numbers says that there are none."""
    word = args[0].name.rpartition(".")[2] if isinstance(args[0], Global) else ""
    size = args[1].args[0] if isinstance(args[1], Thing) and args[1].args else args[1]
    if not isinstance(size, tuple | list):
        raise damaged(path, "a tensor has no shape")

    def read() -> NDArray[Any]:
        raise CheckpointError(
            f"{path} holds tensors without numbers: they are on the meta device, which keeps shapes alone.",
            "save the state once it is filled: model.to_empty(device='cpu'), model.load_state_dict(...), and then "
            "torch.save(model.state_dict(), FILE)",
        )

    return Tensor(shape=checked_shape(path, size, "a tensor"), dtype=word, read=read)


def tensor_of(path: Path, args: tuple[Any, ...], find: Find, order: str) -> Any:
    """A tensor of (storage, offset, size, stride, …): any view, read when it is asked for."""
    held = storage_of(args[0])
    given = (
        DTYPES.get(word := args[6].name.rpartition(".")[2], word) if len(args) > 6 and type(args[6]) is Global else ""
    )
    if held is None:
        return Thing(name="a tensor without storage")
    dtype, key, skipped = held
    dtype = given or dtype
    if not isinstance(args[2], tuple) or not isinstance(args[3], tuple) or len(args[2]) != len(args[3]):
        raise damaged(path, "a tensor has no shape")
    shape, strides = (
        checked_shape(path, args[2], "a tensor"),
        checked_shape(path, [*args[3]], "the strides of a tensor"),
    )
    (offset,) = checked_shape(path, [args[1]], "a tensor")

    def read() -> NDArray[Any]:
        if dtype not in WIDTHS:
            raise CheckpointError(f"{path} holds numbers of type {dtype or 'unknown'}, which bncheck does not read.")
        refuse_large(path, shape)
        width = np.dtype(WIDTHS[dtype]).itemsize
        span = (
            1 + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True)) if 0 not in shape else 0
        )
        stretch, start = find(key)
        flat = widened(stretch.read(start + (offset + skipped) * width, span * width), dtype, order)
        steps = [stride * flat.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(flat, shape, steps).copy() if span else flat.reshape(shape)

    return Tensor(shape=shape, dtype=dtype, read=read)
