"""The usable rows of some streams, and what they say of the weight under each hypothesis (see average.py)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bncheck.diagnosis.fit.interval import meet, quotient
from bncheck.diagnosis.fit.stream import Stream
from bncheck.trace import Array

STATISTICS = ("variance", "std", "inverse-std", "second-moment", "swapped")
DIVISORS = ("n-1", "n")
AVERAGINGS = ("exponential", "cumulative", "debiased")
Hypothesis = tuple[str, str, str]
Pair = tuple[str, str]
HYPOTHESES: tuple[Hypothesis, ...] = tuple(itertools.product(STATISTICS, DIVISORS, AVERAGINGS))
PAIRS: tuple[Pair, ...] = tuple(itertools.product(STATISTICS, DIVISORS))
# What is put into one buffer is the same under many pairs: the distinct candidates of running_mean, of running_var, and
# which of them each pair takes (those of running_var behind those of running_mean).
MEAN_CANDIDATES: tuple[Pair, ...] = (("variance", "n"), ("swapped", "n-1"), ("swapped", "n"))
VAR_CANDIDATES: tuple[Pair, ...] = tuple(pair for pair in PAIRS if pair != ("swapped", "n-1"))
MEANS, VARS = len(MEAN_CANDIDATES), len(VAR_CANDIDATES)
MEAN_OF = [MEAN_CANDIDATES.index(pair) if pair in MEAN_CANDIDATES else 0 for pair in PAIRS]
VAR_OF = [MEANS + VAR_CANDIDATES.index((s, "n") if s == "swapped" else (s, d)) for s, d in PAIRS]
FALLEN = (math.inf, -math.inf)
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
        return mean, mean_error, *inverse_roots(var, var_error, eps, eps_error)
    if statistic == "second-moment":
        return mean, mean_error, var + mean**2, var_error + 2.0 * np.abs(mean) * mean_error
    return mean, mean_error, var, var_error


def inverse_roots(var: Array, var_error: Array, eps: float, eps_error: float) -> tuple[Array, Array]:
    """1 / sqrt(var + eps) and its error; whatever eps is, it lies between 0 and 1 / sqrt(var)."""
    root = np.sqrt(var + eps)
    # A tangent says little about an eps that may be off by more than a tenth of what it is added to.
    wide = eps_error > 0.1 * root**2
    with np.errstate(divide="ignore", invalid="ignore"):
        error = slope_error(var_error, root) / (root * root) + 0.5 * eps_error / root**3
        most = 1.0 / np.sqrt(np.maximum(var - var_error, 0.0) + max(eps - eps_error, 0.0))
        return np.where(wide, 0.5 * most, 1.0 / root), np.where(wide, 0.5 * most, error)


def slope_error(error: Array, root: Array) -> Array:
    """Error of a square root: e / root, and never more than sqrt(e)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.fmin(error / root, np.sqrt(error))


class Table:
    """Steps of one stream's usable rows against what every candidate would put in: (K, rows, C) each."""

    def __init__(self, stream: Stream, picked: Array, eps: float, eps_error: float) -> None:
        source = np.array([stream.sources[t][0] for t in picked], dtype=int)
        taken = {pair: averaged(stream, *pair, eps, eps_error) for pair in {*MEAN_CANDIDATES, *VAR_CANDIDATES}}
        u = np.stack([taken[p][0] for p in MEAN_CANDIDATES] + [taken[p][2] for p in VAR_CANDIDATES])[:, source]
        self.error = np.stack([taken[p][1] for p in MEAN_CANDIDATES] + [taken[p][3] for p in VAR_CANDIDATES])[:, source]
        buffer = np.array([0] * MEANS + [1] * VARS)
        before = np.stack([stream.mean[:-1][picked], stream.var[:-1][picked]])[buffer]
        after = np.stack([stream.mean[1:][picked], stream.var[1:][picked]])[buffer]
        self.step, self.gap = after - before, u - before
        self.step_error = np.stack([stream.step_error(state)[picked] for state in (stream.mean, stream.var)])[buffer]

    def spans(self, scale: float) -> Array:
        """(2, K, rows) lo and hi of the weight, all channels together, at ``scale`` times the error bounds."""
        lo, hi = quotient(self.step, scale * self.step_error, self.gap, scale * self.error)
        return np.stack(meet(lo, hi, axis=2))


def debiased_spans(lo: Array, hi: Array, counts: Sequence[Array]) -> list[tuple[float, float]]:
    """Per pair what is left of w under a debiased average, the union over the counts that there may have been."""
    found = [FALLEN] * len(lo)
    whole = np.flatnonzero(np.all(lo <= hi, axis=1))
    for count in counts if len(whole) else ():
        low, high = meet(*undo_debiasing(lo[whole], hi[whole], np.broadcast_to(count, lo[whole].shape)), axis=1)
        for i, one, two in zip(whole, low, high, strict=True):
            if one <= two:
                found[i] = min(found[i][0], float(one)), max(found[i][1], float(two))
    return found


@dataclass
class Rows:
    """The usable rows of several streams with equal requested weight; intervals are cached per question."""

    streams: Sequence[Stream]
    eps: float
    eps_error: float
    thorough: bool = True
    residuals: dict[Hypothesis, float] = field(default_factory=dict)
    picks: Sequence[Array] = ()  # per stream: the events whose one source is a regular batch
    cache: dict[float, tuple[Array, Array]] = field(default_factory=dict)
    known: dict[float, dict[Hypothesis, tuple[float, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.picks = [regular_rows(stream) for stream in self.streams]
        pairs = list(zip(self.streams, self.picks, strict=True))
        self.tables = [Table(stream, picked, self.eps, self.eps_error) for stream, picked in pairs]
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

    def standing(self, scale: float) -> list[Pair]:
        """(statistic, divisor) under which every row leaves some weight, whatever the averaging."""
        lo, hi = self.spans(scale)
        good = np.all(lo <= hi, axis=1) if lo.shape[1] else np.zeros(len(PAIRS), dtype=bool)
        return [pair for pair, stands in zip(PAIRS, good, strict=True) if stands]

    def intervals(self, statistic: str, divisor: str, scale: float) -> tuple[Array, Array]:
        """(lo, hi) of each row's effective weight, all channels and both buffers together, bounds times ``scale``."""
        lo, hi = self.all_spans(scale)
        place = PAIRS.index((statistic, divisor))
        return lo[place], hi[place]

    def spans(self, scale: float) -> tuple[Array, Array]:
        """The same for all PAIRS at once and for the fitted rows alone, (P, rows) each."""
        lo, hi = self.all_spans(scale)
        return lo[:, self.fitted], hi[:, self.fitted]

    def all_spans(self, scale: float) -> tuple[Array, Array]:
        if scale not in self.cache:
            found = [np.zeros((2, MEANS + VARS, 0)), *(table.spans(scale) for table in self.tables)]
            lo, hi = np.concatenate(found, axis=2)
            self.cache[scale] = (np.maximum(lo[MEAN_OF], lo[VAR_OF]), np.minimum(hi[MEAN_OF], hi[VAR_OF]))
        return self.cache[scale]

    def weight(self, hypothesis: Hypothesis, scale: float) -> tuple[float, float]:
        """(lo, hi) of the weight under a hypothesis; empty (lo > hi) when it falls. Cumulative: the whole line."""
        if scale not in self.known:
            self.known[scale] = self.weights(scale)
        return self.known[scale][hypothesis]

    def weights(self, scale: float) -> dict[Hypothesis, tuple[float, float]]:
        """``weight`` of all hypotheses at once."""
        lo, hi = self.spans(scale)
        wide = self.spans(scale * DEBIASED_ROUNDINGS)
        low, high = meet(lo, hi, axis=1)
        counts = [count[self.fitted] for count in self.counts]
        divided = self.divided(lo, hi, [*counts, self.counter[self.fitted]])
        debiased = debiased_spans(*wide, counts)
        found: dict[Hypothesis, tuple[float, float]] = {}
        whole = np.all(lo <= hi, axis=1)
        for i, (statistic, divisor) in enumerate(PAIRS):
            found[statistic, divisor, "exponential"] = (float(low[i]), float(high[i])) if whole[i] else FALLEN
            found[statistic, divisor, "cumulative"] = (-math.inf, math.inf) if divided[i] else FALLEN
            # With a weight that forgets nothing a debiased average is the cumulative one: the simpler word has it.
            kept = debiased[i][1] >= DEBIASED_LEAST
            found[statistic, divisor, "debiased"] = debiased[i] if kept else FALLEN
        return found

    def divided(self, lo: Array, hi: Array, counts: Sequence[Array]) -> Array:
        """(P,) bool: every row's weight may be one over one of these counts."""
        found = np.zeros(len(lo), dtype=bool)
        for count in counts:
            if np.all(count > 0):
                found |= np.all((lo <= 1.0 / count) & (1.0 / count <= hi), axis=1)
        return found

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
        w, step = target.copy(), np.zeros_like(target)
        for _ in range(14):
            rest = (1.0 - w) ** (count - 1.0)
            step = (w - target + target * rest * (1.0 - w)) / (1.0 - target * count * rest)
            w = w - step
        # Near the double root at t = 1/k the error halves each time: what is left is at most the last step.
        return w - 2.0 * np.abs(step), w

    first, (below, above) = count <= 1.0, solve(np.stack((lo, hi)))
    found_lo = np.where(first | (lo <= 1.0 / count), 0.0, below[0] * (1.0 - 1e-12))
    found_hi = np.where(first | (hi >= 1.0), 1.0, above[1] * (1.0 + 1e-12))
    return np.where(fails, np.inf, found_lo), np.where(fails, -np.inf, found_hi)


def moved(stream: Stream, regular_only: bool = False) -> Array:
    """(T,) bool: rows whose state after is not, bit for bit, the state before (finite on both sides)."""
    return stream.moved & (stream.least > 1) if regular_only else stream.moved


def horizon(stream: Stream) -> int:
    """Rows from here on are not used: a batch of fewer than two values per channel has moved the state."""
    hits = np.flatnonzero((stream.least >= 0) & (stream.least < 2) & stream.moved)
    return int(hits[0]) if hits.size else stream.events


def regular_rows(stream: Stream) -> Array:
    """Events with one source of at least two values per channel."""
    alone = np.array([len(own) == 1 for own in stream.sources], dtype=bool)
    return np.flatnonzero((alone & (stream.least > 1))[: horizon(stream)])


def update_counts(stream: Stream, moving: frozenset[str]) -> Array:
    """(T,) how many batches have gone into the average after each row, when these kinds of events move it."""
    own = [
        sum(stream.n[i] > 1 for i in sources) if kind in moving else 0
        for kind, sources in zip(stream.kinds, stream.sources, strict=True)
    ]
    return np.cumsum(np.array(own, dtype=np.float64)) if own else np.zeros(0)
