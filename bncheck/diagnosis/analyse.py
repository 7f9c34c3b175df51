"""From the files that the workers wrote, to run.json: traces → drifts, conventions → findings → results.

Streams case by case: only the traces of one case are in memory at a time, however long the run was.
This module reads and writes the run folder: a case is read, judged (``judge.py``, pure), and written behind that.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bncheck import __version__
from bncheck.convention import Convention
from bncheck.diagnosis.consequences import absorb_by_order
from bncheck.diagnosis.diagnose import diagnose, importance
from bncheck.diagnosis.documented import Row, compare_documented, documented_facets
from bncheck.diagnosis.expectations import check_expectations
from bncheck.diagnosis.fit import measure
from bncheck.diagnosis.judge import judge_case, unsound_places
from bncheck.diagnosis.repeats import compare_again
from bncheck.diagnosis.views import Ahead, read_cell, read_outcome, see_cell
from bncheck.diagnosis.whole import Inside, apart, inside, together
from bncheck.evidence import CellView, Drift, Repeat, TargetView
from bncheck.finding import Finding
from bncheck.run_folder.cell import cell_folder, write_replay
from bncheck.run_folder.drift_table import DriftTable
from bncheck.run_folder.folder import again_folder
from bncheck.run_folder.results import CaseResult, CellResult, Results, ScenarioResult, TargetResult
from bncheck.scenario import Case, Scenario
from bncheck.scenario_files.plan import Plan
from bncheck.scenario_files.shapes import layer_path

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor
from bncheck.trace import Trace

InTwo = Callable[[Sequence[Callable[[], "Analysis"]]], list["Analysis"]]
# In pairs of cells: starting a second process costs as much as judging 50 of them (0.5 s).
PARALLEL_FROM, CHUNK = 200, 25
# A fork of this process, which knows everything, costs as much as judging one or two. It says what it has found at the
# end, so that it takes no more than a person waits for without news.
FORKED_FROM, FORKED_TO = 10, 100  # pairs, cases


@dataclass
class Analysis:
    """What accumulates while cases stream by: small records, never arrays."""

    cells: list[CellResult] = field(default_factory=list)
    drifts: DriftTable = field(default_factory=DriftTable)
    findings: list[Finding] = field(default_factory=list)
    conventions: dict[str, dict[str, Convention]] = field(default_factory=dict)  # target → path → convention
    documented: dict[str, Sequence[Row]] = field(default_factory=dict)  # target → rows of its backend's file
    repeats: dict[str, list[Repeat]] = field(default_factory=dict)  # target → cases played a second time


@dataclass(frozen=True)
class Work:
    """What judging cases needs to know; a process of a pool gets it with each chunk, cut down to the chunk's cases."""

    run: Path
    plan: Plan
    targets: tuple[TargetResult, ...]
    conventions: Mapping[str, dict[str, Convention]]
    documented: Mapping[str, Sequence[Row]]
    cores: int = 1  # so many processes judge, this one included
    ahead: Ahead = field(default_factory=dict)  # of what cells were seen while others were played
    in_two: InTwo | None = None


def analyse(
    run: Path,
    plan: Plan,
    targets: Sequence[TargetResult],
    documented: Mapping[str, Sequence[Mapping[str, Any]]] = MappingProxyType({}),
    tell: Callable[[str], None] = lambda text: None,
    measured: Mapping[str, Mapping[str, Convention]] = MappingProxyType({}),
    cores: int = 1,
    ahead: Ahead | None = None,
    in_two: InTwo | None = None,
) -> Results:
    """Judge everything that a run recorded. Cells without a result (an interrupted run) are left out.

    ``measured`` holds conventions of targets that were measured while others still played, ``ahead`` what was seen of
    their cells. ``in_two`` carries out pieces of work in two processes. Many cases are judged by
    as many processes as there are ``cores``."""
    analysis = Analysis()
    for target in targets:
        if target.status == "ok":
            rows = analysis.documented[target.name] = documented.get(target.name, ())
            if target.name in measured:
                analysis.conventions[target.name] = dict(measured[target.name])
                continue
            tell(f"measuring the conventions of {target.name}")
            analysis.conventions[target.name] = measure_target(run, plan, target, rows)
    judge_cases(
        Work(
            run=run,
            plan=plan,
            targets=tuple(targets),
            conventions=analysis.conventions,
            documented=analysis.documented,
            cores=cores,
            ahead=ahead or {},
            in_two=in_two,
        ),
        analysis,
        tell,
    )
    analysis.findings += diagnose([], [], [target_view(target, analysis) for target in targets])
    findings = absorb_by_order(analysis.findings)
    apart = of_expecting(plan, analysis.drifts.differing())
    return Results(
        version=__version__,
        command=plan.command,
        created=plan.created,
        targets=tuple(targets),
        scenarios=tuple(
            describe_scenario(scenario, plan, targets, findings, apart.get(scenario.name, ()))
            for scenario in plan.scenarios
        ),
        cells=tuple(analysis.cells),
        drifts=analysis.drifts,
        conventions=tuple(found for paths in analysis.conventions.values() for found in paths.values()),
        findings=tuple(sorted(findings, key=importance)),
        named_yardstick=yardstick(targets),
    )


def yardstick(targets: Sequence[TargetResult]) -> str:
    """Tables compare with the plain reference where there is one, else with the first reference, else the first."""
    references = sorted((t for t in targets if t.backend == "reference"), key=lambda target: bool(target.variant))
    return references[0].name if references else ""


def measure_target(
    run: Path, plan: Plan, target: TargetResult, documented: Sequence[Row] = ()
) -> dict[str, Convention]:
    """The target's convention on each layer path that the probes took, beside what its framework documents."""
    return beside_documented(fit_target(run, plan, target), target, documented)


def beside_documented(
    fitted: Mapping[str, Convention], target: TargetResult, documented: Sequence[Row]
) -> dict[str, Convention]:
    """Each path's convention beside what this version documents; the version is the framework's own word."""
    return {
        path: compare_documented(found, documented, target.version, target.variant) for path, found in fitted.items()
    }


def fit_target(run: Path, plan: Plan, target: TargetResult) -> dict[str, Convention]:
    """Layer path → the convention that fits the target's probe cells."""
    observed: dict[str, list[tuple[Case, Trace | None, str]]] = {}
    for scenario in plan.scenarios:
        for case in scenario.cases if scenario.probe else ():
            _, view = read_cell(run, case, target)
            if view is not None:
                observed.setdefault(layer_path(case), []).append((case, view.trace, view.outcome))
    return {path: measure(traces, target.name, path) for path, traces in observed.items()}


def look_again(run: Path, case: Case, targets: Sequence[TargetResult], analysis: Analysis) -> None:
    """Compare a case with its second playing, where there was one (``playing/again.py``); its traces are let go."""
    again = again_folder(run)
    for target in targets if again.exists() else ():
        views = [read_cell(folder, case, target)[1] for folder in (run, again)]
        if views[0] is not None and views[1] is not None:
            analysis.repeats.setdefault(target.name, []).append(compare_again(views[0], views[1]))


def judge_cases(work: Work, analysis: Analysis, tell: Callable[[str], None]) -> None:
    """All cases in order; many of them in chunks on all cores, each chunk's small records coming back in order."""
    total = len(work.plan.cases)
    compared = sum(case.scenario not in work.plan.background for case in work.plan.cases)
    played = sum(target.status == "ok" for target in work.targets)
    pairs = max(1, played * (played - 1) // 2)
    size = max(1, CHUNK // pairs) if compared * pairs >= PARALLEL_FROM and work.cores > 1 else max(total, 1)
    chunks = [range(start, min(start + size, total)) for start in range(0, total, size)]
    few = len(chunks) < 2 or (work.cores == 2 and total <= FORKED_TO)
    if few and work.in_two is not None and compared * pairs >= FORKED_FROM:
        tell(f"comparing {total} cases")
        for part in work.in_two([partial(judge_here, work, range(number, number + 1)) for number in range(total)]):
            merge(analysis, part)
        return
    if len(chunks) < 2:
        judge_chunk(work, range(total), analysis, tell)
        return
    # Few runs have so many cases, and importing these takes 20 ms.
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # Spawned, not forked: the host has threads (reports being imported). Small records have no cycles to collect.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(work.cores - 1, mp_context=context, initializer=gc.disable) as pool:
        judge_together(pool, work, chunks, analysis, tell)


def judge_together(
    pool: ProcessPoolExecutor, work: Work, chunks: Sequence[range], analysis: Analysis, tell: Callable[[str], None]
) -> None:
    """The pool's processes and this one take the next chunk in turn; what is judged is put together in order, as soon
    as everything before it is there, so that little of it waits."""
    from concurrent.futures.process import BrokenProcessPool

    rest, judged = deque(chunks), deque[tuple[range, Future[Analysis] | Analysis]]()
    while rest or judged:
        while len(rest) > 1 and sum(isinstance(part, Future) and not part.done() for _, part in judged) < work.cores:
            try:
                judged.append((rest[0], pool.submit(judge_part, excerpt(work, rest[0]))))
            except BrokenProcessPool:
                break
            rest.popleft()
        if rest:
            judged.append((rest[0], judge_here(work, rest[0])))
            rest.popleft()
        while judged and (not rest or not isinstance(judged[0][1], Future) or judged[0][1].done()):
            chunk, found = judged.popleft()
            tell(f"comparing {chunk.stop}/{chunks[-1].stop}")
            merge(analysis, outcome(found, work, chunk, tell) if isinstance(found, Future) else found)


def outcome(part: Future[Analysis], work: Work, chunk: range, tell: Callable[[str], None]) -> Analysis:
    from concurrent.futures.process import BrokenProcessPool

    if not isinstance(part.exception(), BrokenProcessPool):
        return part.result()
    # A process that was killed for its memory, say.
    tell(f"a process that compared case {chunk.start + 1} to {chunk.stop} died: going on without it")
    return judge_here(work, chunk)


def judge_here(work: Work, chunk: range) -> Analysis:
    part = Analysis(conventions=dict(work.conventions), documented=dict(work.documented))
    judge_chunk(work, chunk, part, lambda text: None)
    return part


def excerpt(work: Work, numbers: range) -> Work:
    """The work with these cases of its plan alone."""
    kept, start = [], 0
    for scenario in work.plan.scenarios:
        cases = scenario.cases[max(numbers.start - start, 0) : max(numbers.stop - start, 0)]
        start += len(scenario.cases)
        kept += [replace(scenario, cases=cases)] if cases else []
    return replace(work, plan=replace(work.plan, scenarios=tuple(kept)), ahead={})


@contextmanager
def uncollected() -> Iterator[None]:
    """Small records have no cycles to collect; looking for some took a seventh of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@uncollected()
def judge_chunk(work: Work, numbers: range, analysis: Analysis, tell: Callable[[str], None]) -> None:
    cases = work.plan.cases
    for number in numbers:
        case = cases[number]
        tell(f"comparing {number + 1}/{len(cases)} {case.id}")
        if case.scenario in work.plan.background:
            found = (read_outcome(work.run, case, target) for target in work.targets)
            analysis.cells += [cell for cell in found if cell is not None]
        else:
            take_in(work, case, analysis)
        look_again(work.run, case, work.targets, analysis)


def judge_part(work: Work) -> Analysis:
    """One chunk in a process of the pool."""
    part = judge_here(work, range(len(work.plan.cases)))
    return replace(part, conventions={}, documented={})


def merge(analysis: Analysis, part: Analysis) -> None:
    analysis.cells += part.cells
    analysis.drifts.extend(part.drifts)
    analysis.findings += part.findings
    for target, repeats in part.repeats.items():
        analysis.repeats.setdefault(target, []).extend(repeats)


def scenario_of(plan: Plan, case: Case) -> Scenario:
    return next(scenario for scenario in plan.scenarios if scenario.name == case.scenario)


def take_in(work: Work, case: Case, analysis: Analysis) -> None:
    """Read a case, judge it, then write what was replayed beside its cells; its traces are let go at the end."""
    explained: list[tuple[str, CellView]] = []
    alone: list[Finding] = []
    for target in work.targets:
        known = analysis.conventions.get(target.name, {}), analysis.documented.get(target.name, ())
        cell, view = see_cell(work.run, case, target, *known, work.ahead)
        found = () if view is None or view.trace is None else unsound_places(case, view.trace)
        said = Inside()
        if view is not None:
            said = inside(view, known[1])
            explained.append((target.slug, view))
            alone += said.findings
        if cell is not None:
            remarks = (*cell.remarks, *said.remarks)
            told = replace(cell, unsound=found, remarks=remarks, judged=said.judged, unjudged=said.unjudged)
            analysis.cells.append(told if told != cell else cell)
    judged = judge_case(case, scenario_of(work.plan, case), [view for _, view in explained])
    analysis.cells = with_innocence(analysis.cells, [view for _, view in explained], judged.drifts)
    analysis.drifts.extend(judged.drifts)
    analysis.findings += [*judged.findings, *together(alone)]
    for slug, view in explained:
        if view.convention is not None:
            write_replay(cell_folder(work.run, slug, case.id), view.replay)


def with_innocence(cells: list[CellResult], views: Sequence[CellView], drifts: Sequence[Drift]) -> list[CellResult]:
    """The cells, with what is said for the BatchNorm layers of a whole network on two targets that differ."""
    said: dict[tuple[str, str, str], str] = {}
    for a, b in combinations(views, 2) if views and views[0].case.network.model is not None else ():
        own = [drift for drift in drifts if (drift.a, drift.b) == (a.target, b.target)]
        text = apart(a, b, same=all(drift.relation == "agrees" for drift in own))
        if text:
            said.setdefault((b.case.scenario, b.case.name, b.target), text)
    if not said:
        return cells  # all that were judged before are among them
    return [
        replace(cell, remarks=(*cell.remarks, said[key]))
        if (key := (cell.scenario, cell.case, cell.target)) in said
        else cell
        for cell in cells
    ]


def target_view(target: TargetResult, analysis: Analysis) -> TargetView:
    conventions = analysis.conventions.get(target.name, {})
    rows = analysis.documented.get(target.name, ())
    said = documented_facets(rows, target.version, target.variant)
    return TargetView(
        target=target.name,
        backend=target.backend,
        conventions=conventions,
        documented={facet: value for facet, (value, _) in said.items()},
        link=next((link for _, link in said.values() if link), ""),
        repeats=analysis.repeats.get(target.name, ()),
    )


def of_expecting(plan: Plan, drifts: Iterable[Drift]) -> dict[str, list[Drift]]:
    """Scenario that expects something → what differs in it; one walk through the table for all of them."""
    found: dict[str, list[Drift]] = {scenario.name: [] for scenario in plan.scenarios if scenario.expect}
    for drift in drifts:
        if drift.scenario in found:
            found[drift.scenario].append(drift)
    return found


def describe_scenario(
    scenario: Scenario,
    plan: Plan,
    targets: Sequence[TargetResult],
    findings: Sequence[Finding],
    apart: Sequence[Drift],
) -> ScenarioResult:
    compared = scenario.name not in plan.background
    measured = any(each.probe for each in plan.scenarios)
    parts: dict[Any, Any] = {}
    return ScenarioResult(
        name=scenario.name,
        title=scenario.title,
        why=scenario.why,
        remarks=scenario.remarks,
        cases=tuple(describe_case(case, parts) for case in scenario.cases),
        expectations=check_expectations(scenario, targets, findings, measured, apart) if compared else (),
        rtol=scenario.tolerance.rtol,
        atol=scenario.tolerance.atol,
        probe=not compared,
    )


def describe_case(case: Case, parts: dict[Any, Any]) -> CaseResult:
    """``parts`` are those of earlier cases: what is the same is kept once."""
    inputs = {name: {"shape": list(spec.shape), "fill": spec.fill} for name, spec in case.inputs.items()}
    ops = tuple(event.op for event in case.events)
    ops, inputs = parts.setdefault(ops, ops), parts.setdefault(repr(inputs), inputs)
    return CaseResult(
        name=case.name, label=case.label, matrix=case.matrix, ops=ops, dtype=case.dtype, inputs=inputs, steps=case.steps
    )
