"""What the worker noted about an existing ONNX file (network.file) and its plays: notes["cell"]["file"]."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bncheck.diagnosis.rules.exported import gap_of, rounding_of
from bncheck.evidence import CellView
from bncheck.scenario import COMPARED


def file_facts(cell: CellView) -> Mapping[str, Any] | None:
    """What the file declares; None for a cell that played no file."""
    notes: Any = cell.notes.get("cell")
    found = notes.get("file") if isinstance(notes, Mapping) else None
    return found if isinstance(found, Mapping) and cell.case.network.file else None


def file_name(cell: CellView) -> str:
    return (cell.case.network.file or "").rpartition("/")[2]


def nodes_of(facts: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """``batch_norms`` or ``dropouts`` of the file, by name and mode."""
    found = facts.get(key)
    return [node for node in found if isinstance(node, Mapping)] if isinstance(found, list) else []


def drops(node: Mapping[str, Any]) -> bool:
    """A Dropout node that drops at random on the way to an output of the file; runs of older versions know the mode."""
    return bool(node.get("drops", node.get("training") is True) and node.get("used", True))


def trains(node: Mapping[str, Any]) -> bool:
    """A BatchNormalization node in training mode, on the way from the batch to an output of the file: what it gives
    depends on the batch. One whose input is a constant gives the same for every batch."""
    return bool(node.get("training") and node.get("used", True) and node.get("fed", True))


def plays(cell: CellView) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(event, notes) of every forward of the file: the n-th note is the n-th forward's."""
    facts = file_facts(cell)
    listed = facts.get("plays") if facts is not None else None
    events = [place for place, event in enumerate(cell.case.events) if event.op in COMPARED]
    for event, notes in zip(events, listed if isinstance(listed, list) else [], strict=False):
        if isinstance(notes, Mapping):
            yield event, notes


def bound_of(facts: Mapping[str, Any], notes: Mapping[str, Any]) -> float:
    """How far two plays may be apart: a float16 file has fewer digits, a float64 file more; a training forward passes
    rounding on from layer to layer, and amplifies it where a batch is small."""
    factor = {"float16": 200.0, "float64": 1e-6}.get(str(facts.get("dtype")), 1.0)
    return factor * depth_of(facts, notes) * rounding_of(notes)


def statistics_bound(facts: Mapping[str, Any], notes: Mapping[str, Any]) -> float:
    """The same for running statistics, whose differences are noted in units of the standard deviation that divides
    them (means) or of themselves (variances)."""
    return bound_of(facts, {**notes, "scale": 1.0})


# A play that is no more than so many times further off than an input moved by one unit of its last place makes it is
# off by rounding; one that is wrong lies at least so many times further from the truth than one that is right.
HONEST, TELLING = 10.0, 10.0


@dataclass(frozen=True)
class Other:
    """Another play of the file that gives something else than the recorded one, which is not optimised.

    ``gap`` is between the two, ``off`` and ``recorded_off`` are their distances from float64, None where nobody knows.
    ``bound`` is what rounding may do, measured on this input."""

    key: str
    gap: float
    off: float | None
    recorded_off: float | None
    bound: float

    @property
    def judged(self) -> str:
        """ "wrong" (the recorded play is right), "better" (it is the recorded one that is off), "both" or "unknown"."""
        if self.off is None or self.recorded_off is None:
            return "unknown"
        if self.recorded_off <= self.bound:
            return "wrong" if self.off > max(self.bound, TELLING * self.recorded_off) else "both"
        return "better" if self.off <= self.bound else "both"


def others(facts: Mapping[str, Any], notes: Mapping[str, Any], ways: Collection[str]) -> Iterator[Other]:
    """The plays that differ from the recorded one by more than rounding, in the order of ``ways``."""
    distances = notes.get("off")
    known: Mapping[str, Any] = distances if isinstance(distances, Mapping) else {}
    for key in ways:
        kind = "_statistics" if key.endswith("_statistics") else ""
        bound = statistics_bound(facts, notes) if kind else bound_of(facts, notes)
        bound = max(bound, HONEST * (gap_of(notes, f"moved{kind}") or 0.0))
        gap = gap_of(notes, key)
        if gap is not None and gap > bound:
            yield Other(
                key=key, gap=gap, off=gap_of(known, key), recorded_off=gap_of(known, f"recorded{kind}"), bound=bound
            )


def node_ratios(notes: Mapping[str, Any], key: str = "nodes") -> dict[str, float]:
    """How far each BatchNormalization node is off its opset's text, from its own input, in units of its rounding."""
    found = notes.get(key)
    named = found if isinstance(found, Mapping) else {}
    return {str(layer): ratio for layer in named if (ratio := gap_of(named, layer)) is not None}


def depth_of(facts: Mapping[str, Any], notes: Mapping[str, Any]) -> int:
    return 1 if notes.get("mode") == "eval" else max(1, len(nodes_of(facts, "batch_norms")))


@dataclass(frozen=True)
class NoVariance:
    """A layer of the file whose running variance, with eps added, cannot be divided by the root of in some channels."""

    layer: str
    eps: float
    by_eps: bool  # the variance can be one: it is eps that takes the sum to zero or below
    channels: int
    of: int
    values: tuple[float, ...]  # the first ones
    forwards: int
    bad: int  # of them with NaN or Inf in the layer's output


def no_variances(cell: CellView) -> Iterator[NoVariance]:
    """Layers of an existing file whose variance cannot be one (below zero, NaN or Inf), or is not above zero once its
    eps is added, before any event."""
    if cell.trace is None or file_facts(cell) is None:
        return
    for layer in cell.trace.layers:
        rows, eps, bad = (cell.trace.get(layer, name) for name in ("running_var", "eps", "output_bad"))
        if rows is None or eps is None or bad is None or not len(rows):
            continue
        held = np.asarray(rows[0], dtype=np.float64)
        wrong, sound = ~(held + float(eps[0]) > 0) | np.isinf(held), np.isfinite(held) & (held >= 0)
        for by_eps, lost in ((False, np.flatnonzero(wrong & ~sound)), (True, np.flatnonzero(wrong & sound))):
            if not lost.size:
                continue
            shown = tuple(float(value) for value in held[lost[:3]])
            yield NoVariance(
                layer=layer,
                eps=float(eps[0]),
                by_eps=by_eps,
                channels=lost.size,
                of=held.size,
                values=shown,
                forwards=int((bad >= 0).sum()),
                bad=int((bad > 0).sum()),
            )
