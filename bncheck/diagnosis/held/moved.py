"""Readings of statistics that stand in their place and are others: a start, a factor, another step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from bncheck.diagnosis.held.likeness import QUANTITIES, Pair
from bncheck.diagnosis.held.reading import (
    AFFINE,
    ONE_FACTOR,
    STATISTICS,
    Left,
    Reading,
    Sides,
    f64,
    joined,
    layers_in,
    places,
    same,
)
from bncheck.diagnosis.rules.holdings.start import at_start
from bncheck.diagnosis.rules.wording import number

MOSTLY = 0.3  # of a factor's distance from 1: channels are no further apart where it is one factor
SLIGHT = 1e-4  # of a standard deviation, or of a variance: no further apart than two runs of one training


def started(sides: Sides, pairs: Sequence[Pair], left: Left) -> Iterable[Reading]:
    """One side's statistics are those of a new layer, the other's are not."""
    for fresh, moved, pick in ((sides.b, sides.a, "b"), (sides.a, sides.b, "a")):
        chosen = [pair for pair in pairs if left[pair.name] & set(STATISTICS) and at_start(getattr(pair, pick))]
        if not chosen:
            continue
        words = (
            f"{fresh} is {moved} with its statistics at their start"
            if all_same(sides, chosen)
            else (f"{fresh} holds the statistics of a new model")
        )
        affine = (
            "gamma and beta are equal" if all(same(pair, AFFINE) for pair in chosen) else "gamma and beta differ too"
        )
        yield Reading(
            cause="stale-state",
            kind="hazard",
            title=f"{words}: running_mean is 0 and running_var 1 in {layers_in(pairs, chosen)}, where {moved} holds "
            f"statistics of data; {affine}.",
            advice="copy buffers with the parameters (torch: load_state_dict of the whole state_dict; "
            "AveragedModel(..., use_buffers=True)), or estimate them anew with torch.optim.swa_utils.update_bn",
            places=places(chosen, (*STATISTICS, "counter"), left),
            departs=fresh,
        )


def all_same(sides: Sides, chosen: Sequence[Pair]) -> bool:
    return all(same(pair, AFFINE) for pair in chosen) and (sides.others is None or not sides.others.different)


def factored(sides: Sides, pairs: Sequence[Pair], left: Left) -> Iterable[Reading]:
    """Variances that differ by one factor in all channels: n/(n − 1) where it is a whole n; roots and inverses."""
    groups: dict[str, list[tuple[Pair, float]]] = {}
    for pair in pairs:
        if "running_var" not in left[pair.name] or not same(pair, ["running_mean"]):
            continue
        kind, factor = factor_of(pair)
        if kind:
            groups.setdefault(kind, []).append((pair, factor))
    for kind, found in groups.items():
        chosen = [pair for pair, _ in found]
        if kind == "factor":
            yield divisor(sides, pairs, found, left)
            continue
        what = {"root": "the standard deviation", "inverse": "1/sqrt(variance + eps)", "square": "the square"}[kind]
        yield Reading(
            cause="wrong-statistic",
            kind="defect",
            title=f"{sides.b} stores {what} of what {sides.a} stores as running_var, in {layers_in(pairs, chosen)}.",
            advice="store the variance where a variance is read",
            places=places(chosen, ["running_var"], left),
            departs=sides.b,
        )


def factor_of(pair: Pair) -> tuple[str, float]:
    """("factor", b/a), ("root", 0), ("square", 0), ("inverse", 0), or ("", 0) where it is nothing of the kind."""
    a, b = f64(pair.a, "running_var"), f64(pair.b, "running_var")
    if a.size < 2 or (a <= 0).any() or (b <= 0).any():
        return "", 0.0
    ratio = b / a
    factor = float(np.median(ratio))
    # Of two runs of one training all channels are "1 times", and each of them by another amount.
    if np.abs(ratio / factor - 1).max() < min(ONE_FACTOR, MOSTLY * abs(factor - 1)):
        return "factor", factor
    eps = pair.a.eps or 0.0
    for kind, value in (("root", np.sqrt(a)), ("square", a * a), ("inverse", 1 / np.sqrt(a + eps))):
        slack = ONE_FACTOR if kind != "inverse" or pair.a.eps is not None else 1e-2
        if np.abs(b / value - 1).max() < slack:
            return kind, 0.0
    return "", 0.0


def divisor(sides: Sides, pairs: Sequence[Pair], found: Sequence[tuple[Pair, float]], left: Left) -> Reading:
    factors = [factor for _, factor in found]
    n = [count_of(factor) for factor in factors]
    whole = all(count is not None for count in n)
    larger, smaller = (sides.b, sides.a) if factors[0] > 1 else (sides.a, sides.b)
    chosen = [pair for pair, _ in found]
    if whole and len({factor > 1 for factor in factors}) == 1:
        counts = sorted({count for count in n if count is not None})
        shown = str(counts[0]) if len(counts) == 1 else f"{counts[0]} … {counts[-1]}"
        return Reading(
            cause="variance-divisor",
            kind="convention" if sides.framework_a != sides.framework_b else "hazard",
            title=f"running_var of {larger} is n/(n − 1) times that of {smaller}, with n = {shown}, in "
            f"{layers_in(pairs, chosen)}: one divided by n − 1, the other by n.",
            advice=f"multiply {smaller}'s running_var by n/(n − 1), or {larger}'s by (n − 1)/n",
            places=places(chosen, ["running_var"], left),
            evidence={"factor": max(factors, key=lambda value: abs(value - 1)), "n": counts[0]},
        )
    low, high = min(factors), max(factors)
    shown = number(low) if high / low - 1 < ONE_FACTOR else f"{number(low)} … {number(high)}"
    return Reading(
        cause="unexplained",
        kind="unexplained",
        title=f"running_var of {sides.b} is {shown} times that of {sides.a}, the same factor in every channel of a "
        f"layer, in {layers_in(pairs, chosen)}; the means are equal.",
        advice="look for a scale that one side applies to its input or to its variance",
        places=places(chosen, ["running_var"], left),
        evidence={"factor": factors[0]},
    )


def count_of(factor: float) -> int | None:
    """The whole n of n/(n − 1); None where the factor is that of no whole n that can be told."""
    ratio = max(factor, 1 / factor)
    if ratio - 1 < 1e-6:
        return None
    n = ratio / (ratio - 1)
    slack = max(0.01, 1e-6 * n * n)
    return round(n) if n > 1.5 and slack < 0.3 * n and abs(n - round(n)) <= slack else None


def earlier(sides: Sides, pairs: Sequence[Pair], left: Left) -> Iterable[Reading]:
    """Equal gamma and beta, other statistics: those of another step where counters say so."""
    chosen = [pair for pair in pairs if left[pair.name] & set(STATISTICS) and same(pair, AFFINE) and has_affine(pair)]
    if not chosen:
        return
    counts = [(pair.a.counter, pair.b.counter) for pair in chosen]
    before = {b < a for a, b in counts if a is not None and b is not None and a != b}
    if len(before) == 1:
        low, high = (sides.b, sides.a) if before == {True} else (sides.a, sides.b)
        a, b = next((a, b) for a, b in counts if a is not None and b is not None and a != b)
        if sides.others is not None and sides.others.different:
            yield trained_on(pairs, chosen, left, (low, high), (min(a, b), max(a, b)))
            return
        title = (
            f"{low} holds the statistics of an earlier step than {high}: its counter is {number(min(a, b))}, that of "
            f"{high} {number(max(a, b))}; gamma and beta are equal, in {layers_in(pairs, chosen)}."
        )
        departs = low
    else:
        title = (
            f"gamma and beta are equal, only the statistics differ, in {layers_in(pairs, chosen)}: {apart(chosen)}. "
            f"That alone does not tell why. {REASONS[slight(chosen)]}"
        )
        departs = ""
    yield Reading(
        cause="stale-state",
        kind="hazard",
        title=title,
        advice="copy buffers with the parameters (torch: AveragedModel(..., use_buffers=True); timm's ModelEmaV3 does)",
        places=places(chosen, (*STATISTICS, "counter"), left),
        departs=departs,
    )


# Whether statistics lie hardly apart → what usually brings that about.
REASONS = {
    False: "Usual reasons: an average or a copy took the parameters without the buffers; the statistics were estimated "
    "anew; gamma and beta were frozen while training went on.",
    True: "It is no more than rounding makes between two runs of one training, or of one estimate.",
}


def slight(chosen: Sequence[Pair]) -> bool:
    """Whether all statistics are apart by so little that what rounds otherwise in training may be all of it."""
    return all(
        bool((np.abs(f64(pair.b, "running_mean") - f64(pair.a, "running_mean")) <= SLIGHT * np.sqrt(size)).all())
        and bool((np.abs(f64(pair.b, "running_var") - f64(pair.a, "running_var")) <= SLIGHT * size).all())
        for pair in chosen
        for size in [np.maximum(f64(pair.a, "running_var"), 0.0)]
        if f64(pair.a, "running_mean").shape == f64(pair.b, "running_mean").shape == size.shape
    )


def trained_on(
    pairs: Sequence[Pair], chosen: Sequence[Pair], left: Left, names: tuple[str, str], counts: tuple[float, float]
) -> Reading:
    """Other weights have moved too, and an average of them would have other gammas: these were held still."""
    low, high = names
    return Reading(
        cause="mode-leak",
        kind="hazard",
        title=f"Between {low} and {high} the running statistics moved (counter {number(counts[0])} to "
        f"{number(counts[1])}) while gamma and beta stood still, in {layers_in(pairs, chosen)}: {apart(chosen)}. "
        "requires_grad = False holds gamma and beta alone.",
        advice="if these layers were to be frozen, call eval() on them after each model.train()",
        places=places(chosen, (*STATISTICS, "counter"), left),
        evidence={"counter before": counts[0], "counter after": counts[1]},
    )


def has_affine(pair: Pair) -> bool:
    """Whether gamma or beta were trained: those of a new layer are equal in every model."""
    gamma, beta = f64(pair.a, "gamma"), f64(pair.a, "beta")
    return bool((gamma != 1).any() or (beta != 0).any())


def apart(chosen: Sequence[Pair]) -> str:
    """How far statistics lie from each other, in words: means in standard deviations, variances as factors."""
    shift, low, high, zeros, negative = 0.0, np.inf, 0.0, 0, False
    for pair in chosen:
        mean_a, mean_b = f64(pair.a, "running_mean"), f64(pair.b, "running_mean")
        var_a, var_b = f64(pair.a, "running_var"), f64(pair.b, "running_var")
        zeros += int((((var_a == 0) & (var_b > 0)) | ((var_a > 0) & (var_b == 0))).sum())
        negative = negative or bool((np.minimum(var_a, var_b) < 0).any())
        good = (var_a > 0) & (var_b > 0)
        if good.any():
            ratio = var_b[good] / var_a[good]
            low, high = min(low, float(ratio.min())), max(high, float(ratio.max()))
        if (var_a > 0).any():
            shift = max(shift, float((np.abs(mean_b - mean_a)[var_a > 0] / np.sqrt(var_a[var_a > 0])).max()))
    if not high:
        return "no variance can be compared"
    alone = f", in {zeros} channel{'s' if zeros > 1 else ''} a variance of 0 on one side alone" if zeros else ""
    others = "the other variances" if zeros or negative else "variances"
    return f"{means_apart(shift)}{alone}, {others} {times(low, high)}"


def means_apart(shift: float) -> str:
    return f"means up to {shift:.2g} standard deviations apart" if shift else "means equal"


def times(low: float, high: float) -> str:
    """Factors in words: "1 … 2 times"."""
    if low == high == 1:
        return "equal"
    first, last = f"{low:.3g}", f"{high:.3g}"
    if first == last == "1":
        return f"up to {max(1 - low, high - 1):.1g} of their size apart"
    return f"{first} … {last} times" if first != last else f"{first} times"


def counters(sides: Sides, pairs: Sequence[Pair], left: Left) -> Iterable[Reading]:
    """Counters beside statistics that are equal."""
    chosen = [pair for pair in pairs if left[pair.name] == {"counter"}]
    if chosen:
        a, b = chosen[0].a.counter, chosen[0].b.counter
        yield Reading(
            cause="counter-skew",
            kind="hazard",
            title=f"The counter is {number(a)} in {sides.a} and {number(b)} in {sides.b}, beside equal statistics, in "
            f"{layers_in(pairs, chosen)}.",
            advice="it matters where momentum is None (a cumulative average), and to nothing else",
            places=places(chosen, ["counter"], left),
        )


def another_step(sides: Sides, pairs: Sequence[Pair], left: Left) -> Iterable[Reading]:
    """Statistics differ, and counters say whose had more updates. That of an average which left the statistics behind
    (EMA of a model that was trained before) is as much lower as that of an earlier checkpoint: two files do not tell.
    """
    chosen = [pair for pair in pairs if left[pair.name] & set(STATISTICS)]
    counted = [(pair.a.counter, pair.b.counter) for pair in chosen]
    order = {b > a for a, b in counted if a is not None and b is not None and a != b}
    if not chosen or len(order) != 1:
        return
    late, early = (sides.b, sides.a) if order == {True} else (sides.a, sides.b)
    first = next(pair for pair in chosen if pair.a.counter != pair.b.counter)
    counts = sorted((first.a.counter or 0.0, first.b.counter or 0.0))
    differ = "the statistics differ" if all(same(pair, AFFINE) for pair in chosen) else "weights and statistics differ"
    yield Reading(
        cause="stale-state",
        kind="hazard",
        title=f"{early} holds statistics of fewer updates than {late}: the counter is {number(counts[0])} against "
        f"{number(counts[1])}, and {differ} in {layers_in(pairs, chosen)} ({apart(chosen)}). It is an earlier "
        "checkpoint, or an average of weights (EMA, SWA) that left the statistics behind.",
        advice=f"load {late} if it is the newer model that you mean; of an average, average the statistics along "
        "(torch: AveragedModel(..., use_buffers=True)) or estimate them anew (update_bn)",
        places=places(chosen, (*STATISTICS, *AFFINE, "counter"), left),
        evidence={"counter before": counts[0], "counter after": counts[1]},
    )


def kept(sides: Sides, pairs: Sequence[Pair], left: Left) -> Iterable[Reading]:
    """Other weights beside statistics that are equal to the bit, in every layer: they were not estimated for these."""
    chosen = [pair for pair in pairs if left[pair.name]]
    if not chosen or not all(left[pair.name] <= {*AFFINE, "counter"} and same(pair, STATISTICS) for pair in chosen):
        return
    if not all(learned(pair) for pair in chosen) or sides.others is None or not sides.others.different:
        return
    yield Reading(
        cause="stale-state",
        kind="hazard",
        title=f"{sides.b} holds the running statistics of {sides.a}, equal to the bit, beside other weights: gamma and "
        f"beta differ in {layers_in(pairs, chosen)}, and {len(sides.others.different)} of {sides.others.total} other "
        "tensors. They were not estimated for these weights.",
        advice="if these are averaged weights (EMA, SWA), estimate them anew: torch.optim.swa_utils.update_bn(loader, "
        "model); if BatchNorm stood in eval mode while the rest was trained, nothing",
        places=places(chosen, (*AFFINE, "counter"), left),
    )


def learned(pair: Pair) -> bool:
    """Whether both hold statistics of data."""
    return all(held.running_mean is not None and not at_start(held) for held in (pair.a, pair.b))


def rest(sides: Sides, pairs: Sequence[Pair], left: Left) -> Iterable[Reading]:
    """What is left: where it is, and how large."""
    chosen = [pair for pair in pairs if left[pair.name]]
    if not chosen:
        return
    quantities = [what for what in (*QUANTITIES, "counter") if any(what in left[pair.name] for pair in chosen)]
    sizes = {what: max(pair.quantities[what].size for pair in chosen if what in left[pair.name]) for what in quantities}
    largest = max(quantities, key=lambda what: sizes[what])
    statistics = f" ({apart(chosen)})" if set(quantities) & set(STATISTICS) else ""
    others = ""
    if sides.others is not None and sides.others.different:
        others = f" {len(sides.others.different)} of {sides.others.total} other tensors differ too."
    yield Reading(
        cause="unexplained",
        kind="unexplained",
        title=f"{joined(quantities)} {'differs' if len(quantities) == 1 else 'differ'} in {layers_in(pairs, chosen)}"
        f"{statistics}; nothing that bncheck knows explains it.{others}",
        advice="name two files of one training; bncheck diff compares what they hold, not what they compute",
        places=places(chosen, quantities, left),
        evidence={f"largest difference in {largest}": sizes[largest]},
    )
