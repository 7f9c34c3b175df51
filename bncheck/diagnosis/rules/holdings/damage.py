"""Values that a normalising layer must not hold: NaN, Inf, variances below zero, variances of zero throughout."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bncheck.diagnosis.rules.holdings.words import BETA, GAMMA, MEAN, VAR, Said, anew, dtype_of, flat, statistics, word
from bncheck.diagnosis.rules.layer_names import listed, of_all, verb
from bncheck.diagnosis.rules.wording import channels, number
from bncheck.finding import GAIN, LOWEST, NAN_IN, NONFINITE
from bncheck.life import Held, Holding
from bncheck.trace import Array

USUAL_EPS = 1e-5
STEPS = 8.0  # standard deviations within one step of a floating-point number
LOUD = 10.0  # a layer that multiplies by this much, whatever it gets, is not one that was pruned or died
# Signs that tell an exchange of mean and variance: so many channels, and so large a share of negative "variances".
FEW, SHARE = 8, 0.2


def poisoned(holding: Holding) -> Iterator[Said]:
    yield from not_finite(holding)
    yield from below_zero(holding)
    yield from without_spread(holding)
    yield from out_of_reach(holding)


def not_finite(holding: Holding) -> Iterator[Said]:
    """NaN and Inf in whatever the layers hold, in one sentence. An Inf variance of a narrow buffer is an overflow."""
    bad: dict[str, dict[str, Array]] = {}
    for held in holding.layers:
        for quantity, values in quantities(held):
            spoilt = ~np.isfinite(values)
            if spoilt.any() and not (quantity == VAR and overflowed(held)):
                bad.setdefault(held.layer, {})[quantity] = values
    if not bad:
        return
    layers = tuple(bad)
    first = next(iter(bad.values()))
    everything = list(dict.fromkeys(quantity for values in bad.values() for quantity in values))
    nan = any(np.isnan(values).any() for found in bad.values() for values in found.values())
    inf = any(np.isinf(values).any() for found in bad.values() for values in found.values())
    what = " and ".join(filter(None, ("NaN" * nan, "Inf" * inf)))
    spot = ""
    if len(layers) == 1:
        union = np.logical_or.reduce([~np.isfinite(values) for values in first.values() if values.size == width(first)])
        spot = f" in {channels([int(place) for place in np.flatnonzero(union)], union.size)}"
    names = listed([word(holding, quantity) for quantity in everything])
    heals = anew(holding) if not {GAMMA, BETA} & set(everything) else "go back to a checkpoint from before it"
    yield Said(
        layers,
        f"eval gives {'NaN' if nan else 'NaN or a constant'}{spot}, because {names} of {of_all(layers, holding)} "
        f"{'holds' if len(everything) == 1 else 'hold'} {what}. No further training heals that.",
        heals,
        kind="defect",
        quantity=everything[0],
        evidence={
            "values": sum(int((~np.isfinite(v)).sum()) for found in bad.values() for v in found.values()),
            NONFINITE: "NaN or Inf" if nan and inf else what,
            NAN_IN: "eval",
        },
    )


def below_zero(holding: Holding) -> Iterator[Said]:
    """Variances below zero that no exchange with the mean explains."""
    exchanged = set(crossed(holding))
    negative = {
        held.layer: (var, eps_of(held))
        for held in holding.layers
        if (var := flat(held.running_var)) is not None and (var < 0).any() and held.layer not in exchanged
    }
    if not negative:
        return
    layers = tuple(negative)
    low = min(float(np.nanmin(var)) for var, _ in negative.values())
    count = sum(int((var < 0).sum()) for var, _ in negative.values())
    nan = any((var + eps < 0).any() for var, eps in negative.values())
    spot = ""
    if len(layers) == 1:
        var = negative[layers[0]][0]
        spot = f" in {channels([int(place) for place in np.flatnonzero(var < 0)], var.size)}"
    ending = "eval gives NaN" if nan else "eval is off"
    yield Said(
        layers,
        f"{ending}{spot}, because {word(holding, VAR)} of {of_all(layers, holding)} is below zero"
        f"{'' if spot else f' in {count} channels'} (lowest {number(low)}). No variance can be.",
        f"{anew(holding)}; averages of checkpoints and quantised files are where such variances come from",
        kind="defect",
        quantity=VAR,
        evidence={"channels": count, LOWEST: low, **({NAN_IN: "eval"} if nan else {})},
    )


def without_spread(holding: Holding) -> Iterator[Said]:
    """Layers whose variance is 0 in every channel: eval multiplies by 1/sqrt(eps). A few channels of that kind are
    channels that died, and a gamma near 0 silences them."""
    flat_layers = {}
    for held in holding.layers:
        facts = statistics(held)
        gain = None if facts is None else gain_of(held)
        if facts is not None and gain is not None and not facts[1].any() and gain > LOUD:
            flat_layers[held.layer] = gain
    if not flat_layers:
        return
    layers, gain = tuple(flat_layers), max(flat_layers.values())
    yield Said(
        layers,
        f"eval multiplies what varies by up to {number(gain)}, because {word(holding, VAR)} of "
        f"{of_all(layers, holding)} is 0 in every channel.",
        f"{anew(holding)}; buffers that were made empty (meta device) and never loaded are 0, too",
        quantity=VAR,
        evidence={GAIN: gain},
    )


def out_of_reach(holding: Holding) -> Iterator[Said]:
    """Means so far from 0 that float32 hardly tells two values of the channel apart there: one step of it at the mean
    is longer than eight standard deviations of data that do vary. (float64 where statistics are held so; of a channel
    that is constant, no spread is known.)"""
    far: dict[str, tuple[int, float, float]] = {}
    places: dict[str, list[int]] = {}
    for held in holding.layers:
        facts = statistics(held)
        if facts is None or not np.isfinite(facts).all() or (facts[1] < 0).any():
            continue
        wide = np.float64 if dtype_of(held, MEAN) == "float64" else np.float32
        eps = max(eps_of(held), 0.0)
        mean, deviation = np.abs(facts[0]), np.sqrt(facts[1] + eps)
        with np.errstate(over="ignore"):
            step = np.spacing(mean.astype(wide)).astype(np.float64)
        lost = (step > STEPS * deviation) & (facts[1] > eps)
        if lost.any():
            worst = int(np.argmax(np.where(lost, mean, 0.0)))
            far[held.layer] = (int(mean.size), float(facts[0][worst]), float(deviation[worst]))
            places[held.layer] = [int(place) for place in np.flatnonzero(lost)]
    if not far:
        return
    layers = tuple(far)
    narrow = "float64" if all(dtype_of(held, MEAN) == "float64" for held in holding.layers) else "float32"
    size, mean_there, deviation_there = max(far.values(), key=lambda each: abs(each[1]))
    count = sum(len(found) for found in places.values())
    spot = channels(places[layers[0]], size) if len(layers) == 1 else f"{count} channels"
    yield Said(
        layers,
        f"eval keeps nothing of its input in {spot} of {of_all(layers, holding)}: {word(holding, MEAN)} reaches "
        f"{number(mean_there)} beside a standard deviation of {number(deviation_there)}, and {narrow} has no digits "
        f"left for x - mean there.",
        f"{anew(holding)}; look for batches with such values, and subtract a large offset before the first layer",
        evidence={"channels": count, "mean": mean_there, "standard deviation": deviation_there},
    )


def tiny(holding: Holding) -> Iterator[Said]:
    """Layers whose variances all lie far below eps: they divide by a constant."""
    small = {}
    for held in holding.layers:
        facts, gain = statistics(held), gain_of(held)
        if facts is None or held.eps is None or gain is None or gain <= LOUD:
            continue
        largest = float(facts[1].max())
        if 0 < largest < held.eps / 100 and (facts[1] >= 0).all():
            small[held.layer] = largest / held.eps
    if small:
        layers = tuple(small)
        yield Said(
            layers,
            f"{of_all(layers, holding)} {verb(layers, 'divides', 'divide')} by a constant: {word(holding, VAR)} is at "
            f"most {number(max(small.values()))} of eps in every channel, so that nothing is normalised.",
            "scale the data that reach the layer, or give it a smaller eps",
            kind="convention",
            quantity=VAR,
            evidence={"largest variance in eps": max(small.values())},
        )


def crossed(holding: Holding) -> tuple[str, ...]:
    """Layers whose mean and variance changed places: the variances have signs as means do, and no mean is negative.
    One damaged channel beside means that are positive by nature (behind a ReLU) is not enough, and a layer whose
    negative variance stands beside a negative mean speaks against it."""
    seen, negative, total = [], 0, 0
    for held in holding.layers:
        facts = statistics(held)
        if facts is None or not (facts[1] < 0).any():
            continue
        if (facts[0] < 0).any() or not np.isfinite(facts).all():
            return ()
        seen.append(held.layer)
        negative, total = negative + int((facts[1] < 0).sum()), total + facts[1].size
    return tuple(seen) if total >= FEW and negative >= max(3, SHARE * total) else ()


def swapped(holding: Holding) -> Said | None:
    layers = crossed(holding)
    if not layers:
        return None
    facts = [found for held in holding.layers if held.layer in layers and (found := statistics(held)) is not None]
    negative, total = sum(int((var < 0).sum()) for _, var in facts), sum(var.size for _, var in facts)
    low = min(float(var.min()) for _, var in facts)
    return Said(
        layers,
        f"mean and variance have changed places in {of_all(layers, holding)}: {negative} of {total} variances are "
        f"below zero (lowest {number(low)}), as means are, and no mean is. Eval gives NaN.",
        f"load {word(holding, MEAN)} and {word(holding, VAR)} into their own places: frameworks list them in different "
        f"orders",
        kind="defect",
        quantity=VAR,
        evidence={"variances below zero": negative, "channels": total, LOWEST: low, NAN_IN: "eval"},
    )


def overflow(holding: Holding) -> Said | None:
    """A variance of Inf in a buffer of half precision."""
    over = {held.layer: dtype_of(held, VAR) for held in holding.layers if overflowed(held)}
    if not over:
        return None
    layers = tuple(over)
    dtypes = " and ".join(sorted(set(over.values())))
    count = sum(int(np.isinf(np.asarray(held.running_var)).sum()) for held in holding.layers if held.layer in over)
    return Said(
        layers,
        f"eval answers the same for every input in {count} {'channel' if count == 1 else 'channels'}, because "
        f"{word(holding, VAR)} of {of_all(layers, holding)} is Inf: {dtypes} holds no larger variance.",
        "keep the running statistics in float32 when the model is converted to half precision",
        kind="defect",
        quantity=VAR,
        evidence={"channels": count, "dtype": dtypes},
    )


# ----------------------------------------------------------------------------------------------------- numbers


def quantities(held: Held) -> Iterator[tuple[str, Array]]:
    for quantity in (MEAN, VAR, GAMMA, BETA):
        values = flat(getattr(held, quantity))
        if values is not None:
            yield quantity, values


def width(found: dict[str, Array]) -> int:
    return max(values.size for values in found.values())


def overflowed(held: Held) -> bool:
    var = flat(held.running_var)
    narrow = dtype_of(held, VAR) == "float16"
    return var is not None and narrow and bool(np.isposinf(var).any()) and not bool(np.isnan(var).any())


def eps_of(held: Held) -> float:
    return USUAL_EPS if held.eps is None else held.eps


def gain_of(held: Held) -> float | None:
    """The largest factor by which eval multiplies; None where it cannot be had."""
    facts, gamma = statistics(held), flat(held.gamma)
    if facts is None or (gamma is not None and gamma.size not in (1, facts[1].size)):
        return None
    below = facts[1] + eps_of(held)
    if not (below > 0).all() or not np.isfinite(below).all():
        return None
    return float((np.abs(1.0 if gamma is None else gamma) / np.sqrt(below)).max())
