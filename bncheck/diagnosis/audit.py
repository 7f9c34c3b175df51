"""Does a finished run keep its word? Nothing differs silently, nothing is called rounding above its bound.

One function over the results that every report is made from. It asks for each drift beyond tolerance whether a finding
about these two targets is about that very place (its own, or one that it accounts for), and of each finding whether it
may say what it says. Expectations of agreement ask it too. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bncheck.diagnosis.accounting import covers
from bncheck.diagnosis.rules import rule_of
from bncheck.evidence import Drift
from bncheck.finding import SHARE, Finding
from bncheck.run_folder.results import Results


@dataclass(frozen=True, slots=True)
class Fault:
    """One broken promise: in which case, between or about which targets, and what is wrong, as a sentence."""

    scenario: str
    case: str
    targets: tuple[str, ...]
    layer: str
    quantity: str
    sentence: str


def audit(results: Results) -> tuple[Fault, ...]:
    """Everything that a run left unsaid or said without right; empty for an honest one."""
    background = {scenario.name for scenario in results.scenarios if scenario.probe}
    compared = (drift for drift in results.drift_table.differing() if drift.scenario not in background)
    silent = [silence(drift) for drift in silent_drifts(compared, results.findings)]
    return (*silent, *silent_nan(results), *loud_rounding(results.findings))


def silent_drifts(drifts: Iterable[Drift], findings: Iterable[Finding]) -> Iterator[Drift]:
    """Drifts beyond tolerance that stand in no finding about that quantity of that layer between those two."""
    here: dict[tuple[str, str], list[Finding]] = {}
    for item in findings:
        here.setdefault((item.scenario, item.case), []).append(item)
    for drift in drifts:
        known = here.get((drift.scenario, drift.case), ())
        if drift.relation != "agrees" and not any(covers(item, drift) for item in known):
            yield drift


def silent_nan(results: Results) -> Iterator[Fault]:
    """Cells that hold NaN, Inf or a variance below zero, and no finding about that target says where it began."""
    for cell in results.cells:
        if not cell.unsound:
            continue
        here = results.findings_at.get((cell.scenario, cell.case), ())
        if not any(cell.target in item.targets and says_nan(item) for item in here):
            layer, quantity = cell.unsound[0]
            what = f"{quantity} of {layer}" if layer else f"the network's {quantity}"
            yield Fault(
                cell.scenario,
                cell.case,
                (cell.target,),
                layer,
                quantity,
                f"{what} of {cell.target} is not finite or below zero, and no finding says where that began.",
            )


def says_nan(finding: Finding) -> bool:
    return finding.kind != "rounding" and ("nan" in rule_of(finding.code).explains or finding.cause == "unexplained")


def silence(drift: Drift) -> Fault:
    what = f"{drift.quantity} of {drift.layer}" if drift.layer else drift.quantity
    return Fault(
        drift.scenario,
        drift.case,
        (drift.a, drift.b),
        drift.layer,
        drift.quantity,
        f"{what} of {drift.a} and {drift.b} {drift.relation}, and no finding says so.",
    )


def loud_rounding(findings: Iterable[Finding]) -> Iterator[Fault]:
    """Differences that are called rounding though they are larger than the bound that was computed for them."""
    for item in findings:
        share = item.evidence.get(SHARE)
        if item.kind == "rounding" and isinstance(share, (int, float)) and not share <= 1.0:
            yield Fault(
                item.scenario,
                item.case,
                item.targets,
                item.layer,
                item.quantity,
                f"{item.title} It is {share:.3g} times the bound.",
            )
