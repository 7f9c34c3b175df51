"""Traces with only those arrays that have the shape of the trace table: a damaged recording must not stop a diagnosis.

Rules may then index rows by event and columns by channel without asking. An array that does not fit is left out, as if
the target had not recorded it; a layer without its ``n`` is no layer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from bncheck.evidence import CellView
from bncheck.trace import GRADIENTS, Array, Trace

PER_POINT = ("running_mean", "running_var", "gamma", "beta")  # (T + 1, C)
PER_POINT_SCALARS = ("counter", "training", "momentum", "eps")  # (T + 1,)
PER_EVENT = ("input_mean", "input_var", "used_mean", "used_invstd", "used_residual", *GRADIENTS)  # (T, C)
PER_EVENT_SCALARS = ("n", "input_bad", "output_bad")  # (T,)
# Quantity → (rows beside one per event, whether a row has a value per channel).
SHAPES = {
    **dict.fromkeys(PER_POINT, (1, True)),
    **dict.fromkeys(PER_POINT_SCALARS, (1, False)),
    **dict.fromkeys(PER_EVENT, (0, True)),
    **dict.fromkeys(PER_EVENT_SCALARS, (0, False)),
}
NUMBERS = "fiub"
# A flag is a small whole number, a counter is NaN where there is none: rules count and compare them as such.
KINDS = {
    "training": "iu",
    **dict.fromkeys(("counter", "momentum", "eps"), "f"),
    **dict.fromkeys(PER_EVENT_SCALARS, "iu"),
}


def well_formed(cell: CellView) -> CellView:
    """The cell with a trace whose arrays all fit; the very same cell when they do already and are in memory."""
    if cell.trace is None:
        return cell
    trace = cell.trace
    if trace.worked_out.get("well formed"):
        return cell
    channels = {layer: channel_count(trace, layer) for layer in trace.layers}
    kept = {name: array for name, array in trace.arrays.items() if fits(name, array, len(trace.events), channels)}
    # An archive decodes an array each time it is asked: minutes, for the rules on a network of 169 layers.
    if len(kept) == len(trace.arrays) and isinstance(trace.arrays, dict):
        trace.worked_out["well formed"] = True
        return cell
    widths = {
        name: int(array.shape[1])
        for name, array in trace.arrays.items()
        if name not in kept and name.rpartition("/")[2] in PER_POINT and array.ndim == 2
    }
    return replace(cell, trace=replace(trace, arrays=kept), other_widths=widths)


def channel_count(trace: Trace, layer: str) -> int:
    """The width that most of the layer's arrays have."""
    found = [trace.get(layer, name) for name in (*PER_POINT, *PER_EVENT)]
    widths = Counter(array.shape[1] for array in found if array is not None and array.ndim == 2)
    return max(widths, key=lambda width: (widths[width], width)) if widths else 0


def fits(name: str, array: Array, events: int, channels: dict[str, int]) -> bool:
    layer, _, quantity = name.rpartition("/")
    if array.dtype.kind not in KINDS.get(quantity, NUMBERS):
        return False
    if name in ("network_bad", "event_seconds"):
        return array.shape == (events,)
    if layer in ("output", "grad_input"):
        return quantity.isdigit() and int(quantity) < events
    width = channels.get(layer)
    if quantity not in SHAPES:
        return True
    more, wide = SHAPES[quantity]
    return array.shape == ((events + more, width) if wide else (events + more,))
