"""A drift taken apart: in which events outputs differ, and whether what is finite on both sides agrees. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from bncheck.diagnosis.drifts import Series, loose, measure, pair_series, same_program
from bncheck.diagnosis.rules.bn901_rounding import is_rounding
from bncheck.diagnosis.rules.born import overflows
from bncheck.diagnosis.rules.leftover import is_whole, within_a_stack, within_bounds
from bncheck.diagnosis.rules.movement import holds_training
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


def trains(pair: PairView, event: int) -> bool:
    traces = [cell.trace for cell in (pair.a, pair.b) if cell.trace is not None]
    return any(holds_training(trace, layer, event) for trace in traces for layer in trace.layers)


def has_no_variance(pair: PairView, event: int) -> bool:
    """Whether a batch has fewer than two values per channel, or its squares leave the range of the arithmetic."""
    cells = [(cell, layer) for cell in (pair.a, pair.b) if cell.trace is not None for layer in cell.trace.layers]
    counts = [rows[event] for cell, layer in cells if cell.trace and (rows := cell.trace.get(layer, "n")) is not None]
    return any(0 <= count < 2 for count in counts) or any(overflows(cell, layer, event) for cell, layer in cells)


def finite_output(pair: PairView, event: int) -> Drift:
    (series,) = output_series(pair)
    row = int(np.flatnonzero(series.events == event)[0])
    return measured(pair, where_finite(rows_of(series, row)))


def agrees_where_finite(pair: PairView, drift: Drift) -> bool:
    """Whether both sides agree, or differ by rounding, wherever both are finite."""
    here = series_of(pair, drift)
    return here is not None and not is_apart(pair, measured(pair, where_finite(here)))


def series_of(pair: PairView, drift: Drift) -> Series | None:
    a, b = pair.a.trace, pair.b.trace
    if a is None or b is None:
        return None
    series = pair_series(pair.case, a, b, same_program(a, b))
    return next((one for one in series if (one.layer, one.quantity) == (drift.layer, drift.quantity)), None)


def where_finite(series: Series) -> Series:
    both = np.isfinite(series.a) & np.isfinite(series.b)
    return replace(series, a=np.where(both, series.a, 0.0), b=np.where(both, series.b, 0.0))


def rows_of(series: Series, row: int) -> Series:
    at = slice(row, row + 1)
    return replace(series, a=series.a[at], b=series.b[at], events=series.events[at])


def measured(pair: PairView, series: Series) -> Drift:
    return measure(pair.case, pair.a.target, pair.b.target, series, pair.tolerance)


def is_apart(pair: PairView, drift: Drift, event: int | None = None) -> bool:
    """Whether a drift, of one event's outputs where it is named, is more than rounding. What evaluations do does not
    speak against a training output, whose own bound is all that counts for it."""
    if drift.verdict != "differs":
        return drift.verdict != "agrees"
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
