"""Replay a case in float64 from its recorded input moments under a convention: states, and what normalises.

The replay never sees an input value: a BatchNorm layer's memory depends on its input only through mean, variance
and n. Every event moves a running value by s' = keep·s + add, and both factors follow from the convention
and the program alone, so many conventions are replayed at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from bncheck.convention import Convention, Facet
from bncheck.diagnosis.fit.measure import settle, transfer
from bncheck.diagnosis.fit.rows import averaged, debiased_weight, moved
from bncheck.diagnosis.fit.small_batch import declared
from bncheck.diagnosis.fit.stream import (
    BACKWARD,
    CHECKPOINTED,
    EVAL,
    FLUSH,
    FORWARD,
    NO_GRAD,
    Stream,
    classify,
    flags,
    streams_of,
)
from bncheck.diagnosis.replay.rounding import bounds
from bncheck.scenario import DEFAULT_BATCH_WEIGHT, DEFAULT_EPS, Case
from bncheck.trace import Array, Trace

# What a facet is taken as where neither the case nor the probes could tell.
ASSUMED: Mapping[str, Any] = {
    "update_on": "forward",
    "update_without_grad": "yes",
    "updates_per_event": 1,
    "averaging": "exponential",
    "variance_divisor": "n",
    "statistic": "variance",
    "train_normaliser": "batch",
    "eval_normaliser": "running",
    "blend_weight": 0.5,
    "eps_placement": "inside",
    "single_value": "zero",
    "single_value_state": "updated",
    "empty_batch": "unchanged",
}
# Facets that say how events move the statistics; the others say what normalises.
MOVING = (
    "update_on",
    "update_without_grad",
    "updates_per_event",
    "batch_weight",
    "averaging",
    "variance_divisor",
    "statistic",
    "eps",
    "single_value",
    "single_value_state",
    "empty_batch",
    "backward_order",
)
SHOWN_BY = {"forward": (FORWARD, CHECKPOINTED), "backward": (BACKWARD,), "eval": (EVAL,), "flush": (FLUSH,)}
ORDERS = ("last forward first", "first forward first", "first forward, then from the last on")
UNKNOWN = Facet(None, identifiable=False)
Rules = Mapping[str, Any]


@dataclass
class Score:
    """A layer's program with everything a replay reads; rows that raised take their moments from a second trace."""

    case: Case
    stream: Stream
    n: Array
    input_mean: Array
    input_var: Array
    plans: dict[tuple[bool, bool], tuple[Any, Any]]
    moments: dict[tuple[str, str, float], tuple[Array, ...]]
    factors: dict[tuple[Any, ...], tuple[Array, Array]] = field(default_factory=dict)

    @cached_property
    def phases(self) -> tuple[Array, Array]:
        """(T,) bool: training forwards, and those in eval, with two or more values per channel."""
        kinds, several = self.stream.kinds, self.n > 1
        trains = [k in (FORWARD, NO_GRAD, CHECKPOINTED) for k in kinds]
        return np.array(trains, dtype=bool) & several, np.array([k == EVAL for k in kinds], dtype=bool) & several

    @cached_property
    def hidden(self) -> Array:
        """(T, C) bool: a constant output reveals nothing."""
        return np.asarray((self.input_var == 0) | (self.stream.gamma[:-1] == 0))

    def plan(self, rules: Rules) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
        """Kinds and sources of the events, with forwards refused where the rules refuse them."""
        key = (rules["single_value"] == "refuses", rules["empty_batch"] in ("refuses", "crash"))
        if key not in self.plans:
            refused = {1} if key[0] else set()
            refused |= {0} if key[1] else set()
            status = tuple(self.status(t, refused) for t in range(self.stream.events))
            events = self.case.events[: self.stream.events]
            self.plans[key] = classify(events, status, flags(self.stream.trace, self.stream.layer.name, len(events)))
        return self.plans[key]

    def status(self, t: int, refused: set[int]) -> str:
        trains = self.stream.kinds[t] in (FORWARD, NO_GRAD, CHECKPOINTED)
        if trains and 0 <= self.n[t] < 2:
            return "raised" if int(self.n[t]) in refused else "ok"
        if self.stream.kinds[t] == BACKWARD and self.stream.status[t] == "skipped":
            return "ok"  # there was nothing to go back through: not so under rules that refuse nothing
        return self.stream.status[t]

    def taken(self, rules: Rules) -> tuple[Array, Array]:
        """(T, C) what each forward's batch puts into the running mean and the running variance."""
        key = (rules["statistic"], rules["variance_divisor"], rules["eps"])
        if key not in self.moments:
            um, _, uv, _ = averaged(self.stream, *key, moments=(self.input_mean, self.input_var, self.n))
            self.moments[key] = (um, uv)
        um, uv = self.moments[key]
        return um, uv


def score(case: Case, stream: Stream, other: Stream | None = None) -> Score:
    """The program of a layer; n of refused forwards is the declared one, their moments those the other side saw."""
    n, mean, var = stream.n.copy(), stream.input_mean.copy(), stream.input_var.copy()
    for t in np.flatnonzero(n < 0):
        if other is not None and t < other.events and other.n[t] >= 0 and other.input_mean.shape[1] == mean.shape[1]:
            n[t], mean[t], var[t] = other.n[t], other.input_mean[t], other.input_var[t]
        elif stream.status[t] == "raised" and stream.kinds[t] == FORWARD:
            n[t] = declared(case, int(t)) if declared(case, int(t)) is not None else -1
    return Score(case=case, stream=stream, n=n, input_mean=mean, input_var=var, plans={}, moments={})


def rules_of(convention: Convention, stream: Stream) -> dict[str, Any]:
    """Plain values of every facet a replay needs; what is not identifiable is assumed, or as this stream shows it."""
    found: dict[str, Any] = {}
    for name, assumed in {**ASSUMED, **seen_phase(stream)}.items():
        facet = convention.facets.get(name, UNKNOWN)
        found[name] = facet.value if facet.identifiable else next(iter(facet.standing), assumed)
    layer = stream.layer
    # Layers of one network may ask for different numbers; the convention was settled on the first one's.
    numbers = {name: transfer(name, facet, convention, layer) for name, facet in convention.facets.items()}
    found["batch_weight"] = likely(numbers.get("batch_weight"), layer.batch_weight or DEFAULT_BATCH_WEIGHT)
    asked_eps = DEFAULT_EPS if layer.eps is None else layer.eps
    found["eps"] = likely(numbers.get("eps"), asked_eps, stream.eps_held)
    if convention.value("averaging") is None and layer.averaging == "cumulative":
        found["averaging"] = "cumulative"
    found["initial_mean"], found["initial_var"] = stream.mean[:1], stream.var[:1]
    found["backward_order"] = ORDERS[0]
    return found


def likely(facet: Facet | None, asked: float, held: float = math.nan) -> Any:
    """A measured number; else what the layer holds, where the steps leave that open; else what was asked for, moved
    into what they leave open."""
    if facet is None or (not facet.identifiable and not facet.standing):
        return asked
    if facet.identifiable:
        return facet.value
    low, high = (float(edge) for edge in facet.standing)
    return held if low <= held <= high else min(max(asked, low), high)


def seen_phase(stream: Stream) -> dict[str, str]:
    """Which events move the state in this very stream: the replay of a rule that nobody could settle."""
    kinds = {kind for kind, moves_ in zip(stream.kinds, moved(stream, True), strict=True) if moves_}
    words = [word for word, shown in SHOWN_BY.items() if kinds & set(shown)]
    quiet = NO_GRAD in stream.kinds and NO_GRAD not in kinds
    return {"update_on": "+".join(words) or "never", "update_without_grad": "no" if quiet else "yes"}


def follow_order(play: Score, rules: dict[str, Any]) -> dict[str, Any]:
    """Set the order in which a backward through several forwards meets them: the one the recorded states show.

    Measured on mxnet 1.9.1: a backward through the sum of two outputs meets the last one first, one through two
    heads the first one first, one through four heads 1, 4, 3, 2. It belongs to the program's graph, not to the
    layer, so it is read off each trace.
    """
    kinds, sources = play.plan(rules)
    several = any(k == BACKWARD and len(own) > 1 for k, own in zip(kinds, sources, strict=True))
    if not several or not moves(rules, BACKWARD):
        return rules
    tried = [{**rules, "backward_order": order} for order in ORDERS]
    found = perform(play, tried)["running_mean"]
    with np.errstate(all="ignore"):
        gap = [float(np.nanmax(np.abs(found[i] - play.stream.mean), initial=0.0)) for i in range(len(tried))]
        best = int(np.argmin(gap))
        # Where the first order fits within rounding, or none much better, the input does not tell them apart.
        unusual = gap[0] > np.max(bounds(play.stream, rules)["running_mean"]) and gap[best] < 0.5 * gap[0]
    return tried[best if unusual else 0]


def in_order(sources: tuple[int, ...], order: str) -> tuple[int, ...]:
    """The forwards behind a backward (given last first) in the order in which it meets them."""
    if order == ORDERS[1]:
        return sources[::-1]
    return (*sources[-1:], *sources[:-1]) if order == ORDERS[2] else sources


def moves(rules: Rules, kind: str) -> bool:
    """Whether an event of this kind moves the statistics."""
    on = str(rules["update_on"]).split("+")
    if kind == NO_GRAD:
        return rules["update_without_grad"] == "yes" and "forward" in on
    return any(kind in SHOWN_BY.get(word, ()) for word in on)


def factors(play: Score, rules: Rules) -> tuple[Array, Array]:
    """What events keep and add of the running mean and of the running variance: (2, T, 1) and (2, T, C). Most of the
    sets of rules that are replayed together have these in common."""
    key = tuple(rules[name] for name in MOVING)
    if key not in play.factors:
        play.factors[key] = compute_factors(play, rules)
    return play.factors[key]


def compute_factors(play: Score, rules: Rules) -> tuple[Array, Array]:
    kinds, sources = play.plan(rules)
    um, uv = play.taken(rules)
    events, channels = len(kinds), um.shape[1]
    keep, add = np.ones((2, events, 1)), np.zeros((2, events, channels))
    per_event = 1.0 - (1.0 - float(rules["batch_weight"])) ** int(rules["updates_per_event"])
    count = [0, 0]
    for t, kind in enumerate(kinds):
        if not sources[t] or not moves(rules, kind):
            continue
        for i in in_order(sources[t], rules["backward_order"]) if kind == BACKWARD else sources[t]:
            if kind == EVAL and play.n[i] < 2:
                continue
            for which, u in enumerate(small(rules, int(play.n[i]), um[i], uv[i])):
                if u is not None:
                    count[which] += 1
                    a = weight_at(rules["averaging"], per_event, count[which])
                    keep[which, t] *= 1.0 - a
                    add[which, t] = (1.0 - a) * add[which, t] + a * u
    return keep, add


def small(rules: Rules, n: int, mean: Array, var: Array) -> tuple[Array | None, Array | None]:
    """What one batch puts in; None where it leaves the value alone."""
    if n >= 2:
        return mean, var
    if n == 1:
        state = rules["single_value_state"]
        if state == "unchanged":
            return None, None
        return mean, {"nan": var * np.nan, "mean-only": None}.get(state, var)
    # An update by an empty batch takes its moments, which do not exist, as zero.
    value = {"nan": np.nan, "updated": 0.0}.get(rules["empty_batch"])
    return (None, None) if value is None else (np.full_like(mean, value), np.full_like(mean, value))


def weight_at(averaging: str, weight: float, count: int) -> float:
    if averaging == "cumulative":
        return 1.0 / count
    if averaging == "debiased":
        return float(debiased_weight(np.array(weight), np.array(float(count))))
    return weight


def perform(play: Score, variants: Sequence[Rules]) -> dict[str, Array]:
    """Replay S sets of rules at once: running_mean, running_var (S, T+1, C), used_mean, used_invstd (S, T, C)."""
    parts = [factors(play, rules) for rules in variants]
    states = []
    for which, name in ((0, "initial_mean"), (1, "initial_var")):
        keep = np.stack([kept[which] for kept, _ in parts], axis=1)
        add = np.stack([added[which] for _, added in parts], axis=1)
        state = np.empty((len(keep) + 1, *add.shape[1:]))
        state[0] = np.concatenate([rules[name] for rules in variants])
        for t in range(len(keep)):
            # An event that adds nothing keeps the value, NaN or not.
            state[t + 1] = keep[t] * state[t] + add[t]
        states.append(state.swapaxes(0, 1))
    used = np.empty((2, len(variants), *play.input_mean.shape))
    for i, rules in enumerate(variants):
        used[0, i], used[1, i] = normalisers(play, rules, states[0][i], states[1][i])
    return {"running_mean": states[0], "running_var": states[1], "used_mean": used[0], "used_invstd": used[1]}


def normalisers(play: Score, rules: Rules, mean: Array, var: Array) -> tuple[Array, Array]:
    """(T, C) mean and inverse deviation that each forward normalises with; NaN rows for other events and n < 2."""
    kinds = play.stream.kinds
    m, v = np.full_like(play.input_mean, np.nan), np.full_like(play.input_var, np.nan)
    plain = np.zeros(len(kinds), dtype=bool)
    for rows, facet in zip(play.phases, ("train_normaliser", "eval_normaliser"), strict=True):
        source, share = rules[facet], float(rules["blend_weight"])
        if source == "none":
            plain |= rows
            continue
        shift = 1 if source == "running-after" else 0
        old_m, old_v = mean[shift : shift + len(kinds)], var[shift : shift + len(kinds)]
        for found, batch, running in ((m, play.input_mean, old_m), (v, play.input_var, old_v)):
            # Never 0·NaN: a poisoned state must not reach an output that does not use it.
            if source == "blend":
                found[rows] = share * batch[rows] + (1.0 - share) * running[rows]
            else:
                found[rows] = (batch if source == "batch" else running)[rows]
    eps = float(rules["eps"])
    with np.errstate(all="ignore"):
        r = 1.0 / (np.sqrt(v) + eps) if rules["eps_placement"] == "outside" else 1.0 / np.sqrt(v + eps)
    m[plain], r[plain] = 0.0, 1.0
    # An output without a finite scale reveals neither.
    lost = ~(np.isfinite(m) & np.isfinite(r)) | play.hidden
    m[lost], r[lost] = np.nan, np.nan
    return m, r


def replay(case: Case, trace: Trace, convention: Convention) -> Mapping[str, Mapping[str, Array]]:
    """layer → quantity → float64: running_mean, running_var (T+1, C), used_mean, used_invstd (T, C).

    The convention is settled on the case first (``settle``): a case may set its own weight or eps.
    """
    found = {}
    with np.errstate(all="ignore"):
        for stream in streams_of(case, trace):
            settled = settle(case, trace, convention, stream.layer.name)
            play = score(case, stream)
            parts = perform(play, [follow_order(play, rules_of(settled, stream))])
            found[stream.layer.name] = {name: array[0] for name, array in parts.items()}
    return found
