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
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, permutations
from typing import Any

import numpy as np

from bncheck.convention import SETTLED_BY_PROBE, Convention
from bncheck.diagnosis.fit.measure import settle
from bncheck.diagnosis.fit.stream import Stream, read_stream
from bncheck.diagnosis.replay.conduct import Rules, Score, follow_order, perform, rules_of, score
from bncheck.diagnosis.replay.rounding import bounds, largest
from bncheck.evidence import Attribution
from bncheck.scenario import Case
from bncheck.trace import STATISTICS, Array, Trace

# Facets that can move a state or an output; the others (counter, gamma, defaults) are compared, not replayed.
REPLAYED = (
    "initial_mean",
    "initial_var",
    "update_on",
    "update_without_grad",
    "updates_per_event",
    "averaging",
    "batch_weight",
    "variance_divisor",
    "statistic",
    "single_value",
    "single_value_state",
    "empty_batch",
    "train_normaliser",
    "eval_normaliser",
    "blend_weight",
    "eps",
    "eps_placement",
)
# What goes along with a rule where it is no cause of its own: see ``differing``.
PARTS = (
    ("update_on", "update_without_grad"),
    ("update_on", "backward_order"),
    ("averaging", "batch_weight"),
    ("single_value", "single_value_state"),
)
QUANTITIES = ("running_mean", "running_var", "used_mean", "used_invstd", "output")
# Two replays that miss by no more than r may differ by 2 r; twice that is no rounding.
REAL = 4.0
EXACT = 5
ORDERS = 12


@dataclass
class Side:
    """One target's layer: what it recorded and the rules it follows in this case."""

    stream: Stream
    convention: Convention
    rules: dict[str, Any]

    @cached_property
    def recorded(self) -> dict[str, Array]:
        s = self.stream
        parts = {
            "running_mean": s.mean,
            "running_var": s.var,
            "used_mean": s.used_mean,
            "used_invstd": s.used_invstd,
        }
        return {**parts, "output": proxy(s.used_mean, s.used_invstd, s.input_mean, s.input_var)}


def proxy(m: Array, r: Array, mean: Array, var: Array) -> Array:
    """The layer's normalised output in place of its real one: (x - m)·r at the batch's mean ± one deviation.

    Shape (..., T, 2C). gamma and beta are left out; NaN rows where nothing was revealed.
    """
    spread = np.sqrt(var)
    low, high = ((mean + sign * spread - m) * r for sign in (-1.0, 1.0))
    return np.concatenate([low, high], axis=-1)


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


def meet_units(a: Side, b: Side) -> None:
    """Where one side cannot tell how many updates an event makes, compare both by the weight per event."""
    if all(s.convention.value("updates_per_event") is not None for s in (a, b)):
        return
    for s in (a, b):
        times = int(s.rules["updates_per_event"])
        s.rules["batch_weight"] = (
            1.0 - (1.0 - s.rules["batch_weight"]) ** times if times != 1 else s.rules["batch_weight"]
        )
        s.rules["updates_per_event"] = 1


def differing(a: Side, b: Side) -> tuple[list[str], dict[str, str]]:
    """Facets that differ whatever is still open, and those that one side does not know, with the reason."""
    found: list[str] = []
    silent: dict[str, str] = {}
    backwards = all("backward" in str(s.rules["update_on"]) for s in (a, b))
    if backwards and a.rules["backward_order"] != b.rules["backward_order"]:
        found.append("backward_order")
    for name in REPLAYED:
        if name == "update_without_grad" and not all("forward" in str(s.rules["update_on"]) for s in (a, b)):
            # Part of the same rule: where forwards move nothing, those without gradient do not either.
            continue
        if name == "single_value_state" and apart(a, b, "single_value"):
            # Whoever refuses keeps its state: part of the same rule.
            continue
        if name == "batch_weight" and "cumulative" in (a.rules["averaging"], b.rules["averaging"]):
            # A cumulative average has no weight: whoever takes over the other kind takes its weight along.
            continue
        if name == "blend_weight" and not (knows(a, name) and knows(b, name)):
            # Whoever blends nothing has no weight: taking over the blend takes its weight along.
            owner, other = (a, b) if knows(a, name) else (b, a)
            other.rules[name] = owner.rules[name]
            continue
        if name in ("initial_mean", "initial_var"):
            # NaN is a state that one side does not hold, or was not recorded: no rule's.
            both = np.isfinite(a.rules[name]) & np.isfinite(b.rules[name])
            if np.any(both & (a.rules[name] != b.rules[name])):
                found.append(name)
        elif name == "train_normaliser" and same_source(a, b):
            b.rules[name] = a.rules[name]
        elif not (known_for(a, name) and known_for(b, name)) and not disjoint(a, b, name):
            unknown = next(s.convention.facets.get(name) for s in (a, b) if not known_for(s, name))
            silent[name] = f"{unknown.reason}; {SETTLED_BY_PROBE}" if unknown is not None else SETTLED_BY_PROBE
        elif apart(a, b, name) or disjoint(a, b, name):
            found.append(name)
        else:
            # Equal within what was measured: one value for both, so that no difference is left to attribute.
            b.rules[name] = a.rules[name]
    return found, silent


def disjoint(a: Side, b: Side, name: str) -> bool:
    """Whether no value that one side's steps leave open is one of the other's: they differ, whichever values it is."""
    one, two = possible(a, name), possible(b, name)
    if name in ("single_value", "batch_weight") or not one or not two:
        # What y is with one value is compared, not replayed; an open weight is that of an event, not of an update.
        return name == "batch_weight" and all(knows(s, name) for s in (a, b)) and apart(a, b, name)
    if isinstance(one[0], str) or isinstance(two[0], str):
        return not set(one) & set(two)
    return bool(float(one[-1]) < float(two[0]) or float(two[-1]) < float(one[0]))


def possible(s: Side, name: str) -> tuple[Any, ...]:
    """The values that a side's rule may have, (lowest, highest) of a number; nothing when that is not known."""
    facet = s.convention.facets.get(name)
    if facet is None or not facet.identifiable:
        return facet.standing if facet is not None else ()
    if isinstance(facet.value, float):
        return facet.value - facet.uncertainty, facet.value + facet.uncertainty
    return (facet.value,)


def same_source(a: Side, b: Side) -> bool:
    """Running statistics after and before a forward, where one side's forwards leave them alone: that is the doing of
    ``update_on``, not another rule of the output."""
    names = {a.rules["train_normaliser"], b.rules["train_normaliser"]}
    open_ = any(s.rules["train_normaliser"] not in possible(s, "train_normaliser") for s in (a, b))
    if names != {"running-before", "running-after"} or open_:
        return False
    before = a if a.rules["train_normaliser"] == "running-before" else b
    if "forward" in str(before.rules["update_on"]):
        return False
    # Taking over the other's phase shows which of the two it was; nobody else's rule changes with this word.
    before.rules["train_normaliser"] = "running-after"
    return True


def known_for(s: Side, name: str) -> bool:
    """Whether a side's value is known; meet_units took care of the updates."""
    return name == "updates_per_event" or knows(s, name)


def knows(s: Side, name: str) -> bool:
    return s.convention.value(name) is not None


def apart(a: Side, b: Side, name: str) -> bool:
    """Whether two known values differ: numbers by more than their uncertainties together."""
    one, two = a.rules[name], b.rules[name]
    if name == "single_value":
        return bool((one == "refuses") != (two == "refuses"))
    if isinstance(one, str) or isinstance(two, str):
        return bool(one != two)
    slack = sum(s.convention.facets[name].uncertainty for s in (a, b) if name in s.convention.facets)
    return bool(abs(one - two) > slack + 1e-12 * abs(one))


class Game:
    """Replays of side a with subsets of side b's facets, made together and kept."""

    def __init__(self, play: Score, a: Rules, b: Rules, facets: Sequence[str]) -> None:
        self.play, self.a, self.b = play, a, b
        self.facets = list(facets)
        self.separate = frozenset(facets)
        self.idle: list[str] = []
        self.kept: dict[frozenset[str], dict[str, Array]] = {}

    def rules(self, subset: frozenset[str]) -> dict[str, Any]:
        found = {name: (self.b if name in subset else self.a)[name] for name in self.a}
        for rule, part in PARTS:
            if rule in subset and part not in self.separate:
                found[part] = self.b[part]
        return found

    def ensure(self, subsets: Sequence[frozenset[str]]) -> None:
        missing = [subset for subset in dict.fromkeys(subsets) if subset not in self.kept]
        if not missing:
            return
        found = perform(self.play, [self.rules(subset) for subset in missing])
        found["output"] = proxy(found["used_mean"], found["used_invstd"], self.play.input_mean, self.play.input_var)
        for i, subset in enumerate(missing):
            self.kept[subset] = {name: array[i] for name, array in found.items()}

    def replay(self, subset: frozenset[str]) -> dict[str, Array]:
        if subset not in self.kept:
            self.ensure([subset])
        return self.kept[subset]

    def drop_idle(self, sizes: Mapping[str, Array]) -> None:
        """Set aside facets whose swap changes nothing beyond rounding, first alone and last."""
        everything = frozenset(self.facets)
        singles = [frozenset({name}) for name in self.facets]
        lasts = [everything - one for one in singles]
        self.ensure([frozenset(), everything, *singles, *lasts])
        for name, one, rest in zip(list(self.facets), singles, lasts, strict=True):
            alike = self.alike(frozenset(), one, sizes) and self.alike(rest, everything, sizes)
            if alike:
                self.idle.append(name)
        self.facets = [name for name in self.facets if name not in self.idle]

    def alike(self, one: frozenset[str], two: frozenset[str], sizes: Mapping[str, Array]) -> bool:
        x, y = self.replay(one), self.replay(two)
        return all(bool(np.all(gaps(x[q], y[q]) <= sizes[q])) for q in QUANTITIES)

    def swaps(self, name: str) -> tuple[tuple[frozenset[str], frozenset[str]], ...]:
        """Subsets before and after a facet is swapped: alone, and last."""
        everything = frozenset(self.facets)
        pairs = (frozenset[str](), frozenset({name})), (everything - {name}, everything)
        self.ensure([subset for pair in pairs for subset in pair])
        return pairs

    def shapley(self, worth: Mapping[frozenset[str], float]) -> dict[str, float]:
        """Each facet's marginal worth averaged over orders."""
        share = dict.fromkeys(self.facets, 0.0)
        orders = self.orders()
        for order in orders:
            before: frozenset[str] = frozenset()
            for name in order:
                after = before | {name}
                share[name] += (worth[after] - worth[before]) / len(orders)
                before = after
        return share

    def orders(self) -> list[tuple[str, ...]]:
        if len(self.facets) <= EXACT:
            return list(permutations(self.facets))
        rng = np.random.default_rng(0)
        drawn = [tuple(self.facets[i] for i in rng.permutation(len(self.facets))) for _ in range(ORDERS)]
        return [order for one in drawn for order in (one, one[::-1])]

    def subsets(self) -> list[frozenset[str]]:
        if len(self.facets) <= EXACT:
            return [frozenset(c) for size in range(len(self.facets) + 1) for c in combinations(self.facets, size)]
        return [frozenset(order[:size]) for order in self.orders() for size in range(len(order) + 1)]


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


def shown_value(s: Side, name: str) -> Any:
    """A facet's value for people; an initial state with different channels as its first one."""
    value = s.rules[name]
    standing = possible(s, name) if name in s.convention.facets and not knows(s, name) else ()
    if isinstance(value, str) and len(standing) > 1:
        return " or ".join(str(word) for word in standing)
    if name == "eps" and len(standing) > 1 and value != s.stream.eps_held:
        low, high = standing  # the value is an edge of what the outputs leave open, and nobody's eps
        return left_open(low, high)
    return float(np.ravel(value)[0]) if isinstance(value, np.ndarray) else value


def left_open(low: float, high: float) -> str:
    """A number of which only the ends are known, for people; one that is never below zero has a lower end only above
    it."""
    return f"at most {high:.4g}" if low <= 0 else f"between {low:.4g} and {high:.4g}"


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


def gaps(one: Array, two: Array) -> Array:
    """|difference| elementwise; 0 where equal, the largest finite size where only one is finite. Whether a lost number
    is NaN or Inf hangs on how an average is written (old + w·(new − old) makes NaN of Inf), and on no convention."""
    found: Array = np.abs(one - two)
    if np.isfinite(found).all():  # which is the rule
        return found
    same = (one == two) | (~np.isfinite(one) & ~np.isfinite(two))
    found = np.where(same, 0.0, found)
    lost = ~np.isfinite(found)
    if lost.any():
        finite = [np.abs(part[np.isfinite(part)]) for part in (one, two)]
        found[lost] = max(1.0, *(float(np.max(part, initial=0.0)) for part in finite))
    return found


def mean_gap(one: Array, two: Array) -> float:
    found = gaps(one, two)
    return float(found.mean()) if found.size else 0.0


def worst(one: Array, two: Array) -> float:
    return float(np.max(gaps(one, two), initial=0.0))
