"""Which side of a pair refused an event that the other carried out, and on how many values per channel."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from bncheck.evidence import CellView, PairView


def refused_events(pair: PairView) -> Iterator[tuple[CellView, CellView, int]]:
    """(who refused, who did not, first such event) for each side; event −1 is building the network.

    Only refusals that say something of a side: an error of bncheck's own, of a file that does not import or of a
    network that does not fit its input is none of them.
    """
    for cell, other in ((pair.a, pair.b), (pair.b, pair.a)):
        event = first_refused(cell, other)
        if event is not None and telling(cell, other, event):
            yield cell, other, event


def telling(cell: CellView, other: CellView, event: int) -> bool:
    """A framework's own refusal; one of the user's code where the same code runs on the other side; and one of a layer
    of the user's, in an event that BatchNorm carries out."""
    origin = origin_at(cell, event)
    if origin != "subject":
        return origin in ("", "framework")
    return bool(other.own_code) or (event >= 0 and cell.case.network.custom is not None)


def origin_at(cell: CellView, event: int) -> str:
    if cell.trace is not None and 0 <= event < len(cell.trace.events):
        return cell.trace.events[event].origin
    return cell.origin


def own_name(cell: CellView) -> str:
    """``MyBN (your layer)``; "" where the framework's own layers stand."""
    return f"{cell.own_code} (your {'layer' if cell.own_layer else 'network'})" if cell.own_code else ""


def first_refused(cell: CellView, other: CellView) -> int | None:
    if other.trace is None or cell.outcome not in ("raised", "ok"):
        return None
    if cell.trace is None:
        return -1 if cell.outcome == "raised" else None
    pairs = enumerate(zip(cell.trace.events, other.trace.events, strict=False))
    return next((t for t, (mine, theirs) in pairs if mine.status == "raised" and theirs.status == "ok"), None)


def values_per_channel(pair: PairView, event: int) -> int | None:
    """The smallest n of any BatchNorm layer at the event on the side that ran it, else of the input itself."""
    for cell in (pair.a, pair.b):
        if cell.trace is None or event < 0:
            continue
        rows = [cell.trace.get(layer, "n") for layer in cell.trace.layers]
        seen = [int(row[event]) for row in rows if row is not None and event < len(row) and row[event] >= 0]
        if seen:
            return min(seen)
    if not 0 <= event < len(pair.case.events):
        return None
    spec = pair.case.inputs.get(pair.case.events[event].input)
    if spec is None or len(spec.shape) < 2:
        return None
    axis = spec.channel_axis % len(spec.shape)
    return prod(size for place, size in enumerate(spec.shape) if place != axis)
