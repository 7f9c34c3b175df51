"""Was it as the scenario's author expected? Pure: expectations and findings in, met or not met out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bncheck.evidence import Drift
from bncheck.finding import Finding
from bncheck.results import Expectation, TargetResult
from bncheck.scenario import Case, Expect, Scenario


def check_expectations(
    scenario: Scenario, targets: Sequence[TargetResult], findings: Iterable[Finding], drifts: Iterable[Drift]
) -> tuple[Expectation, ...]:
    """One entry per ``[[expect]]``; ``met`` is None when one of the two targets was not there."""
    of_scenario = [finding for finding in findings if finding.scenario == scenario.name]
    apart = [drift for drift in drifts if drift.scenario == scenario.name and drift.verdict != "agrees"]
    return tuple(check(expect, scenario, targets, of_scenario, apart) for expect in scenario.expect)


def check(
    expect: Expect,
    scenario: Scenario,
    targets: Sequence[TargetResult],
    findings: Sequence[Finding],
    apart: Sequence[Drift],
) -> Expectation:
    sides = [matching(word, targets) for word in expect.between]
    cases = [case.name for case in scenario.cases if applies(expect.when, case)]
    pairs = [(a, b) for a in sides[0] for b in sides[1] if a != b]
    met: bool | None = None
    found: list[str] = []
    for case in cases if pairs else []:
        for a, b in pairs:
            here = [f for f in findings if f.case == case and concerns(f, a, b)]
            causes = {f.cause for f in here if f.kind != "rounding"}
            # A finite drift outside tolerance that no finding above rounding is about is rounding.
            here_apart = [d for d in apart if d.case == case and {d.a, d.b} == {a, b}]
            differs = any(d.verdict in ("nonfinite", "refused") for d in here_apart)
            good = not causes and not differs if expect.agree else set(expect.causes) <= causes
            met = good if met is None else met and good
            found += [cause for cause in sorted(causes) if cause not in found]
    return Expectation(expect.between, expect.causes, expect.agree, dict(expect.when), met, tuple(found))


def matching(word: str, targets: Sequence[TargetResult]) -> list[str]:
    """Names of the available targets that a word of ``between`` means: that very name, or that plain backend."""
    usable = [target for target in targets if target.status == "ok"]
    exact = [target.name for target in usable if target.name == word]
    return exact or [target.name for target in usable if target.backend == word and not target.variant]


def applies(when: Mapping[str, Any], case: Case) -> bool:
    return all(case.matrix.get(key) == value for key, value in when.items())


def concerns(finding: Finding, a: str, b: str) -> bool:
    """Between two groups: a and b are on different sides. About targets one by one: it names one of them."""
    if len(finding.sides) == 2:
        return any(a in one and b in two for one, two in (finding.sides, finding.sides[::-1]))
    return a in finding.targets or b in finding.targets
