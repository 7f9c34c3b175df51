"""What is left of a drift: is it rounding, how much of it do conventions explain?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from bncheck.diagnosis.rules.amplified import batch_norms, input_error, input_gap, is_amplified_rounding
from bncheck.diagnosis.rules.movement import holds_training
from bncheck.diagnosis.rules.own_work import odd_layer
from bncheck.diagnosis.rules.revealed import asked_eps
from bncheck.diagnosis.rules.roundoff import (
    arithmetic_dtype,
    average_bound,
    debiasing_bound,
    mean_bound,
    pairs_bound,
    pairs_variance_bound,
    summation,
    two_pass_bound,
    unit,
    visible,
)
from bncheck.evidence import Attribution, CellView, Drift, PairView
from bncheck.scenario import Layer
from bncheck.trace import STATISTICS, Array

# Terms of one sum in a linear layer where the case does not say: features × kernel of a usual network.
FAN_IN = 4096
LINEAR = ("conv2d", "dense", "custom")
# Roundings of an average in one event, at most: three in an update, and some updates in one event.
EACH = 16.0


def attributions_of(pair: PairView, drift: Drift) -> list[Attribution]:
    """What replay says about a drift: of the same layer and quantity; of any layer for the network's output."""
    if drift.quantity == "output":
        return [item for item in pair.attributions if item.quantity == "output"]
    return [item for item in pair.attributions if (item.layer, item.quantity) == (drift.layer, drift.quantity)]


def explained_by_conventions(pair: PairView, drift: Drift) -> float | None:
    """The share that all differing facets explain together; None when nothing was attributed.

    Where replay reproduces both sides to within rounding nothing is left, whatever the ratio of two small numbers says.
    """
    found = [item for item in attributions_of(pair, drift) if item.shares]
    if not found:
        return None
    best = max(found, key=lambda item: item.explained)
    return 1.0 if best.residual <= best.rounding_bound else best.explained


def within_rounding(pair: PairView, drift: Drift) -> bool:
    """True if a finite drift is no larger than arithmetic of its dtype may be off, whatever the summation order."""
    if drift.relation not in ("agrees", "differs") or not np.isfinite(drift.max_abs):
        return False
    if drift.quantity in STATISTICS and loses_digits(pair, drift):
        return False
    if drift.quantity in ("output", *STATISTICS) and is_whole(pair):
        return within_a_stack(pair, drift)
    if drift.quantity in STATISTICS and outlives_its_size(pair, drift):
        return False
    if drift.quantity == "output":  # what a batch without spread may blur in training excuses no evaluation
        return within_bounds(pair, drift) and evaluates_alike(pair, drift)
    return within_bounds(pair, drift) or replayed(pair, drift)


def within_bounds(pair: PairView, drift: Drift) -> bool:
    """Whether a drift is no larger than the bounds of both sides, and no other statistics made it."""
    if drift.quantity == "output" and odd_layer(pair, batch_norms(pair)) is not None:
        return False
    return drift.max_abs <= bound_between(pair, drift)


def bound_between(pair: PairView, drift: Drift) -> float:
    """How far both sides may be apart by rounding. What a layer got in is measured, and is no matter of bounds."""
    total = sum(bound_of(cell, drift) for cell in (pair.a, pair.b))
    got = input_error(pair, drift.layer) if drift.quantity in STATISTICS else None
    if got is None or not np.isfinite(got[0]):
        return total
    own = sum(_statistic_bound(cell, drift, carried=False) for cell in (pair.a, pair.b))
    return min(total, own + input_gap(pair, drift))


def share_of_bound(pair: PairView, drift: Drift) -> float | None:
    """A drift against the largest bound that may excuse it; None where there is no one number: a stack is judged layer
    by layer, a gradient by its own rule."""
    if drift.quantity not in ("output", *STATISTICS) or is_whole(pair):
        return None
    bounds = [bound_between(pair, drift)]
    if drift.quantity != "output":
        bounds += [item.rounding_bound for item in attributions_of(pair, drift)]
    return drift.max_abs / max(bounds) if max(bounds) > 0 else float("inf")


def evaluates_alike(pair: PairView, drift: Drift) -> bool:
    """Whether the outputs of evaluations are apart by no more than rounding of the held statistics makes of them.

    In training a batch without spread magnifies rounding by 1/sqrt(eps); an evaluation divides by what is held."""
    layers = batch_norms(pair)
    if len(layers) != 1 or pair.a.trace is None or pair.b.trace is None:
        return True
    for event in range(min(len(pair.a.trace.events), len(pair.b.trace.events))):
        one, two = pair.a.trace.output(event), pair.b.trace.output(event)
        if one is None or two is None or one.shape != two.shape or not one.size:
            continue
        found = [evaluation_bound(cell, layers[0], event, drift) for cell in (pair.a, pair.b)]
        gap = np.abs(np.asarray(one, dtype=np.float64) - two)
        if None not in found and np.max(gap, where=np.isfinite(gap), initial=0.0) > sum(part or 0.0 for part in found):
            return False
    return True


def evaluation_bound(cell: CellView, layer: str, event: int, drift: Drift) -> float | None:
    """How far one side's outputs of an evaluation may be off; None where the event is none, or nothing was recorded."""
    if cell.trace is None or holds_training(cell.trace, layer, event) is not False:
        return None
    names = ("running_mean", "running_var", "input_mean", "input_var")
    rows = [cell.trace.get(layer, name) for name in names]
    if any(row is None or event >= len(row) for row in rows):
        return None
    mean, var, x, spread = (np.asarray(row[event], dtype=np.float64) for row in rows if row is not None)
    eps = asked_eps(cell.case, layer)
    gamma = cell.trace.get(layer, "gamma")
    scale = float(np.nanmax(np.abs(gamma), initial=1.0)) if gamma is not None else 1.0
    if mean.shape != x.shape or not np.isfinite(x).all() or not (var + eps > 0).all():
        return None
    far, r = np.abs(x) + 8.0 * np.sqrt(spread) + np.abs(mean), 1.0 / np.sqrt(var + eps)
    held = [_statistic_bound(cell, replace(drift, layer=layer, quantity=name)) for name in names[:2]]
    u = unit(arithmetic_dtype(cell, f"{layer}/running_mean"))
    own = float((scale * r * (8.0 * u * far + held[0] + 0.5 * far * held[1] / (var + eps))).max())
    output = cell.trace.output(event)
    size = (
        max(float(np.max(np.abs(output), where=np.isfinite(output), initial=0.0)), 1.0) if output is not None else 1.0
    )
    linear = sum(linear_error(cell, item) for item in cell.case.network.layers if item.type in LINEAR)
    return 2.0 * own + size * (8.0 * u + linear)


def replayed(pair: PairView, drift: Drift) -> bool:
    return any(drift.max_abs <= item.rounding_bound for item in attributions_of(pair, drift))


def is_whole(pair: PairView) -> bool:
    """True for several BatchNorm layers, and for a network of which only the BatchNorm layers are known."""
    network = pair.case.network
    return bool(network.file or network.model) or len(batch_norms(pair)) > 1


def within_a_stack(pair: PairView, drift: Drift) -> bool:
    """In a stack errors grow, and how far depends on the data: each layer is judged by what it measurably got in.

    A statistic may be off by what its layer got in and by its own arithmetic; the output by the growth through all
    layers. None of it is rounding where a layer did other work on one side, however small it comes out at the end.
    """
    layers = batch_norms(pair)
    if all(input_error(pair, layer) is None for layer in layers):  # nobody recorded what the layers got in
        return drift.max_abs <= sum(bound_of(cell, drift) for cell in (pair.a, pair.b))
    start = max(linear_error(cell) for cell in (pair.a, pair.b))
    if drift.quantity == "output":
        scale = max(output_scale(cell) for cell in (pair.a, pair.b))
        grown = is_amplified_rounding(pair, drift.max_abs / max(scale, 1e-300), start)
        return grown and odd_layer(pair, layers) is None
    own = sum(_statistic_bound(cell, drift, carried=False) for cell in (pair.a, pair.b))
    near = drift.max_abs <= input_gap(pair, drift) + own or replayed(pair, drift)
    before = layers[: layers.index(drift.layer)] if drift.layer in layers else layers
    grown = is_amplified_rounding(pair, 0.0, start, until=drift.layer)
    return near and grown and odd_layer(pair, before) is None


def loses_digits(pair: PairView, drift: Drift) -> bool:
    """True if a statistic is apart by more than half of the digits beside its standard deviation, and by more than
    sums in pairs can be: data far from zero added in a way that loses them (BN207), which nobody may call agreement."""
    sides = [side_of(cell, drift, unit(cell.case.dtype)) for cell in (pair.a, pair.b)]
    if sides[0] is None or sides[1] is None or sides[0].rows.shape[1] != sides[1].rows.shape[1]:
        return False
    one, two = sides[0], sides[1]
    length = min(len(one.rows), len(two.rows))
    gap = np.abs(one.rows[:length] - two.rows[:length])
    gap = np.max(np.where(np.isfinite(gap), gap, 0.0), axis=0, initial=0.0)
    var = np.maximum(one.var, two.var)
    scale = np.sqrt(var) if drift.quantity == "running_mean" else var
    lost = (var > 0) & (gap > visible(max(one.u, two.u)) * scale)
    return bool(lost.any() and (lost & (gap > one.bound() + two.bound())).any())


def outlives_its_size(pair: PairView, drift: Drift) -> bool:
    """True if exponential averages are further apart at some point than what batches and the average's own rounding up
    to there make: a variance that began at 1 and is 1e-6 by now has forgotten the rounding of 1."""
    limits = [limit_at_each_point(cell, drift) for cell in (pair.a, pair.b)]
    rows = [
        cell.trace.get(drift.layer, drift.quantity) if cell.trace is not None else None for cell in (pair.a, pair.b)
    ]
    if limits[0] is None or limits[1] is None or rows[0] is None or rows[1] is None:
        return False
    if limits[0].shape != limits[1].shape:
        return False
    with np.errstate(all="ignore"):
        gap = np.abs(np.asarray(rows[0], dtype=np.float64) - np.asarray(rows[1], dtype=np.float64))
    return bool((gap > limits[0] + limits[1]).any())


def limit_at_each_point(cell: CellView, drift: Drift) -> Array | None:
    """(points, C) How far one side's exponential average may be off by rounding; None where it is of another kind."""
    rows = cell.trace.get(drift.layer, drift.quantity) if cell.trace is not None else None
    weight = batch_weight(cell, drift.layer)
    kind = cell.convention.value("averaging") if cell.convention is not None else None
    if rows is None or rows.ndim != 2 or not weight or not np.isfinite(rows).all():
        return None
    if kind not in (None, "exponential"):
        return None
    size = np.abs(np.asarray(rows, dtype=np.float64))
    u = unit(arithmetic_dtype(cell, f"{drift.layer}/{drift.quantity}"))
    limit = np.empty_like(size)
    limit[0] = u * size[0]
    for t in range(1, len(size)):
        moved = rows[t] != rows[t - 1]
        own = (1.0 - weight) * limit[t - 1] + EACH * u * np.maximum(size[t], size[t - 1])
        limit[t] = np.where(moved, own, limit[t - 1])
    return limit + (bound_of(cell, drift) - averaging_of(cell, drift))


def averaging_of(cell: CellView, drift: Drift) -> float:
    """The part of ``bound_of`` a statistic that is the average's own rounding."""
    facts = batch_facts(cell, drift.layer)
    rows = cell.trace.get(drift.layer, drift.quantity) if cell.trace is not None else None
    if facts is None or rows is None:
        return 0.0
    u = unit(arithmetic_dtype(cell, f"{drift.layer}/{drift.quantity}"))
    largest = np.nanmax(np.abs(np.where(np.isfinite(rows), rows, 0.0)), initial=0.0)
    return float(averaging_bound(cell, drift.layer, np.asarray(largest), len(facts[0]), u))


class Side(NamedTuple):
    """One side's statistic (points, C), what sums in pairs may be off (C,), the largest variance (C,), its u."""

    rows: Array
    bound: Callable[[], Array]  # asked only where something is off
    var: Array
    u: float


def side_of(cell: CellView, drift: Drift, least: float) -> Side | None:
    facts, rows = batch_facts(cell, drift.layer), None
    if cell.trace is not None:
        rows = cell.trace.get(drift.layer, drift.quantity)
    if facts is None or rows is None or rows.shape[1:] != facts[0].shape[1:] or rows.dtype.kind != "f":
        return None
    rows = np.asarray(rows, dtype=np.float64)
    u = unit(arithmetic_dtype(cell, f"{drift.layer}/{drift.quantity}"))

    def bound() -> Array:
        of_a_batch = pairs_bound if drift.quantity == "running_mean" else pairs_variance_bound
        largest = np.max(np.where(np.isfinite(rows), np.abs(rows), 0.0), axis=0)
        kept = averaging_bound(cell, drift.layer, largest, len(rows), u)
        return np.asarray(2.0 * of_a_batch(*facts, u).max(axis=0) + kept)

    return Side(rows, bound, facts[1].max(axis=0), max(u, least))


def bound_of(cell: CellView, drift: Drift) -> float:
    """How far one side's quantity may be off by rounding; 0 where its trace does not say."""
    if cell.trace is None:
        return 0.0
    with np.errstate(all="ignore"):
        if drift.quantity in STATISTICS:
            return _statistic_bound(cell, drift)
        if drift.quantity == "output":
            return _output_bound(cell)
    return 0.0


def batch_facts(cell: CellView, layer: str) -> tuple[Array, Array, Array] | None:
    """(mean (T, C), biased variance (T, C), n (T, 1)) of the forwards that had values, None when there was none."""
    found: tuple[Array, Array, Array] | None = cell.once(("batch facts", layer), lambda: facts_of(cell, layer))
    return found


def facts_of(cell: CellView, layer: str) -> tuple[Array, Array, Array] | None:
    trace = cell.trace
    if trace is None:
        return None
    means, variances, counts = (trace.get(layer, key) for key in ("input_mean", "input_var", "n"))
    if means is None or variances is None or counts is None:
        return None
    seen = (counts > 0) & np.isfinite(means).all(axis=1) & np.isfinite(variances).all(axis=1)
    return (means[seen], variances[seen], counts[seen][:, None]) if seen.any() and means.shape[1] else None


def _statistic_bound(cell: CellView, drift: Drift, carried: bool = True) -> float:
    """Error of one batch's statistic (weights sum to at most 1), plus that of averaging, and of what came in."""
    assert cell.trace is not None
    facts, rows = batch_facts(cell, drift.layer), cell.trace.get(drift.layer, drift.quantity)
    if facts is None or rows is None:
        return 0.0
    mean, var, n = facts
    u = unit(arithmetic_dtype(cell, f"{drift.layer}/{drift.quantity}"))
    bound = mean_bound if drift.quantity == "running_mean" else two_pass_bound
    # The layer's input carries what the layers before it rounded; the first layer's input is the same bytes for all,
    # and what the input of a later one carries is measured where both sides recorded it (bound_between).
    network = cell.case.network
    first = next((item.name for item in network.layers if item.type != "flatten"), drift.layer) == drift.layer
    alone = first or bool(network.file or network.model) or len(network.batch_norms) > 1
    size = np.sqrt(mean * mean + var)
    brought = (
        0.0
        if alone or not carried
        else upstream(cell, drift.layer) * (size if drift.quantity == "running_mean" else 2 * size * np.sqrt(var))
    )
    # n/(n − 1) of the unbiased variance is at most 2.
    return 2.0 * float((bound(mean, var, n, u) + brought).max()) + averaging_of(cell, drift)


def averaging_bound(cell: CellView, layer: str, largest: Array, updates: int, u: float) -> Array:
    """Rounding of the running average itself, by the rule that was measured."""
    weight = batch_weight(cell, layer)
    found = average_bound(largest, updates, weight, u)
    if cell.convention is not None and cell.convention.value("averaging") == "debiased" and weight:
        found = found + debiasing_bound(largest, weight, u)
    return np.asarray(found)


def batch_weight(cell: CellView, layer: str) -> float:
    """The measured weight of the new batch, else the one the scenario asked for; 0 when neither is known."""
    measured = cell.convention.value("batch_weight") if cell.convention is not None else None
    asked = next((item.batch_weight for item in cell.case.network.layers if item.name == layer), None)
    value = measured if isinstance(measured, int | float) else asked
    return float(value) if value is not None and 0 < value <= 1 else 0.0


def conditioning(cell: CellView, layer: str, u: float) -> float:
    """Error of y = γ·(x − m)·r + β in one layer: x and m carry u·|x|, the batch mean its sum's error, times r·γ."""
    facts = batch_facts(cell, layer)
    if facts is None or cell.trace is None:
        return 0.0
    mean, var, n = facts
    eps = asked_eps(cell.case, layer)
    gamma = cell.trace.get(layer, "gamma")
    scale = float(np.nanmax(np.abs(gamma), initial=1.0)) if gamma is not None else 1.0
    size = np.sqrt(mean * mean + var)
    # Of the n normalised values none exceeds √n; 8 standard deviations cover every input that is drawn.
    spread = np.minimum(np.sqrt(n), 8.0)
    varies = var + eps > 0  # without eps a channel that does not vary has no y
    wide = np.where(varies, var + eps, 1.0)
    relative = two_pass_bound(mean, var, n, u) / wide + 8 * u
    error = (mean_bound(mean, var, n, u) + 8 * u * size) / np.sqrt(wide) + relative * spread
    return scale * float(np.max(error, where=varies, initial=0.0))


def _output_bound(cell: CellView) -> float:
    """The sum over layers: each BatchNorm's own error, and that of the linear maps between them."""
    assert cell.trace is not None
    found: float = cell.once(("output bound",), lambda: upstream(cell, None) * max(output_scale(cell), 1.0))
    return found


def output_scale(cell: CellView) -> float:
    """The largest finite |output| of the network."""
    arrays = cell.trace.arrays if cell.trace is not None else {}
    outputs = [np.abs(array) for name, array in arrays.items() if name.startswith("output/")]
    return max([float(np.max(np.where(np.isfinite(o), o, 0.0), initial=0.0)) for o in outputs], default=0.0)


def linear_error(cell: CellView, layer: Layer | None = None) -> float:
    """Relative error of a linear layer; of one of usual width where nothing is known of it."""
    u = unit(arithmetic_dtype(cell))
    return 2 * u * float(summation(np.asarray(FAN_IN if layer is None else fan_in(layer)), u))


def fan_in(layer: Layer) -> int:
    """Terms of each sum of a linear layer."""
    if layer.channels is None or layer.type not in ("conv2d", "dense"):
        return FAN_IN
    kernel = layer.options.get("kernel", 1) if layer.type == "conv2d" else 1
    sides = kernel if isinstance(kernel, list | tuple) else (kernel, kernel)
    return layer.channels * (int(np.prod(sides)) if layer.type == "conv2d" else 1)


def upstream(cell: CellView, layer: str | None) -> float:
    """Relative error that reaches a layer (None: the network's output) from all layers in front of it."""
    u = unit(arithmetic_dtype(cell))
    total = 8 * u
    if (
        cell.case.network.file or cell.case.network.model
    ) and cell.trace is not None:  # a linear layer before each, for all that is known
        norms = cell.trace.layers
        before = norms[: norms.index(layer)] if layer in norms else norms
        return total + sum(linear_error(cell) + conditioning(cell, name, u) for name in before)
    for item in cell.case.network.layers:
        if item.name == layer:
            break
        if item.type in LINEAR:
            total += linear_error(cell, item)
        elif item.type == "batch_norm":
            total += conditioning(cell, item.name, u)
    return total
