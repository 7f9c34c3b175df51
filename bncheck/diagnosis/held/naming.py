"""What the differences of two holdings mean. Each reading explains some quantities of some layers and takes them away;
what none explains is said last, as unexplained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bncheck.diagnosis.held.likeness import QUANTITIES, Pair, alike, array, dtype_of
from bncheck.diagnosis.held.matching import Matching
from bncheck.diagnosis.rules import load_rules
from bncheck.diagnosis.rules.holdings.start import at_start
from bncheck.diagnosis.rules.holdings.words import listed
from bncheck.diagnosis.rules.wording import number
from bncheck.finding import Finding, Kind
from bncheck.life import Held
from bncheck.trace import Array, Place

STATISTICS = ("running_mean", "running_var")
AFFINE = ("gamma", "beta")
# A factor is one factor where the channels' own ones are no further apart than this.
ONE_FACTOR = 1e-4
# Frameworks whose momentum is the weight of the new batch; elsewhere it is that of the old average.
NEW_BATCH = ("torch", "mlx")


@dataclass(frozen=True)
class Sides:
    """What is compared: ``a`` and ``b`` as sentences call them, and their frameworks. ``others`` counts tensors that
    belong to no normaliser: (the same on both sides, different); None where they were not looked at."""

    a: str
    b: str
    framework_a: str = ""
    framework_b: str = ""
    others: tuple[int, int] | None = None
    scenario: str = "diff"
    case: str = ""


@dataclass(frozen=True)
class Reading:
    """One cause: its sentence, and the (layer, quantity) that it explains. ``departs`` is the side at fault."""

    cause: str
    kind: Kind
    title: str
    advice: str
    places: tuple[Place, ...]
    departs: str = ""
    evidence: Mapping[str, float | int | str] = field(default_factory=dict)


Left = dict[str, set[str]]  # layer of a → quantities that differ and are not explained yet
Reader = Callable[[Sides, Sequence[Pair], Left], Iterable[Reading]]


def name_differences(sides: Sides, pairs: Sequence[Pair], matching: Matching) -> list[Finding]:
    """Findings about all that differs, in the order of what explains more."""
    left = {pair.name: set(pair.differing()) for pair in pairs}
    found: list[Reading] = list(alone(sides, matching))
    for reader in READERS:
        for reading in reader(sides, [pair for pair in pairs if left[pair.name]], left):
            found.append(reading)
            for layer, quantity in reading.places:
                left.get(layer, set()).discard(quantity)
    found += settings(sides, pairs)
    found += roundings(sides, pairs)
    return [finding_of(sides, reading) for reading in found]


def finding_of(sides: Sides, reading: Reading) -> Finding:
    layer, quantity = reading.places[0] if reading.places else ("", "")
    return Finding(
        code=next(rule.code for rule in load_rules() if rule.cause == reading.cause),
        cause=reading.cause,
        kind=reading.kind,
        title=reading.title,
        targets=(sides.a, sides.b),
        sides=((sides.a,), (sides.b,)),
        scenario=sides.scenario,
        case=sides.case,
        layer=layer,
        quantity=quantity,
        departs=reading.departs,
        departs_from="itself" if reading.departs else "",
        evidence=reading.evidence,
        advice=reading.advice,
        accounts=reading.places[1:],
    )


# ------------------------------------------------------------------------------------------------------- words


def layers_in(pairs: Sequence[Pair], chosen: Sequence[Pair]) -> str:
    """ "bn1", "all 20 layers", "3 of 20 layers (bn1, bn2 and bn3)"."""
    names = [pair.name for pair in chosen]
    if len(names) == 1:
        return f"layer {names[0]}" if names[0][:1].isdigit() else names[0]
    return f"{len(names)} layers ({listed(names)})" if len(names) > 1 else ""


def joined(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def places(chosen: Sequence[Pair], quantities: Sequence[str], left: Left) -> tuple[Place, ...]:
    return tuple((pair.name, what) for pair in chosen for what in quantities if what in left[pair.name])


def same(pair: Pair, quantities: Sequence[str]) -> bool:
    return all(pair.quantities[what].same for what in quantities if what in pair.quantities)


def f64(held: Held, what: str) -> Array:
    value = array(held, what)
    return np.zeros(0) if value is None else value.astype(np.float64)


# ----------------------------------------------------------------------------------------------------- readings


def alone(sides: Sides, matching: Matching) -> Iterable[Reading]:
    """Layers that one side alone has."""
    for mine, theirs, layers in ((sides.a, sides.b, matching.only_a), (sides.b, sides.a, matching.only_b)):
        if layers:
            names = [layer.layer for layer in layers]
            count = f"{len(names)} BatchNorm layers" if len(names) > 1 else "a BatchNorm layer"
            yield Reading(
                cause="state-mismatch",
                kind="hazard",
                title=f"{mine} has {count} that {theirs} does not have ({listed(names)}).",
                advice=f"compare two files of one model; load {theirs} with strict=True to see what it lacks",
                places=tuple((name, "") for name in names),
            )


def nonfinite(sides: Sides, pairs: Sequence[Pair], left: Left) -> Iterable[Reading]:
    """NaN agrees with nothing, NaN on the other side included."""
    groups: dict[tuple[bool, bool], list[Place]] = {}
    for pair in pairs:
        for what in sorted(left[pair.name]):
            if pair.quantities[what].word == "nonfinite":
                bad = tuple(not np.isfinite(f64(held, what)).all() for held in (pair.a, pair.b))
                groups.setdefault((bad[0], bad[1]), []).append((pair.name, what))
    for (in_a, in_b), found in groups.items():
        who = "Both hold" if in_a and in_b else f"{sides.a if in_a else sides.b} holds"
        other = "" if in_a and in_b else f", where {sides.b if in_a else sides.a} holds numbers"
        layers = listed(list(dict.fromkeys(layer for layer, _ in found)))
        yield Reading(
            cause="poisoned-state",
            kind="defect",
            title=f"{who} NaN or Inf in {found[0][1]} of {layers}{other}.",
            advice="go back to a checkpoint without NaN; find where it was born with: bncheck watch -- COMMAND",
            places=tuple(found),
            departs="" if in_a and in_b else sides.a if in_a else sides.b,
        )


def misshaped(sides: Sides, pairs: Sequence[Pair], left: Left) -> Iterable[Reading]:
    for word, verb in (("width", "has another number of channels"), ("missing", "")):
        by_side: dict[tuple[str, ...], list[Place]] = {}
        for pair in pairs:
            for what in [*QUANTITIES, "counter"]:
                if what in left[pair.name] and pair.quantities[what].word == word:
                    by_side.setdefault((what, pair.quantities[what].detail), []).append((pair.name, what))
        for (what, side), found in by_side.items():
            layers = listed([layer for layer, _ in found])
            lacking = sides.a if side == "a" else sides.b
            title = f"{what} {verb} in {layers}." if verb else f"{lacking} has no {what} in {layers}."
            yield Reading(
                cause="state-mismatch",
                kind="defect",
                title=title,
                advice="build both models with the same parts (torch: affine, track_running_stats; Keras: scale, center)",
                places=tuple(found),
            )


def swapped(sides: Sides, pairs: Sequence[Pair], left: Left) -> Iterable[Reading]:
    """Quantities of a layer that stand in each other's places: a port that read arrays in another order."""
    groups: dict[tuple[tuple[str, str], ...], list[Pair]] = {}
    for pair in pairs:
        moves = tuple(
            (what, source)
            for what in QUANTITIES
            if what in left[pair.name] and (source := source_of(pair, what)) is not None
        )
        if moves:
            groups.setdefault(moves, []).append(pair)
    for moves, chosen in groups.items():
        both = len(moves) == 2 and moves[0] == moves[1][::-1]
        said = (
            f"{moves[0][0]} and {moves[0][1]} are swapped"
            if both
            else joined([f"{what} holds what {sides.a} has as {source}" for what, source in moves])
        )
        yield Reading(
            cause="state-mismatch",
            kind="defect",
            title=f"In {sides.b} {said}, in {layers_in(pairs, chosen)}.",
            advice="read the arrays by name, not by order (Keras: gamma, beta, moving_mean, moving_variance)",
            places=places(chosen, [what for what, _ in moves], left),
            departs=sides.b,
        )


def source_of(pair: Pair, what: str) -> str | None:
    """Which other quantity of a it is that b holds here; None for one that is the same in every channel."""
    mine = array(pair.b, what)
    if mine is None or len(np.unique(mine)) < 2:
        return None
    for other in QUANTITIES:
        theirs = array(pair.a, other)
        if other != what and theirs is not None:
            if alike(theirs, mine, dtype_of(pair.a, other), dtype_of(pair.b, what)).same:
                return other
    return None


def shifted(sides: Sides, pairs: Sequence[Pair], left: Left) -> Iterable[Reading]:
    """Layers that hold what another layer of the other side holds."""
    moved: list[tuple[Pair, Pair, list[str]]] = []
    for pair in pairs:
        for other in pairs:
            if other is pair:
                continue
            equal = [what for what in QUANTITIES if what in left[pair.name] and holds(pair.b, other.a, what)]
            if set(STATISTICS) & set(equal):
                moved.append((pair, other, equal))
                break
    if moved:
        words = [f"{pair.b.layer} holds {other.a.layer}'s" for pair, other, _ in moved[:3]]
        more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
        yield Reading(
            cause="state-mismatch",
            kind="defect",
            title=f"Layers of {sides.b} hold what other layers of {sides.a} hold: {joined(words)}{more}.",
            advice="match layers by their place in the network, not by the order of the names",
            places=tuple((pair.name, what) for pair, _, equal in moved for what in equal),
            departs=sides.b,
        )


def holds(mine: Held, theirs: Held, what: str) -> bool:
    one, two = array(mine, what), array(theirs, what)
    if one is None or two is None or one.shape != two.shape or len(np.unique(one)) < 2:
        return False
    return alike(one, two, dtype_of(mine, what), dtype_of(theirs, what)).same


def started(sides: Sides, pairs: Sequence[Pair], left: Left) -> Iterable[Reading]:
    """One side's statistics are those of a new layer, the other's are not."""
    for fresh, moved, pick in ((sides.b, sides.a, "b"), (sides.a, sides.b, "a")):
        chosen = [pair for pair in pairs if left[pair.name] & set(STATISTICS) and at_start(getattr(pair, pick))]
        if not chosen:
            continue
        words = f"{fresh} is {moved} with its statistics at their start" if all_same(sides, chosen) else (
            f"{fresh} holds the statistics of a new model"
        )  # fmt: skip
        affine = "gamma and beta are equal" if all(same(pair, AFFINE) for pair in chosen) else "gamma and beta differ too"
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
    return all(same(pair, AFFINE) for pair in chosen) and (sides.others is None or sides.others[1] == 0)


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
    if np.abs(ratio / factor - 1).max() < ONE_FACTOR:
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
    chosen = [
        pair for pair in pairs if left[pair.name] & set(STATISTICS) and same(pair, AFFINE) and has_affine(pair)
    ]
    if not chosen:
        return
    counts = [(pair.a.counter, pair.b.counter) for pair in chosen]
    before = {b < a for a, b in counts if a is not None and b is not None and a != b}
    if len(before) == 1:
        low, high = (sides.b, sides.a) if before == {True} else (sides.a, sides.b)
        a, b = next((a, b) for a, b in counts if a is not None and b is not None and a != b)
        title = (
            f"{low} holds the statistics of an earlier step than {high}: its counter is {number(min(a, b))}, that of "
            f"{high} {number(max(a, b))}; gamma and beta are equal, in {layers_in(pairs, chosen)}."
        )
        departs = low
    else:
        title = (
            f"gamma and beta are equal, only the statistics differ, in {layers_in(pairs, chosen)}: {apart(chosen)}. "
            f"Buffers were not copied with the parameters (an averaged model), or were estimated anew."
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


def has_affine(pair: Pair) -> bool:
    """Whether gamma or beta were trained: those of a new layer are equal in every model."""
    gamma, beta = f64(pair.a, "gamma"), f64(pair.a, "beta")
    return bool((gamma != 1).any() or (beta != 0).any())


def apart(chosen: Sequence[Pair]) -> str:
    """How far statistics lie from each other, in words: means in standard deviations, variances as factors."""
    shift, low, high = 0.0, np.inf, 0.0
    for pair in chosen:
        mean_a, mean_b = f64(pair.a, "running_mean"), f64(pair.b, "running_mean")
        var_a, var_b = f64(pair.a, "running_var"), f64(pair.b, "running_var")
        good = (var_a > 0) & (var_b > 0)
        if good.any():
            ratio = var_b[good] / var_a[good]
            low, high = min(low, float(ratio.min())), max(high, float(ratio.max()))
            shift = max(shift, float((np.abs(mean_b - mean_a)[good] / np.sqrt(var_a[good])).max()))
    if not high:
        return "no variance can be compared"
    return f"means up to {shift:.2g} standard deviations apart, variances {low:.3g} … {high:.3g} times"


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
    """Weights and statistics differ, and counters say in which order the two were saved."""
    chosen = [pair for pair in pairs if left[pair.name] & set(STATISTICS)]
    order = {pair.b.counter > pair.a.counter for pair in chosen if pair.a.counter is not None and pair.b.counter is not None and pair.a.counter != pair.b.counter}  # fmt: skip
    if not chosen or len(order) != 1:
        return
    late, early = (sides.b, sides.a) if order == {True} else (sides.a, sides.b)
    first = next(pair for pair in chosen if pair.a.counter != pair.b.counter)
    counts = sorted((first.a.counter or 0.0, first.b.counter or 0.0))
    yield Reading(
        cause="stale-state",
        kind="hazard",
        title=f"{early} is of an earlier step than {late}: the counter is {number(counts[0])} against "
        f"{number(counts[1])}, and weights and statistics differ in {layers_in(pairs, chosen)} ({apart(chosen)}).",
        advice=f"load {late} if it is the newer model that you mean",
        places=places(chosen, (*STATISTICS, *AFFINE, "counter"), left),
        evidence={"counter before": counts[0], "counter after": counts[1]},
    )


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
    if sides.others is not None and sides.others[1]:
        others = f" {sides.others[1]} of {sum(sides.others)} other tensors differ too: these are weights of another training."
    yield Reading(
        cause="unexplained",
        kind="unexplained",
        title=f"{joined(quantities)} {'differs' if len(quantities) == 1 else 'differ'} in {layers_in(pairs, chosen)}"
        f"{statistics}; nothing that bncheck knows explains it.{others}",
        advice="name two files of one training; bncheck diff compares what they hold, not what they compute",
        places=places(chosen, quantities, left),
        evidence={f"largest difference in {largest}": sizes[largest]},
    )


READERS: tuple[Reader, ...] = (
    nonfinite,
    misshaped,
    swapped,
    shifted,
    started,
    factored,
    earlier,
    counters,
    another_step,
    rest,
)


# ----------------------------------------------------------------------------------------- settings and roundings


def settings(sides: Sides, pairs: Sequence[Pair]) -> Iterable[Reading]:
    """eps and the weight of a new batch, where both files say them."""
    groups: dict[tuple[float, float], list[Pair]] = {}
    weights: dict[tuple[float, float], list[Pair]] = {}
    for pair in pairs:
        one, two = pair.a.eps, pair.b.eps
        if one is not None and two is not None and abs(one - two) > 1e-6 * max(abs(one), abs(two)):
            groups.setdefault((one, two), []).append(pair)
        new = new_batch(pair.a.momentum, sides.framework_a), new_batch(pair.b.momentum, sides.framework_b)
        if new[0] is not None and new[1] is not None and abs(new[0] - new[1]) > 1e-6:
            weights.setdefault((new[0], new[1]), []).append(pair)
    kind: Kind = "convention" if sides.framework_a != sides.framework_b else "hazard"
    for (one, two), chosen in groups.items():
        gain = max(gain_of(pair, one, two) for pair in chosen)
        yield Reading(
            cause="eps",
            kind=kind,
            title=f"eps is {one:g} in {sides.a} and {two:g} in {sides.b}, in {layers_in(pairs, chosen)}: it changes a "
            f"channel's gain by up to {100 * gain:.2g} %.",
            advice="build both with one eps (PyTorch's default is 1e-5, that of Keras 1e-3)",
            places=tuple((pair.name, "eps") for pair in chosen),
            evidence={"largest change of gain": gain},
        )
    for (one, two), chosen in weights.items():
        own = f"momentum {number(chosen[0].a.momentum)} and {number(chosen[0].b.momentum)}"
        yield Reading(
            cause="batch-weight",
            kind=kind,
            title=f"A new batch weighs {number(one)} in {sides.a} and {number(two)} in {sides.b} ({own} in their own "
            f"words), in {layers_in(pairs, chosen)}; eval is the same until they are trained on.",
            advice="PyTorch's momentum 0.1 is 0.9 in Keras, Paddle, MXNet, Flax and ONNX",
            places=tuple((pair.name, "momentum") for pair in chosen),
        )


def new_batch(momentum: float | None, framework: str) -> float | None:
    if momentum is None or not framework:
        return None
    return momentum if framework in NEW_BATCH else 1 - momentum


def gain_of(pair: Pair, one: float, two: float) -> float:
    var = f64(pair.a, "running_var")
    good = var[(var + one > 0) & (var + two > 0)]
    return float(np.abs(np.sqrt((good + one) / (good + two)) - 1).max(initial=0.0))


def roundings(sides: Sides, pairs: Sequence[Pair]) -> Iterable[Reading]:
    """What differs by rounding alone, by the type that rounded it."""
    groups: dict[str, list[Place]] = {}
    for pair in pairs:
        for what, found in pair.quantities.items():
            if found.word in ("rounding", "narrowed"):
                groups.setdefault(found.detail, []).append((pair.name, what))
    for dtype, found in groups.items():
        layers = list(dict.fromkeys(layer for layer, _ in found))
        quantities = list(dict.fromkeys(what for _, what in found))
        how = f"equal to the bit in {dtype}" if dtype else "equal up to rounding"
        yield Reading(
            cause="reduced-precision" if dtype else "rounding",
            kind="rounding",
            title=f"{joined(quantities)} are {how}, in {listed(layers)}."
            if len(quantities) > 1
            else f"{quantities[0]} is {how}, in {listed(layers)}.",
            advice="",
            places=tuple(found),
        )
