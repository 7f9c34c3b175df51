"""Views in, findings out: run all rules, name each cause once, drop what a stronger finding already says.

Targets that agree with each other on a case form one group; rules see one pair of groups, not every pair of targets,
so that 20 targets give a few sentences and not 190. All pairs stay in the drift table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from bncheck.diagnosis.accounting import Said, account, account_alike, covers, is_open, open_drifts, with_accounts
from bncheck.diagnosis.bearing import Open
from bncheck.diagnosis.consequences import about_same_targets, absorb
from bncheck.diagnosis.drifts import held
from bncheck.diagnosis.rules import load_rules, rule_of
from bncheck.diagnosis.rules.conventions.bn115_state_mismatch import check_pair as held_by_one
from bncheck.diagnosis.rules.counters import advance
from bncheck.diagnosis.rules.leftover import share_of_bound
from bncheck.diagnosis.rules.remainder.bn901_rounding import check_pair as rounded
from bncheck.diagnosis.rules.remainder.bn901_rounding import is_rounding
from bncheck.diagnosis.rules.remainder.bn902_unexplained import unexplained
from bncheck.diagnosis.rules.well_formed import well_formed
from bncheck.diagnosis.rules.wording import name, names
from bncheck.evidence import CellView, Drift, PairView, TargetView
from bncheck.finding import KINDS, SHARE, Finding
from bncheck.trace import STATES


def diagnose(cells: Sequence[CellView], pairs: Sequence[PairView], targets: Sequence[TargetView]) -> list[Finding]:
    """All findings, what matters first. Never raises on odd traces: a rule that cannot tell stays silent."""
    rules = load_rules()
    found: list[Finding] = []
    with np.errstate(all="ignore"):
        for view in targets:
            found += [item for rule in rules if rule.check_target for item in rule.check_target(view)]
        by_case = _by_case(cells, pairs)
        for case in by_case.values():
            layers = [layer for cell in case.cells if cell.trace is not None for layer in cell.trace.layers]
            order = {layer: place for place, layer in enumerate(dict.fromkeys(layers))}
            found += _case_findings(case, order)
    return sorted(found, key=importance)


@dataclass(frozen=True)
class CaseViews:
    """Everything about one case."""

    cells: list[CellView]
    pairs: dict[frozenset[str], PairView]


def _by_case(cells: Iterable[CellView], pairs: Iterable[PairView]) -> Mapping[tuple[str, str], CaseViews]:
    found: dict[tuple[str, str], CaseViews] = {}
    sound: dict[int, CellView] = {}  # a cell is in as many pairs as there are other targets

    def checked(cell: CellView) -> CellView:
        if id(cell) not in sound:
            sound[id(cell)] = well_formed(cell)
        return sound[id(cell)]

    for cell in map(checked, cells):
        found.setdefault((cell.case.scenario, cell.case.name), CaseViews([], {})).cells.append(cell)
    for given in pairs:
        pair = replace(given, a=checked(given.a), b=checked(given.b))
        views = found.setdefault((pair.case.scenario, pair.case.name), CaseViews([], {}))
        views.pairs[frozenset((pair.a.target, pair.b.target))] = pair
        known = {cell.target for cell in views.cells}
        views.cells.extend(cell for cell in (pair.a, pair.b) if cell.target not in known)
    return found


def _case_findings(case: CaseViews, order: Mapping[str, int]) -> list[Finding]:
    """What rules say about a case, and for every difference what accounts for it, or that nothing does."""
    rules = load_rules()
    found = _cell_findings(case.cells)
    pairs = list(group_pairs(case, agreeing_groups(case)))
    for pair in pairs:
        found += [between(pair, item) for rule in rules if rule.check_pair for item in rule.check_pair(pair)]
    found = join_singles(best_of_each(found))
    accounts: list[Said] = []
    rest: list[Finding] = []
    for pair in pairs:
        said, left = account(found, open_drifts(member_pairs(case, pair)), order)
        accounts.append(said)
        rest += [between(pair, item) for item in unexplained(pair, left, order)]
    found = absorb([*with_accounts(found, accounts), *rest])
    return rounding_between(case, between_members(case, pairs, found, order), order)


def between_members(
    case: CaseViews, pairs: Sequence[PairView], findings: list[Finding], order: Mapping[str, int]
) -> list[Finding]:
    """The findings, with every difference between two members of two groups of which none of them speaks yet: what
    was said of two other members need not be about these."""
    found = findings
    for pair in pairs:
        for member in member_pairs(case, pair):
            unsaid = (drift for drift in member.differing if not any(covers(one, drift) for one in found))
            silent = [Open(drift, member) for drift in unsaid if is_open(member, drift)]
            if silent:
                if any(one.drift.relation == "missing" for one in silent):
                    found = [*found, *(between(member, item) for item in held_by_one(member))]
                said, left = account(found, silent, order)
                found, left = account_alike(with_accounts(found, [said]), left, case.pairs)
                found = [*found, *(between(member, item) for item in unexplained(member, left, order))]
    return found


def between(pair: PairView, finding: Finding) -> Finding:
    """The finding with the two groups that it is about."""
    return replace(finding, sides=tuple(tuple(cell.target for cell in side.members) for side in (pair.a, pair.b)))


def member_pairs(case: CaseViews, pair: PairView) -> list[PairView]:
    """The pair itself, and all others of a member of one side with one of the other."""
    keys = [frozenset((a.target, b.target)) for a in pair.a.members for b in pair.b.members]
    return [case.pairs[key] for key in keys if key in case.pairs]


def _cell_findings(cells: Sequence[CellView]) -> list[Finding]:
    """Findings about single cells, said once for all cells that have the same one."""
    found: list[Finding] = []
    for rule in load_rules():
        if rule.check_cell is None:
            continue
        alike: dict[tuple[object, ...], list[tuple[CellView, Finding]]] = {}
        for cell in cells:
            for item in rule.check_cell(cell):
                alike.setdefault(_subject(cell, item), []).append((cell, item))
        for entries in alike.values():
            first, *others = {cell.target: cell for cell, _ in entries}.values()
            if not others:
                found += [item for _, item in entries]
                continue
            same = [item for cell, item in entries if cell is first]
            together = [
                item for item in rule.check_cell(replace(first, peers=tuple(others))) if alike_but_named(item, same)
            ]
            found += together
    return found


def alike_but_named(item: Finding, known: Sequence[Finding]) -> bool:
    """True if the finding that names all members is one of those known about the first."""
    where = (item.cause, item.kind, item.layer, item.quantity, item.event)
    return any(where == (one.cause, one.kind, one.layer, one.quantity, one.event) for one in known)


def _subject(cell: CellView, item: Finding) -> tuple[object, ...]:
    """What a finding about a cell says, whichever cell it is about."""
    title = item.title.replace(names(cell.members), "").replace(name(cell), "")
    return (item.cause, item.kind, item.layer, item.quantity, title)


# ------------------------------------------------------------------------------------------------- groups


def agreeing_groups(case: CaseViews) -> list[list[CellView]]:
    """Targets in order, each put into the first group all of whose members it agrees with."""
    groups: list[list[CellView]] = []
    for cell in case.cells:
        if any(cell.target == other.target for group in groups for other in group):
            continue
        home = next((group for group in groups if all(_agree(case, cell, other) for other in group)), None)
        if home is None:
            groups.append([cell])
        else:
            home.append(cell)
    return groups


def _agree(case: CaseViews, one: CellView, two: CellView) -> bool:
    """True if all that differs is rounding, or a counter; a state that only one of them has does not set them apart."""
    pair = case.pairs.get(frozenset((one.target, two.target)))
    if pair is None or one.outcome != two.outcome or one.trace is None or two.trace is None:
        return False
    if one.trace.statuses != two.trace.statuses:
        return False  # one lacks what the other played: that they agree until there says nothing about the rest
    return all(
        (drift.relation == "missing" and drift.quantity in STATES)
        or drift.quantity == "counter"
        or is_rounding(pair, drift)
        for drift in pair.drifts
    )


def group_pairs(case: CaseViews, groups: Sequence[Sequence[CellView]]) -> Iterable[PairView]:
    """One pair for every two groups, its sides naming all members, and those inside each group."""
    for place, group in enumerate(groups):
        yield from inner_pairs(case, group)
        for other in groups[place + 1 :]:
            keys = [frozenset((a.target, b.target)) for a in group for b in other]
            pair = next((case.pairs[key] for key in keys if key in case.pairs), None)
            if pair is not None:
                yield _named(pair, group, other)


def inner_pairs(case: CaseViews, group: Sequence[CellView]) -> Iterable[PairView]:
    """Members of a group differ by rounding, counters and what they hold only: one pair of members that count alike,
    and one for every two other counts."""
    counts: dict[tuple[object, ...], list[CellView]] = {}
    for cell in group:
        layers = cell.trace.layers if cell.trace is not None else ()
        counts.setdefault(tuple((advance(cell, layer), holdings(cell, layer)) for layer in layers), []).append(cell)
    sides = [(one, other) for one, other in combinations(counts.values(), 2)]
    sides += [(alike[:1], alike[1:]) for alike in counts.values() if len(alike) > 1]
    for side, other in sides:
        pair = case.pairs.get(frozenset((side[0].target, other[0].target)))
        if pair is not None:
            yield _named(pair, side, other)


def holdings(cell: CellView, layer: str) -> tuple[bool, ...]:
    """Which states a layer has on this target."""
    return tuple(cell.trace is not None and held(cell.trace, layer, quantity) for quantity in STATES)


def _named(pair: PairView, group: Sequence[CellView], other: Sequence[CellView]) -> PairView:
    """The pair, with the other members of each group attached as peers."""
    if pair.a.target not in {cell.target for cell in group}:
        group, other = other, group
    a = replace(pair.a, peers=tuple(cell for cell in group if cell.target != pair.a.target))
    b = replace(pair.b, peers=tuple(cell for cell in other if cell.target != pair.b.target))
    return replace(pair, a=a, b=b)


# ---------------------------------------------------------------------------------------------- selection


def best_of_each(findings: Iterable[Finding]) -> list[Finding]:
    """One finding per cause, targets, case and layer: the one that explains most; the others' numbers stay in it."""
    kept: dict[tuple[object, ...], Finding] = {}
    for item in sorted(findings, key=importance):
        # What is said of one cell is not what is said of a difference, even where both name the same two targets.
        key = (item.cause, frozenset(item.targets), bool(item.sides), item.scenario, item.case, item.layer)
        if key not in kept:
            kept[key] = item
        elif item.quantity and item.quantity != kept[key].quantity:
            note = {f"also in {item.quantity}": drift_size(item)}
            accounts = tuple(dict.fromkeys((*kept[key].accounts, *sorted(item.places))))
            kept[key] = replace(kept[key], evidence={**kept[key].evidence, **note}, accounts=accounts)
    return list(kept.values())


def join_singles(findings: Sequence[Finding]) -> list[Finding]:
    """A cause seen in one cell and between two sides is said once, between the sides, with the graver kind."""
    joined = list(findings)
    for single in [item for item in findings if not item.sides]:
        where = (single.cause, single.scenario, single.case, single.layer)
        pairs = [
            place
            for place, item in enumerate(joined)
            if item.sides
            and (item.cause, item.scenario, item.case, item.layer) == where
            and any(set(single.targets) == set(side) for side in item.sides)
        ]
        for place in pairs:
            item = joined[place]
            kind = min(item.kind, single.kind, key=KINDS.index)
            joined[place] = replace(
                item,
                kind=kind,
                departs=item.departs or single.departs,
                departs_from=item.departs_from or single.departs_from,
                evidence={**single.evidence, **item.evidence},
            )
        if pairs:
            joined.remove(single)
    return joined


def rounding_between(case: CaseViews, findings: Sequence[Finding], order: Mapping[str, int]) -> list[Finding]:
    """The findings, those of rounding with every difference beyond tolerance that is none, between any two targets.

    Rounding inside the tolerance goes without saying where something else is said about the same targets."""
    others = [item for item in findings if item.kind != "rounding" or not item.of_difference]
    found = [item for item in findings if item not in others]
    for pair in case.pairs.values():
        others = with_lost_digits(others, pair, order)
        for drift in beyond_tolerance(pair):
            if any(covers(item, drift) for item in others) or not is_rounding(pair, drift):
                continue
            at = next((k for k, item in enumerate(found) if {drift.a, drift.b} <= set(item.targets)), len(found))
            if at == len(found):
                found += [between(pair, item) for item in rounded(pair)]
            places = dict.fromkeys((*found[at].accounts, (drift.layer, drift.quantity)))
            found[at] = replace(found[at], accounts=tuple(places), evidence=with_share(found[at], pair, drift))
    aside = [any(about_same_targets(item, other) and other.places != {("", "")} for other in others) for item in found]
    return [*others, *(item for item, speaking in zip(found, aside, strict=True) if item.accounts or not speaking)]


def with_share(finding: Finding, pair: PairView, drift: Drift) -> Mapping[str, float | int | str]:
    """The evidence of a finding of rounding, with the largest share that a difference has of the bound that excuses it:
    the audit asks for it."""
    share, known = share_of_bound(pair, drift), finding.evidence.get(SHARE, 0.0)
    largest = max(share or 0.0, float(known))
    return finding.evidence if share is None else {**finding.evidence, SHARE: largest}


def with_lost_digits(findings: Sequence[Finding], pair: PairView, order: Mapping[str, int]) -> list[Finding]:
    """What rounding may make of data so far from zero is the doing of a sum that lost its digits, where one did."""
    numbers = [number for number, item in enumerate(findings) if "variance" in rule_of(item.code).explains]
    numeric = [findings[number] for number in numbers]
    if not any(item.concerns(pair.a.target, pair.b.target) for item in numeric):
        return list(findings)
    said, _ = account(numeric, [Open(drift, pair) for drift in beyond_tolerance(pair)], order)
    return with_accounts(findings, [{numbers[place]: what for place, what in said.items()}])


def beyond_tolerance(pair: PairView) -> list[Drift]:
    return [drift for drift in pair.differing if drift.relation == "differs"]


def drift_size(item: Finding) -> float:
    """How large the difference behind a finding is; 0 where it has none."""
    sizes = [item.evidence.get(key) for key in ("mean_abs", "max_abs")]
    numbers = [float(size) for size in sizes if isinstance(size, int | float) and np.isfinite(size)]
    return numbers[0] if numbers else 0.0


def importance(item: Finding) -> tuple[object, ...]:
    """Sort key: kind, then explained share as it is shown, then size; names last, so that the order is always the same.

    What 100.0 % and 100.0 % differ by is the rounding of two replays; of those the larger drift comes first.
    """
    explained = -1.0 if item.explained is None else round(item.explained, 3)
    return (
        KINDS.index(item.kind),
        -explained,
        -drift_size(item),
        item.scenario,
        item.case,
        item.code,
        item.layer,
        item.event if item.event is not None else -2,
        item.targets,
    )
