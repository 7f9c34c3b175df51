"""From what the workers left to run.json: traces → drifts, conventions → findings → results.

Streams case by case: only the traces of one case are in memory at a time, however long the run was.
This module reads and writes the run folder; what it calls in between is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from bncheck import __version__
from bncheck.compare import compare
from bncheck.evidence import CellView, Drift, PairView, TargetView
from bncheck.expectations import check_expectations
from bncheck.finding import Finding
from bncheck.plan import Plan
from bncheck.recording import trace_of
from bncheck.results import CaseResult, CellResult, Results, ScenarioResult, TargetResult
from bncheck.run_folder import cell_folder, read_result
from bncheck.scenario import Case, Scenario


@dataclass
class Analysis:
    """What accumulates while cases stream by: small records, never arrays."""

    cells: list[CellResult] = field(default_factory=list)
    drifts: list[Drift] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def analyse(run: Path, plan: Plan, targets: Sequence[TargetResult], tell: Callable[[str], None] = lambda text: None) -> Results:
    """Judge everything that a run recorded. Cells without a result (an interrupted run) are left out."""
    analysis = Analysis()
    for number, case in enumerate(plan.cases, 1):
        tell(f"comparing {number}/{len(plan.cases)} {case.id}")
        judge_case(run, case, scenario_of(plan, case), targets, analysis)
    return Results(
        version=__version__,
        command=plan.command,
        created=plan.created,
        targets=tuple(targets),
        scenarios=tuple(describe_scenario(scenario, targets, analysis) for scenario in plan.scenarios),
        cells=tuple(analysis.cells),
        drifts=tuple(analysis.drifts),
        findings=tuple(analysis.findings),
        baseline=next((target.name for target in targets if target.backend == "reference"), ""),
    )


def scenario_of(plan: Plan, case: Case) -> Scenario:
    return next(scenario for scenario in plan.scenarios if scenario.name == case.scenario)


def judge_case(run: Path, case: Case, scenario: Scenario, targets: Sequence[TargetResult], analysis: Analysis) -> None:
    views = []
    for target in targets:
        cell, view = read_cell(run, case, target)
        if cell is not None:
            analysis.cells.append(cell)
        if view is not None:
            views.append(view)
    for a, b in combinations(views, 2):
        analysis.drifts += compare(case, a, b, scenario.tolerance)


def read_cell(run: Path, case: Case, target: TargetResult) -> tuple[CellResult | None, CellView | None]:
    """One cell's record and what rules see of it; (None, None) when it never ran."""
    if target.status != "ok":
        return CellResult(case.scenario, case.name, target.name, target.slug, "unavailable", error=target.reason), None
    result = read_result(cell_folder(run, target.slug, case.id))
    if result is None:
        return None, None
    cell = CellResult(
        case.scenario, case.name, target.name, target.slug, result.outcome, result.event, result.error_type,
        result.error, result.seconds,
    )  # fmt: skip
    trace = trace_of(run, cell, tuple(event.op for event in case.events)) if result.outcome in ("ok", "raised", "unsupported") else None
    return cell, CellView(
        case, target.name, target.backend, result.outcome, trace, result.error_type, result.error, result.event,
        environment=target.environment, notes=result.notes,
    )  # fmt: skip


def describe_scenario(scenario: Scenario, targets: Sequence[TargetResult], analysis: Analysis) -> ScenarioResult:
    return ScenarioResult(
        scenario.name,
        scenario.title,
        scenario.why,
        scenario.remarks,
        tuple(describe_case(case) for case in scenario.cases),
        check_expectations(scenario, targets, analysis.findings, analysis.drifts),
        scenario.tolerance.rtol,
        scenario.tolerance.atol,
        scenario.probe,
    )


def describe_case(case: Case) -> CaseResult:
    inputs = {name: {"shape": list(spec.shape), "fill": spec.fill} for name, spec in case.inputs.items()}
    ops = tuple(event.op for event in case.events)
    return CaseResult(case.name, case.label, dict(case.matrix), ops, case.dtype, inputs)
