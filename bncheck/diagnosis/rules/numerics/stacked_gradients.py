"""Gradients through several BatchNorm layers: rounding grows on the way back, and gates open on one side only.

How far the sides are apart in the forward pass is measured. On the way back each layer passes an error on as it does
forward; and where a ReLU's input is zero to within that error, its gate opens on one side only: of n·C values a share
of the size of the error, so that a gradient changes by the root of it (measured: 0.06 of its size in 60 layers whose
outputs were 0.004 apart), and by that of a single value at least. A fault of a backward kernel is a jump in one layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bncheck.diagnosis.rules.amplified import SPREAD, batch_norms, input_error, is_amplified_rounding
from bncheck.diagnosis.rules.leftover import linear_error, output_scale
from bncheck.diagnosis.rules.movement import forwards_behind
from bncheck.diagnosis.rules.own_work import odd_layer
from bncheck.evidence import CellView, Drift, PairView
from bncheck.trace import Array, Trace

# Shares of opened gates are known by the mean over many values.
GATES = 4.0
# With three values a channel and fewer nothing is left of dy but its rounding: two of them go into the means.
FEWEST = 4


def grows_alike(pair: PairView, drift: Drift) -> bool:
    """True if a gradient is no further apart than rounding in the layers behind it and gates make it."""
    layers = batch_norms(pair)
    with np.errstate(all="ignore"):
        forward = max(linear_error(cell) for cell in (pair.a, pair.b))
        ahead = pair.once(("of backwards",), lambda: of_backwards(pair))
        if odd_layer(ahead, layers) is not None or not is_amplified_rounding(ahead, 0.0, forward):
            return False  # of another forward
        errors = {layer: got for layer in layers if (got := input_error(ahead, layer)) is not None}
        if any(fewest(pair, layer) < FEWEST for layer in errors):
            return True
        gated = is_gated(pair)
        start = forward + gates(pair, errors, gated)
        grown = start
        found: dict[str, float] = pair.once(("gradients", *layers), lambda: gaps(pair, layers, gated))
        for layer, apart in reversed(found.items()):
            near = apart <= grown + start
            if layer == drift.layer:
                return near
            if not near:
                continue  # a jump is a cause of its own, and no excuse for what comes behind it
            measured, kappa = errors.get(layer, (0.0, 1.0))
            grown = max(grown, SPREAD * max(apart, measured, start / SPREAD) * kappa)
        return loose_gap(pair, drift, gated) <= grown + start


def of_backwards(pair: PairView) -> PairView:
    """The pair with what its layers got in only in forwards that both sides ran and that a backward follows: an
    evaluation with other statistics gives no gradient. A side whose layers show nothing of it is taken to have got in
    what the other did: its outputs and gradients speak for it."""
    a, b = pair.a.trace, pair.b.trace
    if a is None or b is None:
        return pair
    kept = np.zeros(len(pair.case.events), dtype=bool)
    one, two = forwards_behind(a), forwards_behind(b)
    for event in one.keys() & two.keys():
        kept[list({*one[event]} & {*two[event]})] = True
    seen = only(a, kept), only(b, kept)
    return replace(pair, a=showing(pair.a, a, *seen), b=showing(pair.b, b, *reversed(seen)))


def only(trace: Trace, kept: Array) -> dict[str, Array]:
    """What the layers got in, NaN at other events; nothing of layers that never show it."""
    names = [f"{layer}/{name}" for layer in trace.layers for name in ("input_mean", "input_var")]
    rows = {name: trace.arrays[name] for name in names if name in trace.arrays and len(trace.arrays[name]) <= len(kept)}
    seen = {name: np.where(kept[: len(found), None], found, np.nan) for name, found in rows.items() if found.ndim == 2}
    return {name: found for name, found in seen.items() if np.isfinite(found).any()}


def showing(cell: CellView, trace: Trace, own: Mapping[str, Array], other: Mapping[str, Array]) -> CellView:
    return replace(cell, trace=replace(trace, arrays={**trace.arrays, **other, **own}))


def is_gated(pair: PairView) -> bool:
    network = pair.case.network
    return bool(network.file or network.model) or any(layer.type in ("relu", "custom") for layer in network.layers)


def gates(pair: PairView, errors: dict[str, tuple[float, float]], gated: bool) -> float:
    """What gates that open on one side only may change, relative to the size of a gradient."""
    if not gated or not errors:
        return 0.0
    output, scale = pair.drift("", "output"), max(output_scale(cell) for cell in (pair.a, pair.b))
    ahead = output.max_abs / scale if output is not None and scale > 0 else 0.0
    forward = max(ahead, *(SPREAD * measured for measured, _ in errors.values()))
    return float(GATES * (np.sqrt(forward) + 1.0 / np.sqrt(min(values(pair, layer) for layer in errors))))


def rows_of(pair: PairView, layer: str, name: str) -> list[Array]:
    found = [cell.trace.get(layer, name) for cell in (pair.a, pair.b) if cell.trace is not None]
    return [np.asarray(rows, dtype=np.float64) for rows in found if rows is not None]


def fewest(pair: PairView, layer: str) -> float:
    """The fewest values per channel of a batch that was trained on."""
    counts = [rows[rows > 0] for rows in rows_of(pair, layer, "n")]
    return min((float(rows.min()) for rows in counts if rows.size), default=np.inf)


def values(pair: PairView, layer: str) -> float:
    width = max((rows.shape[1] for rows in rows_of(pair, layer, "input_mean") if rows.ndim > 1), default=1)
    return max(fewest(pair, layer), 1.0) * max(width, 1)


def gaps(pair: PairView, layers: tuple[str, ...], gated: bool) -> dict[str, float]:
    """How far the gradients of each layer are apart, relative to the larger of dgamma and dbeta of this layer or the
    next: one alone may be zero but for rounding, because the layer behind it takes a shift or a scale out again."""
    apart, size = {}, {}
    for layer in layers:
        pairs = [rows_of(pair, layer, name) for name in ("grad_gamma", "grad_beta")]
        both = [rows for rows in pairs if len(rows) == 2 and rows[0].shape == rows[1].shape and rows[0].size]
        if both:
            apart[layer] = np.max([summed(np.abs(one - two), gated) for one, two in both], axis=0)
            size[layer] = np.max([summed(np.abs(one), gated) for one, _ in both], axis=0)
    found = {}
    for place, layer in enumerate(layers):
        if layer in apart:
            near = [size[name] for name in layers[place : place + 2] if name in size]
            beside = [rows for rows in near if rows.shape == apart[layer].shape]
            ratio = apart[layer] / np.maximum(np.max(beside, axis=0), 1e-300)
            found[layer] = float(np.max(ratio, initial=0.0))
    return found


def summed(rows: Array, gated: bool) -> Array:
    """(events,): the mean over channels where gates count, else the largest; 0 for events without a gradient."""
    known = np.where(np.isfinite(rows), rows, 0.0)
    return np.asarray(known.mean(axis=1) if gated else known.max(axis=1))


def loose_gap(pair: PairView, drift: Drift, gated: bool) -> float:
    """The same of the network's input gradient."""
    if pair.a.trace is None:
        return np.inf
    held = [np.abs(rows) for name, rows in pair.a.trace.arrays.items() if name.startswith("grad_input/")]
    sizes = [float(rows.mean() if gated else rows.max()) for rows in held if rows.size and np.isfinite(rows).all()]
    return (drift.mean_abs if gated else drift.max_abs) / max([*sizes, 1e-300])
