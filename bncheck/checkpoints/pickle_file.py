"""Plain pickles of arrays: Paddle's ``.pdparams``, and mappings of names to NumPy arrays of anybody (detectron2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bncheck.bounded import open_regular
from bncheck.checkpoints.arrays import filled
from bncheck.checkpoints.pickled import Thing, mapping_of
from bncheck.checkpoints.torch_file import MAGIC, load

# The key under which paddle.save keeps its own names of parameters.
PADDLE = "StructuredToParameterName@@"


def first_of(path: Path) -> Any:
    """The first value of a file: MAGIC where torch.save wrote it before 1.6."""
    with open_regular(path) as handle:
        return load(path, handle)


def is_torch(value: Any) -> bool:
    return bool(value == MAGIC) if isinstance(value, int) else False


def read(path: Path, value: Any) -> tuple[Any, bool]:
    """(the tree, whether Paddle wrote it)."""
    by_paddle = path.suffix in (".pdparams", ".pdopt") or (isinstance(value, dict) and PADDLE in value)
    return filled(path, without_names(value)), by_paddle


def without_names(node: Any, depth: int = 0, made: dict[int, Any] | None = None) -> Any:
    """A tree without Paddle's table of names, and with the array alone where it wrote (name, array)."""
    made = {} if made is None else made
    held = mapping_of(node)
    if depth > 32 or held is None:
        return node
    if id(node) not in made:
        whole = made[id(node)] = {}
        whole |= {key: without_names(pair_of(value), depth + 1, made) for key, value in held.items() if key != PADDLE}
    return made[id(node)]


def pair_of(value: Any) -> Any:
    if isinstance(value, Thing) and value.name == "builtins.tuple" and value.args:
        value = value.args[0]
    if isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], str):
        return value[1]
    return value
