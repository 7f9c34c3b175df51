"""The cases of a run as places on the page: anchors, cells, what differs there, and where a value becomes NaN."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bncheck.evidence import Drift
from bncheck.finding import Finding
from bncheck.report import overview
from bncheck.report.standing import Standing
from bncheck.run_folder.cell import trace_of
from bncheck.run_folder.results import CaseResult, CellResult, Results, ScenarioResult, TargetResult
from bncheck.trace import Array

# Differing quantities of one case that the page lists; all of them are in drifts.csv.
LISTED = 12
# Standings from bad to good; a row of the matrix is as bad as its worst cell.
GRAVITY = (
    "crashed",
    "timeout",
    "nonfinite",
    "defect",
    "differs",
    "unexplained",
    "hazard",
    "finite",
    "convention",
    "refused",
    "failed",
    "rounding",
    "unsupported",
    "unavailable",
    "not run",
    "not compared",
    "refused alike",
    "agrees",
    "yardstick",
)
GOOD_FROM = GRAVITY.index("rounding")
# Of the words above: what a reader may want to see alone → its name on the page.
FILTERS: Mapping[str, str] = {
    "defect": "defect",
    "nonfinite": "NaN",
    "unexplained": "unexplained",
    "hazard": "hazard",
    "convention": "convention",
    "refused": "refused",
    "failed": "failed",
    "crashed": "crashed",
    "timeout": "timed out",
}
DECADES = 12


@dataclass(frozen=True)
class Cell:
    """One target's cell; ``size`` is the mean difference in figures, "" where there is none."""

    target: str
    standing: Standing
    result: CellResult | None
    size: str


@dataclass(frozen=True)
class Onset:
    """Where one quantity of one target stops being a number: the first bad step, and all of them, of how many."""

    target: str
    quantity: str
    first: int
    steps: int
    bad: tuple[tuple[int, int], ...]  # stretches of bad steps: (start, length)


@dataclass(frozen=True)
class Place:
    """One case on the page."""

    anchor: str
    scenario: ScenarioResult
    case: CaseResult
    cells: tuple[Cell, ...]
    drifts: tuple[Drift, ...]
    more: int
    findings: tuple[tuple[str, Finding], ...]  # (anchor of its theme, finding)
    onsets: tuple[Onset, ...]

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.standing.word for cell in self.cells))

    @property
    def gravity(self) -> int:
        return min((GRAVITY.index(word) for word in self.words), default=len(GRAVITY) - 1)

    @property
    def off(self) -> bool:
        return self.gravity < GOOD_FROM

    @property
    def decade(self) -> int:
        """0 for what is not finite and the largest differences, one more for each factor of ten: sorting goes by it."""
        if "nonfinite" in self.words:
            return 0
        sizes = [cell.standing.drift.mean_abs for cell in self.cells if cell.standing.drift is not None]
        largest = max((size for size in sizes if math.isfinite(size)), default=0.0)
        return DECADES if largest <= 0 else min(max(3 - math.floor(math.log10(largest)), 0), DECADES)

    @property
    def classes(self) -> str:
        """What filters and sorting go by."""
        return " ".join(
            [
                *(f"has-{word.replace(' ', '-')}" for word in self.words),
                f"g{self.gravity}",
                f"m{self.decade}",
                "off" if self.off else "fine",
            ]
        )


def places(results: Results, run_folder: Path | None, anchors: Mapping[int, str]) -> list[Place]:
    """Every case; ``anchors`` maps a finding (by id) to the anchor of its theme; a page may leave findings out. Without
    a run folder no trace is read for where values stop being numbers."""
    return [
        place(results, run_folder, number, row, anchors)
        for number, row in enumerate(overview.make_matrix(results).rows, 1)
    ]


def place(
    results: Results, run_folder: Path | None, number: int, row: overview.Row, anchors: Mapping[int, str]
) -> Place:
    scenario, case = row.scenario, row.case
    cells = tuple(
        cell_of(target, stand, results.cell_at.get((scenario.name, case.name, target)))
        for target, stand in row.stands.items()
    )
    drifts = [
        drift
        for target in results.targets
        for drift in results.drifts_between(scenario.name, case.name, results.yardstick, target.name)
        if drift.relation != "agrees"
    ]
    drifts.sort(key=lambda drift: -drift.mean_abs if drift.mean_abs == drift.mean_abs else float("-inf"))
    here = tuple(
        (anchors[id(f)], f) for f in results.findings_at.get((scenario.name, case.name), ()) if id(f) in anchors
    )
    spoiled = any(drift.nonfinite_a or drift.nonfinite_b for drift in drifts) or any(
        finding.of_nan for _, finding in here
    )
    onsets = tuple(onsets_of(results, run_folder, scenario, case)) if spoiled and run_folder is not None else ()
    return Place(
        anchor=f"case-{number}",
        scenario=scenario,
        case=case,
        cells=cells,
        drifts=tuple(drifts[:LISTED]),
        more=max(0, len(drifts) - LISTED),
        findings=here,
        onsets=onsets,
    )


def cell_of(target: str, found: Standing, result: CellResult | None) -> Cell:
    off = found.drift
    told = off is not None and off.relation == "differs" and math.isfinite(off.mean_abs)
    size = f"{off.mean_abs:.2g}" if off is not None and told else ""
    return Cell(target=target, standing=found, result=result, size=size)


def onsets_of(results: Results, run_folder: Path, scenario: ScenarioResult, case: CaseResult) -> Iterator[Onset]:
    """Every running statistic and output that holds NaN or Inf somewhere, target by target."""
    for target in results.targets:
        cell = results.cell_at.get((scenario.name, case.name, target.name))
        trace = trace_of(run_folder, cell, case.ops) if cell is not None else None
        if trace is None:
            continue
        steps = len(case.steps or case.ops)
        for name, value in trace.arrays.items():
            if name.endswith(("/running_mean", "/running_var")) and value.ndim == 2 and value.dtype.kind == "f":
                bad = np.asarray(~np.isfinite(value[case.rows(len(value))]).all(axis=1))
                if bad.any():
                    yield Onset(
                        target=target.name,
                        quantity=name.replace("/", "."),
                        first=int(bad.argmax()),
                        steps=steps,
                        bad=stretches(bad),
                    )
        outputs = trace.arrays.get("network_bad")
        if outputs is not None and outputs.ndim == 1 and (outputs > 0).any():
            flags = np.zeros(steps + 1, bool)
            flags[[min(case.step_of(int(event)), steps) for event in np.flatnonzero(outputs > 0)]] = True
            yield Onset(
                target=target.name, quantity="output", first=int(flags.argmax()), steps=steps, bad=stretches(flags)
            )


def stretches(bad: Array) -> tuple[tuple[int, int], ...]:
    """(start, length) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], bad, [False])).astype(np.int8)))
    return tuple((int(start), int(stop - start)) for start, stop in zip(edges[::2], edges[1::2], strict=True))


def columns(results: Results) -> list[tuple[TargetResult, str]]:
    """Those that have a column, with its head: all but the one that they are compared with."""
    compared = [target for target in results.targets if target.name != results.yardstick] or results.targets
    return [(target, overview.short_label(target)) for target in compared]


def of_yardstick(shown: Sequence[Place], results: Results) -> list[tuple[Standing, list[Place]]]:
    """How the target without a column stands where it did more, or less, than to run: each with its cases."""
    found: dict[str, tuple[Standing, list[Place]]] = {}
    for place in shown if len(results.targets) > 1 else ():
        for cell in place.cells:
            if cell.target == results.yardstick and cell.standing.word != "yardstick":
                found.setdefault(cell.standing.short, (cell.standing, []))[1].append(place)
    return list(found.values())


def choices(shown: Sequence[Place]) -> list[tuple[str, str, int]]:
    """(word, name on the page, number of cases) of every filter that would show something and hide something."""
    counted = [(word, name, sum(word in each.words for each in shown)) for word, name in FILTERS.items()]
    return [(word, name, count) for word, name, count in counted if 0 < count < len(shown)]


def by_scenario(shown: Iterable[Place]) -> list[tuple[ScenarioResult, list[Place]]]:
    """The cases of each scenario under one heading."""
    grouped: dict[str, tuple[ScenarioResult, list[Place]]] = {}
    for each in shown:
        grouped.setdefault(each.scenario.name, (each.scenario, []))[1].append(each)
    return list(grouped.values())
