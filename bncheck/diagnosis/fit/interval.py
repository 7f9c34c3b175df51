"""Intervals of what a number can be, given bounded errors: a hypothesis stands while they still meet.

Every measured step s' - s = A·(u - s) says where A can lie when s' carries a known rounding error and u another.
All steps together leave an intersection: empty refutes the hypothesis, else it is the number with its uncertainty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from bncheck.convention import Facet
from bncheck.trace import Array


def quotient(step: Array, step_error: Array, gap: Array, gap_error: Array) -> tuple[Array, Array]:
    """(lo, hi) of A in step = A·gap, elementwise; the whole line where gap may be 0, empty where |A| <= 1 cannot be.

    Non-finite elements constrain nothing.
    """
    top_lo, top_hi = step - step_error, step + step_error
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        near, far = 1.0 / (gap - gap_error), 1.0 / (gap + gap_error)
        corners = (top_lo * near, top_lo * far), (top_hi * near, top_hi * far)
        lo = np.minimum(np.minimum(*corners[0]), np.minimum(*corners[1]))
        hi = np.maximum(np.maximum(*corners[0]), np.maximum(*corners[1]))
        open_ = np.abs(gap) <= gap_error
        impossible = open_ & (np.abs(step) - step_error > np.abs(gap) + gap_error)
    lost = ~(np.isfinite(step) & np.isfinite(gap) & np.isfinite(step_error) & np.isfinite(gap_error))
    lo = np.where(open_ | lost, -np.inf, lo)
    hi = np.where(open_ | lost, np.inf, hi)
    return np.where(impossible & ~lost, np.inf, lo), np.where(impossible & ~lost, -np.inf, hi)


def meet(lo: Array, hi: Array, axis: int | None = None) -> tuple[Array, Array]:
    """Intersection along an axis; the whole line when there is nothing to intersect."""
    return np.maximum.reduce(lo, axis=axis, initial=-np.inf), np.minimum.reduce(hi, axis=axis, initial=np.inf)


def shortest(lo: float, hi: float, preferred: Iterable[float | None] = ()) -> float:
    """The number that a person would have written in [lo, hi]: a preferred one, else the fewest digits."""
    for value in preferred:
        if value is not None and lo <= value <= hi:
            return float(value)
    middle = 0.5 * (lo + hi)
    for digits in range(1, 18):
        value = float(f"{middle:.{digits}g}")
        if lo <= value <= hi:
            return value
    return middle


def known(lo: float, hi: float) -> bool:
    """Whether the interval says at least two digits: half its width is at most 1 % of its middle.

    A choice, the only one of this module: the interval itself is derived and stays with the number as its uncertainty;
    how narrow it must be before people are shown a number and not a range follows from nothing.
    """
    return math.isfinite(lo) and math.isfinite(hi) and lo <= hi and (hi - lo) <= 0.01 * abs(lo + hi)


def number(lo: float, hi: float, residual: float, asked: float | None = None) -> Facet:
    """A known number as a facet; the value that was asked for, or its complement, is preferred where it is inside."""
    value = shortest(lo, hi, (asked, None if asked is None else 1.0 - asked))
    half = max(hi - value, value - lo)
    return Facet(
        value=value,
        identifiable=True,
        residual=residual,
        runner_up=f"{value:g} ± {half:.1e}",
        runner_up_residual=half / value,
        uncertainty=half,
        asked=asked,
    )
