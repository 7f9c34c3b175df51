"""``sweep``: a picture per axis of a scenario along which a difference grows (sweep_curves.py says what an axis is)."""

from __future__ import annotations

from pathlib import Path

from bncheck.report.gallery import EXTRAS, Gallery
from bncheck.report.picture import Picture, write_picture
from bncheck.report.sweep_curves import sweeps
from bncheck.run_folder.results import Results, ScenarioResult

NAME = "sweep"


def render(results: Results, run_folder: Path, gallery: Gallery | None = None) -> list[Path]:
    """Write plots/<scenario>--sweep-<axis>.svg and .png; nothing where no scenario has such an axis."""
    from bncheck.report.sweep_plot import draw_sweep

    found = [sweep for scenario in results.scenarios if not scenario.probe for sweep in sweeps(results, scenario)]
    return [path for sweep in found for path in write_picture(draw_sweep(results, sweep, png=True), run_folder)]


def pictures(results: Results, run_folder: Path, scenario: ScenarioResult) -> list[Picture]:
    """For the page: the first axes of a scenario. Without any, matplotlib is not imported."""
    found = [] if scenario.probe else sweeps(results, scenario)[:EXTRAS]
    if not found:
        return []
    from bncheck.report.sweep_plot import draw_sweep

    return [draw_sweep(results, each) for each in found]
