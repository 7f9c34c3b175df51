"""Findings that follow from another one: they are listed under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bncheck.diagnosis.bearing import WORDS
from bncheck.diagnosis.rules import rule_of
from bncheck.finding import Consequence, Finding


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
