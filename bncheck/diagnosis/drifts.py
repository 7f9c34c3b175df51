"""Two traces of one case in, drifts out: per layer and quantity, how far apart, since when, NaN on which side.

Pure. States are compared at the ends of steps (a repeat of the program), with the initial state as the first
point; outputs and gradients at their own events.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bncheck.evidence import CellView, Drift, first_true
from bncheck.scenario import COMPARED, Case, Event, Tolerance, op_of
from bncheck.trace import GRADIENTS, STATES, STATISTICS, Array, Trace

# Bits of a significand: an ULP of x is 2^(exponent of x − bits + 1), and not below the smallest normal's.
SIGNIFICANDS = {"float64": (53, -1022), "float32": (24, -126), "float16": (11, -14), "bfloat16": (8, -126)}
NOT_PLAYED = ("unsupported", "failed")
MOST_ROWS_KEPT = 1 << 16  # values
COARSENESS = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Series:
    """One quantity of both sides as rows: ``a`` and ``b`` (points, values), and the event each point belongs to."""

    layer: str
    quantity: str
    a: Array
    b: Array
    events: Array
    dtype: str
    floor: Array | None = None  # (points, values): a size below which nothing of the quantity counts as small


def coarser(a: str, b: str) -> str:
    """The less precise of two dtype names, by which a pair is judged; names that are no float count as float64."""
    ranks = [COARSENESS.index(name) if name in COARSENESS else 0 for name in (a, b)]
    return COARSENESS[max(ranks)]


def ulp_of(values: Array, dtype: str) -> Array:
    """Size of one unit in the last place of ``dtype`` at each |value|, float64."""
    bits, lowest = SIGNIFICANDS[dtype]
    exponents = np.where(values == 0, lowest, np.frexp(np.abs(values))[1] - 1)
    return np.asarray(np.ldexp(1.0, np.maximum(exponents, lowest) - bits + 1))


def drifts_between(case: Case, a: CellView, b: CellView, tolerance: Tolerance = Tolerance()) -> list[Drift]:
    """All drifts between two cells of ``case``; empty when either has no trace and neither failed."""
    drifts = list(compare_outcomes(case, a, b))
    if a.trace is None or b.trace is None:
        return drifts
    for series in pair_series(case, a.trace, b.trace, same_program(a.trace, b.trace)):
        drifts.append(drift_of(case, a.target, b.target, series, tolerance))
    drifts += missing(case, a, b)
    drifts += missing_gradients(case, a, b)
    return drifts


def same_program(a: Trace, b: Trace) -> int:
    """How many events both sides played alike: up to the first that counts (``Op.counts``) and that one of them has no
    support for, or failed at."""
    first = None
    if a.statuses != b.statuses:
        steps = enumerate(zip(a.events, b.events, strict=False))
        unlike = (t for t, sides in steps if len({side.status in NOT_PLAYED for side in sides}) > 1)
        first = next((t for t in unlike if op_of(a.events[t].op).counts), None)
    return min(len(a.events), len(b.events)) if first is None else first


def compare_outcomes(case: Case, a: CellView, b: CellView) -> Iterator[Drift]:
    """A drift of quantity ``events`` when one side refused an event that the other carried out."""
    if a.trace is None or b.trace is None:
        return
    status = a.trace.statuses, b.trace.statuses
    if status[0] == status[1]:
        return
    first = next((t for t, (one, two) in enumerate(zip(*status, strict=False)) if {one, two} == {"ok", "raised"}), None)
    if first is None:
        return
    counts = [sum(word == "raised" for word in side) for side in status]
    yield blank(case, a.target, b.target, "", "events", "refused", first, len(status[0]), counts[0], counts[1])


def blank(
    case: Case,
    a: str,
    b: str,
    layer: str,
    quantity: str,
    relation: str,
    first: int | None,
    points: int,
    bad_a: int = 0,
    bad_b: int = 0,
) -> Drift:
    nan = float("nan")
    return Drift(
        scenario=case.scenario,
        case=case.name,
        a=a,
        b=b,
        layer=layer,
        quantity=quantity,
        points=points,
        mean_abs=nan,
        std_abs=nan,
        max_abs=nan,
        max_rel=nan,
        max_ulp=nan,
        first_event=first,
        nonfinite_a=bad_a,
        nonfinite_b=bad_b,
        relation=relation,
    )


def missing(case: Case, a: CellView, b: CellView) -> Iterator[Drift]:
    """Quantities that one side's layer has and the other's has not. A layer need not have a counter; most have none."""
    assert a.trace is not None and b.trace is not None
    for layer in dict.fromkeys(a.trace.layers + b.trace.layers):
        for quantity in [name for name in STATES if name != "counter"]:
            has = [held(side.trace, layer, quantity) for side in (a, b) if side.trace is not None]
            if has[0] != has[1] or (has[0] and not comparable(a.trace, b.trace, f"{layer}/{quantity}")):
                yield blank(case, a.target, b.target, layer, quantity, "missing", None, 0)


def missing_gradients(case: Case, a: CellView, b: CellView) -> Iterator[Drift]:
    """Gradients of a parameter that both sides hold, or of the network's input, that only one gives, though the other
    gives gradients too: a target whose backward tells nothing (or that has none) is no such case, and neither is an
    input that nobody asks for its gradient."""
    assert a.trace is not None and b.trace is not None
    length = same_program(a.trace, b.trace)
    steps = zip(a.trace.events[:length], b.trace.events[:length], strict=False)
    both = [t for t, (one, two) in enumerate(steps) if one.op == "backward" and one.status == two.status == "ok"]
    for layer in [name for name in a.trace.layers if name in b.trace.layers] if both else ():
        for quantity in GRADIENTS:
            lacking = [
                side.trace for side in (a, b) if side.trace is not None and side.trace.get(layer, quantity) is None
            ]
            if (
                len(lacking) == 1
                and all(held(trace, layer, quantity.removeprefix("grad_")) for trace in (a.trace, b.trace))
                and gives(lacking[0], both)
            ):
                yield blank(case, a.target, b.target, layer, quantity, "missing", both[0], 0)
    if not all(asks_the_input(case, side) for side in (a, b)):
        return
    reached = [event for event in both if any(f"grad_input/{event}" in trace.arrays for trace in (a.trace, b.trace))]
    silent = [trace for trace in (a.trace, b.trace) if not any(f"grad_input/{event}" in trace.arrays for event in both)]
    if reached and len(silent) == 1 and gives(silent[0], both):
        yield blank(case, a.target, b.target, "", "grad_input", "missing", reached[0], 0)


def asks_the_input(case: Case, side: CellView) -> bool:
    """Whether the network's input asks for a gradient: a scenario may say that it does not, and a variant's backend."""
    return case.network.input_gradient and side.environment.get("input_gradient", True) is not False


def gives(trace: Trace, events: Sequence[int]) -> bool:
    """Whether a trace holds any gradient of these backwards."""
    loose = any(f"grad_input/{t}" in trace.arrays for t in events)
    return loose or any(trace.get(layer, name) is not None for layer in trace.layers for name in GRADIENTS)


def held(trace: Trace, layer: str, quantity: str) -> bool:
    values = trace.get(layer, quantity)
    return values is not None and not (quantity == "counter" and bool(np.isnan(values).all()))


def comparable(a: Trace, b: Trace, name: str) -> bool:
    """Whether both sides hold a state for as many channels."""
    return a.arrays[name].shape[1:] == b.arrays[name].shape[1:]


def pair_series(case: Case, a: Trace, b: Trace, events: int) -> Iterator[Series]:
    """Everything both sides have, as rows of points, as far as the first ``events`` events."""
    rows = np.array([0, *(end + 1 for end in case.step_ends if end < events)])
    for layer in [name for name in a.layers if name in b.layers]:
        for quantity in STATES:
            if held(a, layer, quantity) and held(b, layer, quantity) and comparable(a, b, f"{layer}/{quantity}"):
                yield states(layer, quantity, a, b, rows)
        for quantity in GRADIENTS:
            one, two = a.get(layer, quantity), b.get(layer, quantity)
            if one is not None and two is not None and one.shape == two.shape:
                kept = np.array(
                    [t for t, event in enumerate(case.events[:events]) if event.op == "backward"], dtype=int
                )
                yield Series(
                    layer=layer,
                    quantity=quantity,
                    a=one[kept],
                    b=two[kept],
                    events=kept,
                    dtype=network_dtype(case, a, b),
                )
    played = case.events[:events]
    yield from loose(case, played, a, b, "output", COMPARED)
    yield from loose(case, played, a, b, "grad_input", ("backward",))


def states(layer: str, quantity: str, a: Trace, b: Trace, rows: Array) -> Series:
    name = f"{layer}/{quantity}"
    one, two = a.arrays[name], b.arrays[name]
    kept = rows[rows < min(len(one), len(two))]
    one, two = one[kept], two[kept]
    width = (len(kept), -1)
    return Series(
        layer=layer,
        quantity=quantity,
        a=one.reshape(width),
        b=two.reshape(width),
        events=kept - 1,
        dtype=coarser(a.dtype_of(name), b.dtype_of(name)),
        floor=deviation(layer, a, b, kept) if quantity == "running_mean" else None,
    )


def deviation(layer: str, a: Trace, b: Trace, kept: Array) -> Array | None:
    """The standard deviation that both sides hold beside a mean. A mean that is 0 in real arithmetic (behind a shift, a
    convolution without bias) comes out as 1e-9 of it, and is no millions of ULP off for that."""
    name = f"{layer}/running_var"
    held = [side.arrays[name] for side in (a, b) if name in side.arrays]
    if len(held) < 2 or not comparable(a, b, name) or any(rows.ndim != 2 or len(rows) <= kept.max() for rows in held):
        return None
    one, two = (np.asarray(rows[kept], dtype=np.float64) for rows in held)
    return root(np.minimum(one, two))


def root(variances: Array) -> Array:
    """Standard deviations; 0 where there is none."""
    return np.where(np.isfinite(variances) & (variances > 0), np.sqrt(np.maximum(variances, 0.0)), 0.0)


def network_dtype(case: Case, a: Trace, b: Trace) -> str:
    """Gradients and outputs are computed in the network's dtype; the float64 reference is the finer side."""
    return coarser(case.dtype, "float64")


def loose(
    case: Case, played: Sequence[Event], a: Trace, b: Trace, quantity: str, ops: Sequence[str]
) -> Iterator[Series]:
    """Outputs (or input gradients) of all events as one series; shorter rows are padded with zeros on both sides."""
    one, two = shapes_of(a, quantity), shapes_of(b, quantity)
    found = [t for t, event in enumerate(played) if t in one and event.op in ops and one[t] == two.get(t)]
    if found:
        yield Series(
            layer="",
            quantity=quantity,
            a=as_rows(a, quantity, found),
            b=as_rows(b, quantity, found),
            events=np.array(found),
            dtype=network_dtype(case, a, b),
        )


def shapes_of(trace: Trace, quantity: str) -> dict[int, tuple[int, ...]]:
    """Event → shape of what is recorded of it for itself."""
    key = f"shapes of {quantity}"
    if key not in trace.worked_out:
        named = (name.split("/") for name in trace.arrays if name.startswith(f"{quantity}/"))
        events = [int(words[1]) for words in named if len(words) == 2]
        trace.worked_out[key] = {t: trace.arrays[f"{quantity}/{t}"].shape for t in events}
    found: dict[int, tuple[int, ...]] = trace.worked_out[key]
    return found


def as_rows(trace: Trace, quantity: str, events: list[int]) -> Array:
    """A row for each event, float64. Of many targets each is asked for once for every other one, so that those that
    are not large are kept."""
    key = f"rows of {quantity}"
    known = trace.worked_out.get(key)
    if known is not None and known[0] == events:
        return np.asarray(known[1])
    rows = [trace.arrays[f"{quantity}/{t}"].reshape(-1) for t in events]
    found = np.zeros((len(rows), max(map(len, rows))))
    for row, values in zip(found, rows, strict=True):
        row[: len(values)] = values
    if found.size <= MOST_ROWS_KEPT:
        trace.worked_out[key] = events, found
    return found


def scale_of(quantity: str, size: Array) -> Array:
    """What an ULP is counted against: each statistic's own size (a mean's standard deviation, where that is larger);
    for outputs and gradients the largest of the same event, because single elements cancel to almost nothing and would
    make any rounding look like millions of ULP."""
    if quantity in STATES or not size.size:
        return size
    return np.broadcast_to(size.max(axis=1, keepdims=True), size.shape)


def smallness(quantity: str, size: Array) -> Array | float:
    """What the absolute tolerance of a statistic shrinks by: 1e-5 beside a variance of 1e-6 lets anything pass. It is
    that of the layer's largest channel at that point, 1 at most: one channel that is 0 but for rounding is none."""
    if quantity not in STATISTICS or not size.size:
        return 1.0
    return np.asarray(np.minimum(size.max(axis=1, keepdims=True), 1.0))


def allowance(quantity: str, size: Array, counted: Array, dtype: str, tolerance: Tolerance) -> Array:
    """How far apart values of this ``size`` may be, atol + rtol·size. ``counted`` is what smallness goes by: the size,
    or a mean's standard deviation where that is larger. A scenario's own tolerance stands as it is written."""
    rtol, atol = tolerance.at(dtype)
    least = atol * smallness(quantity, counted) if tolerance.atol is None else atol
    return np.asarray(least + rtol * size)


def drift_of(case: Case, name_a: str, name_b: str, series: Series, tolerance: Tolerance) -> Drift:
    """One drift from paired rows. NaN and Inf in the same place on both sides do not drift."""
    a, b = (np.asarray(rows, dtype=np.float64) for rows in (series.a, series.b))
    good_a, good_b = np.isfinite(a), np.isfinite(b)
    finite = bool(good_a.all() and good_b.all())
    if finite and bool((a == b).all()):  # gamma and beta, mostly
        return as_drift(case, name_a, name_b, series)
    with np.errstate(all="ignore"):  # the square of 1e299 is none
        gap, size = np.abs(a - b), np.maximum(np.abs(a), np.abs(b))
        bad = None
        if not finite:
            both = good_a & good_b
            gap, size = np.where(both, gap, 0.0), np.where(both, size, 0.0)
            bad = ~both & ~((a == b) | (np.isnan(a) & np.isnan(b)))
        counted = size if series.floor is None or series.floor.shape != size.shape else np.maximum(size, series.floor)
        outside: Array = gap > allowance(series.quantity, size, counted, series.dtype, tolerance)
        relative = np.divide(gap, counted, out=np.zeros_like(gap), where=counted > 0)
        ulps = gap / ulp_of(scale_of(series.quantity, counted), series.dtype)
        points = mean_rows(gap, None if finite else both)
        mean, std = mean_and_deviation(points)
    if bad is not None:
        outside |= bad
    first = first_true(np.asarray(outside.any(axis=1))) if outside.size else None
    return as_drift(
        case,
        name_a,
        name_b,
        series,
        mean_abs=mean,
        std_abs=std,
        max_abs=float(gap.max(initial=0.0)),
        max_rel=float(relative.max(initial=0.0)),
        max_ulp=float(ulps.max(initial=0.0)),
        first_event=None if first is None else int(series.events[first]),
        nonfinite_a=int((~good_a).sum()),
        nonfinite_b=int((~good_b).sum()),
        relation="agrees" if first is None else ("differs" if bad is None or not bad.any() else "nonfinite"),
    )


def as_drift(case: Case, name_a: str, name_b: str, series: Series, **measured: Any) -> Drift:
    """A series as a drift; without figures, of equal sides."""
    equal = dict.fromkeys(("mean_abs", "std_abs", "max_abs", "max_rel", "max_ulp"), 0.0)
    none: dict[str, Any] = {"first_event": None, "nonfinite_a": 0, "nonfinite_b": 0, "relation": "agrees", **equal}
    return Drift(
        scenario=case.scenario,
        case=case.name,
        a=name_a,
        b=name_b,
        layer=series.layer,
        quantity=series.quantity,
        points=len(series.a),
        dtype=series.dtype,
        **{**none, **measured},
    )


def mean_rows(gap: Array, both: Array | None) -> Array:
    """The mean of each row over what is finite on both sides (None: all of it); NaN where nothing is."""
    if not gap.size:
        return np.zeros(0)
    if both is None:
        return np.asarray(gap.sum(axis=1) / gap.shape[1])
    return np.where(both.any(axis=1), gap.sum(axis=1) / np.maximum(both.sum(axis=1), 1), np.nan)


def mean_and_deviation(points: Array) -> tuple[float, float]:
    """Of the finite ones, to the bit what ndarray.mean and std work out, in a third of their time; 0 without points."""
    if not points.size:
        return 0.0, 0.0
    known = points[np.isfinite(points)]
    if not known.size:
        return np.nan, np.nan
    mean = np.add.reduce(known) / known.size
    off = known - mean
    return float(mean), float(np.sqrt(np.add.reduce(off * off) / known.size))
