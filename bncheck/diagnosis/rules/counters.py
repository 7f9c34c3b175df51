"""What the layers' counters say about how often the statistics moved."""

from __future__ import annotations

import math

import numpy as np

from bncheck.evidence import CellView, PairView

MOST_REPEATS = 16


def advance(cell: CellView, layer: str) -> float | None:
    """By how much the counter grew over the whole program; None where the layer counts nothing."""
    rows = cell.trace.get(layer, "counter") if cell.trace is not None else None
    if rows is None or not len(rows) or not np.isfinite(rows[[0, -1]]).all():
        return None
    return float(rows[-1] - rows[0])


def advances(pair: PairView, layer: str) -> tuple[float, float] | None:
    counts = advance(pair.a, layer), advance(pair.b, layer)
    return None if counts[0] is None or counts[1] is None else (counts[0], counts[1])


def repeated_weight(pair: PairView, layer: str) -> bool:
    """True if the two weights are m and 1 − (1 − m)^k and the counters (both needed) also differ by the factor k.

    Without a counter nothing separates a batch that counts k times from a larger momentum, so this says no.
    """
    counts = advances(pair, layer)
    weights = [
        item.values["batch_weight"]
        for item in pair.attributions
        if item.layer == layer and "batch_weight" in item.values
    ]
    if counts is None or not weights or min(counts) <= 0:
        return False
    try:
        one, two = float(weights[0][0]), float(weights[0][1])
    except (TypeError, ValueError):
        return False
    low, high = sorted((one, two))
    if not 0 < low < high < 1:
        return False
    repeats = math.log1p(-high) / math.log1p(-low)
    whole = round(repeats)
    # The counter must point the same way: the larger weight belongs to the larger count.
    factor = counts[0] / counts[1] if one > two else counts[1] / counts[0]
    return 2 <= whole <= MOST_REPEATS and abs(repeats - whole) < 1e-3 * whole and factor == whole
