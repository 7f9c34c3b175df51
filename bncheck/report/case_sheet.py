"""All that the picture of a case shows, as data. Drawn by ``case_plot.py``, for which matplotlib is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bncheck.finding import KINDS
from bncheck.report.curves import CaseCurves, case_curves
from bncheck.report.plain_text import clean, share
from bncheck.report.standing import standing
from bncheck.run_folder.results import CaseResult, Results, ScenarioResult


@dataclass(frozen=True)
class CaseSheet:
    """``looks``: target → the number of its colour, dashes and mark; the yardstick has none."""

    shown: CaseCurves
    looks: Mapping[str, int]
    verdict: str
    version: str  # of bncheck
    created: str

    @property
    def name(self) -> str:
        return f"{self.shown.scenario.name}--{self.shown.case.name}"

    @property
    def caption(self) -> str:
        shown = self.shown
        names = ", ".join(curve.label for curve in shown.curves)
        return clean(
            f"Running mean and running variance of layer {shown.layer} in {shown.scenario.name}, "
            f"{shown.case.label or shown.case.name}, on {names}; below, the distance from {shown.yardstick}."
        )


def lay_out(
    results: Results, run_folder: Path, scenario: ScenarioResult, case: CaseResult, layer: str = ""
) -> CaseSheet | None:
    """None when no target recorded running statistics for the case."""
    shown = case_curves(results, run_folder, scenario, case, layer)
    if shown is None:
        return None
    others = (target.name for target in results.targets if target.name != shown.yardstick)
    return CaseSheet(
        shown=shown,
        looks={name: number for number, name in enumerate(others)},
        verdict=verdict_line(results, shown),
        version=results.version,
        created=results.created,
    )


def verdict_line(results: Results, shown: CaseCurves) -> str:
    """The gravest finding of the case in one line, or that everything agrees."""
    found = [f for f in results.findings_at.get((shown.scenario.name, shown.case.name), ()) if f.kind != "rounding"]
    if found:
        first = min(found, key=lambda item: (KINDS.index(item.kind), -(item.explained or 0.0)))
        explained = "" if first.explained is None else f" (accounts for {share(first.explained)} of the difference)"
        return f"{first.code} {first.cause}{explained}: {first.title}"
    words_of = [standing(results, shown.scenario.name, shown.case.name, curve.target) for curve in shown.curves]
    off = [f"{c.target}: {s.text}" for c, s in zip(shown.curves, words_of, strict=True) if not s.good]
    return "; ".join(off) or f"All targets agree with {shown.yardstick}."
