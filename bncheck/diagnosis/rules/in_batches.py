"""The same samples in batches of several sizes (the event eval_in_batches): what each layer made of it.

``own`` is a layer's difference between a small batch and the largest one when it is given the same input bits, so it
accuses or acquits that very layer, however much the layers before it have already rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bncheck.diagnosis.rules.leftover import linear_error
from bncheck.diagnosis.rules.revealed import eps_rows
from bncheck.evidence import CellView
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
    size: float = float("nan")  # mean L1 norm of a sample's output

    def dependent(self, bound: float) -> list[int]:
        """Layers that give the same sample another output in another batch, by more than rounding may do. A NaN is no
        such output: what is infinitely far apart is left to ``one_sided``."""
        far = np.isfinite(self.own) & (self.own > bound * np.maximum(self.scale, 1e-300))
        return [int(i) for i in np.flatnonzero(far.any(axis=0))]

    @property
    def one_sided(self) -> list[int]:
        """Layers whose output for the same sample is finite in one batch and not in another."""
        return [int(i) for i in np.flatnonzero(~np.isfinite(self.own).all(axis=0))]

    @property
    def worst(self) -> int:
        """The size of batch whose outputs lie furthest from the largest batch's, as far as they are finite."""
        return int(np.argmax(np.where(np.isfinite(self.l1), self.l1, -1.0)))

    def first_beyond(self, bound: float) -> int | None:
        """The first layer that carries on more than so much, relative to its own output."""
        carried = np.where(np.isfinite(self.carried), self.carried, 0.0).max(axis=0)
        found = np.flatnonzero(carried > bound * np.maximum(self.scale, 1e-300))
        return int(found[0]) if found.size else None

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
        event=event,
        sizes=tuple(map(int, sizes)),
        largest=int(said["largest"]),
        layers=tuple(map(str, layers)),
        kinds=tuple(map(str, kinds)),
        norms=np.array(norms, dtype=bool),
        carried=carried,
        own=own,
        scale=scale,
        l1=l1,
        size=norm_of_output(said),
    )


def norm_of_output(said: Mapping[str, Any]) -> float:
    size = said.get("l1_of_output")
    return float(size) if isinstance(size, int | float) else float("nan")


def dependent(cell: CellView, found: InBatches) -> list[int]:
    """Layers whose outputs depend on the batch by more than one linear layer of usual width may round."""
    return found.dependent(linear_error(cell))


def rounding_bound(cell: CellView, found: InBatches) -> float:
    """How far the network's outputs may lie apart by rounding, relative to their size: one linear layer of usual width
    after the other, and the worst of the BatchNorm layers, which takes a mean away from what it gets."""
    return (len(found.layers) + 1) * linear_error(cell) * max(map(float, magnified(cell, found.event)), default=1.0)


def magnified(cell: CellView, event: int) -> Iterator[float]:
    """sqrt((mean² + var)/(var + eps)) of each layer's running statistics: what it makes of an error of its input."""
    trace = cell.trace
    for layer in trace.layers if trace is not None else ():
        assert trace is not None
        held = [trace.get(layer, name) for name in ("running_mean", "running_var")]
        rows = [np.asarray(row[event], dtype=np.float64) for row in held if row is not None]
        if len(rows) == 2 and rows[0].shape == rows[1].shape:
            mean, var = rows
            spread = var + eps_rows(cell, layer, len(trace.events))[event]
            kept = np.isfinite(mean + spread) & (var >= 0) & (spread > 0)
            yield float(np.sqrt((mean[kept] ** 2 + var[kept]) / spread[kept]).max(initial=1.0))


def is_beyond_rounding(cell: CellView, found: InBatches) -> bool:
    """True if the outputs lie further apart than rounding may take them, whatever the layers by themselves show."""
    gap = float(found.l1[found.worst])
    return np.isfinite(gap) and not gap <= rounding_bound(cell, found) * found.size if found.size > 0 else False
