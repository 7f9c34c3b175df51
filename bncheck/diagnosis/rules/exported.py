"""What an export and a run of the exported file noted about themselves (notes of the torch backend)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from bncheck.evidence import CellView

# Float32 networks of a few layers differ from onnxruntime by 2e-7 of the output's size, deep ones by 1e-5.
RELATIVE, ABSOLUTE = 1e-4, 1e-5


def exports(cell: CellView) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(event, notes) of every export that went through."""
    yield from _noted(cell, "export")


def runs(cell: CellView) -> Iterator[tuple[int, Mapping[str, Any], Mapping[str, Any]]]:
    """(event, notes of the run, notes of the export before it)."""
    for event, notes in _noted(cell, "run_exported"):
        before = [found for place, found in exports(cell) if place < event]
        yield event, notes, before[-1] if before else {}


def _noted(cell: CellView, key: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for event in range(len(cell.case.events)):
        notes = cell.notes.get(str(event))
        found = notes.get(key) if isinstance(notes, Mapping) else None
        if isinstance(found, Mapping):
            yield event, found


def number_of(notes: Mapping[str, Any], key: str) -> float | None:
    """A noted number; None for a word ("not comparable", "nan") or nothing."""
    value = notes.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def gap_of(notes: Mapping[str, Any], key: str) -> float | None:
    """A noted difference; infinite where NaN or Inf stood on one side only. None: there was nothing to compare."""
    return math.inf if notes.get(key) in ("inf", "-inf", "nan") else number_of(notes, key)


def rounding_of(notes: Mapping[str, Any]) -> float:
    """How far two runs of the same network may be apart, by the size of its output."""
    return ABSOLUTE + RELATIVE * (number_of(notes, "scale") or 0.0)


def norm_nodes(notes: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The BatchNormalization nodes that the file still has; those folded into their neighbours are gone."""
    graph = notes.get("graph")
    found = graph.get("batch_norms") if isinstance(graph, Mapping) else None
    return [node for node in found if isinstance(node, Mapping)] if isinstance(found, list) else []
