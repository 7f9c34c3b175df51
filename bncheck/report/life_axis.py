"""A life laid along one axis, as pictures need it: columns, what a layer did in each, and how far its mean was off.

Nothing is judged: these are the recorded numbers, brought to the width of a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bncheck.life import Happening, LayerLife, Life, Span
from bncheck.trace import Array

# A picture has some 800 pixels across; finer columns than these do not show.
COLUMNS = 240


@dataclass(frozen=True)
class Axis:
    """``word`` is what is counted: optimiser steps, or forwards where nothing was ever stepped."""

    word: str
    first: int
    last: int

    @property
    def columns(self) -> int:
        return min(self.last - self.first + 1, COLUMNS)

    def column(self, at: Array) -> Array:
        """Column of each position; positions outside are moved to the nearest end."""
        share = (np.asarray(at, dtype=np.float64) - self.first) / max(self.last - self.first + 1, 1)
        return np.clip((share * self.columns).astype(np.int64), 0, self.columns - 1)


def axis_of(life: Life) -> Axis:
    by_step = life.steps > 0
    ends = [
        (span.first_step, span.last_step) if by_step else (span.first_index, span.last_index)
        for layer in life.layers
        for span in layer.spans
    ]
    positions = [layer.moments[name] for layer in life.layers for name in (key(by_step),) if name in layer.moments]
    firsts = [first for first, _ in ends] + [int(each.min()) for each in positions if each.size]
    lasts = [last for _, last in ends] + [int(each.max()) for each in positions if each.size]
    lasts += [life.steps] if by_step else []
    return Axis(word="step" if by_step else "forward", first=min(firsts, default=0), last=max(lasts, default=0))


def key(by_step: bool) -> str:
    return "step" if by_step else "index"


def moments_at(layer: LayerLife, axis: Axis) -> Array:
    """(K,) position of each moment on the axis."""
    found = layer.get(key(axis.word == "step"))
    return np.zeros(0, dtype=np.int64) if found is None else found


def happened_at(happening: Happening, axis: Axis) -> int:
    return happening.step if axis.word == "step" else happening.index


def gap_of(layer: LayerLife) -> Array:
    """(K,) mean over channels of |running mean − batch mean| in standard deviations of the batch; NaN where neither
    can be told, Inf where a number is not finite."""
    held, mean, var = (layer.get(name) for name in ("mean_before", "input_mean", "input_var"))
    if held is None or mean is None or var is None or not held.shape == mean.shape == var.shape or held.ndim != 2:
        return np.full(len(layer.moments.get("index", ())), np.nan)
    held = held.astype(np.float64)
    with np.errstate(all="ignore"):
        off = np.abs(held - mean) / np.sqrt(var)
        varies = (var > 0) & np.isfinite(off)
        found = np.where(varies, off, 0.0).sum(axis=1) / varies.sum(axis=1)
    broken = ~np.isfinite(held).all(axis=1) | ~np.isfinite(mean).all(axis=1)
    filled: Array = np.where(broken, np.inf, found)
    return filled


def gap_by_column(layer: LayerLife, axis: Axis) -> Array:
    """(columns,) the largest gap in each column. Between two moments that were kept the earlier one stands, as long as
    the layer ran: what was not kept is not drawn as if it were not there."""
    gap, at = gap_of(layer), moments_at(layer, axis)
    found = np.full(axis.columns, np.nan)
    if not gap.size or len(gap) != len(at):
        return found
    columns = axis.column(at)
    known = ~np.isnan(gap)
    np.fmax.at(found, columns[known], gap[known])
    ran = lane(layer, axis, lambda span: True) if layer.spans else np.ones(axis.columns, dtype=bool)
    filled = np.flatnonzero(~np.isnan(found))
    if filled.size:
        before = np.searchsorted(filled, np.arange(axis.columns), side="right") - 1
        carried = np.where(before >= 0, found[filled[np.maximum(before, 0)]], np.nan)
        found = np.where(np.isnan(found) & ran, carried, found)
    return found


def lane(layer: LayerLife, axis: Axis, belongs: Callable[[Span], bool]) -> Array:
    """(columns,) bool: whether a span for which ``belongs`` holds touches the column."""
    found = np.zeros(axis.columns, dtype=bool)
    for span in layer.spans:
        if belongs(span):
            ends = (span.first_step, span.last_step) if axis.word == "step" else (span.first_index, span.last_index)
            first, last = axis.column(np.array(ends))
            found[first : last + 1] = True
    return found


def moved_lanes(layer: LayerLife, axis: Axis) -> tuple[Array, Array]:
    """(columns,) bool twice: columns with forwards that moved the running statistics, and those with forwards of which
    none did. Of a span in which some moved, the moments that were kept say which, each up to the next."""
    moved = lane(layer, axis, lambda span: span.moved is not None and span.moved == span.forwards)
    still = lane(layer, axis, lambda span: span.moved == 0)
    before, after = layer.get("mean_before"), layer.get("mean_after")
    columns = axis.column(moments_at(layer, axis))
    if before is not None and after is not None and before.shape == after.shape == (len(columns), layer.channels):
        same = ((before == after) | (np.isnan(before) & np.isnan(after))).all(axis=1)
        partly = lane(layer, axis, lambda span: span.moved is not None and 0 < span.moved < span.forwards)
        kept = np.zeros((2, axis.columns), dtype=bool)
        kept[0, columns[~same]] = True
        kept[1, columns[same]] = True
        known = np.flatnonzero(kept.any(axis=0))
        if known.size:
            last = known[np.maximum(np.searchsorted(known, np.arange(axis.columns), side="right") - 1, 0)]
            kept |= kept[:, last] & partly
        moved |= kept[0]
        still |= kept[1]
    return moved, still & ~moved
