"""A convention: the BatchNorm rules of a target, one facet each, measured from traces or documented."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

SETTLED_BY_PROBE = "settled by: bncheck run probe"  # of a facet that a case of the user's does not show

# Facet → what it says. Values are the neutral words of the design; momentum is the weight of the NEW batch.
FACETS: Mapping[str, str] = {
    "update_on": "the event that moves the running statistics: forward, backward, flush, eval, never, or a+b",
    "update_without_grad": "whether a training forward without gradient recording moves them too: yes, no",
    "updates_per_event": "how many times one such event moves them",
    "batch_weight": "weight of the new batch in the running average",
    "averaging": "exponential, cumulative (1/count) or debiased (zero-debiased exponential)",
    "variance_divisor": "n or n-1 in the variance that is averaged",
    "statistic": "what is averaged into running_var: variance, std, inverse-std, second-moment, or swapped",
    "train_normaliser": "what a training forward normalises with: batch, running-before, running-after, blend, none",
    "eval_normaliser": "what an eval forward normalises with: running, batch, blend, none",
    "blend_weight": "weight of the batch where a forward normalises with a blend of batch and running statistics",
    "eps": "the constant added to the variance",
    "eps_placement": "inside: 1/sqrt(var + eps); outside: 1/(sqrt(var) + eps)",
    "single_value": "a training forward with n = 1: refuses, nan, zero, identity, running (what y is)",
    "single_value_state": "the statistics after it: unchanged, updated, nan, mean-only",
    "empty_batch": "a training forward with n = 0: refuses, nan, unchanged, updated (the statistics after it), crash",
    "counter": "what the layer counts: none, forwards, updates",
    "initial_mean": "running mean before any event",
    "initial_var": "running variance before any event",
    "initial_gamma": "scale before any event: ones, uniform, none, or a number",
    "initial_beta": "shift before any event: zeros, none, or a number",
    "default_batch_weight": "weight of the new batch when the user sets nothing",
    "default_eps": "eps when the user sets nothing",
}


@dataclass(frozen=True)
class Facet:
    """One measured rule. ``residual`` is the best hypothesis' error, ``runner_up`` the next one's name."""

    value: str | float | int | None
    identifiable: bool = True
    residual: float = math.nan
    runner_up: str = ""
    runner_up_residual: float = math.nan
    uncertainty: float = 0.0  # of a number: the true value is within value ± uncertainty
    asked: float | None = None  # of batch_weight and eps: what the measured layers asked for
    reason: str = ""  # why not identifiable, in words, or which event settled it
    # Not identifiable: the values that fit equally well, the simplest first, or (lowest, highest) of a number.
    standing: tuple[str | float, ...] = ()
    documented: str | float | int | None = None
    link: str = ""
    agrees: bool | None = None  # with the documented value; None when there is none or nothing was measured

    def because(self, reason: str) -> Facet:
        """The same with another reason. (dataclasses.replace takes seven times as long, and a case settles twenty.)"""
        found = object.__new__(Facet)
        found.__dict__.update(self.__dict__, reason=reason)
        return found


@dataclass(frozen=True)
class Convention:
    """All facets of one target on one layer path ("2-D", "4-D", "4-D channels last"; "" where it is one)."""

    target: str
    path: str = ""
    facets: Mapping[str, Facet] = field(default_factory=dict)
    framework_word: Mapping[str, str] = field(default_factory=dict)  # e.g. {"batch_weight": "momentum=0.9"}
    settled_on: str = ""  # id of the case whose own steps have gone into it (fit.settle)

    def value(self, facet: str) -> str | float | int | None:
        """The facet's value, or None when it is missing or not identifiable."""
        found = self.facets.get(facet)
        return found.value if found is not None and found.identifiable else None
