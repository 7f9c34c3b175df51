"""Pictures of a life: a layer over time (mode, moves, jumps, gap), and all layers as a map of how far they are off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bncheck.life import Happening, LayerLife, Life
from bncheck.report.drawing import box, boxes, rule, sheet, stroke, ticks, words
from bncheck.report.life_axis import Axis, axis_of, gap_by_column, happened_at, lane, moved_lanes
from bncheck.report.picture import Picture
from bncheck.report.places import stretches
from bncheck.report.plain_text import clean, one_line, plural
from bncheck.report.svg import COLOURS, GRID, INK
from bncheck.trace import Array

WIDTH, LEFT, RIGHT = 960.0, 172.0, 14.0
LANE, SPACE = 13.0, 7.0
PLOT = 92.0  # height of the curve
# Where the colours of the map change, in standard deviations of the batch.
LEVELS = (0.03, 0.1, 0.3, 1.0, 3.0)
SHADES = (0.08, 0.2, 0.36, 0.54, 0.76, 1.0)
BAD = COLOURS[3]
MOST_LAYERS = 200  # rows of a map; the table has them all
MOST_MARKS = 24  # happenings that get a number on a timeline
# What a reader of one layer's time wants numbered. Calls of train() and eval() show in the mode: of many, the last one
# alone has a number, since it is the one that still holds.
NUMBERED = ("jump", "load", "nonfinite", "refused", "convert", "requires_grad", "export")
MODES = ("train", "eval")
MOST_MODES = 8


@dataclass(frozen=True)
class Timeline:
    """A layer's picture, and the happenings that are numbered in it, from 1."""

    layer: LayerLife
    picture: Picture
    numbered: tuple[Happening, ...]


def timeline(life: Life, layer: LayerLife, name: str) -> Timeline:
    """``name`` is the picture's file stem."""
    axis = axis_of(life)
    numbered = to_number(life, layer)
    marks: list[str] = []
    y = 18.0
    for label, cells, colour in mode_lanes(layer, axis):
        marks += lane_marks(label, cells, axis, y, colour)
        y += LANE + SPACE
    marks += moved_marks(layer, axis, y)
    y += LANE + SPACE + 8
    marks += curve_marks(layer, axis, y)
    marks += happening_marks(numbered, axis, y + PLOT)
    y += PLOT
    marks += axis_marks(axis, y)
    said = (
        f"Layer {layer.name} over {axis.word}s {axis.first} to {axis.last}: its mode, whether its running statistics "
        "moved, and how far its running mean was from the mean of the batch, in standard deviations of the batch."
    )
    return Timeline(
        layer=layer,
        picture=Picture(name=name, svg=sheet(WIDTH, y + 38, marks), caption=clean(said)),
        numbered=tuple(numbered),
    )


def to_number(life: Life, layer: LayerLife) -> list[Happening]:
    here = [each for each in life.happenings if concerns(each, layer)]
    modes = [each for each in here if each.what in MODES]
    kept = modes if len(modes) <= MOST_MODES else modes[-1:]
    return [each for each in here if each.what in NUMBERED or each in kept][:MOST_MARKS]


def concerns(happening: Happening, layer: LayerLife) -> bool:
    names = {layer.name, *layer.names}
    return not happening.layers or bool(names & set(happening.layers))


def across(axis: Axis, column: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * column / axis.columns


def position(axis: Axis, at: int) -> float:
    share = (at - axis.first) / max(axis.last - axis.first + 1, 1)
    return LEFT + (WIDTH - LEFT - RIGHT) * min(max(share, 0.0), 1.0)


def mode_lanes(layer: LayerLife, axis: Axis) -> Iterator[tuple[str, Array, str]]:
    """Training and eval always; recomputation and an unknown mode where there is any."""
    yield "in training mode", lane(layer, axis, lambda span: span.training is True and not span.in_backward), COLOURS[1]
    yield "in eval mode", lane(layer, axis, lambda span: span.training is False and not span.in_backward), COLOURS[2]
    for label, cells, colour in (
        ("run again in backward", lane(layer, axis, lambda span: span.in_backward), COLOURS[4]),
        ("mode not known", lane(layer, axis, lambda span: span.training is None), INK),
    ):
        if cells.any():
            yield label, cells, colour


def lane_marks(label: str, cells: Array, axis: Axis, y: float, colour: str) -> list[str]:
    found = [
        (across(axis, start), y, across(axis, start + length) - across(axis, start), LANE)
        for start, length in stretches(cells)
    ]
    return [
        words(label, LEFT - 10, y + LANE - 2.5, anchor="end"),
        box(LEFT, y, WIDTH - LEFT - RIGHT, LANE, GRID, 0.35),
        boxes(found, colour),
    ]


def moved_marks(layer: LayerLife, axis: Axis, y: float) -> list[str]:
    moved, still = moved_lanes(layer, axis)
    if not (moved.any() or still.any()):
        return [
            words("statistics moved", LEFT - 10, y + LANE - 2.5, anchor="end"),
            words("not recorded", LEFT + 4, y + LANE - 2.5, size=11),
        ]
    # Where they stood still a thin line is left: it is told from no forward at all without colour.
    line = [
        (across(axis, start), y + LANE / 2 - 1, across(axis, start + length) - across(axis, start), 2.0)
        for start, length in stretches(still)
    ]
    return [*lane_marks("statistics moved", moved, axis, y, INK), boxes(line, COLOURS[0])]


def curve_marks(layer: LayerLife, axis: Axis, y: float) -> list[str]:
    """How far the running mean was off, on a log scale from 1/100 to 100 deviations."""
    gap = gap_by_column(layer, axis)
    finite = np.isfinite(gap)
    bottom = y + PLOT

    def height(value: float) -> float:
        power = min(max(float(np.log10(max(value, 1e-9))), -2.0), 2.0)
        return bottom - (power + 2) / 4 * PLOT

    marks = [words("running mean off by,", LEFT - 10, y + 34, anchor="end")]
    marks += [words("in deviations of x", LEFT - 10, y + 49, anchor="end")]
    for value, label in ((0.01, "0.01"), (0.1, ""), (1.0, "1"), (10.0, ""), (100.0, "100")):
        marks += [rule(LEFT, height(value), WIDTH - RIGHT, height(value))]
        marks += [words(label, LEFT + 3, height(value) - 2, size=10)] if label else []
    for start, length in stretches(finite):
        points = [(across(axis, start + k + 0.5), height(float(gap[start + k]))) for k in range(length)]
        ends = [(across(axis, start), points[0][1]), *points, (across(axis, start + length), points[-1][1])]
        marks.append(stroke(ends, COLOURS[0], 2.0))
    broken = [
        (across(axis, start), y, across(axis, start + length) - across(axis, start), PLOT)
        for start, length in stretches(np.isinf(gap))
    ]
    if broken:
        marks += [boxes(broken, BAD, 0.3), words("NaN or Inf", broken[0][0] + 4, y + 14, size=11)]
    if not finite.any() and not broken:
        marks.append(words("not recorded", LEFT + 40, y + PLOT / 2, size=11))
    return marks


def happening_marks(numbered: list[Happening], axis: Axis, bottom: float) -> list[str]:
    """A dashed line and a number each; those at one place share a line."""
    found: dict[float, list[int]] = {}
    for number, each in enumerate(numbered, 1):
        found.setdefault(round(position(axis, happened_at(each, axis)), 0), []).append(number)
    marks = []
    for x, numbers in found.items():
        label = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"
        marks += [stroke([(x, 16), (x, bottom)], INK, 1.0, "3 3"), words(label, x, 12, size=11, anchor="middle")]
    return marks


def axis_marks(axis: Axis, y: float) -> list[str]:
    marks = [
        words(f"{at:,}", position(axis, at), y + 16, size=11, anchor="middle") for at in ticks(axis.first, axis.last)
    ]
    what = "optimiser step" if axis.word == "step" else "forward of a normalising layer"
    return [*marks, words(what, LEFT + (WIDTH - LEFT - RIGHT) / 2, y + 32, size=11, anchor="middle")]


# --------------------------------------------------------------------------------------------------------- all layers


def distance_map(life: Life, kinds: Mapping[str, str], name: str) -> Picture | None:
    """All layers over time: the stronger the colour, the further the running mean is from the batch. ``kinds`` maps a
    layer to the kind of the gravest finding about it. None where no layer was recorded."""
    layers = chosen(life, kinds)
    if not layers:
        return None
    axis = axis_of(life)
    row = min(max(900.0 / len(layers), 6.0), 17.0)
    top = 8.0
    shades: list[list[tuple[float, float, float, float]]] = [[] for _ in SHADES]
    bad: list[tuple[float, float, float, float]] = []
    for place, layer in enumerate(layers):
        gap = gap_by_column(layer, axis)
        level = np.where(np.isinf(gap), -1, np.digitize(np.nan_to_num(gap, posinf=0.0), LEVELS))
        level = np.where(np.isnan(gap), -2, level)
        for start, length, value in runs(level):
            x = across(axis, start)
            where = (x, top + place * row + 0.5, across(axis, start + length) - x, row - 1)
            if value != -2:
                (bad if value == -1 else shades[value]).append(where)
    bottom = top + row * len(layers)
    marks = [box(LEFT, top, WIDTH - LEFT - RIGHT, bottom - top, GRID, 0.16)]
    marks += [boxes(found, COLOURS[0], shade) for found, shade in zip(shades, SHADES, strict=True)]
    marks += [boxes(bad, BAD), *names_beside(layers, kinds, top, row), *axis_marks(axis, bottom)]
    marks += legend(bottom + 46, bool(bad))
    more = len(life.layers) - len(layers)
    left = f"; {plural(more, 'more layer')} not drawn" if more else ""
    said = (
        f"{plural(len(layers), 'layer')} over {axis.word}s {axis.first} to {axis.last}{left}: the stronger the colour, "
        "the further the running mean is from the mean of the batch, in standard deviations of the batch."
    )
    return Picture(name=name, svg=sheet(WIDTH, bottom + 66, marks), caption=clean(said))


def chosen(life: Life, kinds: Mapping[str, str]) -> list[LayerLife]:
    """In the model's order; of a very large model those that a finding is about, and the first of the others."""
    layers = [layer for layer in life.layers if layer.moments or layer.spans]
    if len(layers) <= MOST_LAYERS:
        return layers
    first = [layer for layer in layers if layer.name in kinds][:MOST_LAYERS]
    kept = {layer.name for layer in first}
    kept |= {layer.name for layer in [each for each in layers if each.name not in kept][: MOST_LAYERS - len(kept)]}
    return [layer for layer in layers if layer.name in kept]


def runs(values: Array) -> Iterator[tuple[int, int, int]]:
    """(start, length, value) of each run of equal values."""
    edges = np.concatenate(([0], np.flatnonzero(np.diff(values)) + 1, [len(values)]))
    for start, stop in pairwise(edges):
        yield int(start), int(stop - start), int(values[start])


def names_beside(layers: list[LayerLife], kinds: Mapping[str, str], top: float, row: float) -> Iterator[str]:
    """Names of the layers that findings are about, and of as many others as are legible between them."""
    taken: list[float] = []
    ranked = sorted(range(len(layers)), key=lambda place: (layers[place].name not in kinds, place))
    for place in ranked:
        y = top + row * (place + 0.5) + 3.5
        if any(abs(y - other) < 11 for other in taken):
            continue
        taken.append(y)
        name = clean(layers[place].name)
        shown = name if len(name) <= 23 else f"…{name[-22:]}"
        told = layers[place].name in kinds
        yield words(f"{shown} !" if told else shown, LEFT - 8, y, size=11, anchor="end", weight="bold" if told else "")


def legend(y: float, bad: bool) -> Iterator[str]:
    bounds = ("0", *(f"{level:g}" for level in LEVELS))
    for place, (bound, shade) in enumerate(zip(bounds, SHADES, strict=True)):
        x = LEFT + place * 92
        yield box(x, y, 18, 11, GRID, 0.16)
        yield box(x, y, 18, 11, COLOURS[0], shade)
        said = f"{bound} to {LEVELS[place]:g}" if place < len(LEVELS) else f"above {bound}"
        yield words(one_line(said), x + 24, y + 10, size=11)
    if bad:
        x = LEFT + len(SHADES) * 92
        yield box(x, y, 18, 11, BAD)
        yield words("NaN or Inf", x + 24, y + 10, size=11)
    yield words("deviations off", LEFT - 8, y + 10, size=11, anchor="end")
