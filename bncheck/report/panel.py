"""One panel of a picture: its grid, its numbers, its curves.

The axes' own ticks are switched off and drawn here as one collection of lines and a few texts: matplotlib spends
more than half of its time on ticks (measured: 0.33 s a picture with them, 0.14 s without).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator

from bncheck.report.curves import thin
from bncheck.report.plain_text import one_line
from bncheck.report.svg import COLOURS, GRID, INK
from bncheck.trace import Array

MARKERS = ["o", "s", "^", "D", "v", "P"]
DASHES: list[Any] = ["-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)), (0, (4, 1, 1, 1, 1, 1)), (0, (9, 3))]
RINGS = 14


def style(look: int) -> dict[str, Any]:
    """Colour, dashes and marker of the ``look``-th target: each alone is enough to tell six targets apart."""
    kind = look % len(COLOURS)
    # A second round of colours takes other dashes, so that no two of 36 targets look alike.
    return {
        "color": COLOURS[kind],
        "linestyle": DASHES[(kind + look // len(COLOURS)) % len(DASHES)],
        "marker": MARKERS[kind],
        "markersize": 5,
        "linewidth": 1.7,
    }


def band_style() -> dict[str, Any]:
    """The yardstick: a broad pale band that every curve is drawn over."""
    return {"color": INK, "alpha": 0.26, "linewidth": 6, "solid_capstyle": "butt"}


def colour_of(look: int | None) -> str:
    return INK if look is None else COLOURS[look % len(COLOURS)]


def line(axes: Axes, values: Array, look: int | None, count: int) -> None:
    """A target's curve over the steps; ``look`` None draws the yardstick's band."""
    keep = thin(values)
    if look is None:
        axes.plot(keep, values[keep], zorder=1.5, **band_style())
        return
    axes.plot(keep, values[keep], zorder=2 + look / 100, markevery=marks(len(keep), look, count), **style(look))


def rings(axes: Axes, values: Array, look: int | None) -> None:
    """A replayed curve: rings around the measured one, wider for each further target."""
    where = np.unique(np.linspace(0, len(values) - 1, min(len(values), RINGS)).astype(int))
    axes.plot(
        where,
        values[where],
        linestyle="none",
        marker="o",
        markersize=9 + 1.5 * ((look or 0) % 3),
        markerfacecolor="none",
        markeredgecolor=colour_of(look),
        markeredgewidth=1.1,
        zorder=3,
    )


def marks(points: int, look: int, count: int) -> Any:
    """Markers of different targets at different steps: curves that lie on each other stay countable."""
    if points <= 12:
        return None
    every = max(points // 7, 1)
    return (every * look // max(count, 1), every)


def finish(
    axes: Axes, title: str, steps: int, powers: Array | None = None, numbered: bool = True, names: Sequence[str] = ()
) -> None:
    """Title, grid and numbers, once everything is drawn. ``powers``: the y values are exponents of ten, and the
    first of these ticks is the line that stands for zero. ``names`` stand at the steps instead of their numbers."""
    bottom, top = axes.get_ylim()
    xs = np.arange(len(names)) if names else np.asarray(MaxNLocator(6, integer=True).tick_values(0, max(steps, 1)))
    xs = xs[(xs >= 0) & (xs <= max(steps, 1))]
    ys = np.asarray(MaxNLocator(5).tick_values(bottom, top) if powers is None else powers)
    ys = ys[(ys >= bottom) & (ys <= top)]
    axes.set_xlim(-0.02 * max(steps, 1), 1.02 * max(steps, 1))
    axes.set_ylim(bottom, top)
    left, right = axes.get_xlim()
    grid = [[(x, bottom), (x, top)] for x in xs] + [[(left, y), (right, y)] for y in ys]
    axes.add_collection(LineCollection(grid, colors=GRID, linewidths=0.7, zorder=0.5), autolim=False)
    edges = [[(left, top), (left, bottom)], [(left, bottom), (right, bottom)]]
    axes.add_collection(LineCollection(edges, colors=INK, linewidths=1.2, zorder=5), autolim=False)
    labels = [plain_tick(y, ys) for y in ys] if powers is None else power_labels(ys, powers)
    side: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8.5}
    for y, label in zip(ys, labels, strict=True):
        axes.annotate(label, (left, y), xytext=(-5, 0), ha="right", va="center", **side)
    for x in xs if numbered else ():
        said = one_line(names[int(x)], 12) if names else f"{x:.0f}"
        axes.annotate(said, (x, bottom), xytext=(0, -4), ha="center", va="top", **side)
    axes.text(0, 1.035, one_line(title, 78), transform=axes.transAxes, fontsize=9.5, va="bottom")
    axes.set_axis_off()


def plain_tick(value: float, ticks: Array) -> str:
    """As many decimals as the distance of the ticks needs."""
    gap = float(ticks[1] - ticks[0]) if len(ticks) > 1 else 1.0
    largest = float(np.abs(ticks).max(initial=0.0))
    if largest >= 1e5 or 0 < largest < 1e-3:
        return f"{value:.2e}" if value else "0"
    decimals = next((n for n in range(6) if abs(gap * 10**n - round(gap * 10**n)) < 1e-6), 6)
    return f"{value:.{decimals}f}"


def power_labels(ys: Array, powers: Array) -> list[str]:
    """The first power stands for zero; a panel without curves has no powers and no labels."""
    return ["0" if y == powers[0] else f"1e{y:.0f}" for y in ys]
