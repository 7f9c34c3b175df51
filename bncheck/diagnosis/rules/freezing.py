"""Layers that a program froze, and whose statistics move nevertheless."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bncheck.diagnosis.rules.movement import moved
from bncheck.evidence import CellView
from bncheck.scenario import op_of
from bncheck.trace import STATISTICS


@dataclass(frozen=True)
class Thawed:
    """A frozen layer: how it was frozen, which event undid it (None: it never took hold of the statistics)."""

    layer: str
    frozen: int
    way: str  # "eval" or "requires_grad=False"
    undone: int | None
    moves: int  # later events that moved its running statistics


def thawed(cell: CellView) -> Iterator[Thawed]:
    """Each layer's first freezing that did not keep its statistics still."""
    if cell.trace is None:
        return
    for layer in cell.trace.layers:
        found = eval_undone(cell, layer) or only_affine(cell, layer)
        if found is not None:
            yield found


def eval_undone(cell: CellView, layer: str) -> Thawed | None:
    """The layer alone was put into eval; a call on the whole network switched it back, and its statistics moved."""
    frozen = None
    for event, item in enumerate(cell.case.events):
        mine, training = item.arguments.get("layer"), item.arguments.get("training")
        if item.op == "set_mode" and mine == layer:
            frozen = None if training else event
        elif frozen is not None and (
            op_of(item.op).mode == "train" or (item.op == "set_mode" and mine is None and training)
        ):
            if flag(cell, layer, event) != 0 or flag(cell, layer, event + 1) != 1:
                continue
            moves = movements(cell, layer, event)
            return Thawed(layer=layer, frozen=frozen, way="eval", undone=event, moves=moves) if moves else None
    return None


def only_affine(cell: CellView, layer: str) -> Thawed | None:
    """requires_grad=False holds gamma and beta; the statistics belong to the mode."""
    for event, item in enumerate(cell.case.events):
        if item.op == "freeze" and item.arguments.get("layer") in (None, layer) and ran(cell, event):
            moves = movements(cell, layer, event + 1)
            return (
                Thawed(layer=layer, frozen=event, way="requires_grad=False", undone=None, moves=moves)
                if moves
                else None
            )
    return None


def wholly_frozen(cell: CellView, layer: str, event: int) -> int | None:
    """The ``freeze`` before an event after which nothing moves the layer's statistics any more; None without one."""
    for place, item in enumerate(cell.case.events[:event]):
        if item.op == "freeze" and item.arguments.get("layer") in (None, layer) and ran(cell, place):
            return None if movements(cell, layer, place + 1) else place
    return None


def ran(cell: CellView, event: int) -> bool:
    assert cell.trace is not None
    return event < len(cell.trace.events) and cell.trace.events[event].status == "ok"


def flag(cell: CellView, layer: str, row: int) -> int:
    rows = cell.trace.get(layer, "training") if cell.trace is not None else None
    return int(rows[row]) if rows is not None and row < len(rows) else -1


def movements(cell: CellView, layer: str, start: int) -> int:
    assert cell.trace is not None
    masks = [moved(cell.trace, layer, quantity)[start:] for quantity in STATISTICS]
    return int(max((mask.sum() for mask in masks), default=0))
