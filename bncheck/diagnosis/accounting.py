"""Which finding accounts for which difference, and what nobody accounts for.

A difference is a drift beyond tolerance that is no rounding. A finding accounts for it if it is about that quantity of
that layer, or if its rule declares that its cause changes such quantities (``EXPLAINS``) and nothing that was measured
speaks against it (bearing.py).

Pure: findings and one pair of sides in, the same findings with what they account for and the differences left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from bncheck.diagnosis.bearing import Open, accounts_for
from bncheck.diagnosis.rules import rule_of
from bncheck.diagnosis.rules.remainder.bn901_rounding import is_rounding
from bncheck.evidence import Drift, PairView
from bncheck.finding import Consequence, Finding, parts
from bncheck.trace import Place


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
