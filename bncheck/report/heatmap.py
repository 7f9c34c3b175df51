"""The whole run in one picture: scenarios × targets, each cell with its mark, its word and how far off it is."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bncheck.report.gallery import Gallery
from bncheck.report.layers import told_of
from bncheck.report.overview import Matrix, headline, make_matrix
from bncheck.report.picture import PIXELS_PER_INCH, SETTINGS
from bncheck.report.plain_text import clean, number, one_line
from bncheck.report.standing import Standing
from bncheck.report.svg import INK, PAPER, compact, standalone
from bncheck.run_folder.results import Results
from bncheck.run_folder.whole import write_whole

NAME = "matrix"
# Pale enough for ink to be legible on each; grey copies still differ, and the word says it anyway.
SHADES = {
    "yardstick": "#eef1f4",
    "agrees": "#d7eee2",
    "rounding": "#d7eee2",
    "refused alike": "#d7eee2",
    "convention": "#f7e3b0",
    "finite": "#f7e3b0",
    "hazard": "#f3c98b",
    "unexplained": "#dcc6ea",
    "defect": "#eda79b",
    "differs": "#eda79b",
    "nonfinite": "#e08a80",
    "refused": "#f7e3b0",
    "failed": "#f7e3b0",
    "crashed": "#e08a80",
    "timeout": "#e08a80",
}
LARGEST = 60  # rows that fit a picture; the page shows them all


def render(results: Results, run_folder: Path, gallery: Gallery | None = None) -> list[Path]:
    """Write plots/matrix.svg and .png; nothing when nothing was run."""
    shown = make_matrix(results, probes=False, most=LARGEST)
    if not shown.rows or not shown.targets or told_of(results, run_folder) is not None:
        return []  # of a user's thing there are layers, no cases × targets
    with mpl.rc_context(SETTINGS):
        figure = draw(results, shown)
        text, image = io.StringIO(), io.BytesIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        figure.savefig(image, format="png", dpi=PIXELS_PER_INCH, metadata={"Software": f"bncheck {results.version}"})
    folder = run_folder / "plots"
    folder.mkdir(exist_ok=True)
    svg = standalone(compact(text.getvalue(), "m")).encode()
    return [write_whole(folder / "matrix.svg", svg), write_whole(folder / "matrix.png", image.getvalue())]


def draw(results: Results, shown: Matrix) -> Figure:
    names = [one_line(f"{row.scenario.name} · {row.label}", 46) for row in shown.rows]
    left, cell, step, top = 0.25 + 0.075 * max(map(len, names)), 1.75, 0.46, 1.0
    width, height = max(left + cell * len(shown.targets) + 0.15, 7.0), top + step * len(shown.rows) + 0.4
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    axes.text(0.12, 0.26, one_line(headline(results), int(width * 10)), fontsize=12, fontweight="bold", va="center")
    for column, target in enumerate(shown.targets):
        above = "compared with\n" if target.name == shown.yardstick else ""
        name = above + one_line(target.label, 26)
        axes.text(left + cell * (column + 0.5), top - 0.14, name, ha="center", fontsize=8.5, linespacing=1.1)
    boxes, shades = [], []
    for line, row in enumerate(shown.rows):
        y = top + step * line
        axes.text(left - 0.1, y + step / 2, names[line], ha="right", va="center")
        for column, found in enumerate(row.stands.values()):
            x = left + cell * column
            boxes.append(Rectangle((x + 0.02, y + 0.02), cell - 0.04, step - 0.04))
            shades.append(SHADES.get(found.word, PAPER))
            axes.text(x + cell / 2, y + step / 2, label(found), ha="center", va="center", fontsize=8.5, color=INK)
    axes.add_collection(PatchCollection(boxes, facecolors=shades, edgecolors=INK, linewidths=0.4))
    more = f" · {shown.more} more cases are in index.html" if shown.more else ""
    axes.text(0.12, height - 0.16, clean(f"bncheck {results.version} · {results.created}{more}"), fontsize=7.5)
    return figure


def label(found: Standing) -> str:
    """``≠ convention 0.90099``: the mark, the word, and the mean difference where that is what tells."""
    off = found.drift
    told = off is not None and off.relation == "differs"
    size = f"\n{clean(off.quantity)} {number(off.mean_abs)}" if off is not None and told else ""
    return f"{found.mark} {found.short}{size}"
