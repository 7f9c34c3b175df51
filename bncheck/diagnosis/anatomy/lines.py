"""What each group of values was normalised with: its mean and inverse deviation, from y as a straight line over x."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bncheck.diagnosis.anatomy.activations import Activation
from bncheck.diagnosis.anatomy.groups import Moments
from bncheck.diagnosis.anatomy.values import OUTPUT_ROUNDINGS, Forward
from bncheck.trace import Array


@dataclass(frozen=True)
class Lines:
    """Per group m and r of (x − m)·r, bounds on their rounding (that of r relative), whether they are known, how many
    values lie on the line beyond the two that any line goes through, and whether all of them do."""

    m: Array
    r: Array
    m_error: Array
    r_error: Array
    known: Array
    beyond: int
    straight: bool


@dataclass(frozen=True)
class Shown:
    """A forward with z before the activation, where outputs tell it, and a bound on its rounding."""

    forward: Forward
    z: Array
    known: Array
    slack: Array
    solved: list[tuple[Moments, Lines]] = field(default_factory=list, compare=False, repr=False)  # what was asked last


def show(forward: Forward, activation: Activation, u: float) -> Shown:
    z, known = activation.invert(forward.y)
    gamma, beta = forward.affine
    slack = OUTPUT_ROUNDINGS * u * (np.abs(z) + np.abs(beta) + np.abs(forward.y))
    return Shown(forward, z, known & (gamma != 0) & np.isfinite(z), slack)


def solution(shown: Shown, found: Moments, u: float) -> Lines:
    """As ``solve``; asked for again and again of one grouping, and not kept beyond that."""
    if not shown.solved or shown.solved[0][0] is not found:
        shown.solved[:] = [(found, solve(shown, found, u))]
    return shown.solved[0][1]


def solve(shown: Shown, found: Moments, u: float) -> Lines:
    """Least squares of the normalised value against x in each group, over the values whose z is known."""
    forward, known = shown.forward, shown.known
    gamma, beta = forward.affine
    scale = np.where(gamma == 0, 1.0, gamma)
    unit = OUTPUT_ROUNDINGS * u
    ids, many = found.ids[known], len(found.count)
    x, h, slack = forward.x[known], ((shown.z - beta) / scale)[known], (shown.slack / np.abs(scale))[known]
    with np.errstate(divide="ignore", invalid="ignore"):
        count = np.bincount(ids, minlength=many)
        centre_x, centre_h = (np.bincount(ids, part, many) / count for part in (x, h))
        dx, dh = x - centre_x[ids], h - centre_h[ids]
        var = np.bincount(ids, dx**2, many) / count
        r = np.bincount(ids, dx * dh, many) / count / var
        m = centre_x - centre_h / r
        largest = np.zeros(many)
        np.maximum.at(largest, ids, slack + unit * np.abs(r[ids]) * (np.abs(x) + np.abs(m[ids])))
        r_error = largest / (np.sqrt(var) * np.abs(r))
        m_error = largest / np.abs(r) + np.abs(centre_x - m) * r_error
        residual = np.abs(dh - r[ids] * dx)
        good = np.isfinite(m) & np.isfinite(r) & (count >= 2) & (var > 0) & (r_error < 0.1)
    straight = bool(np.all(residual[good[ids]] <= 4.0 * largest[ids][good[ids]]))
    return Lines(
        m=m,
        r=r,
        m_error=m_error,
        r_error=r_error,
        known=good,
        beyond=int(np.sum(np.maximum(count[good] - 2, 0))),
        straight=straight,
    )
