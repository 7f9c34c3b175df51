"""``sweep``: a picture per axis of a scenario along which a difference grows (sweep_curves.py says what an axis is)."""

from __future__ import annotations

from pathlib import Path

from bncheck.report.gallery import EXTRAS, Gallery
from bncheck.report.kept_pictures import kept_or_drawn
from bncheck.report.picture import Picture, write_picture
from bncheck.report.sweep_curves import SweepSheet, lay_out, sweeps
from bncheck.run_folder.results import Results, ScenarioResult

NAME = "sweep"


def render(results: Results, run_folder: Path, gallery: Gallery | None = None) -> list[Path]:
    """Write plots/<scenario>--sweep-<axis>.svg and .png; nothing where no scenario has such an axis."""
    from bncheck.report.sweep_plot import draw

    found = [sweep for scenario in results.scenarios if not scenario.probe for sweep in sweeps(results, scenario)]
    sheets = (lay_out(results, sweep) for sweep in found)
    return [path for sheet in sheets for path in write_picture(draw(sheet, png=True), run_folder)]


def pictures(results: Results, run_folder: Path, scenario: ScenarioResult) -> list[Picture]:
    """For the page: the first axes of a scenario."""
    found = [] if scenario.probe else sweeps(results, scenario)[:EXTRAS]
    targets = [target.name for target in results.targets]
    return [kept_or_drawn(lay_out(results, each), targets, draw_now) for each in found]


def draw_now(sheet: SweepSheet) -> Picture:
    """Without any, or where all are kept, matplotlib is not imported."""
    from bncheck.report.sweep_plot import draw

    return draw(sheet)
