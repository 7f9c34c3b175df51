"""An input that is one number in each channel: no slope says what it was normalised with, and y itself has to."""

from __future__ import annotations

import numpy as np

from bncheck.diagnosis.rules.movement import holds_training
from bncheck.diagnosis.rules.roundoff import arithmetic_dtype, unit
from bncheck.evidence import CellView, PairView
from bncheck.scenario import Layer
from bncheck.trace import Array

ROUNDINGS = 16.0  # of y = γ·(x − m)/sqrt(v + eps) + β, relative to its parts


def eps_of_each(pair: PairView) -> tuple[float, float] | None:
    """Both sides' eps, where each side's y in inference is what the eps that it holds makes of the one number that each
    channel's input is, and nothing else differs. For a layer that is the whole network and takes the default eps: y is
    the network's output then."""
    if [(drift.layer, drift.quantity) for drift in pair.differing] != [("", "output")]:
        return None
    if len(pair.case.network.layers) != 1:
        return None
    (layer,) = pair.case.network.layers
    if layer.type != "batch_norm" or layer.eps is not None:
        return None
    found = held_by(pair.a, layer), held_by(pair.b, layer)
    return (found[0], found[1]) if found[0] is not None and found[1] is not None and found[0] != found[1] else None


def held_by(cell: CellView, layer: Layer) -> float | None:
    """The one eps that a layer held throughout, if it makes every output of the case."""
    trace = cell.trace
    eps = trace.get(layer.name, "eps") if trace is not None else None
    if trace is None or eps is None or not np.isfinite(eps).all() or len(set(eps.tolist())) != 1:
        return None
    made = [
        makes(cell, layer, event, float(eps[0]))
        for event in range(len(trace.events))
        if f"output/{event}" in trace.arrays
    ]
    return float(eps[0]) if made and all(made) else None


def makes(cell: CellView, layer: Layer, event: int, eps: float) -> bool:
    trace = cell.trace
    assert trace is not None
    y = np.asarray(trace.arrays[f"output/{event}"], dtype=np.float64)
    before = [row(cell, layer.name, name, event) for name in ("running_mean", "running_var", "gamma", "beta")]
    x, spread = (row(cell, layer.name, name, event) for name in ("input_mean", "input_var"))
    if holds_training(trace, layer.name, event) is not False or x is None or spread is None or spread.any():
        return False
    channels_last = np.moveaxis(y, layer.axis, -1) if y.ndim > 1 else y
    if any(part is None for part in before) or channels_last.shape[-1:] != x.shape:
        return False
    mean, var, gamma, beta = (np.asarray(part) for part in before)
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(var + eps)
        due = scale * (x - mean) + beta
        allowed = ROUNDINGS * unit(arithmetic_dtype(cell)) * (np.abs(scale) * (np.abs(x) + np.abs(mean)) + np.abs(beta))
        return bool((np.abs(channels_last - due) <= allowed).all())


def row(cell: CellView, layer: str, quantity: str, event: int) -> Array | None:
    """(C,) float64: a state before the event, or a moment of it."""
    found = cell.trace.get(layer, quantity) if cell.trace is not None else None
    return np.asarray(found[event], dtype=np.float64) if found is not None and event < len(found) else None
