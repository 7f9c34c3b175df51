"""The usable rows of some streams, and what they say of the weight under each hypothesis (see average.py)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bncheck.fit.interval import meet, quotient
from bncheck.fit.stream import Stream
from bncheck.trace import Array

STATISTICS = ("variance", "std", "inverse-std", "second-moment", "swapped")
DIVISORS = ("n-1", "n")
AVERAGINGS = ("exponential", "cumulative", "debiased")
Hypothesis = tuple[str, str, str]
HYPOTHESES: tuple[Hypothesis, ...] = tuple(itertools.product(STATISTICS, DIVISORS, AVERAGINGS))
# A wrong hypothesis must miss by more than two bounds.
MARGIN = 2.0
# A debiased average divides by 1 - (1 - w)^k, which a rounding of (1 - w)^k moves by u/w relatively: 100 u at 0.01.
DEBIASED_ROUNDINGS = 8.0
DEBIASED_LEAST = 1e-3


def averaged(
    stream: Stream,
    statistic: str,
    divisor: str,
    eps: float,
    eps_error: float = 0.0,
    moments: tuple[Array, Array, Array] | None = None,
) -> tuple[Array, Array, Array, Array]:
    """(u for running_mean, its error, u for running_var, its error), each (T, C), of every forward's batch."""
    mean, var, n = moments or (stream.input_mean, stream.input_var, stream.n)
    n = n.astype(np.float64)[:, None]
    mean_error, var_error = stream.moment_errors
    if divisor == "n-1":
        factor = np.where(n > 1, n / np.maximum(n - 1.0, 1.0), 1.0)
        var, var_error = var * factor, var_error * factor
    if statistic == "swapped":
        return var, var_error, mean, mean_error
    if statistic == "std":
        root = np.sqrt(var)
        return mean, mean_error, root, slope_error(var_error, root)
    if statistic == "inverse-std":
        root = np.sqrt(var + eps)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = slope_error(var_error, root) / (root * root) + 0.5 * eps_error / root**3
            # A tangent says little about an eps that may be off by more than a tenth of what it is added to.
            return mean, mean_error, 1.0 / root, np.where(eps_error > 0.1 * root**2, np.inf, error)
    if statistic == "second-moment":
        return mean, mean_error, var + mean**2, var_error + 2.0 * np.abs(mean) * mean_error
    return mean, mean_error, var, var_error


def slope_error(error: Array, root: Array) -> Array:
    """Error of a square root: e / root, and never more than sqrt(e)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.fmin(error / root, np.sqrt(error))


@dataclass
class Rows:
    """The usable rows of several streams with equal requested weight; intervals are cached per question."""

    streams: Sequence[Stream]
    eps: float
    eps_error: float
    thorough: bool = True
    residuals: dict[Hypothesis, float] = field(default_factory=dict)
    picks: Sequence[Array] = ()  # per stream: the events whose one source is a regular batch
    cache: dict[tuple[int, str, str, float], tuple[Array, Array]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.picks = [regular_rows(stream) for stream in self.streams]
        pairs = list(zip(self.streams, self.picks, strict=True))
        self.kinds = np.array([s.kinds[t] for s, picked in pairs for t in picked], dtype=object)
        self.moved = np.concatenate([moved(s)[p] for s, p in pairs] or [np.zeros(0, bool)])
        self.moving = frozenset(k for s in self.streams for k, m in zip(s.kinds, moved(s, True), strict=True) if m)
        self.counts = [self.count_with(frozenset())]
        self.counter = np.concatenate([s.counter[1:][p] for s, p in pairs] or [np.zeros(0)])
        self.fitted = np.array([kind in self.moving for kind in self.kinds], dtype=bool)

    @property
    def count(self) -> Array:
        """Batches averaged after each row, where only kinds of events count that were seen to move the state."""
        return self.counts[0]

    def count_with(self, kinds: frozenset[str]) -> Array:
        """The same if these kinds of events average their batches too, without having moved the state visibly."""
        counts = [update_counts(stream, self.moving | kinds) for stream in self.streams]
        return np.concatenate([c[p] for c, p in zip(counts, self.picks, strict=True)] or [np.zeros(0)])

    def doubt(self, kinds: Iterable[str]) -> None:
        """Allow every count that there would be if some of these kinds of events averaged their batches unseen.

        A batch that is averaged twice in a row moves nothing the second time where the first update had all weight:
        the state is that batch already. The next update's weight still depends on the count.
        """
        every = [frozenset(some) for size in range(8) for some in itertools.combinations(sorted(kinds), size)]
        self.counts = list({self.count_with(some).tobytes(): self.count_with(some) for some in every}.values())

    def standing(self, scale: float) -> list[tuple[str, str]]:
        """(statistic, divisor) under which every row leaves some weight, whatever the averaging."""
        found = []
        for pair in itertools.product(STATISTICS, DIVISORS):
            lo, hi = (part[self.fitted] for part in self.intervals(*pair, scale))
            if len(lo) and not np.any(lo > hi):
                found.append(pair)
        return found

    def intervals(self, statistic: str, divisor: str, scale: float) -> tuple[Array, Array]:
        """(lo, hi) of each row's effective weight, all channels and both buffers together, bounds times ``scale``."""
        swapped = statistic == "swapped"
        # The mean's candidates do not depend on the statistic, so they are asked for only once.
        one = self.buffer(0, "swapped" if swapped else "variance", divisor if swapped else "n", scale)
        two = self.buffer(1, statistic, "n" if swapped else divisor, scale)
        return np.maximum(one[0], two[0]), np.minimum(one[1], two[1])

    def buffer(self, which: int, statistic: str, divisor: str, scale: float) -> tuple[Array, Array]:
        """The same for running_mean (0) or running_var (1) alone."""
        key = (which, statistic, divisor, scale)
        if key not in self.cache:
            found = [np.zeros((2, 0))]
            for stream, picked in zip(self.streams, self.picks, strict=True):
                source = np.array([stream.sources[t][0] for t in picked], dtype=int)
                parts = averaged(stream, statistic, divisor, self.eps, self.eps_error)
                u, error = parts[2 * which][source], parts[2 * which + 1][source]
                state = stream.var if which else stream.mean
                before, after = state[:-1][picked], state[1:][picked]
                step_error = scale * stream.step_error(state)[picked]
                found.append(np.stack(meet(*quotient(after - before, step_error, u - before, scale * error), axis=1)))
            self.cache[key] = tuple(np.concatenate(found, axis=1))
        return self.cache[key]

    def weight(self, hypothesis: Hypothesis, scale: float) -> tuple[float, float]:
        """(lo, hi) of the weight under a hypothesis; empty (lo > hi) when it falls. Cumulative: the whole line."""
        statistic, divisor, averaging = hypothesis
        scale *= DEBIASED_ROUNDINGS if averaging == "debiased" else 1.0
        lo, hi = (part[self.fitted] for part in self.intervals(statistic, divisor, scale))
        if np.any(lo > hi):
            return math.inf, -math.inf
        counts = [count[self.fitted] for count in self.counts]
        if averaging == "cumulative":
            stands = any(
                bool(np.all((lo <= 1.0 / count) & (1.0 / count <= hi)))
                for count in (*counts, self.counter[self.fitted])
                if np.all(count > 0)
            )
            return (-math.inf, math.inf) if stands else (math.inf, -math.inf)
        if averaging == "debiased":
            spans = [meet(*undo_debiasing(lo, hi, count)) for count in counts]
            spans = [span for span in spans if span[0] <= span[1]] or [(math.inf, -math.inf)]
            low, high = min(span[0] for span in spans), max(span[1] for span in spans)
        else:
            low, high = meet(lo, hi)
        # With a weight that forgets nothing a debiased average is the cumulative one: the simpler word has it.
        if averaging == "debiased" and high < DEBIASED_LEAST:
            return math.inf, -math.inf
        return float(low), float(high)

    def residual(self, hypothesis: Hypothesis) -> float:
        """``compute_residual``, once for each hypothesis; NaN when nobody will look at it."""
        if not self.thorough:
            return math.nan
        if hypothesis not in self.residuals:
            self.residuals[hypothesis] = self.compute_residual(hypothesis)
        return self.residuals[hypothesis]

    def compute_residual(self, hypothesis: Hypothesis) -> float:
        """Largest |measured - predicted| / max(|s|, |s'|, |u|) over all fitted rows, at the best weight."""
        statistic, divisor, averaging = hypothesis
        steps, gaps, sizes, counts, at = [], [], [], [], 0
        for stream, picked in zip(self.streams, self.picks, strict=True):
            source = np.array([stream.sources[t][0] for t in picked], dtype=int)
            um, _, uv, _ = averaged(stream, statistic, divisor, self.eps)
            for state, u in ((stream.mean, um[source]), (stream.var, uv[source])):
                before, after = state[:-1][picked], state[1:][picked]
                steps.append((after - before).ravel())
                gaps.append((u - before).ravel())
                sizes.append(np.max([np.abs(before), np.abs(after), np.abs(u)], axis=0).ravel())
                keep = np.repeat(
                    np.where(self.fitted[at : at + len(picked)], self.count[at : at + len(picked)], 0),
                    before.shape[1],
                )
                counts.append(keep)
            at += len(picked)
        step, gap, size, count = (np.concatenate(part or [np.zeros(0)]) for part in (steps, gaps, sizes, counts))
        good = (count > 0) & np.isfinite(step) & np.isfinite(gap) & (size > 0)
        step, gap, size, count = step[good], gap[good], size[good], count[good]
        if not step.size:
            return math.nan
        error = step - effective_weight(averaging, step / size, gap / size, count) * gap
        return float(np.max(np.abs(error) / size))


def effective_weight(averaging: str, step: Array, gap: Array, count: Array) -> Array:
    """The best weight of each row: least squares of step against gap (the late rows for a debiased average)."""
    if averaging == "cumulative":
        return 1.0 / count
    late = count >= count.max() - 0.5 if averaging == "debiased" else np.ones(len(count), dtype=bool)
    square = float(np.sum(gap[late] ** 2))
    weight = float(np.sum(step[late] * gap[late])) / square if square > 0 else 0.0
    if averaging == "exponential":
        return np.full(len(step), weight)
    _, solved = undo_debiasing(np.array([weight]), np.array([weight]), count[late][:1])
    return debiased_weight(np.clip(solved, 1e-12, 1.0), count)


def debiased_weight(weight: Array, count: Array) -> Array:
    """Effective weight of update ``count`` of a zero-debiased average: w / (1 - (1 - w)^k)."""
    found: Array = weight / -np.expm1(count * np.log1p(-np.minimum(weight, 1.0 - 1e-16)))
    return found


def undo_debiasing(lo: Array, hi: Array, count: Array) -> tuple[Array, Array]:
    """Intervals of w from intervals of w / (1 - (1 - w)^k), which grows with w from 1/k to 1 (and is 1 for k = 1)."""
    count = np.maximum(count, 1.0)
    fails = (hi < 1.0 / count) | (lo > 1.0) | (lo > hi)

    def solve(target: Array) -> tuple[Array, Array]:
        """Root of w - t·(1 - (1 - w)^k) in (0, t) by Newton from t: convex, so it comes down and never passes it."""
        w, step = target.copy(), np.zeros(len(target))
        for _ in range(14):
            rest = (1.0 - w) ** (count - 1.0)
            step = (w - target + target * rest * (1.0 - w)) / (1.0 - target * count * rest)
            w = w - step
        # Near the double root at t = 1/k the error halves each time: what is left is at most the last step.
        return w - 2.0 * np.abs(step), w

    first = count <= 1.0
    found_lo = np.where(first | (lo <= 1.0 / count), 0.0, solve(lo)[0] * (1.0 - 1e-12))
    found_hi = np.where(first | (hi >= 1.0), 1.0, solve(hi)[1] * (1.0 + 1e-12))
    return np.where(fails, np.inf, found_lo), np.where(fails, -np.inf, found_hi)


def moved(stream: Stream, regular_only: bool = False) -> Array:
    """(T,) bool: rows whose state after is not, bit for bit, the state before (finite on both sides)."""
    found = np.zeros(stream.events, dtype=bool)
    for state in (stream.mean, stream.var):
        before, after = state[:-1], state[1:]
        found |= np.any((before != after) & np.isfinite(before) & ~(np.isnan(after) & np.isnan(before)), axis=1)
    if regular_only:
        found &= np.array([bool(own) and all(stream.n[i] > 1 for i in own) for own in stream.sources], dtype=bool)
    return found


def horizon(stream: Stream) -> int:
    """Rows from here on are not used: a batch of fewer than two values per channel has moved the state."""
    small = np.array([any(stream.n[i] < 2 for i in own) for own in stream.sources], dtype=bool)
    hits = np.flatnonzero(small & moved(stream))
    return int(hits[0]) if hits.size else stream.events


def regular_rows(stream: Stream) -> Array:
    """Events with one source of at least two values per channel."""
    good = [t for t in range(horizon(stream)) if len(stream.sources[t]) == 1 and stream.n[stream.sources[t][0]] > 1]
    return np.array(good, dtype=int)


def update_counts(stream: Stream, moving: frozenset[str]) -> Array:
    """(T,) how many batches have gone into the average after each row, when these kinds of events move it."""
    own = [
        sum(stream.n[i] > 1 for i in sources) if kind in moving else 0
        for kind, sources in zip(stream.kinds, stream.sources, strict=True)
    ]
    return np.cumsum(np.array(own, dtype=np.float64)) if own else np.zeros(0)
