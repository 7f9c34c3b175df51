"""Whether one finding's cause bears on one difference: what its rule explains, held against what was measured.

* Where replay attributes the drift, a finding of a convention counts only if its facet takes part there, and only if
  the facets together remove the drift down to rounding. A part that is left is left.
* A running statistic behind the layer of the cause has to differ by no more than what reaches that layer differs by.
* A gradient belongs to whatever explains that the outputs differ in the forward that it is of; where they agree there,
  to causes that reach gradients.
* What only acts through held state explains outputs in evaluations alone (``evaluations`` instead of ``outputs``).
* NaN and Inf explain what is not finite, and what both sides have alike sets neither apart.
* What happens after a difference does not cause it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from bncheck.diagnosis.drifts import drift_of, pair_series, same_program
from bncheck.diagnosis.event_drifts import (
    agrees_where_finite,
    differs_in_time_alone,
    finite_outputs_apart,
    gradient_follows,
    only_where_held,
    output_drifts,
    reveals_nothing,
    takes_held_state,
    worst_event,
)
from bncheck.diagnosis.rules import rule_of
from bncheck.diagnosis.rules.amplified import input_gap
from bncheck.diagnosis.rules.leftover import bound_of, explained_by_conventions
from bncheck.diagnosis.rules.movement import forwards_behind
from bncheck.diagnosis.rules.remainder.bn901_rounding import is_rounding
from bncheck.evidence import CellView, Drift, PairView, first_true
from bncheck.finding import Finding
from bncheck.trace import GRADIENTS, Place

# Above this share conventions have explained a drift; what is left is their replay's rounding.
ENOUGH = 0.99
# A line that reveals its mean: what it leaves, relative to y; a mean that is another one: so many deviations of the
# input away, and more than float16 makes of values so far from zero.
STRAIGHT, ANOTHER, FAR = 1e-3, 0.1, 1e-2
STATISTICS = ("running_mean", "running_var", "running_covar")
# Quantity → the word of ``EXPLAINS`` that it belongs to.
WORDS = {
    **dict.fromkeys(STATISTICS, "statistics"),
    **dict.fromkeys((*GRADIENTS, "grad_input"), "gradients"),
    "counter": "counter",
    "gamma": "affine",
    "beta": "affine",
    "output": "outputs",
    "events": "events",
}
# What an attribution sees in the outputs of a layer.
SEEN_IN_OUTPUT = ("output", "used_mean", "used_invstd")


@dataclass(frozen=True)
class Open:
    """A difference between two sides: its drift, and the pair of targets that shows it."""

    drift: Drift
    pair: PairView

    @property
    def place(self) -> Place:
        return self.drift.layer, self.drift.quantity


def accounts_for(finding: Finding, item: Open, order: Mapping[str, int]) -> bool:
    """Whether a finding that concerns the two sides explains this difference between them."""
    drift = item.drift
    if finding.kind == "rounding" or (of_nan_alone(finding) and is_finite_part_apart(finding, item)):
        return False
    if is_subject(finding, item.place):
        return drift.relation == "missing" or removes_enough(finding, item)
    explains, word = rule_of(finding.code).explains, WORDS.get(drift.quantity, "")
    if comes_later(finding, item):
        if word == "outputs":
            return word in explains and outputs_follow_until(finding, item)
        return word in explains and finding.layer == drift.layer and conventions_reach_to(finding, item)
    if drift.relation == "missing" or not word or not changes_memory(finding, word):
        return False
    if word == "gradients":
        return reaches_gradients(finding, item, order)
    if word in ("outputs", "events"):
        return reaches_outputs(finding, item, word) and removes_enough(finding, item)
    if finding.layer in (drift.layer, ""):
        return word in explains and removes_enough(finding, item)
    return word == "statistics" and "outputs" in explains and comes_in(finding, item, order)


def of_nan_alone(finding: Finding) -> bool:
    """Whether it tells of NaN and Inf, and of nothing that also changes finite numbers."""
    explains = rule_of(finding.code).explains
    single = not finding.of_difference or finding.cause == "poisoned-state"
    return single and "nan" in explains and "variance" not in explains


def is_subject(finding: Finding, place: Place) -> bool:
    """Whether it is about that place by itself, and not by what its cause changes."""
    return bool(finding.quantity or finding.accounts) and place in finding.places


def is_finite_part_apart(finding: Finding, item: Open) -> bool:
    """Whether more than NaN and Inf sets the two sides apart there, in what NaN does not change: numbers that are
    finite on both sides. An overflow does change them: a variance of Inf makes outputs of beta."""
    if item.drift.relation == "missing":
        return False
    overflow = finding.cause == "overflow"
    of_output = item.drift.quantity in (*GRADIENTS, "grad_input") and of_apart_outputs(item)
    if item.drift.quantity == "output" or of_output:
        return not only_where_held(item.pair) or (not overflow and finite_outputs_apart(item.pair))
    own = item.place == (finding.layer, finding.quantity)
    return not (own and overflow) and not agrees_where_finite(item.pair, item.drift)


def reaches_outputs(finding: Finding, item: Open, word: str) -> bool:
    explains = rule_of(finding.code).explains
    return word in explains or (word == "outputs" and "evaluations" in explains and only_where_held(item.pair))


def comes_later(finding: Finding, item: Open) -> bool:
    """Whether what a finding about single targets tells happens after the difference is there.

    Digits are lost little by little: what is no more than rounding until the finding's event is none of before."""
    if finding.of_difference or finding.event is None or item.drift.first_event is None:
        return False
    return finding.event > item.drift.first_event and not rounds_until(item, finding.event)


def rounds_until(item: Open, event: int) -> bool:
    """Whether the two sides differ by no more than rounding in all events before this one."""
    case, a, b = item.pair.case, item.pair.a, item.pair.b
    if a.trace is None or b.trace is None:
        return False
    for series in pair_series(case, a.trace, b.trace, min(event, same_program(a.trace, b.trace))):
        if (series.layer, series.quantity) == item.place:
            early = drift_of(case, a.target, b.target, series, item.pair.tolerance)
            return early.relation in ("agrees", "differs") and is_rounding(item.pair, early)
    return False


def conventions_reach_to(finding: Finding, item: Open) -> bool:
    """Whether each side follows its own convention until what the finding tells happens, and the others throughout:
    the difference is then the conventions' before it and the finding's after it."""
    with np.errstate(all="ignore"):
        for cell in (item.pair.a, item.pair.b):
            event = deviation(cell, item.drift)
            if event is None:
                return False
            if event < (finding.event or 0) if cell.target in finding.targets else event < math.inf:
                return False
    return True


def outputs_follow_until(finding: Finding, item: Open) -> bool:
    """The same of what every layer normalises with: outputs differ by the conventions until then."""
    held = [
        replace(item.drift, layer=layer, quantity=quantity)
        for layer in item.pair.case.network.batch_norms
        for quantity in ("used_mean", "used_invstd")
    ]
    return bool(held) and all(conventions_reach_to(finding, replace(item, drift=drift)) for drift in held)


def deviation(cell: CellView, drift: Drift) -> float | None:
    """The first event after which a statistic is not where the cell's own convention puts it: inf for never, None where
    there is no replay of it."""
    rows = cell.trace.get(drift.layer, drift.quantity) if cell.trace is not None else None
    replay = cell.replay.get(drift.layer, {}).get(drift.quantity)
    if rows is None or replay is None or np.shape(rows) != np.shape(replay):
        return None
    off = ~(np.abs(np.asarray(rows, dtype=np.float64) - replay) <= bound_of(cell, drift))
    first = first_true(np.asarray(off.reshape(len(off), -1).any(axis=1)))
    return math.inf if first is None else first - 1


def changes_memory(finding: Finding, word: str) -> bool:
    """A counter that differs changes statistics, and by them outputs, only where they are divided by it: then the
    finding is about them."""
    return finding.cause != "counter-skew" or word == "counter" or finding.quantity in STATISTICS


def removes_enough(finding: Finding, item: Open) -> bool:
    """For the finding of a convention: replay has its facet in this difference, and conventions explain all of it."""
    if not finding.facets:
        return True
    share = explained_by_conventions(item.pair, item.drift)
    if share is None:
        late = finding.cause == "update-phase" and differs_in_time_alone(item.pair, item.drift)
        return late or not attributed(item) or evaluates_explained_state(finding, item)
    return share >= ENOUGH and takes_part(finding, item)


def evaluates_explained_state(finding: Finding, item: Open) -> bool:
    """Outputs that replay cannot make (of a layer that whitens, of single values, or so far from zero that its bounds
    are wider than the difference), and that take what is held: they come from statistics that the finding sets apart.
    """
    if item.drift.quantity != "output" or finding.quantity not in STATISTICS:
        return False
    hidden = all(reveals_nothing(item.pair, event) for event in output_drifts(item.pair))
    blind = hidden or all(
        one.residual > one.rounding_bound or one.rounding_bound >= item.drift.max_abs
        for one in item.pair.attributions
        if one.quantity == "output"
    )
    held = item.pair.drift(finding.layer, finding.quantity)  # by this convention and others together
    share = explained_by_conventions(item.pair, held) if held is not None else None
    return blind and max(finding.explained or 0.0, share or 0.0) >= ENOUGH and only_from_held_state(item)


def only_from_held_state(item: Open) -> bool:
    """Whether every event whose outputs differ by more than rounding takes them from the running statistics, as far as
    outputs show it."""
    pair, layers = item.pair, item.pair.case.network.batch_norms
    return all(
        takes_held_state(pair, event)
        and not any(takes_another_mean(cell, layer, event) for cell in (pair.a, pair.b) for layer in layers)
        for event in output_drifts(pair)
    )


def takes_another_mean(cell: CellView, layer: str, event: int) -> bool:
    """Whether the output of a layer is a straight line of its input that goes through another mean than the running
    one, by a part of the input's deviation that no rounding makes."""
    if cell.trace is None:
        return False
    words = ("used_mean", "used_residual", "running_mean", "input_var", "input_mean")
    rows = [cell.trace.get(layer, word) for word in words]
    if any(row is None or event >= len(row) for row in rows):
        return False
    used, residual, held, var, mean = (np.asarray(row[event], dtype=np.float64) for row in rows if row is not None)
    told = np.isfinite(used) & np.isfinite(held) & (residual < STRAIGHT) & (var > 0)
    with np.errstate(all="ignore"):
        off = np.abs(used - held) > ANOTHER * np.sqrt(var) + FAR * (np.abs(mean) + np.abs(held))
    return bool((told & off).any())


def attributed(item: Open) -> bool:
    """Whether replay looked at this quantity at all: without measured conventions it cannot."""
    quantities = SEEN_IN_OUTPUT if item.drift.quantity == "output" else (item.drift.quantity,)
    return any(one.quantity in quantities and item.drift.layer in (one.layer, "") for one in item.pair.attributions)


def takes_part(finding: Finding, item: Open) -> bool:
    if item.drift.quantity != "output":
        return item.place in finding.places
    return any((finding.layer, quantity) in finding.places for quantity in SEEN_IN_OUTPUT)


def reaches_gradients(finding: Finding, item: Open, order: Mapping[str, int]) -> bool:
    """Another output has another gradient; where the outputs of its forward agree, the cause itself has to reach
    backward."""
    if has_no_gradient(finding, item):
        return True
    if gradient_follows(item.pair, item.drift) is False:
        return False  # of another gradient than the outputs make
    output = next((one for one in item.pair.drifts if (one.layer, one.quantity) == ("", "output")), None)
    if output is not None and of_apart_outputs(item):
        return accounts_for(finding, Open(output, item.pair), order)
    return "gradients" in rule_of(finding.code).explains and finding.cause != "gradient"


def has_no_gradient(finding: Finding, item: Open) -> bool:
    """Whether the gradient is 0 of a parameter that the finding says is not applied."""
    parameter = item.drift.quantity.removeprefix("grad_")
    if finding.cause != "affine" or parameter not in str(finding.evidence.get("ignored", "")).split():
        return False
    departing = [cell.trace for cell in (item.pair.a, item.pair.b) if cell.target == finding.departs]
    rows = [
        found
        for trace in departing
        if trace and (found := trace.get(item.drift.layer, item.drift.quantity)) is not None
    ]
    return any(np.isfinite(found).any() for found in rows) and not any(np.nan_to_num(found).any() for found in rows)


def of_apart_outputs(item: Open) -> bool:
    """Whether the outputs already differ in a forward that this gradient goes back through."""
    trace, event = item.pair.a.trace, worst_event(item.pair, item.drift)
    if trace is None or event is None:
        return False
    return any(forward in output_drifts(item.pair) for forward in forwards_behind(trace).get(event, ()))


def comes_in(finding: Finding, item: Open, order: Mapping[str, int]) -> bool:
    """A statistic behind the finding's layer that differs by no more than what reaches its layer differs by.

    A running mean is an average of input means with weights that sum to 1 at most, so that this is a bound.
    """
    last = len(order)
    if order.get(finding.layer, -1) >= order.get(item.drift.layer, last):
        return False
    if item.drift.relation == "nonfinite":
        return bad_inputs(item)
    with np.errstate(all="ignore"):
        own = sum(bound_of(cell, item.drift) for cell in (item.pair.a, item.pair.b))
    return bool(item.drift.max_abs <= input_gap(item.pair, item.drift) + own)


def bad_inputs(item: Open) -> bool:
    """Whether NaN or Inf reached the layer on one side."""
    rows = [
        cell.trace.get(item.drift.layer, "input_bad") for cell in (item.pair.a, item.pair.b) if cell.trace is not None
    ]
    return any(row is not None and bool((row > 0).any()) for row in rows)
