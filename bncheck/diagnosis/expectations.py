"""Did each [[expect]] of the scenario come true? Pure: expectations and findings in, met or not met out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bncheck.diagnosis.audit import silent_drifts
from bncheck.diagnosis.rules import load_rules
from bncheck.evidence import Drift
from bncheck.finding import Finding
from bncheck.run_folder.results import Expectation, TargetResult
from bncheck.scenario import TARGET_NAME, Case, Expect, Scenario

NO_PROBE = "no conventions were measured (--no-probe), and only they can name {causes}"


def check_expectations(
    scenario: Scenario,
    targets: Sequence[TargetResult],
    findings: Iterable[Finding],
    measured: bool = True,
    drifts: Iterable[Drift] = (),
) -> tuple[Expectation, ...]:
    """One entry per ``[[expect]]``; ``met`` is None when one of the two targets was not there, or when the run measured
    no conventions (``measured`` False) and an expected cause that was not found is one that only they can name."""
    every = [finding for finding in findings if finding.scenario == scenario.name]
    here = [finding for finding in every if finding.kind != "rounding"]
    blind = frozenset() if measured else needing_conventions()
    own = [drift for drift in drifts if drift.scenario == scenario.name]
    silent = [(drift.case, drift.a, drift.b, "unexplained") for drift in silent_drifts(own, every)]
    apart = [*silent, *wrong_alone(own, here)]
    return tuple(check(expect, scenario, targets, here, blind, apart) for expect in scenario.expect)


def wrong_alone(drifts: Iterable[Drift], findings: Sequence[Finding]) -> Iterator[tuple[str, str, str, str]]:
    """(case, a, b, cause) of differences that the defect of one of the two accounts for: they do not agree."""
    for drift in drifts:
        for finding in findings:
            of_one = len(finding.sides) < 2 and (drift.a in finding.targets) != (drift.b in finding.targets)
            about = (drift.layer, drift.quantity) in finding.places or drift.quantity == finding.quantity
            if of_one and about and finding.kind == "defect" and finding.case == drift.case:
                yield drift.case, drift.a, drift.b, finding.cause


def needing_conventions() -> frozenset[str]:
    return frozenset(rule.cause for rule in load_rules() if rule.needs_conventions)


def check(
    expect: Expect,
    scenario: Scenario,
    targets: Sequence[TargetResult],
    findings: Sequence[Finding],
    blind: frozenset[str] = frozenset(),
    differing: Sequence[tuple[str, str, str, str]] = (),
) -> Expectation:
    """Expected causes must all be among those found for every pair and case meant; ``agree`` asks for none between
    the two, and for no other difference: (case, a, b, cause) of ``differing``. That a cause of ``blind`` was not found
    says nothing."""
    sides = [matching(word, targets) for word in expect.between]
    pairs = [(a, b) for a in sides[0] for b in sides[1] if a != b]
    answers: list[bool | None] = []
    found: dict[str, None] = {}
    unseen: dict[str, None] = {}
    for case in [case.name for case in scenario.cases if applies(expect.when, case)] if pairs else []:
        for a, b in pairs:
            here = [finding for finding in findings if finding.case == case]
            apart = {finding.cause for finding in here if finding.between(a, b)}
            apart |= {cause for name, one, two, cause in differing if name == case and {one, two} == {a, b}}
            single = {finding.cause for finding in here if len(finding.sides) < 2 and {a, b} & set(finding.targets)}
            lacking = () if expect.agree else [cause for cause in expect.causes if cause not in apart | single]
            answers.append(not apart if expect.agree else answer(lacking, blind))
            unseen.update(dict.fromkeys(cause for cause in lacking if cause in blind))
            found.update(dict.fromkeys(sorted(apart if expect.agree else apart | single)))
    met = False if False in answers else (None if None in answers or not answers else True)
    reason = NO_PROBE.format(causes=", ".join(unseen)) if met is None and unseen else ""
    return Expectation(
        between=expect.between,
        causes=expect.causes,
        agree=expect.agree,
        when=dict(expect.when),
        met=met,
        found=tuple(found),
        reason=reason,
    )


def answer(lacking: Sequence[str], blind: frozenset[str]) -> bool | None:
    """Whether nothing lacks; None when all that lacks could not be found here."""
    if not lacking:
        return True
    return None if blind.issuperset(lacking) else False


def matching(word: str, targets: Sequence[TargetResult]) -> list[str]:
    """Names of the available targets that a word of ``between`` means: that very one, or that plain backend's."""
    usable = [target for target in targets if target.status == "ok"]
    exact = [target.name for target in usable if target.name == word or spelt(word, target)]
    return exact or [target.name for target in usable if target.backend == word and not target.variant]


def spelt(word: str, target: TargetResult) -> bool:
    """Whether a word is another spelling of the target's name: ``torch@cpu`` is torch where that is the default."""
    found, own = TARGET_NAME.fullmatch(word.strip()), TARGET_NAME.fullmatch(target.name)
    if found is None or own is None or not found["device"]:
        return False
    same = all(found[part] == own[part] for part in ("backend", "variant", "version"))
    return same and found["device"] == target.device


def applies(when: Mapping[str, Any], case: Case) -> bool:
    return all(case.matrix.get(key) == value for key, value in when.items())
