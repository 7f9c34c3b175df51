"""The picture of a sweep: a panel per quantity, error on a log scale against the numbers of an axis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bncheck.report.case_plot import LEGEND_ROW, WIDTH, legend_columns, limits, power_ticks
from bncheck.report.panel import colour_of, finish, style
from bncheck.report.picture import SETTINGS, Picture, develop
from bncheck.report.plain_text import clean, one_line
from bncheck.report.svg import PAPER
from bncheck.report.sweep_curves import DRAWN, Sweep, SweepSheet


def draw(sheet: SweepSheet, png: bool = False) -> Picture:
    """One row of panels, one curve per target."""
    with mpl.rc_context(SETTINGS):
        return develop(compose(sheet), sheet.name, sheet.caption, sheet.version, png)


def compose(sheet: SweepSheet) -> Figure:
    sweep, looks, quantities = sheet.sweep, sheet.looks, sheet.quantities
    handles: list[Any] = [
        Line2D([], [], label=one_line(label, 40), **style(looks[name])) for name, label in sheet.labels.items()
    ]
    columns = legend_columns(handles)
    height = 3.5 + LEGEND_ROW * (-(-len(handles) // columns) - 1)
    figure = Figure(figsize=(WIDTH, height))
    grid = figure.subplots(1, len(quantities), squeeze=False)[0]
    figure.subplots_adjust(left=0.065, right=0.985, top=1 - (height - 2.42) / height, bottom=0.72 / height, wspace=0.2)
    for axes, quantity in zip(grid, quantities, strict=True):
        panel(axes, sweep, quantity, looks)
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.012, 1 - 0.42 / height),
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        columnspacing=1.4,
        handlelength=2.8,
        borderaxespad=0,
    )
    heading(figure, sheet, height)
    return figure


def panel(axes: Axes, sweep: Sweep, quantity: str, looks: Mapping[str, int]) -> None:
    words, _, measure = DRAWN[quantity]
    curves = {target: points for (target, name), points in sweep.curves.items() if name == quantity}
    values = {
        target: np.array([math.nan if point.value is None else point.value for point in points])
        for target, points in curves.items()
    }
    floor, top = limits(list(values.values()))
    places = np.arange(len(sweep.xs))
    lost = 0
    for target, found in values.items():
        exponent = np.full(len(found), np.nan)
        finite = np.isfinite(found)
        exponent[finite] = np.maximum(np.log10(np.maximum(found[finite], 1e-300)), floor)
        axes.plot(places, exponent, zorder=2, **style(looks[target]))
        marks = {place: point.mark for place, point in enumerate(curves[target]) if point.mark}
        for place, mark in marks.items():
            across = axes.get_xaxis_transform()
            axes.plot(
                [place],
                [0.95 - 0.075 * lost],
                transform=across,
                marker="X",
                markersize=7,
                linestyle="none",
                color=colour_of(looks[target]),
                markeredgecolor=PAPER,
                zorder=4,
            )
            if place == min(marks):
                axes.annotate(
                    mark,
                    (place, 0.95 - 0.075 * lost),
                    xytext=(7, 0),
                    textcoords="offset points",
                    fontsize=8,
                    xycoords=across,
                    va="center",
                    color=colour_of(looks[target]),
                )
        lost += bool(marks)
    axes.set_ylim(floor - 0.03 * (top - floor), top + 0.12 * lost * (top - floor))
    finish(axes, f"{words}: {measure}", len(places) - 1, power_ticks(floor, top), names=sweep.xs)


def heading(figure: Figure, sheet: SweepSheet, height: float) -> None:
    sweep = sheet.sweep
    group = f" ({sweep.group})" if sweep.group else ""
    title = f"{sweep.scenario.title or sweep.scenario.name}{group}"
    figure.text(0.012, 1 - 0.1 / height, one_line(title, 110), fontsize=12, fontweight="bold", va="top")
    figure.text(0.5, 0.32 / height, clean(sweep.axis), ha="center", va="bottom")
    note = f"{sweep.name} · difference from {sheet.yardstick} · bncheck {sheet.version} · {sheet.created}"
    figure.text(0.012, 0.08 / height, one_line(note, 170), fontsize=7.5)
