"""Pictures that stand alone in a bug report: what was run, on which versions, what moved, and since when.

One picture per case and layer: running mean and running variance of all targets (top), and their distance from
the yardstick on a log scale with the tolerance (bottom). Matplotlib's object API only: no pyplot, no global state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

from bncheck.diagnosis.drifts import allowance, root
from bncheck.report.case_sheet import CaseSheet, lay_out
from bncheck.report.curves import DRAWN, CaseCurves, Curve, difference, onset
from bncheck.report.panel import band_style, colour_of, finish, line, rings, style
from bncheck.report.picture import SETTINGS, Picture, develop
from bncheck.report.plain_text import clean, one_line, plural, words
from bncheck.report.svg import INK, PAPER
from bncheck.run_folder.results import CaseResult, Results, ScenarioResult
from bncheck.scenario import Tolerance
from bncheck.trace import Array

NAMES = {"running_mean": "running mean", "running_var": "running variance"}
WIDTH, LEGEND_ROW = 9.6, 0.2  # inches
BELOW_PANEL = 66  # characters below one panel that do not run into those below the next
BAND: dict[str, Any] = {"color": INK, "alpha": 0.09}


def draw_case(
    results: Results, run_folder: Path, scenario: ScenarioResult, case: CaseResult, layer: str = "", png: bool = False
) -> Picture | None:
    """The picture of one case, or None when no target recorded running statistics for it."""
    found = lay_out(results, run_folder, scenario, case, layer)
    return None if found is None else draw(found, png)


def draw(case: CaseSheet, png: bool = False) -> Picture:
    with mpl.rc_context(SETTINGS):
        return develop(compose(case), case.name, case.caption, case.version, png)


def compose(case: CaseSheet) -> Figure:
    shown, looks = case.shown, case.looks
    handles = entries(shown, looks)
    columns = legend_columns(handles)
    # Every further row of the legend makes the figure higher, not the panels lower.
    height = 6.45 + LEGEND_ROW * (-(-len(handles) // columns) - 1)
    figure, grid = blank_sheet()
    figure.set_size_inches(WIDTH, height)
    # Set by hand: the automatic layouts draw the figure twice more.
    top, bottom = 1 - (height - 5.3) / height, 0.76 / height
    figure.subplots_adjust(left=0.065, right=0.985, top=top, bottom=bottom, hspace=0.22, wspace=0.17)
    for column, quantity in enumerate(DRAWN):
        trajectory(grid[0][column], shown, quantity, looks)
        drift(grid[1][column], shown, quantity, looks)
        below = grid[1][column]
        below.text(0.5, -0.135, step_words(shown.case), transform=below.transAxes, ha="center", va="top")
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.012, 1 - 0.62 / height),
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        columnspacing=1.4,
        handlelength=2.8,
        borderaxespad=0,
    )
    heading(figure, case, height)
    return figure


@lru_cache(maxsize=1)
def sheet() -> tuple[Figure, Any]:
    """The one figure that every case is drawn on: making four panels takes as long as drawing on them."""
    figure = Figure(figsize=(WIDTH, WIDTH))
    return figure, figure.subplots(2, 2)


def blank_sheet() -> tuple[Figure, Any]:
    """The sheet without anything on it, and with limits that follow what is drawn next."""
    figure, grid = sheet()
    for axes in grid.flat:
        for artist in (*axes.lines, *axes.texts, *axes.collections, *axes.patches):
            artist.remove()
        axes.dataLim.set_points(Bbox.null().get_points())
        axes.ignore_existing_data_limits = True
        axes.autoscale(True)
    for artist in (*figure.texts, *figure.legends):
        artist.remove()
    return figure, grid


def step_words(case: CaseResult) -> str:
    one = one_step(case)
    said = f"step (1 step = 1 {one}; 0 = initial state)" if one else "step of the program (0 = initial state)"
    return said if len(said) <= BELOW_PANEL else "step (0 = initial state)"


def one_step(case: CaseResult) -> str:
    """The events of a step; "" where they are many, or differ from step to step."""
    repeat = case.ops[: case.steps[0] + 1] if case.steps else ()
    if 0 < len(repeat) <= 3:
        return " + ".join(words(op) for op in repeat)
    return words(case.ops[0]) if len(set(case.ops)) == 1 else ""


# --------------------------------------------------------------------------------------------------------- panels


def trajectory(axes: Axes, shown: CaseCurves, quantity: str, looks: Mapping[str, int]) -> None:
    """Measured curves as lines, replayed ones as rings on them, the yardstick as a broad band underneath."""
    channel = shown.channel.get(quantity, 0)
    for curve in shown.curves:
        values = column(curve.measured.get(quantity), channel)
        if values is not None:
            line(axes, values, looks.get(curve.target), len(looks))
        replayed = column(curve.replayed.get(quantity), channel)
        if replayed is not None:
            rings(axes, replayed, looks.get(curve.target))
    mark_onsets(axes, shown, quantity, looks)
    finish(axes, quantity_title(shown, quantity, channel), shown.steps, numbered=False)


def quantity_title(shown: CaseCurves, quantity: str, channel: int) -> str:
    widths = {curve.measured[quantity].shape[1] for curve in shown.curves if quantity in curve.measured}
    width = max(widths, default=1)
    where = f", channel {channel} of 0…{width - 1}" if width > 1 else ""
    return f"{NAMES[quantity]}, layer {clean(shown.layer)}{where}"


def column(values: Array | None, channel: int) -> Array | None:
    if values is None or not values.size:
        return None
    found: Array = values[:, min(channel, values.shape[1] - 1)]
    return found


def drift(axes: Axes, shown: CaseCurves, quantity: str, looks: Mapping[str, int]) -> None:
    """Distance from the yardstick on a log scale; exact agreement lies on the bottom line."""
    base = shown.of(shown.yardstick)
    title = f"|{NAMES[quantity]} − that of {clean(shown.yardstick) or 'nothing'}|, mean over channels"
    gaps = {
        c.target: gap
        for c in shown.curves
        if base and c is not base and (gap := difference(c, base, quantity)) is not None
    }
    if base is None or not gaps:
        axes.text(0.5, 0.5, "nothing to compare with", transform=axes.transAxes, ha="center")
        finish(axes, title, shown.steps, np.zeros(0))
        return
    dtypes = shown.dtypes.get(quantity, ())
    bounds = [bound(shown, base, quantity, dtype) for dtype in dtypes]
    floor, top = limits([*gaps.values(), *bounds])
    for dtype, tolerance in zip(dtypes, bounds, strict=True):
        height, steps = np.maximum(np.log10(tolerance), floor), np.arange(len(tolerance))
        axes.fill_between(steps, floor, height, linewidth=0, zorder=1, **BAND)
        axes.plot(steps, height, color=INK, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1.2)
        if len(dtypes) > 1:
            axes.text(steps[-1], height[-1], dtype, fontsize=7.5, ha="right", va="top")
    for target, gap in gaps.items():
        exponent = np.full(len(gap), np.nan)
        finite = np.isfinite(gap)
        exponent[finite] = np.maximum(np.log10(np.maximum(gap[finite], 1e-300)), floor)
        line(axes, exponent, looks[target], len(looks))
    axes.set_ylim(floor - 0.03 * (top - floor), top)
    mark_onsets(axes, shown, quantity, looks, named=False)
    finish(axes, title, shown.steps, power_ticks(floor, top))


def bound(shown: CaseCurves, base: Curve, quantity: str, dtype: str) -> Array:
    """How far from the yardstick's own values a target may be at each step, mean over channels; drifts.py judges by
    the same."""
    size = np.nan_to_num(np.abs(base.measured[quantity]), nan=0.0, posinf=0.0)
    held = base.measured.get("running_var") if quantity == "running_mean" else None
    counted = size if held is None or held.shape != size.shape else np.maximum(size, root(held))
    tolerance = Tolerance(shown.scenario.rtol, shown.scenario.atol)
    found: Array = np.maximum(allowance(quantity, size, counted, dtype, tolerance).mean(axis=1), 1e-300)
    return found


def limits(curves: Sequence[Array]) -> tuple[float, float]:
    """Exponents of ten around everything positive; the lowest one stands for zero."""
    finite = [curve[np.isfinite(curve) & (curve > 0)] for curve in curves]
    low = min((float(part.min()) for part in finite if part.size), default=1e-8)
    high = max((float(part.max()) for part in finite if part.size), default=1.0)
    return float(np.floor(np.log10(max(low, 1e-30)))) - 1, float(np.ceil(np.log10(high))) + 0.3


def power_ticks(floor: float, top: float) -> Array:
    stride = max(1, -(-int(top - floor) // 5))
    return np.array([floor, *np.arange(np.floor(top), floor, -stride)])


def mark_onsets(axes: Axes, shown: CaseCurves, quantity: str, looks: Mapping[str, int], named: bool = True) -> None:
    """A cross and a thin line where a target's values stop being numbers."""
    across = axes.get_xaxis_transform()
    found = [
        (curve, start)
        for curve in shown.curves
        if quantity in curve.measured and (start := onset(curve.measured[quantity])) is not None
    ]
    # Room above the curves for the words.
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top + 0.1 * len(found) * (top - bottom))
    for row, (curve, start) in enumerate(found):
        colour, height = colour_of(looks.get(curve.target)), 0.96 - 0.085 * row
        axes.plot([start, start], [0, 1], color=colour, linewidth=0.9, linestyle=(0, (3, 2)), transform=across)
        axes.plot(
            [start],
            [height],
            transform=across,
            marker="X",
            markersize=9,
            color=colour,
            markeredgecolor=PAPER,
            linestyle="none",
            clip_on=False,
            zorder=4,
        )
        late = start > 0.55 * shown.steps
        side: dict[str, Any] = {"ha": "right" if late else "left", "xytext": (-8 if late else 8, 0)}
        said = f"{clean(curve.target)}: NaN since step {start}" if named else "NaN"
        axes.annotate(
            said,
            (start, height),
            fontsize=8,
            color=colour,
            xycoords=across,
            va="center",
            textcoords="offset points",
            **side,
        )


# ---------------------------------------------------------------------------------------------------- words on it


def entries(shown: CaseCurves, looks: Mapping[str, int]) -> list[Artist]:
    """The legend: one entry per target, then what rings and shade mean."""
    found: list[Artist] = []
    for curve in shown.curves:
        look = looks.get(curve.target)
        label = one_line(curve.label, 40)
        found.append(Line2D([], [], label=label, **(band_style() if look is None else style(look))))
    if any(curve.replayed for curve in shown.curves):
        found.append(
            Line2D(
                [],
                [],
                linestyle="none",
                marker="o",
                markersize=9,
                markerfacecolor="none",
                markeredgecolor=INK,
                label="computed again by its measured rules",
            )
        )
    if shown.dtypes and len(shown.curves) > 1:
        found.append(Patch(linewidth=0, label="within tolerance", **BAND))
    return found


def legend_columns(handles: list[Artist]) -> int:
    """As many columns as fit the width, by the longest label of each (a character takes about 0.066 inch)."""
    widths = [0.6 + 0.066 * len(str(handle.get_label())) for handle in handles]
    for columns in range(len(handles), 1, -1):
        if sum(max(widths[start::columns]) for start in range(columns)) < WIDTH - 0.2:
            return columns
    return 1


def heading(figure: Figure, sheet: CaseSheet, height: float) -> None:
    scenario, case = sheet.shown.scenario, sheet.shown.case
    label = "" if case.label in ("", "base") else f" · {case.label}"
    figure.text(
        0.012,
        1 - 0.13 / height,
        one_line(f"{scenario.title or scenario.name}{label}", 96),
        fontsize=12.5,
        fontweight="bold",
        va="top",
    )
    figure.text(0.012, 1 - 0.4 / height, one_line(sheet.verdict, 132), fontsize=9, va="top")
    specs = [spec for spec in case.inputs.values() if isinstance(spec, dict)]
    size = "; ".join(f"input {spec.get('shape', '')} {spec.get('fill', '')}" for spec in specs)
    steps, one = plural(len(case.steps or case.ops), "step"), one_step(case)
    note = " · ".join(
        filter(
            None,
            (
                sheet.name,
                size,
                case.dtype,
                f"{steps} of 1 {one}" if one and one not in step_words(case) else steps,
                f"bncheck {sheet.version}",
                sheet.created,
            ),
        )
    )
    figure.text(0.012, 0.1 / height, one_line(note, 170), fontsize=7.5)
