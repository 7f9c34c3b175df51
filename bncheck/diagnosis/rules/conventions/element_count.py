"""The classic mistake of hand-written layers: n taken as all elements of the batch instead of those of one channel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bncheck.evidence import CellView
from bncheck.trace import Trace

# Measured ratios lie within 1e-5 of the rule that made them; the rules told apart here are 10 times that far apart.
CLOSE = 1e-4


class Count(NamedTuple):
    """How the averaged variance relates to the biased one, and what ratio each element count would give."""

    layer: str
    event: int
    channels: int
    values: int  # per channel
    ratio: float


def wrong_counts(cell: CellView) -> Iterator[Count]:
    """Layers whose averaged variance is Σ(x − mean)²/n · N/(N − 1) with N = n·channels."""
    if cell.trace is None or cell.case.network.custom is None:
        return
    for layer in cell.trace.layers:
        solved = [ratio(cell.trace, layer, event) for event in range(len(cell.trace.events))]
        found = [item for item in solved if item is not None]
        if found and all(is_total(item) for item in found):
            yield found[0]


def ratio(trace: Trace | None, layer: str, event: int) -> Count | None:
    """Solve one training forward for its weight (from the mean) and then for the variance that was averaged."""
    if trace is None or trace.events[event].op != "train_forward" or trace.events[event].status != "ok":
        return None
    names = ("running_mean", "running_var", "input_mean", "input_var", "n")
    rows = [trace.get(layer, name) for name in names]
    if any(row is None for row in rows):
        return None
    mean, var, batch_mean, batch_var, counts = (np.asarray(row, dtype=np.float64) for row in rows)
    moves, room = mean[event + 1] - mean[event], batch_mean[event] - mean[event]
    channel = int(np.argmax(np.abs(room)))
    weight = moves[channel] / room[channel]
    if not 1e-3 < weight <= 1:
        return None
    averaged = var[event] + (var[event + 1] - var[event]) / weight
    ratios = averaged / batch_var[event]
    if not np.isfinite(ratios).all() or np.ptp(ratios) > CLOSE:
        return None
    return Count(layer, event, len(ratios), int(counts[event]), float(np.mean(ratios)))


def is_total(count: Count) -> bool:
    """True if the ratio is that of all elements, and that of one channel's, or none, is clearly another."""
    total = count.values * count.channels
    if total < 2 or count.values < 2:
        return False
    wanted, usual = total / (total - 1), count.values / (count.values - 1)
    apart = min(abs(wanted - usual), wanted - 1) > 10 * CLOSE
    return apart and abs(count.ratio - wanted) < CLOSE
