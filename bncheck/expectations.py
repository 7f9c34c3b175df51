"""Was it as the scenario's author expected? Pure: expectations and findings in, met or not met out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bncheck.finding import Finding
from bncheck.results import Expectation, TargetResult
from bncheck.scenario import Case, Expect, Scenario


def check_expectations(
    scenario: Scenario, targets: Sequence[TargetResult], findings: Iterable[Finding]
) -> tuple[Expectation, ...]:
    """One entry per ``[[expect]]``; ``met`` is None when one of the two targets was not there."""
    here = [finding for finding in findings if finding.scenario == scenario.name and finding.kind != "rounding"]
    return tuple(check(expect, scenario, targets, here) for expect in scenario.expect)


def check(
    expect: Expect, scenario: Scenario, targets: Sequence[TargetResult], findings: Sequence[Finding]
) -> Expectation:
    """Expected causes must all be among those found for every pair and case meant; ``agree`` asks for none between
    the two. Anything outside tolerance that no rule names is itself a finding (unexplained), so findings suffice."""
    sides = [matching(word, targets) for word in expect.between]
    pairs = [(a, b) for a in sides[0] for b in sides[1] if a != b]
    met: bool | None = None
    found: dict[str, None] = {}
    for case in [case.name for case in scenario.cases if applies(expect.when, case)] if pairs else []:
        for a, b in pairs:
            here = [finding for finding in findings if finding.case == case]
            apart = {finding.cause for finding in here if separates(finding, a, b)}
            single = {finding.cause for finding in here if len(finding.sides) < 2 and {a, b} & set(finding.targets)}
            good = not apart if expect.agree else set(expect.causes) <= apart | single
            met = good if met is None else met and good
            found.update(dict.fromkeys(sorted(apart if expect.agree else apart | single)))
    return Expectation(expect.between, expect.causes, expect.agree, dict(expect.when), met, tuple(found))


def matching(word: str, targets: Sequence[TargetResult]) -> list[str]:
    """Names of the available targets that a word of ``between`` means: that very name, or that plain backend."""
    usable = [target for target in targets if target.status == "ok"]
    exact = [target.name for target in usable if target.name == word]
    return exact or [target.name for target in usable if target.backend == word and not target.variant]


def applies(when: Mapping[str, Any], case: Case) -> bool:
    return all(case.matrix.get(key) == value for key, value in when.items())


def separates(finding: Finding, a: str, b: str) -> bool:
    """Whether a finding is about a difference between these two targets; groups are its two sides."""
    if len(finding.sides) != 2:
        return False
    one, two = finding.sides
    return (a in one and b in two) or (b in one and a in two)
