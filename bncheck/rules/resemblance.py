"""What a difference that nobody explains looks like: measured facts, no causes.

One factor in all channels and points, one offset, one side cut off below zero, one side that never moves. Each is said
only where it holds for every number of the quantity, to within rounding.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bncheck.evidence import CellView, Drift, PairView
from bncheck.rules.leftover import arithmetic_dtype
from bncheck.rules.movement import moved
from bncheck.rules.roundoff import unit
from bncheck.rules.wording import names, number, verb
from bncheck.trace import Array

STATISTICS = ("running_mean", "running_var")
# Numbers come from a few operations each: so many roundings, relative to the largest of them.
ROUNDINGS = 64.0
# Below so many numbers one factor or one offset fits by chance.
FEWEST = 4


def resemblances(pair: PairView, drift: Drift) -> Iterator[str]:
    """Clauses that are true of this difference, the most telling first."""
    if drift.quantity in STATISTICS:
        yield from standstill(pair, drift)
    series = numbers(pair, drift)
    if series is None:
        return
    one, two = series
    slack = ROUNDINGS * unit(arithmetic_dtype(pair.a)) * float(max(np.abs(one).max(), np.abs(two).max()))
    yield from cut_off(pair, one, two, slack)
    yield from one_factor(pair, one, two, slack)


def standstill(pair: PairView, drift: Drift) -> Iterator[str]:
    """One side never moves the statistic, the other does."""
    moves = [
        cell.trace is not None and bool(moved(cell.trace, drift.layer, drift.quantity).any())
        for cell in (pair.a, pair.b)
    ]
    if moves[0] != moves[1]:
        still = pair.b if moves[0] else pair.a
        yield f"{names(still.members)} never {verb(still.members, 'moves', 'move')} it"


def numbers(pair: PairView, drift: Drift) -> tuple[Array, Array] | None:
    """All finite numbers of the quantity on both sides, in one order; None where there are too few."""
    found: list[tuple[Array, Array]] = []
    for name in arrays_of(pair.a, drift):
        one, two = (cell.trace.arrays.get(name) if cell.trace is not None else None for cell in (pair.a, pair.b))
        if one is not None and two is not None and one.shape == two.shape:
            found.append((np.asarray(one, dtype=np.float64).ravel(), np.asarray(two, dtype=np.float64).ravel()))
    if not found:
        return None
    one, two = (np.concatenate(parts) for parts in zip(*found, strict=True))
    good = np.isfinite(one) & np.isfinite(two)
    return (one[good], two[good]) if good.sum() >= FEWEST else None


def arrays_of(cell: CellView, drift: Drift) -> list[str]:
    """Names of the arrays behind a drift: a state of a layer, or an output or gradient event by event."""
    if drift.layer:
        return [f"{drift.layer}/{drift.quantity}"]
    if cell.trace is None:
        return []
    own = [name for name in cell.trace.arrays if name.startswith(f"{drift.quantity}/")]
    return [name for name in own if name.partition("/")[2].isdecimal()]


def cut_off(pair: PairView, one: Array, two: Array, slack: float) -> Iterator[str]:
    """One side is the other where that is positive, and 0 elsewhere: an activation."""
    for cell, mine, other in ((pair.a, one, two), (pair.b, two, one)):
        if (other < -slack).any() and np.abs(mine - np.maximum(other, 0.0)).max() <= slack:
            yield f"what {names(cell.members)} {verb(cell.members, 'gives', 'give')} is cut off at 0, as by a ReLU"


def one_factor(pair: PairView, one: Array, two: Array, slack: float) -> Iterator[str]:
    apart = np.abs(one - two) > slack
    if apart.sum() < FEWEST or np.abs(two).max() <= slack:
        return
    factor = float((one * two).sum() / (two * two).sum())
    if abs(factor - 1) * np.abs(two).max() > slack and np.abs(one - factor * two).max() <= slack:
        yield f"it is {number(factor)} times as large on {names(pair.a.members)} in every channel and at every point"
        return
    offset = float((one - two).mean())
    if np.abs(one - two - offset).max() <= slack:
        yield f"it is larger by {number(offset)} on {names(pair.a.members)} in every channel and at every point"
