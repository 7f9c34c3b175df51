"""A drift taken apart: in which events outputs differ, and whether what is finite on both sides agrees. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bncheck.diagnosis.drifts import Series, drift_of, loose, pair_series, same_program
from bncheck.diagnosis.rules.born import overflows
from bncheck.diagnosis.rules.computed import ROUNDINGS, shorter_unit
from bncheck.diagnosis.rules.few_values import single_values
from bncheck.diagnosis.rules.leftover import is_whole, within_a_stack, within_bounds
from bncheck.diagnosis.rules.movement import forwards_behind, holds_training
from bncheck.diagnosis.rules.remainder.bn901_rounding import is_rounding
from bncheck.evidence import Drift, PairView
from bncheck.scenario import COMPARED
from bncheck.trace import STATES, Array


def output_drifts(pair: PairView) -> Mapping[int, Drift]:
    """Event → the drift of the network's outputs in it, where that is more than rounding."""
    found: Mapping[int, Drift] = pair.once(("output drifts",), lambda: dict(apart_by_event(pair)))
    return found


def apart_by_event(pair: PairView) -> Iterator[tuple[int, Drift]]:
    for series in output_series(pair):
        for row, event in enumerate(series.events):
            drift = measured(pair, rows_of(series, row))
            if is_apart(pair, drift, int(event)):
                yield int(event), drift


def output_series(pair: PairView) -> Iterator[Series]:
    a, b = pair.a.trace, pair.b.trace
    if a is not None and b is not None:
        yield from loose(pair.case, pair.case.events[: same_program(a, b)], a, b, "output", COMPARED)


def only_where_held(pair: PairView) -> bool:
    """Whether outputs differ only where what layers hold can make them: in evaluations, by NaN or Inf alone, or on
    a batch without a variance. Training normalises with the batch, whatever became of the running statistics."""
    return all(
        not trains(pair, event) or has_no_variance(pair, event) or not is_apart(pair, finite_output(pair, event), event)
        for event in output_drifts(pair)
    )


def takes_held_state(pair: PairView, event: int) -> bool:
    """Whether the outputs of an event come from running statistics: in an evaluation, or on a single value per channel
    where both sides were measured to normalise that with them."""
    if not trains(pair, event):
        return True
    return reveals_nothing(pair, event) and all(single_values(cell) == {"running"} for cell in (pair.a, pair.b))


def reveals_nothing(pair: PairView, event: int) -> bool:
    """Whether outputs show no mean or variance that they were normalised with: one value per channel does not."""
    return counts_of(pair, event) == {1}


def worst_event(pair: PairView, drift: Drift) -> int | None:
    """The event at which a drift is largest, among finite numbers where they differ: the first beyond tolerance may be
    rounding before a cause sets in."""
    series = series_of(pair, drift)
    if series is None or not series.a.size:
        return drift.first_event
    with np.errstate(invalid="ignore"):
        gap = np.abs(np.asarray(series.a, dtype=np.float64) - series.b)
    gap = np.where((series.a == series.b) | (np.isnan(series.a) & np.isnan(series.b)), 0.0, gap)
    finite = np.where(np.isfinite(gap), gap, 0.0).reshape(len(gap), -1).max(axis=1)
    lost = ~np.isfinite(gap).reshape(len(gap), -1).all(axis=1)
    return int(series.events[int(np.argmax(finite if finite.any() else lost))])


def trains(pair: PairView, event: int) -> bool:
    traces = [cell.trace for cell in (pair.a, pair.b) if cell.trace is not None]
    return any(holds_training(trace, layer, event) for trace in traces for layer in trace.layers)


def has_no_variance(pair: PairView, event: int) -> bool:
    """Whether a batch has fewer than two values per channel, or its squares leave the range of the arithmetic."""
    cells = [(cell, layer) for cell in (pair.a, pair.b) if cell.trace is not None for layer in cell.trace.layers]
    few = any(0 <= count < 2 for count in counts_of(pair, event))
    return few or any(overflows(cell, layer, event) for cell, layer in cells)


def counts_of(pair: PairView, event: int) -> set[int]:
    """Values per channel that layers of either side saw in an event; none is −1."""
    traces = [cell.trace for cell in (pair.a, pair.b) if cell.trace is not None]
    rows = [trace.get(layer, "n") for trace in traces for layer in trace.layers]
    return {int(row[event]) for row in rows if row is not None}


def finite_output(pair: PairView, event: int) -> Drift:
    (series,) = output_series(pair)
    row = int(np.flatnonzero(series.events == event)[0])
    return measured(pair, where_finite(rows_of(series, row)))


def agrees_where_finite(pair: PairView, drift: Drift) -> bool:
    """Whether both sides agree, or differ by rounding, wherever both are finite, in channels that are sound."""
    here = series_of(pair, drift)
    return here is not None and not is_apart(pair, measured(pair, where_finite(here, spoilt_channels(pair, drift))))


def spoilt_channels(pair: PairView, drift: Drift) -> Array | None:
    """(C,) Channels in which the layer holds a variance below zero on either side at some point."""
    rows = [cell.trace.get(drift.layer, "running_var") for cell in (pair.a, pair.b) if cell.trace is not None]
    found = [(np.asarray(row, dtype=np.float64) < 0).any(axis=0) for row in rows if row is not None and row.ndim == 2]
    return np.asarray(np.logical_or.reduce(found)) if found and len({item.shape for item in found}) == 1 else None


def finite_outputs_apart(pair: PairView) -> bool:
    """Whether outputs differ where both sides are finite."""
    return any(is_apart(pair, finite_output(pair, event), event) for event in output_drifts(pair))


def series_of(pair: PairView, drift: Drift) -> Series | None:
    a, b = pair.a.trace, pair.b.trace
    if a is None or b is None:
        return None
    series = pair_series(pair.case, a, b, same_program(a, b))
    return next((one for one in series if (one.layer, one.quantity) == (drift.layer, drift.quantity)), None)


def where_finite(series: Series, but: Array | None = None) -> Series:
    """The series with zeros where a side is not finite, and in the channels of ``but``."""
    both = np.isfinite(series.a) & np.isfinite(series.b)
    if but is not None and both.ndim == 2 and but.shape == both.shape[1:]:
        both = both & ~but
    return replace(series, a=np.where(both, series.a, 0.0), b=np.where(both, series.b, 0.0))


def rows_of(series: Series, row: int) -> Series:
    at = slice(row, row + 1)
    return replace(series, a=series.a[at], b=series.b[at], events=series.events[at])


def measured(pair: PairView, series: Series) -> Drift:
    return drift_of(pair.case, pair.a.target, pair.b.target, series, pair.tolerance)


def is_apart(pair: PairView, drift: Drift, event: int | None = None) -> bool:
    """Whether a drift, of one event's outputs where it is named, is more than rounding. What evaluations do does not
    speak against a training output, whose own bound is all that counts for it."""
    if drift.relation != "differs":
        return drift.relation != "agrees"
    if event is None or not trains(pair, event):
        return not is_rounding(pair, drift)
    return not (within_a_stack(pair, drift) if is_whole(pair) else within_bounds(pair, drift))


def differs_in_time_alone(pair: PairView, drift: Drift) -> bool:
    """Whether a held state goes through the same values on both sides, NaN and Inf included, only not at the same
    events: one side moves it in forward, the other in backward."""
    series = series_of(pair, drift)
    if series is None or drift.quantity not in STATES:
        return False
    one, two = (np.asarray(distinct(rows), dtype=np.float64) for rows in (series.a, series.b))
    if one.shape != two.shape:
        return False
    return not is_apart(
        pair, measured(pair, replace(series, a=one, b=two, events=series.events[: len(one)], floor=None))
    )


def distinct(rows: Array) -> Array:
    """The rows without those that repeat the one before."""
    same = (rows[1:] == rows[:-1]) | (np.isnan(rows[1:]) & np.isnan(rows[:-1]))
    return np.asarray(rows[np.concatenate([[True], ~same.all(axis=1)])])


# What outputs reveal of the mean and deviation is known to some 1e-5 of it; a sum over a batch to less.
REVEALED = 2e-3


def gradient_follows(pair: PairView, drift: Drift) -> bool | None:
    """Whether dgamma or dbeta differs by what other normalised values make of one and the same dy; None where that
    cannot be told (another layer stands behind, several forwards in one backward, outputs that reveal nothing).

    Behind the last layer dy is given: dbeta = Σdy is the same whatever was normalised with what, and with
    x̂' = x̂ r'/r + (m − m') r' it is dgamma' = dgamma r'/r + (m − m') r' dbeta.
    """
    a, b = pair.a.trace, pair.b.trace
    for cell in (pair.a, pair.b):
        taken_apart = cell.anatomy.get(drift.layer)
        if taken_apart is not None and taken_apart.departures and drift.quantity in taken_apart.gradients:
            return taken_apart.gradients[drift.quantity]
    if a is None or b is None or drift.relation != "differs" or not is_last(pair, drift.layer):
        return None
    names = ("used_mean", "used_invstd", "grad_gamma", "grad_beta")
    rows = [[trace.get(drift.layer, name) for name in names] for trace in (a, b)]
    if drift.quantity not in ("grad_gamma", "grad_beta") or any(row is None for side in rows for row in side):
        return None
    # What is computed in a shorter dtype than the case's has no more of its digits.
    slack = max(REVEALED, *(ROUNDINGS * shorter_unit(cell) for cell in (pair.a, pair.b)))
    for event, behind in forwards_behind(a).items():
        if len(behind) != 1:
            return None
        at = (*behind * 2, event, event)
        (m_a, r_a, g_a, b_a), (m_b, r_b, g_b, b_b) = (values_at(side, at) for side in rows)
        if not np.isfinite(m_a + r_a + m_b + r_b).all():
            return None
        wanted = b_a if drift.quantity == "grad_beta" else g_a * (r_b / r_a) + (m_a - m_b) * r_b * b_a
        gap = np.abs((b_b if drift.quantity == "grad_beta" else g_b) - wanted)
        if not np.isfinite(gap).all():
            return None
        size = max(float(np.abs(part).max(initial=0.0)) for part in (g_a, g_b, b_a))
        if gap.max(initial=0.0) > slack * size:
            return False
    return True


def values_at(rows: Sequence[Array | None], events: Sequence[int]) -> list[Array]:
    return [
        np.asarray(row[event], dtype=np.float64) for row, event in zip(rows, events, strict=True) if row is not None
    ]


def is_last(pair: PairView, layer: str) -> bool:
    """Whether nothing that computes stands behind a layer."""
    network = pair.case.network
    rest = [item for item in network.layers if item.type != "flatten"]
    return bool(rest) and rest[-1].name == layer and not (network.file or network.model)
