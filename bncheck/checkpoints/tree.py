"""What a file holds, as a tree: mappings and lists, tensors, plain values; and its names: ``layer1.0.bn1.weight``.

A checkpoint is a mapping of names to tensors, or has one inside (``{"model": …, "ema": …, "epoch": 3}``), or is a whole
model; all of them are the same tree, and a **state** is one part of it that holds weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bncheck.bounded import printable
from bncheck.checkpoints.pickled import Thing
from bncheck.checkpoints.tensor import Tensor
from bncheck.errors import CheckpointError

MOST = 500_000  # tensors and numbers of a file
DEEPEST = 64  # levels
MOST_LETTERS = 2**27  # of all names: 500,000 of 250
# Attributes in which torch.nn.Module keeps its own: none of them is part of a name.
LEVELS = ("_parameters", "_buffers", "_modules")
# What holds tensors that are nobody's weights.
OTHERS = re.compile(r"(^|[._])(optim\w*|opt_state|optimizer\w*|lr_scheduler\w*|scheduler\w*|scaler|grad_scaler)$", re.I)


@dataclass
class State:
    """Tensors and plain numbers of one part of a file, by name. ``path`` is where it lies ("" for the whole)."""

    path: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)  # name → class, where the file names one


def states(tree: Any, separator: str = ".", nested: bool = False) -> list[State]:
    """The parts of a tree that hold tensors, in the file's order. A part ends where a mapping holds tensors itself, or
    where an object begins; a ``nested`` tree (Flax, Keras) is one part, without what an optimiser keeps."""
    found: list[State] = []
    for path, part in [("", weights_of(tree))] if nested else parts(tree):
        state = State(path=path)
        flatten(part, state, separator)
        if state.tensors:
            found.append(state)
    return found


def weights_of(tree: Any) -> Any:
    return (
        {key: value for key, value in tree.items() if not OTHERS.search(str(key))} if isinstance(tree, dict) else tree
    )


def parts(tree: Any, path: str = "", depth: int = 0, seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    seen = set() if seen is None else seen
    if depth > 8 or id(tree) in seen or (path and OTHERS.search(path)):
        return
    seen.add(id(tree))
    if not isinstance(tree, Mapping) or any(isinstance(value, Tensor) for value in tree.values()):
        yield path, tree
        return
    for key, value in tree.items():
        if isinstance(value, Mapping | Thing) and isinstance(key, str):
            yield from parts(value, f"{path}.{key}" if path else key, depth + 1, seen)


def flatten(tree: Any, state: State, separator: str) -> None:
    """Names of all tensors and numbers below a node, each node once on a way: a cycle ends where it closes."""
    waiting: list[tuple[str, Any, int]] = [("", tree, 0)]
    seen: set[int] = set()
    letters = 0
    while waiting:
        name, node, depth = waiting.pop()
        if len(state.tensors) + len(state.numbers) > MOST:
            return
        if isinstance(node, Tensor):
            state.tensors.setdefault(name, node)
        elif isinstance(node, bool | int | float):
            if isinstance(node, bool | float) or abs(node) < 2**63:
                state.numbers.setdefault(name, float(node))
        elif isinstance(node, Thing | Mapping | list | tuple) and id(node) not in seen and depth < DEEPEST:
            seen.add(id(node))
            if isinstance(node, Thing) and node.name:
                state.kinds[name] = node.name
            held = list(children(node))
            letters += sum(len(name) + len(key) for key, _ in held)
            if letters > MOST_LETTERS:
                raise CheckpointError("The names of what it holds are longer than those of any model.", "save it again")
            waiting += [(joined(name, key, separator), value, depth + 1) for key, value in reversed(held)]


def joined(name: str, key: str, separator: str) -> str:
    if key in LEVELS:
        return name
    return f"{name}{separator}{key}" if name else key


def children(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        yield from ((printable(str(key)[:500]), value) for key, value in node.items() if isinstance(key, str | int))
    elif isinstance(node, Thing):
        for held in (node.state, node.items):
            if isinstance(held, Mapping):
                yield from children(held)
            elif isinstance(held, tuple):  # (attributes, slots)
                for each in held:
                    if isinstance(each, Mapping):
                        yield from children(each)
    else:
        yield from ((str(place), value) for place, value in enumerate(node))
