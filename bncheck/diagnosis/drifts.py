"""Two traces of one case in, drifts out: per layer and quantity, how far apart, since when, NaN on which side.

Pure. States are compared at the ends of steps (a repeat of the program), with the initial state as the first
point; outputs and gradients at their own events.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bncheck.evidence import CellView, Drift, first_true
from bncheck.scenario import COMPARED, Case, Event, Tolerance, op_of
from bncheck.trace import GRADIENTS, STATES, STATISTICS, Array, Trace

# Bits of a significand: an ULP of x is 2^(exponent of x − bits + 1), and not below the smallest normal's.
SIGNIFICANDS = {"float64": (53, -1022), "float32": (24, -126), "float16": (11, -14), "bfloat16": (8, -126)}
NOT_PLAYED = ("unsupported", "failed")
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
    missing = [
        t
        for t, (one, two) in enumerate(zip(a.events, b.events, strict=False))
        if (one.status in NOT_PLAYED) != (two.status in NOT_PLAYED) and op_of(one.op).counts
    ]
    return missing[0] if missing else min(len(a.events), len(b.events))


def compare_outcomes(case: Case, a: CellView, b: CellView) -> Iterator[Drift]:
    """A drift of quantity ``events`` when one side refused an event that the other carried out."""
    if a.trace is None or b.trace is None:
        return
    status = [[event.status for event in side.trace.events] for side in (a, b) if side.trace is not None]
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
    found = []
    for t, event in enumerate(played):
        one, two = a.arrays.get(f"{quantity}/{t}"), b.arrays.get(f"{quantity}/{t}")
        if event.op in ops and one is not None and two is not None and one.shape == two.shape:
            found.append((t, one.reshape(-1), two.reshape(-1)))
    if not found:
        return
    width = max(len(one) for _, one, _ in found)
    sides = [np.zeros((len(found), width)) for _ in range(2)]
    for row, (_, one, two) in enumerate(found):
        sides[0][row, : len(one)], sides[1][row, : len(two)] = one, two
    yield Series(
        layer="",
        quantity=quantity,
        a=sides[0],
        b=sides[1],
        events=np.array([t for t, _, _ in found]),
        dtype=network_dtype(case, a, b),
    )


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
    a, b = series.a.astype(np.float64), series.b.astype(np.float64)
    if np.isfinite(a).all() and np.array_equal(a, b):  # gamma and beta, mostly
        zeros = (0.0, 0.0, 0.0, 0.0, 0.0)
        return Drift(
            case.scenario,
            case.name,
            name_a,
            name_b,
            series.layer,
            series.quantity,
            len(a),
            *zeros,
            None,
            0,
            0,
            "agrees",
            series.dtype,
        )
    good_a, good_b = np.isfinite(a), np.isfinite(b)
    both = good_a & good_b
    with np.errstate(all="ignore"):
        gap = np.where(both, np.abs(a - b), 0.0)
        size = np.where(both, np.maximum(np.abs(a), np.abs(b)), 0.0)
        same = ((a == b) | (np.isnan(a) & np.isnan(b))) & ~both
        bad = ~both & ~same
        counted = size if series.floor is None or series.floor.shape != size.shape else np.maximum(size, series.floor)
        outside = (gap > allowance(series.quantity, size, counted, series.dtype, tolerance)) | bad
        relative = np.where(counted > 0, gap / np.where(counted > 0, counted, 1.0), 0.0)
        ulps = gap / ulp_of(scale_of(series.quantity, counted), series.dtype)
    points = (
        np.where(both.any(axis=1), gap.sum(axis=1) / np.maximum(both.sum(axis=1), 1), np.nan)
        if gap.size
        else np.zeros(0)
    )
    first = first_true(outside.any(axis=1)) if outside.size else None
    relation = "agrees" if first is None else ("nonfinite" if bad.any() else "differs")
    known = points[np.isfinite(points)]
    with np.errstate(all="ignore"):  # the square of 1e299 is none
        mean, std = (float(known.mean()), float(known.std())) if known.size else (np.nan, np.nan)
    if not points.size:
        mean, std = 0.0, 0.0
    return Drift(
        scenario=case.scenario,
        case=case.name,
        a=name_a,
        b=name_b,
        layer=series.layer,
        quantity=series.quantity,
        points=len(a),
        mean_abs=mean,
        std_abs=std,
        max_abs=float(gap.max(initial=0.0)),
        max_rel=float(relative.max(initial=0.0)),
        max_ulp=float(ulps.max(initial=0.0)),
        first_event=None if first is None else int(series.events[first]),
        nonfinite_a=int((~good_a).sum()),
        nonfinite_b=int((~good_b).sum()),
        relation=relation,
        dtype=series.dtype,
    )
