"""What the running statistics average and when they move: statistic, divisor, averaging, weight, event.

A hypothesis is a triple (statistic, divisor, averaging). Under it each event has one effective weight A in
s' = s + A·(u - s): constant for an exponential average, 1/k at update k for a cumulative one and
W / (1 - (1 - W)^k) for a zero-debiased one. Rows give intervals for A (interval.py); a hypothesis stands while
they meet. A facet is identifiable when one of its values stands within the rounding bound and every hypothesis with
another value falls even at twice the bound, which is as far as two values can be apart that are each within one.

k updates of weight w in one event equal one of 1 - (1 - w)^k, also in the two other averages, so the
weight found here is the one *per event*; counting.py splits it where a counter tells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bncheck.convention import Facet
from bncheck.diagnosis.fit.interval import known, number
from bncheck.diagnosis.fit.phase import measure_phase, moving_kinds, smallest_weight
from bncheck.diagnosis.fit.rows import AVERAGINGS, DIVISORS, HYPOTHESES, MARGIN, STATISTICS, Hypothesis, Rows
from bncheck.diagnosis.fit.stream import Stream


@dataclass(frozen=True)
class Averages:
    """Facets found, the best standing hypothesis, and the weight per event as an interval."""

    facets: Mapping[str, Facet]
    best: Hypothesis | None
    weight: tuple[float, float]
    smallest: float  # effective weight below which no unseen update can have been
    rows: Rows
    kinds: Mapping[str, bool]  # event → whether it moves the statistics, where that was seen


def measure_average(streams: Sequence[Stream], eps: float, eps_error: float, thorough: bool = True) -> Averages:
    """update_on, update_without_grad, statistic, variance_divisor, averaging, batch_weight (per event).

    Residuals and runners-up, for people to read, are left out unless ``thorough``.
    """
    rows = Rows(streams=streams, eps=eps, eps_error=eps_error, thorough=thorough)
    facets: dict[str, Facet] = {}
    standing = rows.standing(MARGIN)
    shown = moving_kinds(rows, standing)
    rows.doubt({k for s in streams for k, own in zip(s.kinds, s.sources, strict=True) if own} - shown.keys())
    remain = [h for h in HYPOTHESES if fits(rows.weight(h, MARGIN))] if rows.fitted.any() else []
    stands = [h for h in remain if fits(rows.weight(h, 1.0))]
    remain = remain if stands else []
    # Within rounding all that stand are equal; the list starts with the usual rules.
    best = (min(stands, key=rows.residual) if thorough else stands[0]) if stands else None
    why = absence(rows, stands)
    for place, name, values in (
        (0, "statistic", STATISTICS),
        (1, "variance_divisor", DIVISORS),
        (2, "averaging", AVERAGINGS),
    ):
        facets[name] = choose(rows, best, remain, place, values, why)
    lo, hi = weight_span(rows, remain)
    facets["batch_weight"] = weight_facet(rows, best, remain, (lo, hi), why)
    pairs = list(dict.fromkeys((h[0], h[1]) for h in remain))
    smallest = smallest_weight(rows, pairs)
    kinds = shown if pairs == standing else moving_kinds(rows, pairs)
    facets.update(measure_phase(rows, kinds))
    return Averages(facets=facets, best=best, weight=(lo, hi), smallest=smallest, rows=rows, kinds=kinds)


def fits(interval: tuple[float, float]) -> bool:
    """Whether an interval is not empty and allows a weight in (0, 1]."""
    lo, hi = interval
    return lo <= hi and hi > 0.0 and lo <= 1.0 + 1e-6


def absence(rows: Rows, stands: Sequence[Hypothesis]) -> str:
    if not len(rows.kinds):
        return "no event with a batch of two or more values per channel was recorded"
    if not rows.fitted.any():
        return "the running statistics never moved on a single regular batch"
    if not stands:
        return "no rule known here reproduces the measured steps within rounding"
    return ""


def choose(
    rows: Rows,
    best: Hypothesis | None,
    remain: Sequence[Hypothesis],
    place: int,
    values: Sequence[str],
    why: str,
) -> Facet:
    """One facet of the hypothesis: its value if every hypothesis with another value has fallen."""
    if best is None:
        return Facet(None, identifiable=False, reason=why)
    rivals = [h for h in HYPOTHESES if h[place] != best[place] and all(h[i] == best[i] for i in range(3) if i != place)]
    scored = sorted((rows.residual(h), h[place]) for h in rivals)
    runner_residual, runner = scored[0] if scored else (math.nan, "")
    others = sorted({h[place] for h in remain} - {best[place]}, key=values.index)
    if others:
        also = " and ".join([best[place], *others])
        return Facet(
            value=None,
            identifiable=False,
            residual=rows.residual(best),
            runner_up=others[0],
            runner_up_residual=runner_residual,
            reason=f"{also} fit these steps equally well",
            standing=(best[place], *others),
        )
    return Facet(
        value=best[place],
        identifiable=True,
        residual=rows.residual(best),
        runner_up=runner,
        runner_up_residual=runner_residual,
    )


def weight_span(rows: Rows, remain: Sequence[Hypothesis]) -> tuple[float, float]:
    """The union of what all standing hypotheses that have a weight say it is."""
    spans = [rows.weight(h, MARGIN) for h in remain if h[2] != "cumulative"]
    if not spans:
        return math.inf, -math.inf
    return max(0.0, min(lo for lo, _ in spans)), min(1.0, max(hi for _, hi in spans))


def weight_facet(
    rows: Rows, best: Hypothesis | None, remain: Sequence[Hypothesis], span: tuple[float, float], why: str
) -> Facet:
    if best is None:
        return Facet(None, identifiable=False, reason=why)
    if all(h[2] == "cumulative" for h in remain):
        return Facet(None, identifiable=False, reason="a cumulative average has no weight")
    if any(h[2] == "cumulative" for h in remain) or not known(*span):
        open_ = span if span[0] <= span[1] else ()
        return Facet(None, False, rows.residual(best), reason="the steps leave the weight open", standing=open_)
    return number(*span, rows.residual(best), rows.streams[0].layer.batch_weight)
