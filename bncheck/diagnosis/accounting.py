"""Which finding accounts for which difference, and what nobody accounts for.

A difference is a drift beyond tolerance that is no rounding. A finding accounts for it if it is about that quantity of
that layer, or if its rule declares that its cause changes such quantities (``EXPLAINS``) and nothing that was measured
speaks against it:

* Where replay attributes the drift, a finding of a convention counts only if its facet takes part there, and only if
  the facets together remove the drift down to rounding. A part that is left is left.
* A running statistic behind the layer of the cause has to differ by no more than what reaches that layer differs by.
* A gradient belongs to whatever explains that the outputs differ in the forward that it is of; where they agree there,
  to causes that reach gradients.
* What only acts through held state explains outputs in evaluations alone (``evaluations`` instead of ``outputs``).
* NaN and Inf explain what is not finite, and what both sides have alike sets neither apart.
* What happens after a difference does not cause it.

Pure: findings and one pair of sides in, the same findings with what they account for and the differences left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bncheck.diagnosis.drifts import measure, pair_series, same_program
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
from bncheck.finding import Consequence, Finding, parts
from bncheck.trace import GRADIENTS, Place

# Above this share conventions have explained a drift; what is left is their replay's rounding.
ENOUGH = 0.99
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


def open_drifts(pairs: Iterable[PairView]) -> list[Open]:
    """All differences between the members of two groups, each place once, in the order of the drift table."""
    found: dict[Place, Open] = {}
    for pair in pairs:
        for drift in pair.differing:
            if (drift.layer, drift.quantity) not in found and is_open(pair, drift):
                found[drift.layer, drift.quantity] = Open(drift, pair)
    return list(found.values())


def is_open(pair: PairView, drift: Drift) -> bool:
    """Whether a drift beyond tolerance is more than rounding."""
    return not (drift.relation in ("differs", "nonfinite") and is_rounding(pair, drift))


Said = dict[int, dict[Place, None]]  # number of a finding → what it accounts for


def account(
    findings: Sequence[Finding], differences: Sequence[Open], order: Mapping[str, int]
) -> tuple[Said, list[Open]]:
    """What each finding accounts for, and the differences that none of them does.

    ``findings`` are about one case and as their rules made them: what one came to account for between two others says
    nothing about these two. ``differences`` are between two groups; ``order`` is the place of each layer in the
    network.
    """
    said: Said = {}
    left = []
    for item in differences:
        known = [
            number
            for number, one in enumerate(findings)
            if tells_apart(one, item.drift) and accounts_for(one, item, order)
        ]
        for number in known:
            said.setdefault(number, {})[item.place] = None
        if not known:
            left.append(item)
    return said, left


def with_accounts(findings: Sequence[Finding], said: Iterable[Said]) -> list[Finding]:
    """The findings, each with what it accounts for written into it."""
    kept = list(findings)
    for number, places in ((number, places) for part in said for number, places in part.items()):
        more = tuple(place for place in places if place not in kept[number].places)
        kept[number] = replace(kept[number], accounts=(*kept[number].accounts, *more))
    return kept


def account_alike(
    findings: Sequence[Finding], differences: Sequence[Open], pairs: Mapping[frozenset[str], PairView]
) -> tuple[list[Finding], list[Open]]:
    """The same for what findings say of others: where c agrees with b up to rounding, what sets a apart from b sets it
    apart from c, and follows from that finding. ``pairs`` are all pairs of the case."""
    kept, left = list(findings), []
    targets = sorted({target for pair in pairs for target in pair})
    said: dict[tuple[int, str, str, str], dict[Place, None]] = {}
    for item in differences:
        found = next(stand_ins(kept, item, targets, pairs), None)
        if found is None:
            left.append(item)
        else:
            said.setdefault(found, {})[item.place] = None
    apart_from: dict[tuple[int, str, str, tuple[Place, ...]], list[str]] = {}
    for (at, one, like, other), places in said.items():
        apart_from.setdefault((at, one, like, tuple(places)), []).append(other)
    for (at, one, like, known), others in apart_from.items():
        what = Consequence(
            title=f"{one} behaves like {like}.", targets=(one, *others), sides=((one,), tuple(others)), places=known
        )
        kept[at] = replace(kept[at], follows=(*kept[at].follows, what))
    return kept, left


def stand_ins(
    findings: Sequence[Finding], item: Open, targets: Sequence[str], pairs: Mapping[frozenset[str], PairView]
) -> Iterator[tuple[int, str, str, str]]:
    """(finding, target, the one that it behaves like, the one that both differ from)."""
    for one, other in ((item.drift.b, item.drift.a), (item.drift.a, item.drift.b)):
        for like in targets:
            near, far = pairs.get(frozenset((one, like))), pairs.get(frozenset((like, other)))
            drift = far.drift(*item.place) if far is not None else None
            if (
                near is None
                or drift is None
                or drift.relation != item.drift.relation
                or not same_there(near, item.place)
            ):
                continue
            for at, finding in enumerate(findings):
                if finding.kind != "rounding" and covers(finding, drift):
                    yield at, one, like, other


def same_there(pair: PairView, place: Place) -> bool:
    drift = pair.drift(*place)
    return drift is None or drift.relation == "agrees" or (drift.relation == "differs" and is_rounding(pair, drift))


def tells_apart(finding: Finding, drift: Drift) -> bool:
    """Whether a finding says something of the two sides of a drift that they do not share. Sums that lose digits lose
    others on each side, what ran before differs, and a number that is lost is NaN here and Inf there: those set apart
    whom they are both about."""
    if finding.of_difference or not {drift.a, drift.b} <= set(finding.targets):
        return finding.concerns(drift.a, drift.b)
    explains = rule_of(finding.code).explains
    both_lost = drift.relation == "nonfinite" and drift.nonfinite_a == drift.nonfinite_b
    return bool({"variance", "order"} & set(explains)) or ("nan" in explains and both_lost)


def of_nan_alone(finding: Finding) -> bool:
    """Whether it tells of NaN and Inf, and of nothing that also changes finite numbers."""
    explains = rule_of(finding.code).explains
    single = not finding.of_difference or finding.cause == "poisoned-state"
    return single and "nan" in explains and "variance" not in explains


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
            early = measure(case, a.target, b.target, series, item.pair.tolerance)
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
    """Whether every event whose outputs differ by more than rounding takes them from the running statistics."""
    return all(takes_held_state(item.pair, event) for event in output_drifts(item.pair))


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


def covers(finding: Finding, drift: Drift) -> bool:
    """Whether a finding, or what follows from it, is about this difference between these two targets."""
    place = (drift.layer, drift.quantity)
    if any(place in item.places and apart(item, drift.a, drift.b) for item in finding.follows):
        return True
    if place not in finding.places:
        return False
    if finding.kind == "rounding":
        # Rounding is said once for all targets that agree up to it.
        between = finding.of_difference and {drift.a, drift.b} <= set(finding.targets)
        return between and drift.relation in ("agrees", "differs")
    named = place == (finding.layer, finding.quantity)
    speaks = named or finding.cause in ("unexplained", "state-mismatch") or bool(rule_of(finding.code).explains)
    return speaks and tells_apart(finding, drift)


def apart(item: Consequence, a: str, b: str) -> bool:
    return parts(item.sides, a, b) if item.sides else a in item.targets or b in item.targets


# ----------------------------------------------------------------------------------------------- consequences


def absorb(findings: Sequence[Finding]) -> list[Finding]:
    """Findings that follow from another one are listed under it and are no findings of their own."""
    cause_of: dict[int, int] = {}
    for place, weak in enumerate(findings):
        found = (at for at, one in enumerate(findings) if at != place and follows(weak, one))
        at = next((at for at in found if root(cause_of, at) != place), None)
        if at is not None:
            cause_of[place] = at
    under: dict[int, list[Finding]] = {}
    for place in cause_of:
        under.setdefault(root(cause_of, place), []).append(findings[place])
    return [with_consequences(one, under.get(at, ())) for at, one in enumerate(findings) if at not in cause_of]


def root(cause_of: Mapping[int, int], place: int) -> int:
    """What a finding follows from in the end."""
    while place in cause_of:
        place = cause_of[place]
    return place


def with_consequences(cause: Finding, weak: Sequence[Finding]) -> Finding:
    """The cause, with findings that follow from it listed under it."""
    added = [
        one
        for item in weak
        for one in (
            Consequence(title=item.title, targets=item.targets, sides=item.sides, places=tuple(sorted(item.places))),
            *item.follows,
        )
    ]
    return replace(cause, follows=(*cause.follows, *added))


def follows(weak: Finding, cause: Finding) -> bool:
    """Whether one finding is a consequence of another by what their rules declare."""
    if weak.code == cause.code:
        # Beside the reference it shows which of two sides is wrong; between others it does not.
        same = (weak.layer, weak.quantity) == (cause.layer, cause.quantity)
        return same and not weak.departs and cause.departs in weak.targets
    if not about_same_targets(weak, cause) or cause.kind == "rounding":
        return False
    words = rule_of(weak.code).follows_from & rule_of(cause.code).explains
    if words <= {"refused"} and not weak.of_difference and not set(weak.targets) <= refusing(cause):
        return False  # what one does wrong by itself is not due to another's refusal
    if cause.event is not None and weak.event is not None and cause.event > weak.event:
        return False  # what happens later is no cause
    if words & {"gradients", "counter"}:
        return WORDS.get(weak.quantity) in words and (weak.layer, weak.quantity) in cause.places
    return bool(words) and cause.layer in (weak.layer, "")


def refusing(cause: Finding) -> set[str]:
    """The side of a refusal that does not carry the event out: it is named first."""
    return next((set(side) for side in cause.sides if cause.targets[0] in side), set(cause.targets))


def about_same_targets(weak: Finding, cause: Finding) -> bool:
    """About one of the weak finding's targets alone, or about a difference between its two sides."""
    if not cause.of_difference or not weak.of_difference:
        return bool(set(cause.targets) & set(weak.targets))
    (a, b), (x, y) = ([set(side) for side in item.sides] for item in (cause, weak))
    return bool((a & x and b & y) or (a & y and b & x))


def absorb_by_order(findings: Sequence[Finding]) -> list[Finding]:
    """What a target shows in a case whose result depends on what ran before it follows from that."""
    causes = [item for item in findings if item.cause == "order-dependence" and item.kind != "rounding"]
    kept = list(findings)
    for cause in causes:
        weak = [item for item in kept if item is not cause and depends(item, cause)]
        kept = [with_consequences(item, weak) if item is cause else item for item in kept if item not in weak]
    return kept


def depends(item: Finding, cause: Finding) -> bool:
    """Whether a finding sets a target with order-dependent results apart from others, in that very case."""
    if (item.scenario, item.case) != (cause.scenario, cause.case) or item.kind == "rounding":
        return False
    if not item.of_difference:
        return "order" in rule_of(item.code).follows_from and set(item.targets) <= set(cause.targets)
    return any(set(side) <= set(cause.targets) for side in item.sides)
