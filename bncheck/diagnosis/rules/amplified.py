"""Rounding that a stack of layers amplifies: small after the first layer, a little larger after each one.

A BatchNorm passes an error e (relative to the size of its input) on as e·κ, κ = sqrt(mean² + var)/sqrt(var + eps): on
small batches that is a factor of several, and twenty layers make 1e-2 of 1e-7. A cause of its own is a jump in one
layer. So every layer is judged by what it measurably got in and what it measurably put out.
"""

from __future__ import annotations

import numpy as np

from bncheck.diagnosis.rules.revealed import asked_eps
from bncheck.evidence import CellView, Drift, PairView
from bncheck.trace import Array

# A layer's error may be spread unevenly over samples and channels: the mean over a batch shows less than the worst.
SPREAD = 16.0


def is_amplified_rounding(pair: PairView, last: float, start: float, until: str | None = None) -> bool:
    """True if errors grow from layer to layer no faster than κ allows, from ``start`` (relative) up to ``last``.

    ``start`` is what the maps between two BatchNorm layers add, at the worst element; ``until`` names the layer whose
    input is the last to be judged, without it all layers and the output are. Branches lie side by side, so a layer may
    get in the error of any layer before it.
    """
    inputs = {layer: got for layer in batch_norms(pair) if (got := input_error(pair, layer)) is not None}
    if until is not None and until not in inputs:
        return False
    error = start
    for layer, (measured, kappa) in inputs.items():
        near = measured <= error + start
        if layer == until or not (near or until):
            return near
        if not near:
            continue  # a jump is a cause of its own, and no excuse for what comes behind it
        error = max(error, max(SPREAD * measured, start) * kappa)
    return bool(inputs) and last <= error + start


def input_error(pair: PairView, layer: str) -> tuple[float, float] | None:
    """(how far a layer's inputs are apart, relative to their size; κ). None where neither side ran it; infinite where
    the sides cannot be compared."""
    found: tuple[float, float] | None = pair.once(("input_error", layer), lambda: work_out_error(pair, layer))
    return found


def work_out_error(pair: PairView, layer: str) -> tuple[float, float] | None:
    a, b = (moments(cell, layer) for cell in (pair.a, pair.b))
    if a is None and b is None:
        return None
    if a is None or b is None or a[0].shape != b[0].shape:
        return np.inf, 1.0
    (mean_a, std_a), (mean_b, std_b) = a, b
    size = np.sqrt(mean_a**2 + std_a**2)
    gap = np.maximum(np.abs(mean_a - mean_b), np.abs(std_a - std_b))
    measured = float((gap.max(axis=1) / np.maximum(size.max(axis=1), 1e-300)).max())
    spread = np.sqrt(std_a**2 + asked_eps(pair.case, layer))
    varies = spread > 0  # without eps a channel that does not vary passes nothing finite on
    return measured, float(np.max(size[varies] / spread[varies], initial=0.0))


def batch_norms(pair: PairView) -> tuple[str, ...]:
    """BatchNorm layers in order; those of a file or a whole model are known from what both sides recorded."""
    network = pair.case.network
    if not (network.file or network.model) or pair.a.trace is None or pair.b.trace is None:
        return network.batch_norms
    return tuple(layer for layer in pair.a.trace.layers if layer in pair.b.trace.layers)


def moments(cell: CellView, layer: str) -> tuple[Array, Array] | None:
    """(mean, std) of all forwards that had values, (events, channels)."""
    rows = [cell.trace.get(layer, name) for name in ("input_mean", "input_var")] if cell.trace is not None else []
    if len(rows) < 2 or rows[0] is None or rows[1] is None or not rows[0].size:
        return None
    seen = np.isfinite(rows[0]).all(axis=1) & np.isfinite(rows[1]).all(axis=1)
    return (rows[0][seen], np.sqrt(rows[1][seen])) if seen.any() else None


def input_gap(pair: PairView, drift: Drift) -> float:
    """How far a running statistic may be off because its inputs were: weights sum to 1, n/(n − 1) is at most 2."""
    name = "input_mean" if drift.quantity == "running_mean" else "input_var"
    one, two = (cell.trace.get(drift.layer, name) if cell.trace is not None else None for cell in (pair.a, pair.b))
    if one is None or two is None or one.shape != two.shape:
        return 0.0
    gap = np.abs(one - two)
    return 2.0 * float(np.max(np.where(np.isfinite(gap), gap, 0.0), initial=0.0))
