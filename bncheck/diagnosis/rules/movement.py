"""Reading a trace: which events moved a state, which were forwards, what a layer's dtype is."""

from __future__ import annotations

import numpy as np

from bncheck.evidence import CellView
from bncheck.scenario import RECORDING, op_of
from bncheck.trace import Array, Trace


def changed(rows: Array) -> Array:
    """(T, C) or (T,) mask: the value after the event is not the one before it (NaN to NaN is no change)."""
    before, after = rows[:-1], rows[1:]
    return np.asarray((before != after) & ~(np.isnan(before) & np.isnan(after)))


def moved(trace: Trace, layer: str, quantity: str) -> Array:
    """(T,) mask of events that changed the state in any channel; all false where the layer has no such state."""
    rows = trace.get(layer, quantity)
    if rows is None or len(rows) < 2:
        return np.zeros(len(trace.events), dtype=bool)
    mask = changed(np.asarray(rows, dtype=np.float64))
    return np.asarray(mask.reshape(len(mask), -1).any(axis=1))


def moving_ops(cell: CellView, layer: str) -> frozenset[str]:
    """The kinds of event after which the layer's running statistics were not what they were before."""
    if cell.trace is None:
        return frozenset()
    mask = moved(cell.trace, layer, "running_mean") | moved(cell.trace, layer, "running_var")
    return frozenset(event.op for event, yes in zip(cell.trace.events, mask, strict=False) if yes)


def forwards(trace: Trace, layer: str) -> Array:
    """(T,) mask of events in which the layer saw a batch, empty ones included."""
    counts = trace.get(layer, "n")
    return counts >= 0 if counts is not None else np.zeros(len(trace.events), dtype=bool)


def holds_training(trace: Trace, layer: str, event: int) -> bool | None:
    """Was the layer in training mode during the event? From the event's word, else from the flag it held before."""
    mode = op_of(trace.events[event].op).mode
    if mode in ("train", "eval"):
        return mode == "train"
    flags = trace.get(layer, "training")
    if flags is None or event >= len(flags) or flags[event] < 0:
        return None
    return bool(flags[event])


def forwards_behind(trace: Trace) -> dict[int, list[int]]:
    """Backward → the forwards that it goes back through: those that record a graph since the backward before it, or
    the same ones once more (``worker/cell.py``)."""
    found: dict[int, list[int]] = {}
    pending: list[int] = []
    last: list[int] = []
    for event, record in enumerate(trace.events):
        if record.op in RECORDING and record.status == "ok":
            pending, last = [*pending, event], []
        elif record.op == "backward" and record.status == "ok":
            last, pending = pending or last, []
            found[event] = last
    return found
