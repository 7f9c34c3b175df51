"""What the worker noted about an existing ONNX file (network.file) and its plays: notes["cell"]["file"]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from bncheck.evidence import CellView
from bncheck.rules.exported import rounding_of
from bncheck.scenario import FORWARD_OPS

PLAYING = (*FORWARD_OPS, "run_exported")


def file_facts(cell: CellView) -> Mapping[str, Any] | None:
    """What the file declares; None for a cell that played no file."""
    notes: Any = cell.notes.get("cell")
    found = notes.get("file") if isinstance(notes, Mapping) else None
    return found if isinstance(found, Mapping) and cell.case.network.file else None


def file_name(cell: CellView) -> str:
    return PurePath(cell.case.network.file or "").name


def nodes_of(facts: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """``batch_norms`` or ``dropouts`` of the file, by name and mode."""
    found = facts.get(key)
    return [node for node in found if isinstance(node, Mapping)] if isinstance(found, list) else []


def plays(cell: CellView) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(event, notes) of every forward of the file: the n-th note is the n-th forward's."""
    facts = file_facts(cell)
    listed = facts.get("plays") if facts is not None else None
    events = [place for place, event in enumerate(cell.case.events) if event.op in PLAYING]
    for event, notes in zip(events, listed if isinstance(listed, list) else [], strict=False):
        if isinstance(notes, Mapping):
            yield event, notes


def bound_of(facts: Mapping[str, Any], notes: Mapping[str, Any]) -> float:
    """How far two plays may be apart: a float16 file has fewer digits, a float64 file more; a training forward passes
    rounding on from layer to layer, and amplifies it where a batch is small."""
    factor = {"float16": 200.0, "float64": 1e-6}.get(str(facts.get("dtype")), 1.0)
    return factor * depth_of(facts, notes) * rounding_of(notes)


def statistics_bound(facts: Mapping[str, Any], notes: Mapping[str, Any]) -> float:
    """The same for running statistics, whose differences are noted relative to their own size."""
    return bound_of(facts, {**notes, "scale": 1.0})


def depth_of(facts: Mapping[str, Any], notes: Mapping[str, Any]) -> int:
    return 1 if notes.get("mode") == "eval" else max(1, len(nodes_of(facts, "batch_norms")))


@dataclass(frozen=True)
class NoVariance:
    """A layer of the file whose running variance, with eps added, has no square root in some channels."""

    layer: str
    channels: int
    of: int
    values: tuple[float, ...]  # the first ones
    forwards: int
    bad: int  # of them with NaN or Inf in the layer's output


def no_variances(cell: CellView) -> Iterator[NoVariance]:
    """Layers of an existing file whose variance cannot be one: below zero, NaN or Inf, before any event."""
    if cell.trace is None or file_facts(cell) is None:
        return
    for layer in cell.trace.layers:
        rows, eps, bad = (cell.trace.get(layer, name) for name in ("running_var", "eps", "output_bad"))
        if rows is None or eps is None or bad is None or not len(rows):
            continue
        held = np.asarray(rows[0], dtype=np.float64)
        lost = np.flatnonzero(~(held + float(eps[0]) > 0) | np.isinf(held))
        if lost.size:
            shown = tuple(float(value) for value in held[lost[:3]])
            yield NoVariance(layer, lost.size, held.size, shown, int((bad >= 0).sum()), int((bad > 0).sum()))
