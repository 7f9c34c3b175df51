"""Readings of what stands in the wrong place: missing, misshaped, swapped, in another layer, or no number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from bncheck.diagnosis.held.likeness import QUANTITIES, Pair, alike, array, dtype_of
from bncheck.diagnosis.held.matching import Matching
from bncheck.diagnosis.held.reading import (
    STATISTICS,
    Left,
    Reading,
    Sides,
    f64,
    joined,
    layers_in,
    places,
)
from bncheck.diagnosis.rules.layer_names import listed
from bncheck.life import Held
from bncheck.trace import Place


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
                advice="compare two of one model with the same weights: only by those is a folded BatchNorm seen",
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


def below_zero(sides: Sides, pairs: Sequence[Pair], left: Left) -> Iterable[Reading]:
    """Variances that none can be, on one side."""
    chosen = [pair for pair in pairs if "running_var" in left[pair.name]]
    for mine, theirs, side in ((sides.a, sides.b, "a"), (sides.b, sides.a, "b")):
        found = [pair for pair in chosen if negative(pair) == {side}]
        if found:
            yield of_negative(found, f"{mine} holds", f", where those of {theirs} are not", mine)
    yield from below_zero_in_both(chosen)


def below_zero_in_both(pairs: Sequence[Pair]) -> Iterable[Reading]:
    """The same on both sides: that they are equal heals nothing."""
    found = [pair for pair in pairs if negative(pair) == {"a", "b"}]
    if found:
        yield of_negative(found, "Both hold", "", "")


def negative(pair: Pair) -> set[str]:
    """The sides of a pair that hold a variance below zero."""
    sides = (("a", pair.a), ("b", pair.b))
    return {side for side, held in sides if held.running_var is not None and (f64(held, "running_var") < 0).any()}


def of_negative(found: Sequence[Pair], who: str, other: str, departs: str) -> Reading:
    names = [pair.name for pair in found]
    return Reading(
        cause="poisoned-state",
        kind="defect",
        title=f"{who} variances below zero in running_var of {listed(names)}{other}. No variance can be, and eval "
        "gives NaN where eps does not lift it above zero.",
        advice="go back to a checkpoint without them, or estimate the statistics anew; averages of checkpoints and "
        "quantised files are where such variances come from",
        places=tuple((name, "running_var") for name in names),
        departs=departs,
    )


def misshaped(sides: Sides, pairs: Sequence[Pair], left: Left) -> Iterable[Reading]:
    """Quantities that one side lacks, or holds for another number of channels."""
    groups: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for word, side in (("width", ""), ("missing", "a"), ("missing", "b")):
        for what in (*QUANTITIES, "counter"):
            having = [pair for pair in pairs if what in left[pair.name]]
            found = tuple(pair.name for pair in having if is_like(pair, what, word, side))
            if found:
                groups.setdefault((word, side, found), []).append(what)
    for (word, side, layers), quantities in groups.items():
        have = "has" if len(quantities) == 1 else "have"
        title = f"{joined(quantities)} {have} another number of channels in {listed(layers)}."
        if word == "missing":
            title = f"{sides.a if side == 'a' else sides.b} has no {' and no '.join(quantities)} in {listed(layers)}."
        yield Reading(
            cause="state-mismatch",
            kind="defect",
            title=title,
            advice="build both with the same parts (torch: affine, track_running_stats; Keras: scale, center)",
            places=tuple((layer, what) for layer in layers for what in quantities),
        )


def is_like(pair: Pair, what: str, word: str, side: str) -> bool:
    return pair.quantities[what].word == word and pair.quantities[what].detail == side


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
        wrong = {"a": sides.a, "b": sides.b}.get(wrong_side(chosen, moves[0]) if both else "b", "")
        where = layers_in(pairs, chosen)
        if not both:
            said = joined([f"{what} holds what {sides.a} has as {source}" for what, source in moves])
            title = f"In {sides.b} {said}, in {where}."
        elif wrong:
            title = f"In {wrong} {moves[0][0]} and {moves[0][1]} are swapped, in {where}."
        else:
            title = (
                f"{moves[0][0]} and {moves[0][1]} of {sides.b} are those of {sides.a} swapped, in {where}. The numbers "
                "do not tell which of the two is right."
            )
        yield Reading(
            cause="state-mismatch",
            kind="defect",
            title=title,
            advice="read the arrays by name, not by order (Keras: gamma, beta, moving_mean, moving_variance)",
            places=places(chosen, [what for what, _ in moves], left),
            departs=wrong,
        )


CLEARLY = 2.0  # times as far from what training leaves


def wrong_side(chosen: Sequence[Pair], swap: tuple[str, str]) -> str:
    """ "a" or "b", where the numbers show which of two sides has two arrays in each other's places: a variance is not
    below zero; a gamma lies about 1 and a beta about 0. "" where they do not."""
    far = {}
    for side in ("a", "b"):
        held = [getattr(pair, side) for pair in chosen]
        if set(swap) == {"running_mean", "running_var"}:
            far[side] = float(sum((f64(each, "running_var") < 0).sum() for each in held))
        elif set(swap) == {"gamma", "beta"}:
            far[side] = float(
                np.mean([np.abs(f64(each, "gamma") - 1).mean() + np.abs(f64(each, "beta")).mean() for each in held])
            )
        else:
            return ""
    low, high = sorted(far, key=lambda side: far[side])
    return high if far[high] > CLEARLY * far[low] else ""


def source_of(pair: Pair, what: str) -> str | None:
    """Which other quantity of a it is that b holds here; None for one that is the same in every channel."""
    mine = array(pair.b, what)
    if mine is None or len(np.unique(mine)) < 2:
        return None
    for other in QUANTITIES:
        theirs = array(pair.a, other)
        if other == what or theirs is None:
            continue
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
    if one is None or two is None or one.shape != two.shape or not one.size:
        return False
    if abs(float(one[0]) - float(two[0])) > 0.02 * abs(float(two[0])) or len(np.unique(one)) < 2:
        return False  # most pairs of layers are told apart by one number
    return alike(one, two, dtype_of(mine, what), dtype_of(theirs, what)).same
