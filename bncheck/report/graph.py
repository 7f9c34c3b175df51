"""``graph.csv`` and a picture per case: the autograd nodes and bytes that a layer's buffers keep alive, step by step.

For custom layers in PyTorch. A layer that lets go of every step stays at 0; one that keeps the graph grows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bncheck.report.gallery import Gallery
from bncheck.report.picture import SETTINGS, Picture, develop, write_picture
from bncheck.run_folder.cell import trace_of
from bncheck.run_folder.results import CaseResult, CellResult, Results, ScenarioResult
from bncheck.trace import Array

NAME = "graph"


@dataclass(frozen=True)
class Growth:
    """One layer of one cell: nodes and bytes at the initial state and at the end of each step; bytes may be None."""

    cell: CellResult
    layer: str
    steps: Array
    nodes: Array
    bytes: Array | None


def render(results: Results, run_folder: Path, gallery: Gallery | None = None) -> list[Path]:
    """Write graph.csv and plots/<scenario>--<case>--graph.svg and .png; nothing where nothing was counted."""
    found = [item for cell in results.cells for item in growths(results, run_folder, cell)]
    if not found:
        return []
    from bncheck.report.table import write_csv

    paths = [write_csv([table(found)], run_folder / "graph.csv")]
    for scenario in results.scenarios:
        for picture in pictures(results, run_folder, scenario, png=True):
            paths += write_picture(picture, run_folder)
    return paths


def pictures(results: Results, run_folder: Path, scenario: ScenarioResult, png: bool = False) -> list[Picture]:
    """A picture per case of the scenario in which a layer was found to keep its graphs."""
    drawn = []
    for case in scenario.cases:
        here = results.findings_at.get((scenario.name, case.name), ())
        if any(finding.cause == "graph-retention" for finding in here):
            cells = [cell for cell in results.cells if (cell.scenario, cell.case) == (scenario.name, case.name)]
            found = [item for cell in cells for item in growths(results, run_folder, cell)]
            drawn += [draw(results, scenario, case, found, png)] if found else []
    return drawn


def growths(results: Results, run_folder: Path, cell: CellResult) -> Iterator[Growth]:
    case = results.case_at.get((cell.scenario, cell.case))
    trace = trace_of(run_folder, cell, case.ops) if case is not None else None
    if case is None or trace is None:
        return
    for layer in trace.layers:
        nodes, size = trace.get(layer, "graph_nodes"), trace.get(layer, "graph_bytes")
        if nodes is None or nodes.ndim != 1 or len(nodes) != len(case.ops) + 1:
            continue
        rows = case.rows(len(nodes))
        held = size[rows] if size is not None and size.shape == nodes.shape else None
        steps = np.array([case.step_of(row - 1) if row else 0 for row in rows])
        yield Growth(cell=cell, layer=layer, steps=steps, nodes=nodes[rows], bytes=held)


def table(found: list[Growth]) -> Any:
    """One row per step."""
    import pandas as pd

    rows = [
        (
            item.cell.scenario,
            item.cell.case,
            item.cell.target,
            item.layer,
            int(item.steps[place]),
            item.nodes[place],
            item.bytes[place] if item.bytes is not None else np.nan,
        )
        for item in found
        for place in range(len(item.steps))
    ]
    return pd.DataFrame(rows, columns=["scenario", "case", "target", "layer", "step", "nodes", "bytes"])


def draw(results: Results, scenario: ScenarioResult, case: CaseResult, found: list[Growth], png: bool) -> Picture:
    """Nodes on the left, bytes on the right, one line per target and layer."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from bncheck.report.plain_text import clean

    title = clean(f"{scenario.name} · {case.label}")
    labels = {target.name: clean(target.label) for target in results.targets}
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(9.6, 3.4))
        panels(figure.subplots(1, 2), labels, found)
        figure.suptitle(title, x=0.02, ha="left", fontsize=11)
        figure.subplots_adjust(left=0.08, right=0.985, top=0.8, bottom=0.14, wspace=0.22)
        most = max(int(item.nodes.max(initial=0)) for item in found)
        said = (
            f"{title}: autograd nodes behind the layer's buffers and the bytes they keep, step by step; {most} at most."
        )
        return develop(figure, f"{scenario.name}--{case.name}--graph", said, results.version, png)


def panels(places: Any, labels: Mapping[str, str], found: list[Growth]) -> None:
    left, right = places
    for item in found:
        label = f"{labels.get(item.cell.target, item.cell.target)}: {item.layer}"
        left.plot(item.steps, item.nodes, linewidth=1.4, label=label)
        if item.bytes is not None:
            right.plot(item.steps, item.bytes, linewidth=1.4, label=label)
    for axes, what in ((left, "autograd nodes behind the buffers"), (right, "bytes that they keep")):
        axes.set_title(what, fontsize=9, loc="left")
        axes.set_xlabel("step", fontsize=8)
        axes.set_ylim(bottom=0)
        if axes.lines:
            axes.legend(loc="upper left", fontsize=7.5, frameon=False)
