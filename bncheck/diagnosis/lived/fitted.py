"""The rules of a layer measured from its own moments, as those of a target are measured from its probes.

A stretch of moments that follow each other without a gap is a stream (diagnosis/fit/stream.py) whose events are the
forwards and, between them, what else there was. Evaluations behind it are a stream of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bncheck.convention import Facet
from bncheck.diagnosis.fit.measure import measure_streams
from bncheck.diagnosis.fit.stream import EVAL, FORWARD, NO_GRAD, OTHER, SMALLEST, Stream
from bncheck.diagnosis.lived.record import Record
from bncheck.scenario import Case, Event, InputSpec, Layer, Network
from bncheck.trace import Array, Trace

# Moments and channels that a fit looks at: more of them decide nothing more.
MOMENTS, CHANNELS = 32, 32


def fit(record: Record) -> Mapping[str, Facet]:
    """Facet → what the layer's moments say of it; empty where they hold nothing to fit. ``batch_weight`` prefers the
    weight that the layer holds, read in either sense."""
    usable = np.flatnonzero(record.sound)
    steady = usable[same_settings(record, usable)]
    first = stretch(record, steady)
    rest = steady[(steady > first[-1]) & ~record.training[steady]][:MOMENTS] if len(first) else steady[:0]
    channels = np.unique(np.linspace(0, record.mean.shape[1] - 1, min(CHANNELS, record.mean.shape[1])).astype(int))
    streams = [stream_of(record, places, channels, name) for name, places in (("a", first), ("b", rest)) if len(places)]
    if not streams:
        return {}
    with np.errstate(all="ignore"):
        return measure_streams(streams, {stream.case: blank(stream.case, stream.layer) for stream in streams}, False)


def same_settings(record: Record, places: Array) -> Array:
    """Mask of the moments whose momentum and eps are those of the first."""
    if not len(places):
        return np.zeros(0, dtype=bool)
    kept = np.ones(len(places), dtype=bool)
    for held in (record.momentum[places], record.eps[places]):
        kept &= (held == held[0]) | (np.isnan(held) & np.isnan(held[0]))
    return kept


def stretch(record: Record, places: Array) -> Array:
    """The first moments of which each begins with what the one before left."""
    for count in range(1, min(len(places), MOMENTS)):
        last, now = places[count - 1], places[count]
        left, found = (record.m1[last], record.v1[last]), (record.m0[now], record.v0[now])
        if any(not np.array_equal(one, two, equal_nan=True) for one, two in zip(left, found, strict=True)):
            return places[:count]
    return places[:MOMENTS]


def stream_of(record: Record, places: Array, channels: Array, name: str) -> Stream:
    """Forwards at even events and, between them, events that are none."""
    count = 2 * len(places) - 1
    grid = np.ix_(places, channels)

    def states(before: Array, after: Array) -> Array:
        return np.stack([before[grid], after[grid]], axis=1).reshape(2 * len(places), len(channels))

    def spread(values: Array, between: float) -> Array:
        rows = np.full((count, *values.shape[1:]), between, dtype=np.float64)
        rows[::2] = values
        return rows

    kinds = [(FORWARD if record.gradients[k] else NO_GRAD) if record.training[k] else EVAL for k in places.tolist()]
    momentum = float(record.momentum[places[0]])
    layer = Layer(
        name="bn",
        type="batch_norm",
        channels=len(channels),
        batch_weight=momentum if 0.0 <= momentum <= 1.0 else None,
        eps=float(record.eps[places[0]]) if np.isfinite(record.eps[places[0]]) else None,
    )
    gamma, beta = (states(rows, rows) for rows in (record.gamma, record.beta))
    counter = np.stack([record.counter_before[places], record.counter[places]], axis=1).reshape(-1)
    return Stream(
        case=name,
        layer=layer,
        kinds=tuple(kinds[t // 2] if t % 2 == 0 else OTHER for t in range(count)),
        status=("ok",) * count,
        sources=tuple((t,) if t % 2 == 0 else () for t in range(count)),
        mean=states(record.m0, record.m1),
        var=states(record.v0, record.v1),
        counter=counter,
        gamma=gamma,
        beta=beta,
        eps_held=float(record.eps[places[0]]),
        input_mean=spread(record.mean[grid], np.nan),
        input_var=spread(record.var[grid], np.nan),
        n=spread(record.n[places], -1).astype(np.int64),
        used_mean=spread(record.used_mean[grid], np.nan),
        used_invstd=spread(record.used_invstd[grid], np.nan),
        output_bad=np.zeros(count),
        trace=Trace(events=(), arrays={}),
        roundoff=record.u_state,
        smallest=SMALLEST["float32"],
        moment_roundoff=record.u_sums,
        output_roundoff=record.u_output,
    )


def blank(name: str, layer: Layer) -> Case:
    """A case that asks for nothing: what a stream's layer was given is known from the layer itself."""
    inputs = {"main": InputSpec((2, layer.channels or 1))}
    return Case("watch", name, name, {}, Network((layer,)), inputs, (Event("forward"),))
