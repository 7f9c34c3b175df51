"""The two sides of a drift: what each recorded, the rules that it follows, and which of those differ."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bncheck.convention import SETTLED_BY_PROBE, Convention
from bncheck.diagnosis.fit.stream import Stream
from bncheck.trace import Array

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
