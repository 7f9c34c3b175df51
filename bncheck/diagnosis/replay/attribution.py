"""Which differing rules explain a drift, and how much each.

Side a is replayed with its own rules, then with side b's swapped in. Let d(S) be the mean |difference| between
what b recorded and a's replay with the facets S taken from b; then S explains (d(none) - d(S)) / d(none). A facet's
share is its **Shapley value**: the drift it removes, averaged over all orders in which the facets can be swapped. It
is the one rule whose shares always add up to what all facets explain together, whether causes add up, overlap or
cancel (a share below 0: swapping this one alone brings the sides further apart). Nothing is normalised. Up to five
facets all subsets are replayed (exact); beyond, twelve fixed orders and their reverses.

NaN: both NaN at the same place is no difference; on one side only it counts as the largest finite size of that
quantity on either side (at least 1), so that a replay that says NaN where the trace says NaN explains it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bncheck.convention import SETTLED_BY_PROBE, Convention
from bncheck.diagnosis.fit.measure import settle
from bncheck.diagnosis.fit.stream import Stream, read_stream
from bncheck.diagnosis.replay.conduct import follow_order, perform, rules_of, score
from bncheck.diagnosis.replay.rounding import bounds, largest
from bncheck.diagnosis.replay.sides import Side, differing, meet_units, proxy, shown_value
from bncheck.diagnosis.replay.swaps import QUANTITIES, Game, gaps, mean_gap, worst
from bncheck.evidence import Attribution
from bncheck.scenario import Case
from bncheck.trace import STATISTICS, Array, Trace

# Two replays that miss by no more than r may differ by 2 r; twice that is no rounding.
REAL = 4.0


def attribute(
    case: Case, trace_a: Trace, convention_a: Convention, trace_b: Trace, convention_b: Convention, layer: str
) -> Sequence[Attribution]:
    """One Attribution per quantity of one layer that both sides recorded; pure.

    Conventions come from the probes; both are settled on this case first. Quantities: running_mean, running_var,
    used_mean, used_invstd (what the outputs reveal) and output, for which ``proxy`` stands in.
    """
    spec = case.network.layer(layer)
    if spec is None:
        return ()
    one, two = read_stream(case, trace_a, spec), read_stream(case, trace_b, spec)
    if one is None or two is None or one.mean.shape != two.mean.shape or not one.mean.size:
        return ()
    if one.kinds != two.kinds:
        return ()  # one trained where the other inferred: no rule of a convention makes one of the other
    with np.errstate(all="ignore"):
        a = side(case, trace_a, convention_a, one)
        b = side(case, trace_b, convention_b, two)
        if holds_nothing(one) and not holds_nothing(two):
            # A state that a side does not hold cannot be played by the other's rules: the other one is played.
            return [swapped(found) for found in attribute_sides(case, b, a)]
        return attribute_sides(case, a, b)


def holds_nothing(stream: Stream) -> bool:
    """Whether no running statistics are seen."""
    return not (np.isfinite(stream.mean).any() or np.isfinite(stream.var).any())


def swapped(found: Attribution) -> Attribution:
    return replace(found, values={name: (two, one) for name, (one, two) in found.values.items()})


def side(case: Case, trace: Trace, convention: Convention, stream: Stream) -> Side:
    settled = settle(case, trace, convention, stream.layer.name)
    return Side(stream, settled, rules_of(settled, stream))


def attribute_sides(case: Case, a: Side, b: Side) -> list[Attribution]:
    play, play_b = score(case, a.stream, b.stream), score(case, b.stream, a.stream)
    a.rules, b.rules = follow_order(play, a.rules), follow_order(play_b, b.rules)
    meet_units(a, b)
    facets, silent = differing(a, b)
    game = Game(play, a.rules, b.rules, facets)
    own = perform(play_b, [b.rules])
    limits = bounds(a.stream, a.rules), bounds(b.stream, b.rules)
    game.drop_idle(achieved(limits[0], a, b, game.replay(frozenset()), own))
    found = (attribute_quantity(quantity, a, b, game, own, silent, limits) for quantity in QUANTITIES)
    return [item for item in found if item is not None]


def achieved(
    limits: Mapping[str, Array], a: Side, b: Side, mine: Mapping[str, Array], theirs: Mapping[str, Array]
) -> dict[str, Array]:
    """Rounding bounds, but no more than a few times what the replays really miss.

    The bounds allow for E[x²] - E[x]²: at mean/std = 1000 in float32 that is 18 for a variance of 1, which hides
    every rule. Where both replays are within 3e-7, a difference of 4e-3 is a rule's.
    """
    found = {}
    for quantity in STATISTICS:
        left = missed(a.recorded[quantity], mine[quantity]), missed(b.recorded[quantity], theirs[quantity][0])
        found[quantity] = np.minimum(limits[quantity], tight(quantity, a, b, np.maximum(*left)))
    return {**limits, **found}


def tight(quantity: str, a: Side, b: Side, left: Array) -> Array:
    """(C,) What two sides of one rule may differ by where their replays miss by ``left``: never less than what rounding
    the state itself does, because a replay starts from each side's own initial state and misses nothing of it."""
    size = np.maximum(*(largest(side.recorded[quantity]) for side in (a, b)))
    return np.asarray(REAL * np.maximum(left, max(a.stream.roundoff, b.stream.roundoff) * size))


def missed(recorded: Array, replayed: Array) -> Array:
    """(C,) The most that a replay misses in each channel."""
    return np.asarray(np.max(gaps(recorded, replayed), axis=0, initial=0.0))


def attribute_quantity(
    quantity: str,
    a: Side,
    b: Side,
    game: Game,
    own: Mapping[str, Array],
    silent: Mapping[str, str],
    limits: tuple[Mapping[str, Array], Mapping[str, Array]],
) -> Attribution | None:
    """``limits`` are the rounding bounds of both sides."""
    measured_a, measured_b = a.recorded[quantity], b.recorded[quantity]
    if not (np.isfinite(measured_a).any() or np.isfinite(measured_b).any()):
        return None
    if quantity == "output":
        own = {
            **own,
            "output": proxy(own["used_mean"], own["used_invstd"], b.stream.input_mean, b.stream.input_var),
        }
    bound = limits[0][quantity] + limits[1][quantity]
    whole = frozenset(game.facets)
    game.ensure(game.subsets())
    points = compared(game.play.case, quantity, len(measured_a))
    replayed = game.replay(frozenset())[quantity]
    # NaN throughout, on side a and in its replay: either nothing was revealed, or every output was NaN.
    shown = np.isfinite(replayed).any() or not np.isnan(measured_a).all() or np.any(a.stream.output_bad > 0)
    residual = max(worst(measured_a, replayed), worst(measured_b, own[quantity]))
    drift = mean_gap(measured_a[points], measured_b[points])
    values = {name: (shown_value(a, name), shown_value(b, name)) for name in game.facets}
    hidden = dict.fromkeys(game.idle, f"swapping it changes nothing on this input; {SETTLED_BY_PROBE}")
    if quantity in STATISTICS:
        left_over = missed(measured_a, replayed), missed(measured_b, own[quantity][0])
        bound = np.minimum(bound, tight(quantity, a, b, np.maximum(*left_over)))
    matter = [name for name in game.facets if touches(game, name, quantity, bound, points)]
    widest = float(np.max(bound, initial=0.0))
    seen = np.any(gaps(measured_a, measured_b)[points] > at(bound, points))
    if not matter or not seen or not shown:
        return Attribution(
            layer=a.stream.layer.name,
            quantity=quantity,
            shares={},
            values={},
            explained=0.0,
            residual=residual,
            rounding_bound=widest,
            not_identifiable={**silent, **hidden},
        )
    left = {
        subset: mean_gap(game.replay(subset)[quantity][points], measured_b[points])
        for subset in dict.fromkeys(game.subsets())
    }
    start = left[frozenset()] or math.nan
    worth = {subset: (start - gap) / start for subset, gap in left.items()}
    # What the replays themselves miss is no cause's share.
    noise = (
        max(
            mean_gap(measured_a[points], replayed[points]),
            mean_gap(measured_b[points], own[quantity][0][points]),
        )
        / drift
    )
    effects = {name: effect(game, name, quantity, points) / drift for name in matter}
    # Where both sides are replayed to rounding, causes that cancel have an effect without a share.
    sizes = effects if residual <= widest else {}
    shares = {n: s for n, s in game.shapley(worth).items() if n in matter and max(abs(s), sizes.get(n, 0.0)) > noise}
    # Nor is it explained what a side's own replay does not make: swapping all rules turns one replay into the other.
    # (What outputs reveal is known less well than what is held; nothing is judged by it.)
    capped = residual > widest and quantity in (*STATISTICS, "output")
    explained = max(0.0, 1.0 - left[whole] / drift - (noise if capped else 0.0)) if shares else 0.0
    scale = min(1.0, explained / worth[whole]) if capped and worth[whole] > 0 else 1.0
    return Attribution(
        layer=a.stream.layer.name,
        quantity=quantity,
        shares={name: share * scale for name, share in shares.items()},
        values={name: values[name] for name in shares},
        explained=explained,
        residual=residual,
        rounding_bound=widest,
        not_identifiable={**silent, **hidden},
        effects={name: effects[name] for name in shares},
    )


def compared(case: Case, quantity: str, length: int) -> Array:
    """Rows at which the drift is measured (``drifts.py``): states at the ends of steps, all else everywhere.

    Inside a step an update in forward and one in backward differ by design, and are no cause of the drift.
    """
    if quantity not in STATISTICS:
        return np.arange(length)
    rows = np.array([0, *(end + 1 for end in case.step_ends)])
    return rows[rows < length]


def at(bound: Array, points: Array) -> Array:
    """The rows of a bound that belong to some points; a bound per channel holds for all."""
    return bound[points] if bound.ndim == 2 else bound


def touches(game: Game, name: str, quantity: str, bound: Array, points: Array) -> bool:
    """Whether swapping a facet, alone or last, changes this quantity by more than rounding."""
    return any(
        bool(np.any(gaps(game.replay(x)[quantity][points], game.replay(y)[quantity][points]) > at(bound, points)))
        for x, y in game.swaps(name)
    )


def effect(game: Game, name: str, quantity: str, points: Array) -> float:
    """Mean |change| of this quantity when a facet is swapped alone or last: its share is less where causes cancel."""
    return max(
        mean_gap(game.replay(x)[quantity][points], game.replay(y)[quantity][points]) for x, y in game.swaps(name)
    )
