"""Running means worked out from the batches that a trace recorded: which batches did a layer really average?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bncheck.evidence import CellView
from bncheck.trace import Array


def weight_of(cell: CellView, layer: str) -> float | None:
    """Weight of the new batch: what the scenario set, else what the probes measured; None in a plain average."""
    spec = next((item for item in cell.case.network.layers if item.name == layer), None)
    if spec is None or spec.averaging != "exponential":
        return None
    measured = cell.convention.value("batch_weight") if cell.convention is not None else None
    weight = spec.batch_weight if spec.batch_weight is not None else measured
    return float(weight) if isinstance(weight, int | float) else None


def averaged(start: Array, batches: Sequence[Array], weight: float) -> Array:
    """(T + 1, C): the running value after each batch, from ``start``."""
    rows = [np.asarray(start, dtype=np.float64)]
    for batch in batches:
        rows.append(rows[-1] + weight * (batch - rows[-1]))
    return np.stack(rows)


def roundoff(rows: Array, scale: float) -> float:
    """What a few steps of an average in the buffer's own dtype may be off by, at values of that size."""
    kind = rows.dtype if rows.dtype.kind == "f" else np.dtype(np.float64)
    return 32 * float(np.finfo(kind).eps) * max(scale, 1e-30)


def share(measured: Array, replayed: Array, wanted: Array) -> tuple[float, float, float]:
    """(share of the drift from ``wanted`` that ``replayed`` accounts for, drift's mean and population std)."""
    drift = np.abs(measured - wanted).reshape(len(measured), -1).mean(axis=1)
    left = np.abs(measured - replayed).reshape(len(measured), -1).mean(axis=1)
    total = float(drift.mean())
    return (1 - float(left.mean()) / total if total > 0 else 0.0), total, float(drift.std())
