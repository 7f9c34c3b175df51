"""Readings of statistics that are the other side's by a rule: an amount added, one scale, another order of channels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from bncheck.diagnosis.held.likeness import QUANTITIES, ROUNDINGS, SPACING, Pair, alike, array, dtype_of
from bncheck.diagnosis.held.reading import (
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
from bncheck.diagnosis.rules.wording import number
from bncheck.trace import Array

ENOUGH = 4  # channels: fewer can be in any order, or apart by any amount, by chance
TOLD = 10.0  # an amount is told where it is so many times what the type rounds


def reordered(sides: Sides, pairs: Sequence[Pair], left: Left) -> Iterable[Reading]:
    """The same numbers in another order of channels: all of a layer, or statistics alone."""
    groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Pair]] = {}
    for pair in pairs:
        order = order_of(pair) if left[pair.name] & set(STATISTICS) else None
        if order is None:
            continue
        there = [what for what in QUANTITIES if array(pair.a, what) is not None and array(pair.b, what) is not None]
        moved = tuple(what for what in there if fits(pair, what, order))
        if left[pair.name] & set(QUANTITIES) <= set(moved):
            groups.setdefault((moved, tuple(what for what in there if what not in moved)), []).append(pair)
    for (moved, kept), chosen in groups.items():
        where = layers_in(pairs, chosen)
        if kept:
            title = (
                f"{joined(moved)} of {sides.b} hold the numbers of {sides.a} in another order of channels, in {where}, "
                f"and {joined(kept)} hold theirs in the same."
            )
        else:
            title = (
                f"The channels of {sides.b} stand in another order than those of {sides.a}, in {where}: "
                f"{joined(moved)} hold the same numbers, moved alike."
            )
        yield Reading(
            cause="state-mismatch",
            kind="defect" if kept else "hazard",
            title=title,
            advice="copy all arrays of a layer in one order of channels"
            if kept
            else "that computes the same only where the weights in front and behind are in that order, too",
            places=places(chosen, moved, left),
            departs=sides.b,
        )


def order_of(pair: Pair) -> Array | None:
    """The order in which a's means are b's; None where there is none, or it is not told."""
    a, b = f64(pair.a, "running_mean"), f64(pair.b, "running_mean")
    if a.shape != b.shape or a.size < ENOUGH or len(np.unique(a)) < a.size or not np.isfinite([a, b]).all():
        return None
    order: Array = np.empty(a.size, np.int64)
    order[np.argsort(b)] = np.argsort(a)
    in_place = bool((order == np.arange(a.size)).all())
    return None if in_place or not fits(pair, "running_mean", order) else order


def fits(pair: Pair, what: str, order: Array) -> bool:
    one, two = array(pair.a, what), array(pair.b, what)
    if one is None or two is None or one.shape != order.shape:
        return False
    return alike(one[order], two, dtype_of(pair.a, what), dtype_of(pair.b, what)).same


def scaled(sides: Sides, pairs: Sequence[Pair], left: Left) -> Iterable[Reading]:
    """Every mean s times, every variance s² times: the same layer in front of which all is s times as large."""
    found = {
        pair.name: (pair, scale)
        for pair in pairs
        if set(STATISTICS) <= left[pair.name] and (scale := scale_of(pair)) is not None
    }
    groups: dict[float, list[Pair]] = {}
    for pair, scale in found.values():
        near = next((known for known in groups if abs(scale / known - 1) < ONE_FACTOR), scale)
        groups.setdefault(near, []).append(pair)
    for scale, chosen in groups.items():
        larger, smaller = (sides.b, sides.a) if scale > 1 else (sides.a, sides.b)
        times = max(scale, 1 / scale)
        yield Reading(
            cause="data-shift",
            kind="hazard",
            title=f"{larger} holds the statistics of an input {number(times)} times as large as that of {smaller}, in "
            f"{layers_in(pairs, chosen)}: each mean is {number(times)} times, each variance {number(times**2)} times "
            "that of the other.",
            advice="give both input of one scale (a usual slip: 0 … 255 against 0 … 1), or look for the factor in the "
            "weights in front",
            places=places(chosen, STATISTICS, left),
            evidence={"factor": scale},
        )


def scale_of(pair: Pair) -> float | None:
    """s, where b's means are s times and its variances s² times those of a in every channel; None where it is 1."""
    mean_a, mean_b = f64(pair.a, "running_mean"), f64(pair.b, "running_mean")
    var_a, var_b = f64(pair.a, "running_var"), f64(pair.b, "running_var")
    if not mean_a.shape == mean_b.shape == var_a.shape == var_b.shape or mean_a.size < ENOUGH:
        return None
    if not np.isfinite([mean_a, mean_b]).all() or (np.minimum(var_a, var_b) <= 0).any():
        return None
    ratio = np.sqrt(var_b / var_a)
    scale = float(np.median(ratio))
    apart = np.abs(mean_b - scale * mean_a) / np.sqrt(var_b)
    told = abs(scale - 1) > TOLD * ONE_FACTOR and np.abs(ratio / scale - 1).max() < ONE_FACTOR
    return scale if told and apart.max() < ONE_FACTOR else None


def raised(sides: Sides, pairs: Sequence[Pair], left: Left) -> Iterable[Reading]:
    """Variances that are apart by one amount in every channel, where the means are equal: an eps that was stored."""
    groups: dict[float, list[Pair]] = {}
    for pair in pairs:
        if left[pair.name] & set(STATISTICS) == {"running_var"} and same(pair, ["running_mean"]):
            amount = amount_of(pair)
            if amount is not None:
                near = next((known for known in groups if abs(amount / known - 1) < 1 / TOLD), amount)
                groups.setdefault(near, []).append(pair)
    for amount, chosen in groups.items():
        larger, smaller = (sides.b, sides.a) if amount > 0 else (sides.a, sides.b)
        yield Reading(
            cause="eps",
            kind="hazard",
            title=f"running_var of {larger} is that of {smaller} plus {abs(amount):.2g} in every channel, in "
            f"{layers_in(pairs, chosen)}: so it is where an eps was added to what is stored.",
            advice=f"store the variance without eps, or let {larger} normalise with an eps that is smaller by "
            f"{abs(amount):.2g}",
            places=places(chosen, ["running_var"], left),
            evidence={"added": amount},
        )


def amount_of(pair: Pair) -> float | None:
    """b − a of the variances where it is one number as far as the types tell; None where it is not, or is rounding."""
    a, b = f64(pair.a, "running_var"), f64(pair.b, "running_var")
    if a.shape != b.shape or a.size < ENOUGH or not np.isfinite([a, b]).all() or (np.minimum(a, b) < 0).any():
        return None
    spacing = max(SPACING.get(dtype_of(held, "running_var"), SPACING["float32"]) for held in (pair.a, pair.b))
    slack = ROUNDINGS * spacing * np.maximum(a, b)
    amount = float((b - a)[np.argmin(slack)])
    told = int((slack * TOLD < abs(amount)).sum()) >= ENOUGH and len(np.unique(a)) >= ENOUGH
    return amount if told and bool((np.abs(b - a - amount) <= slack + slack.min()).all()) else None
