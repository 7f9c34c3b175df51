"""The states that a layer holds, and where they are what they must not be: not finite, or a variance below zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bncheck.diagnosis.rules.movement import holds_training
from bncheck.evidence import CellView
from bncheck.trace import STATISTICS, Array

HELD = (*STATISTICS, "running_covar", "gamma", "beta")
SETTINGS = ("eps", "momentum")  # NaN where a layer holds none: only Inf can be seen


@dataclass(frozen=True)
class State:
    """One state of a layer, (T + 1, C), and where it holds what it must not."""

    rows: Array
    spoilt: Array


def states_of(cell: CellView, layer: str) -> Iterator[tuple[str, State]]:
    assert cell.trace is not None
    total = len(cell.trace.events) + 1
    for name in HELD:
        rows = cell.trace.get(layer, name)
        if rows is None or len(rows) != total or not rows.size:
            continue
        rows = np.asarray(rows, dtype=np.float64).reshape(total, -1)
        exists = np.asarray(held_from(cell, layer, name, rows))
        spoilt = np.asarray(~np.isfinite(rows)) & exists[:, None]
        yield name, State(rows, spoilt | (rows < 0) if name == "running_var" else spoilt)
    for name in SETTINGS:
        rows = cell.trace.get(layer, name)
        if rows is not None and len(rows) == total:
            column = np.asarray(rows, dtype=np.float64).reshape(total, -1)
            yield name, State(column, np.asarray(np.isinf(column)))


def held_from(cell: CellView, layer: str, name: str, rows: Array) -> Array:
    """(T + 1,) mask of the points at which the state exists. One that does not yet exist is recorded as NaN in every
    channel; so is one that is really NaN, which eval then shows."""
    known: Array = np.asarray(np.any(~np.isnan(rows), axis=1))
    if known[0] or nan_asked(cell, layer, name):
        return np.ones(len(rows), dtype=bool)
    if known.any():
        return np.asarray(np.arange(len(rows)) >= int(np.argmax(known)))
    return np.full(len(rows), next(evaluates_well(cell, layer), None) is None)


def nan_asked(cell: CellView, layer: str, name: str) -> bool:
    asked = next((item.initial for item in cell.case.network.layers if item.name == layer), {})
    return bool(np.isnan(np.asarray(asked.get(name, 0.0), dtype=np.float64)).any())


def evaluates_well(cell: CellView, layer: str) -> Iterator[int]:
    """Forwards in inference whose input and output are finite: no NaN statistic took part."""
    assert cell.trace is not None
    rows = [cell.trace.get(layer, name) for name in ("n", "input_bad", "output_bad")]
    if rows[0] is None or rows[1] is None or rows[2] is None:
        return
    for event in np.flatnonzero((rows[0] > 0) & (rows[1] == 0) & (rows[2] == 0)):
        if not holds_training(cell.trace, layer, int(event)):
            yield int(event)
