"""``origins.csv``: of every scenario in which a running statistic turned NaN or Inf, each cell's training output, the
event that spoiled the statistics, and the eval output after it. Which forward gave the NaN is then a matter of reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bncheck.report.gallery import Gallery
from bncheck.run_folder.cell import trace_of
from bncheck.run_folder.results import CellResult, Results
from bncheck.scenario import op_of
from bncheck.trace import STATISTICS, Array, Trace

NAME = "origins"
COLUMNS = ("scenario", "case", "target", "training output", "statistics", "eval output")


def render(results: Results, run_folder: Path, gallery: Gallery | None = None) -> list[Path]:
    """Write origins.csv; nothing where every statistic of the run stayed finite."""
    found = rows(results, run_folder)
    if not found:
        return []
    import pandas as pd

    from bncheck.report.table import write_csv

    return [write_csv([pd.DataFrame(found, columns=list(COLUMNS))], run_folder / "origins.csv")]


def rows(results: Results, run_folder: Path) -> list[tuple[str, ...]]:
    """One row per cell of the scenarios that have a poisoned statistic, the untouched cells included."""
    kept: list[tuple[str, ...]] = []
    for scenario in [each for each in results.scenarios if not each.probe]:
        here = [(cell, row(results, run_folder, cell)) for cell in results.cells if cell.scenario == scenario.name]
        if any(line[4].startswith("NaN") for _, line in here):
            kept += [line for _, line in here]
    return kept


def row(results: Results, run_folder: Path, cell: CellResult) -> tuple[str, ...]:
    case = results.case_at[cell.scenario, cell.case]
    label = next((target.label for target in results.targets if target.name == cell.target), cell.target)
    trace = trace_of(run_folder, cell, case.ops)
    if trace is None:
        return (cell.scenario, case.label, label, cell.outcome, "", "")
    trained = next((t for t, op in enumerate(case.ops) if op_of(op).forward and op_of(op).mode != "eval"), None)
    evaluated = next((t for t, op in enumerate(case.ops) if op_of(op).forward and op_of(op).mode == "eval"), None)
    born = next(spoiled(trace), "finite")
    return (cell.scenario, case.label, label, output_word(trace, trained), born, output_word(trace, evaluated))


def output_word(trace: Trace, event: int | None) -> str:
    """``exactly 0``, ``finite, at most 0.895``, ``NaN everywhere``, ``refused: …`` of one forward."""
    if event is None:
        return "none"
    record, out = trace.events[event], trace.output(event)
    if record.status != "ok" or out is None:
        return f"refused: {record.error_type}" if record.status == "raised" else record.status
    bad = ~np.isfinite(np.asarray(out, dtype=np.float64))
    if bad.any():
        return "NaN everywhere" if bad.all() else f"NaN in {int(bad.sum())} of {bad.size} values"
    largest = float(np.abs(out).max(initial=0.0))
    return "exactly 0" if largest == 0 else f"finite, at most {largest:.3g}"


def spoiled(trace: Trace) -> Iterator[str]:
    """The first statistic that is not finite, in the order of events, then of layers."""
    found: list[tuple[int, int, str]] = []
    for place, layer in enumerate(trace.layers):
        for name in STATISTICS:
            held: Any = trace.get(layer, name)
            event = first_bad(held)
            if event is not None:
                found.append((event, place, f"NaN in {name} of {layer} since event {event} ({word_at(trace, event)})"))
    yield from (text for _, _, text in sorted(found))


def first_bad(rows: Array | None) -> int | None:
    """The event (from 1; 0 is the initial state) after which a row is not finite."""
    if rows is None or not rows.size:
        return None
    bad = np.flatnonzero(~np.isfinite(np.asarray(rows, dtype=np.float64)).reshape(len(rows), -1).all(axis=1))
    return int(bad[0]) if bad.size else None


def word_at(trace: Trace, event: int) -> str:
    return trace.events[event - 1].op if 0 < event <= len(trace.events) else "initial state"
