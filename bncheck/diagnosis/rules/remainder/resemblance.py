"""What a difference that nobody explains looks like: measured facts, no causes.

One factor in all channels and points, one offset, one side cut off below zero, one side that never moves. Each is said
only where it holds for every number of the quantity in the events that differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from bncheck.diagnosis.rules.movement import moved
from bncheck.diagnosis.rules.roundoff import arithmetic_dtype, unit
from bncheck.diagnosis.rules.wording import names, number, verb
from bncheck.evidence import CellView, Drift, PairView
from bncheck.trace import STATISTICS, Array

# Numbers come from a few operations each: so many roundings, relative to the largest of them.
ROUNDINGS = 64.0
# Below so many numbers one factor or one offset fits by chance.
FEWEST = 4
# A factor or an offset fits where it leaves no more than this share of the difference anywhere.
NEARLY = 0.01


def resemblances(pair: PairView, drift: Drift) -> Iterator[str]:
    """Sentences that are true of this difference, the most telling first."""
    if drift.quantity in STATISTICS:
        yield from standstill(pair, drift)
    series = numbers(pair, drift)
    if series is not None:
        one, two = series
        yield from cut_off(pair, one, two)
        yield from one_factor(pair, one, two)


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
    """All finite numbers of the events in which the two sides differ, in one order; None where there are too few."""
    found: list[tuple[Array, Array]] = []
    for name in arrays_of(pair.a, drift):
        one, two = (cell.trace.arrays.get(name) if cell.trace is not None else None for cell in (pair.a, pair.b))
        if one is None or two is None or one.shape != two.shape:
            continue
        rows = [np.asarray(side, dtype=np.float64).reshape(len(side) if drift.layer else 1, -1) for side in (one, two)]
        good = np.isfinite(rows[0]) & np.isfinite(rows[1])
        gap = np.where(good, np.abs(rows[0] - rows[1]), 0.0).max(axis=1, initial=0.0)
        differ = good & (gap > slack_of(pair, *rows))[:, None]
        found.append((rows[0][differ], rows[1][differ]))
    one, two = (np.concatenate([part[side] for part in found]) if found else np.zeros(0) for side in (0, 1))
    return (one, two) if len(one) >= FEWEST else None


def slack_of(pair: PairView, one: Array, two: Array) -> float:
    """What rounding may make of numbers of this size."""
    largest = max(float(np.max(np.abs(side), where=np.isfinite(side), initial=0.0)) for side in (one, two))
    return ROUNDINGS * max(unit(arithmetic_dtype(cell)) for cell in (pair.a, pair.b)) * largest


def arrays_of(cell: CellView, drift: Drift) -> list[str]:
    """Names of the arrays behind a drift: a state of a layer, or an output or gradient event by event."""
    if drift.layer:
        return [f"{drift.layer}/{drift.quantity}"]
    if cell.trace is None:
        return []
    own = [name for name in cell.trace.arrays if name.startswith(f"{drift.quantity}/")]
    return [name for name in own if name.partition("/")[2].isdecimal()]


def cut_off(pair: PairView, one: Array, two: Array) -> Iterator[str]:
    """One side is the other where that is positive, and 0 elsewhere: an activation."""
    slack = slack_of(pair, one, two)
    for cell, mine, other in ((pair.a, one, two), (pair.b, two, one)):
        if (other < -slack).any() and np.abs(mine - np.maximum(other, 0.0)).max() <= slack:
            yield f"What {names(cell.members)} {verb(cell.members, 'gives', 'give')} is cut off at 0, as a ReLU does"


def telling(factor: float) -> str:
    """A factor with as many digits as tell it from 1."""
    apart = abs(abs(factor) - 1.0)
    digits = 4 if not 0 < apart < 1e-2 else 2 - math.floor(math.log10(apart))
    return f"{factor:.{min(digits, 9)}g}"


def one_factor(pair: PairView, one: Array, two: Array) -> Iterator[str]:
    """One side is the other times one number, or plus one number, but for a hundredth of the difference."""
    for cell, mine in ((pair.a, one), (pair.b, two)):
        if not mine.any():
            yield f"It is 0 on {names(cell.members)} wherever they differ"
            return
    gap = np.abs(one - two).max()
    rest = NEARLY * gap
    factor = float((one * two).sum() / (two * two).sum())
    if np.abs(one - factor * two).max() <= rest:
        large, small, size = (pair.a, pair.b, factor) if abs(factor) >= 1 else (pair.b, pair.a, 1 / (factor or 1.0))
        yield (
            f"It is {telling(size)} times as large on {names(large.members)} as on {names(small.members)} wherever "
            "they differ"
        )
        return
    offset = float((one - two).mean())
    if np.abs(one - two - offset).max() <= rest:
        large, small = (pair.a, pair.b) if offset >= 0 else (pair.b, pair.a)
        by = number(abs(offset))
        yield f"It is larger by {by} on {names(large.members)} than on {names(small.members)} wherever they differ"
