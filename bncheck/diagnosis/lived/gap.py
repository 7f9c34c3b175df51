"""How far an evaluation is from what the batch's own statistics would give, and the parts that this is made of.

Normalising x with mean m and variance v gives y = γ·(x − m)·r + β, r = 1/sqrt(v + eps). Of a batch of mean b and
deviation s two numbers per channel say all of y: γ·s·r and γ·(b − m)·r. The distance of two such points is the root
mean square of the difference of the outputs, and it is measured in units of the deviation that y has with the batch's
own statistics. Differences of points are differences of outputs, so what lies between the first point and the last is
the sum of the steps of a **chain**; each stage replays the statistics under one assumption less:

==========  =============================================================================  ========================
part        from … to                                                                      a cause's word
==========  =============================================================================  ========================
set         the running statistics → those before something else set them (load, jump)      stale-state
start       → the average of the batches alone                                              few-updates, never-updated
divisor     → with the divisor that this batch's variance has: (n − 1)/n of the unbiased    variance-divisor
noise       → each batch replaced by the mean of its neighbours                             batch-weight
lag         → the mean of the latest training batches                                       stale-state
frozen      → the mean of the latest batches that trained while the statistics stood still  stale-state
mixture     → that of those batches among them that this one is like, where they alternate  mixed-batches
shift       → what evaluations of the same phase have on average                            data-shift
sampling    → the batch's own statistics
==========  =============================================================================  ========================

The order is that of time: what was there first goes first, and what only the evaluation adds comes last. A part is the
share of its step along the whole gap, so parts add up to the gap; one that leads away from the batch is negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bncheck.diagnosis.lived.averaged import Average
from bncheck.trace import Array

# Neighbours that say what a batch is like without its own chance; and the latest ones that say what training is like.
WINDOW = 8
# Kinds of batches that take turns: how many there may be, the share of the spread that lies between them, and how far
# they have to be apart, in deviations of the output.
KINDS, SEPARATE, APART = (2, 3, 4), 0.6, 0.5
# Batches that kinds are counted off in.
TURNS = 16
Statistics = tuple[Array, Array]  # mean and variance, (C,) each


@dataclass(frozen=True)
class Evaluated:
    """A batch as an evaluation met it: its own statistics (C,), n values per channel, and the layer as it was."""

    mean: Array
    var: Array
    n: float
    gamma: Array
    beta: Array
    eps: float

    def point(self, statistics: Statistics) -> Array:
        """(2, C) what normalising this batch with some statistics gives, in units of the output's own deviation."""
        mean, var = statistics
        with np.errstate(all="ignore"):
            r = 1.0 / np.sqrt(var + self.eps)
            return np.stack([self.gamma * np.sqrt(self.var) * r, self.gamma * (self.mean - mean) * r]) / self.scale

    @property
    def own(self) -> Statistics:
        return self.mean, self.var

    @cached_property
    def scale(self) -> float:
        """Deviation of the output with the batch's own statistics, root mean square over channels; NaN for none."""
        with np.errstate(all="ignore"):
            square = self.gamma**2 * self.var / (self.var + self.eps)
        found = float(np.sqrt(np.mean(square)))
        return found if found > 0 else np.nan

    def apart(self, one: Statistics, two: Statistics) -> float:
        """How far two outputs are apart, in deviations; inf where one cannot be."""
        return length(self.point(one) - self.point(two))


def length(step: Array, most: float = np.inf) -> float:
    """Root mean square over channels, none of which counts for more than ``most``."""
    with np.errstate(over="ignore"):  # what is beyond every float is limited like the rest
        found = float(np.sqrt(np.mean(np.minimum(np.sum(step**2, axis=0), most**2))))
    return found if np.isfinite(found) else np.inf


@dataclass(frozen=True)
class Gap:
    """``size`` in deviations of the output; ``parts`` add up to it; ``stages`` the statistics at each end."""

    size: float
    parts: dict[str, float]
    stages: tuple[tuple[str, Statistics], ...]

    def share(self, *names: str) -> float:
        return sum(self.parts.get(name, 0.0) for name in names) / self.size if self.size > 0 else 0.0


def split(batch: Evaluated, running: Statistics, stages: Sequence[tuple[str, Statistics]]) -> Gap | None:
    """The gap of an evaluation with running statistics along a chain that ends in the batch's own; None where one of
    them normalises nothing (NaN, or no positive variance)."""
    chain = [("", running), *stages]
    points = [batch.point(statistics) for _, statistics in chain]
    if not all(np.isfinite(point).all() for point in points):
        return None
    whole = points[0] - points[-1]
    size = length(whole)
    parts: dict[str, float] = {}
    for (name, _), before, after in zip(chain[1:], points, points[1:], strict=False):
        along = float(np.mean(np.sum((before - after) * whole, axis=0)))
        parts[name] = parts.get(name, 0.0) + (along / size if size > 0 else 0.0)
    return Gap(size=size, parts=parts, stages=tuple(chain))


def chain(
    batch: Evaluated,
    average: Average,
    divisor: str,
    latest: Array | None,
    phase: Statistics | None,
    frozen: Statistics | None = None,
) -> list[tuple[str, Statistics]]:
    """The stages behind the running statistics. ``divisor`` of the variance that is averaged, ``latest`` which of its
    batches say what training is like at the end (None: all neighbours of the last), ``phase`` what the evaluations
    around this one have on average, ``frozen`` what the latest batches have that trained and were not averaged."""
    stages: list[tuple[str, Statistics]] = []
    if len(average.weight):
        share = average.weight / max(1.0 - average.left, 1e-300)
        mean, var = average.mean, fair_variances(batch, average, divisor)
        smooth = share @ neighbours(average)
        recent = list(latest) if latest is not None else last_ones(average)
        current = (mean[recent].mean(axis=0), var[recent].mean(axis=0))
        if average.left < 1.0:
            stages += [
                ("start", average.only_batches),
                ("divisor", (share @ mean, share @ var)),
                ("noise", (smooth @ mean, smooth @ var)),
                ("lag", current),
            ]
        else:
            stages.append(("start", current))
        if frozen is not None:
            stages.append(("frozen", frozen))
        else:
            stages.append(("mixture", nearest(batch, kinds_of(batch, average, divisor)) or current))
    elif frozen is not None:
        stages.append(("frozen", frozen))
    if phase is not None:
        stages.append(("shift" if stages else "start", phase))
    elif not stages:
        return [("start", batch.own)]
    return [*stages, ("sampling" if phase is not None else "shift", batch.own)]


def last_ones(average: Average) -> list[int]:
    """The latest batches; back to an unseen one, which stands for many and is of use where few were seen after it."""
    found: list[int] = []
    for j in range(len(average.weight) - 1, -1, -1):
        if len(found) == WINDOW or (len(found) >= WINDOW // 2 and not average.seen[j]):
            break
        found.append(j)
        if not average.seen[j]:
            break
    return found[::-1]


def neighbours(average: Average) -> Array:
    """(J, J) weights that replace each batch by the mean of itself and its neighbours; an unseen one is a mean already.

    The window of a batch lies within one stretch of kept batches and is moved in where it would reach beyond it."""
    count = len(average.weight)
    found = np.zeros((count, count))
    stretch = np.cumsum(~average.seen)
    for j in range(count):
        alike = np.flatnonzero((stretch == stretch[j]) & average.seen)
        if not average.seen[j]:
            found[j, j] = 1.0
            continue
        place = int(np.searchsorted(alike, j))
        first = max(0, min(place - WINDOW // 2, len(alike) - WINDOW))
        window = alike[first : first + WINDOW]
        found[j, window] = 1.0 / len(window)
    return found


def fair_variances(batch: Evaluated, average: Average, divisor: str) -> Array:
    """(J, C) variances of the training batches, with the divisor that this batch's variance has."""
    own = (batch.n - 1.0) / batch.n
    fair = own if divisor == "n-1" else own * average.n / np.maximum(average.n - 1.0, 1.0)
    found: Array = average.var * np.reshape(fair, (-1, 1))
    return found


def kinds_of(batch: Evaluated, average: Average, divisor: str) -> list[Statistics]:
    """The mean of each kind of training batches, where kinds take turns; none where they do not."""
    seen, fair = np.flatnonzero(average.seen), fair_variances(batch, average, divisor)
    turns = seen[-TURNS:]
    kinds = in_turn(batch, average.mean[turns], fair[turns])
    if kinds is None:  # where steps are left out between those that were kept, each begins anew
        turns = seen[-2 * TURNS :]
        kinds = within_steps(batch, average.mean[turns], fair[turns], average.step[turns])
    if kinds is None:
        return []
    mean, var = average.mean[turns], fair[turns]
    found = [kinds == kind for kind in np.unique(kinds[kinds >= 0])]
    return [(mean[kind].mean(axis=0), var[kind].mean(axis=0)) for kind in found]


def within_steps(batch: Evaluated, mean: Array, var: Array, step: Array) -> Array | None:
    """(J,) the kind of each batch where it is its place among the batches of its step, -1 for those of steps that had
    another number of them; None where those that come first, second, … are not of kinds."""
    steps, counts = np.unique(step, return_counts=True)
    for period in KINDS:
        rows = np.flatnonzero(np.isin(step, steps[counts == period]))
        kinds = in_turn(batch, mean[rows], var[rows], (period,))
        if kinds is not None:
            found = np.full(len(step), -1)
            found[rows] = kinds
            return found
    return None


def nearest(batch: Evaluated, kinds: Sequence[Statistics]) -> Statistics | None:
    """The kind that this batch is like."""
    return min(kinds, key=lambda kind: batch.apart(kind, batch.own), default=None)


def in_turn(batch: Evaluated, mean: Array, var: Array, periods: Sequence[int] = KINDS) -> Array | None:
    """(J,) the kind of each batch where kinds take turns, so many of them; None where they do not.

    Which batch is of which kind is not sought but counted off, so chance separates them by little: of J batches of one
    kind (p − 1)/(J − 1) of the spread lies between p of them on average."""
    points = np.stack([batch.point(each).ravel() for each in zip(mean, var, strict=True)]) if len(mean) else mean
    if len(points) < WINDOW or not np.isfinite(points).all():
        return None
    points = points - points.mean(axis=0)
    whole = float((points**2).sum())
    for period in periods:
        kinds = np.arange(len(points)) % period
        centres = np.stack([points[kinds == kind].mean(axis=0) for kind in range(period)])
        between = float((centres[kinds] ** 2).sum())
        apart = max(length((one - two).reshape(2, -1)) for one in centres for two in centres)
        if len(points) >= 4 * period and between > SEPARATE * whole and apart >= APART:
            return np.asarray(kinds)
    return None
