"""``depth.csv`` and a picture per case: how far apart each layer's outputs lie when the batch size changes.

For the event eval_in_batches. A row is one layer at one batch size: what it carried on from the layers before it, and
what it did by itself to the same input bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bncheck.diagnosis.rules.in_batches import InBatches, read
from bncheck.evidence import DAMAGED
from bncheck.report.gallery import EXTRAS, Gallery
from bncheck.report.picture import SETTINGS, Picture, develop, write_picture
from bncheck.run_folder.cell import folder_of, read_record, read_trace
from bncheck.run_folder.results import CaseResult, CellResult, Results, ScenarioResult

NAME = "depth"
OP = "eval_in_batches"


def render(results: Results, run_folder: Path, gallery: Gallery | None = None) -> list[Path]:
    """Write depth.csv and plots/<scenario>--<case>--depth.svg and .png; nothing where no case has such an event."""
    found = [(cell, item) for cell in results.cells for item in profiles(results, run_folder, cell)]
    if not found:
        return []
    from bncheck.report.table import write_csv

    paths = [write_csv([table(found)], run_folder / "depth.csv")]
    for scenario in results.scenarios:
        for picture in drawn(results, run_folder, scenario, png=True):
            paths += write_picture(picture, run_folder)
    return paths


def profiles(results: Results, run_folder: Path, cell: CellResult) -> Iterator[InBatches]:
    case: CaseResult | None = results.case_at.get((cell.scenario, cell.case))
    if case is None or OP not in case.ops or cell.error_type in DAMAGED:
        return
    folder = folder_of(run_folder, cell)
    record = read_record(folder)
    trace = read_trace(folder, case.ops, record)
    for event, op in enumerate(case.ops):
        if op == OP and trace is not None and record is not None:
            found = read(event, trace.arrays, record.notes)
            if found is not None:
                yield found


def label_of(results: Results, cell: CellResult) -> str:
    return next((target.label for target in results.targets if target.name == cell.target), cell.target)


def table(found: list[tuple[CellResult, InBatches]]) -> Any:
    """One row per layer and batch size, in the order of the network."""
    import pandas as pd

    rows = [
        (
            cell.scenario,
            cell.case,
            cell.target,
            place + 1,
            item.layers[place],
            item.kinds[place],
            size,
            item.largest,
            item.carried[row, place],
            item.own[row, place],
            item.scale[place],
        )
        for cell, item in found
        for row, size in enumerate(item.sizes)
        for place in range(len(item.layers))
    ]
    names = [
        "scenario",
        "case",
        "target",
        "depth",
        "layer",
        "kind",
        "size",
        "against",
        "max_abs",
        "own_max_abs",
        "scale",
    ]
    return pd.DataFrame(rows, columns=names)


def pictures(results: Results, run_folder: Path, scenario: ScenarioResult) -> list[Picture]:
    """For the page: the first profiles of a scenario."""
    return drawn(results, run_folder, scenario, EXTRAS)


def drawn(
    results: Results, run_folder: Path, scenario: ScenarioResult, most: int | None = None, png: bool = False
) -> list[Picture]:
    """A picture per case of the scenario that has such an event."""
    cases = [case for case in scenario.cases if OP in case.ops][:most]
    found_pictures = []
    for case in cases:
        cells = [cell for cell in results.cells if (cell.scenario, cell.case) == (scenario.name, case.name)]
        found = [(label_of(results, cell), item) for cell in cells for item in profiles(results, run_folder, cell)]
        if found:
            found_pictures.append(draw(results, scenario, case, found, png))
    return found_pictures


def draw(
    results: Results, scenario: ScenarioResult, case: CaseResult, found: list[tuple[str, InBatches]], png: bool
) -> Picture:
    """Relative difference along the depth, smallest batch against the largest; BatchNorm layers are marked."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from bncheck.report.plain_text import clean

    title = clean(f"{scenario.name} · {case.label}")
    with mpl.rc_context(SETTINGS):
        height = 1.2 + 2.6 * len(found)
        figure = Figure(figsize=(9.6, height))
        grid = figure.subplots(len(found), 1, squeeze=False)
        for (label, item), (axes,) in zip(found, grid, strict=True):
            panel(axes, clean(label), item)
        figure.suptitle(title, x=0.02, ha="left", fontsize=11)
        figure.subplots_adjust(left=0.08, right=0.985, top=1 - 0.62 / height, bottom=0.5 / height, hspace=0.45)
        said = f"{title}: how far the outputs of each layer lie apart when the batch size changes, along the depth."
        return develop(figure, f"{scenario.name}--{case.name}--depth", said, results.version, png)


def panel(axes: Any, label: str, item: InBatches) -> None:
    from matplotlib.ticker import NullFormatter

    scale = np.maximum(item.scale, 1e-300)
    depth = np.arange(1, len(item.layers) + 1)
    carried, own = (np.where(rows[0] > 0, rows[0] / scale, np.nan) for rows in (item.carried, item.own))
    linear = ~item.norms
    axes.plot(depth, carried, color="#0072b2", linewidth=1.3, label="carried from the layers before")
    axes.plot(
        depth[linear], own[linear], ".", color="#8f6a00", markersize=4, label="own, same input bits: other layers"
    )
    axes.plot(depth[item.norms], own[item.norms], "x", color="#c44e00", markersize=5, label="own: BatchNorm layers")
    if np.isfinite(carried).any() or np.isfinite(own).any():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend(loc="lower right", fontsize=7.5, frameon=False, ncols=3)
    tight = int(item.norms.sum()) - item.loose_norms
    axes.set_title(
        f"{label}: batches of {item.sizes[0]} against {item.largest}, |difference| / largest |output|; "
        f"{tight} of {int(item.norms.sum())} BatchNorm layers invariant to the bit",
        fontsize=8.5,
        loc="left",
    )
    axes.set_xlabel("layer, in the order of the forward", fontsize=8)
    axes.set_xlim(0, len(depth) + 1)
