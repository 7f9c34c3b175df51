"""The same samples in batches of several sizes (the event eval_in_batches): what each layer made of it.

``own`` is a layer's difference between a small batch and the largest one when it is given the same input bits, so it
accuses or acquits that very layer, however much the layers before it have already rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bncheck.evidence import CellView
from bncheck.rules.leftover import linear_error
from bncheck.trace import Array

ARRAYS = ("depth_carried", "depth_own", "depth_scale", "depth_l1", "depth_max")


@dataclass(frozen=True)
class InBatches:
    """One event. ``carried`` and ``own`` are (sizes, layers): the largest |difference| to the batch of ``largest``."""

    event: int
    sizes: tuple[int, ...]
    largest: int
    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    norms: Array  # which layers are BatchNorm
    carried: Array
    own: Array
    scale: Array  # largest |output| of each layer
    l1: Array  # of the network's output, per size

    def dependent(self, bound: float) -> list[int]:
        """Layers that give the same sample another output in another batch, by more than rounding may do."""
        return [int(i) for i in np.flatnonzero(~(self.own <= bound * np.maximum(self.scale, 1e-300)).all(axis=0))]

    @property
    def first_to_differ(self) -> int | None:
        """The first layer whose own output depends on the batch size at all, be it in the last bit."""
        found = np.flatnonzero((self.own > 0).any(axis=0))
        return int(found[0]) if found.size else None

    @property
    def loose_norms(self) -> int:
        """BatchNorm layers that are not invariant down to the bit."""
        return int(((self.own > 0).any(axis=0) & self.norms).sum())

    @property
    def distances(self) -> dict[str, float]:
        return {f"L1 of {size} against {self.largest}": float(l1) for size, l1 in zip(self.sizes, self.l1, strict=True)}

    def named(self, place: int) -> str:
        kind = self.kinds[place]
        return f"{self.layers[place]} ({'an' if kind[:1] in 'AEIOU' else 'a'} {kind})"


def in_batches(cell: CellView) -> Iterator[InBatches]:
    """Every such event of a cell; what a damaged trace or its notes say otherwise is left out."""
    for event, record in enumerate(cell.trace.events if cell.trace is not None else ()):
        if record.op == "eval_in_batches" and record.status == "ok" and cell.trace is not None:
            found = read(event, cell.trace.arrays, cell.notes)
            if found is not None:
                yield found


def read(event: int, arrays: Mapping[str, Array], notes: Mapping[str, Any]) -> InBatches | None:
    said: Any = notes.get(str(event))
    said = said.get("depth") if isinstance(said, Mapping) else None
    held = [arrays.get(f"{name}/{event}") for name in ARRAYS]
    if not isinstance(said, Mapping) or any(array is None for array in held):
        return None
    carried, own, scale, l1, _ = (np.asarray(array, dtype=np.float64) for array in held)
    lists = [said.get(key) for key in ("sizes", "layers", "kinds", "batch_norm")]
    if not all(isinstance(item, Sequence) for item in lists) or not isinstance(said.get("largest"), int):
        return None
    sizes, layers, kinds, norms = (tuple(item) for item in lists if item is not None)
    shape = (len(sizes), len(layers))
    if carried.shape != shape or own.shape != shape or len(kinds) != len(norms) or shape[1] != len(kinds):
        return None
    if scale.shape != shape[1:] or l1.shape != shape[:1] or not all(shape):
        return None
    return InBatches(
        event, tuple(map(int, sizes)), int(said["largest"]), tuple(map(str, layers)), tuple(map(str, kinds)),
        np.array(norms, dtype=bool), carried, own, scale, l1,
    )  # fmt: skip


def dependent(cell: CellView, found: InBatches) -> list[int]:
    """Layers whose outputs depend on the batch by more than one linear layer of usual width may round."""
    return found.dependent(linear_error(cell))
