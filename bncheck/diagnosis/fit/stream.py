"""One BatchNorm layer of one trace as a stream of rows: what each event may have averaged, and its rounding.

A **row** is one event together with the state before it (row ``t`` of the states) and after it (row ``t + 1``).
``sources`` are the forwards whose batches that event would average if its kind moves the statistics, in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bncheck.scenario import Case, Event, Layer, op_of
from bncheck.trace import Array, Trace

FORWARD, NO_GRAD, CHECKPOINTED, BACKWARD, EVAL, FLUSH, OTHER = (
    "forward",
    "no-grad",
    "checkpointed",
    "backward",
    "eval",
    "flush",
    "other",
)
# Unit roundoff (half the distance from 1 to the next number) and the smallest positive number of each dtype.
ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SMALLEST = {"float64": 2.0**-1074, "float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}
# One update is (1 - w)·s + w·u with w and 1 - w rounded too: five roundings, for up to three updates an event.
STEP_ROUNDINGS = 15.0
# Higham and Mary (2019): a sum of n terms is off by at most n·u, and by more than λ·sqrt(n)·u only with
# probability 2·exp(-λ²/2), which is 3e-8 for λ = 6. Below 36 terms the first bound is the smaller one.
SUM_LAMBDA = 6.0


@dataclass(frozen=True)
class Stream:
    """Rows of one layer. Shapes: states (T+1, C) float64, moments (T, C) float64; ``T`` events, ``C`` channels."""

    case: str
    layer: Layer
    kinds: tuple[str, ...]
    status: tuple[str, ...]
    sources: tuple[tuple[int, ...], ...]
    mean: Array
    var: Array
    counter: Array
    gamma: Array
    beta: Array
    eps_held: float
    input_mean: Array
    input_var: Array
    n: Array
    used_mean: Array
    used_invstd: Array
    output_bad: Array
    trace: Trace
    roundoff: float  # of the buffers
    smallest: float
    moment_roundoff: float  # of the sums over a batch
    output_roundoff: float

    @property
    def events(self) -> int:
        return len(self.kinds)

    @cached_property
    def trains(self) -> Array:
        """(T,) bool: a training forward that was carried out."""
        return np.array(
            [k in (FORWARD, NO_GRAD, CHECKPOINTED) and s == "ok" for k, s in zip(self.kinds, self.status, strict=True)],
            dtype=bool,
        )

    @cached_property
    def moved(self) -> Array:
        """(T,) bool: the state after is not, bit for bit, the state before (finite on both sides)."""
        found = np.zeros(self.events, dtype=bool)
        for state in (self.mean, self.var):
            before, after = state[:-1], state[1:]
            found |= np.any((before != after) & np.isfinite(before), axis=1)
        return found

    @cached_property
    def least(self) -> Array:
        """(T,) the fewest values per channel of the batches behind each event; -1 where there are none."""
        return np.array([min((int(self.n[i]) for i in own), default=-1) for own in self.sources], dtype=np.int64)

    def sum_error(self) -> Array:
        """(T,) relative error of a sum over the n values of a channel, with eight roundings around it."""
        n = np.maximum(self.n, 1).astype(np.float64)
        return self.moment_roundoff * (np.minimum(n, SUM_LAMBDA * np.sqrt(n)) + 8.0)

    @cached_property
    def moment_errors(self) -> tuple[Array, Array]:
        """(T, C) bounds on the error of a batch's mean and of its biased variance.

        |mean - m| <= g·mean|x| <= g·rms. The variance is bounded as E[x²] - E[x]², the worst way to compute it:
        g·E[x²] from the squares and 2·|m|·g·rms from the mean, together at most 3·g·rms².
        """
        square = self.input_var + self.input_mean**2
        g = self.sum_error()[:, None]
        return g * np.sqrt(square) + self.smallest, 3.0 * g * square + self.smallest

    def step_error(self, state: Array) -> Array:
        """(T, C) bound on the rounding of one event's updates of a state (T+1, C)."""
        size = np.abs(state[:-1]) + np.abs(state[1:])
        return STEP_ROUNDINGS * (self.roundoff * size + self.smallest)


def roundoff_of(dtype: str) -> float:
    return ROUNDOFF.get(dtype, ROUNDOFF["float32"])


def streams_of(case: Case, trace: Trace | None) -> list[Stream]:
    """All layers of a trace that can be read; a layer without forwards or with broken arrays is left out."""
    if trace is None:
        return []
    found = []
    for layer in case.network.recorded:
        if f"{layer.name}/n" in trace.arrays:
            stream = read_stream(case, trace, layer)
            if stream is not None:
                found.append(stream)
    return found


def read_stream(case: Case, trace: Trace, layer: Layer) -> Stream | None:
    """One layer, cut to the events that every array has; None when a shape does not fit the trace table."""
    n = trace.get(layer.name, "n")
    moments = trace.get(layer.name, "input_mean")
    if n is None or moments is None or not numbers(moments, 2) or not numbers(n, 1):
        return None
    events = min(len(case.events), len(n), len(moments), len(trace.events) or len(n))
    channels = moments.shape[1]

    def table(quantity: str, rows: int) -> Array | None:
        found = trace.get(layer.name, quantity)
        if found is None:
            return np.full((rows, channels), np.nan)
        if not numbers(found, 2) or found.shape[1:] != (channels,) or len(found) < rows:
            return None
        return np.asarray(found[:rows], dtype=np.float64)

    states = {name: table(name, events + 1) for name in ("running_mean", "running_var", "gamma", "beta")}
    forwards = {name: table(name, events) for name in ("input_mean", "input_var", "used_mean", "used_invstd")}
    if any(value is None for value in (*states.values(), *forwards.values())):
        return None
    for name, neutral in (("gamma", 1.0), ("beta", 0.0)):
        if trace.get(layer.name, name) is None:
            states[name] = np.full((events + 1, channels), neutral)
    status = tuple(record.status for record in trace.events[:events]) or ("ok",) * events
    kinds, sources = classify(case.events[:events], status, flags(trace, layer.name, events))
    state, moment, output = dtypes_of(case, trace, layer.name)
    return Stream(
        case=case.id,
        layer=layer,
        kinds=kinds,
        status=status,
        sources=sources,
        mean=_(states["running_mean"]),
        var=_(states["running_var"]),
        gamma=_(states["gamma"]),
        beta=_(states["beta"]),
        counter=vector(trace, layer.name, "counter", events + 1),
        eps_held=held(trace, layer.name, "eps"),
        input_mean=_(forwards["input_mean"]),
        input_var=_(forwards["input_var"]),
        n=n[:events],
        used_mean=_(forwards["used_mean"]),
        used_invstd=_(forwards["used_invstd"]),
        output_bad=vector(trace, layer.name, "output_bad", events),
        trace=trace,
        roundoff=roundoff_of(state),
        smallest=SMALLEST.get(state, SMALLEST["float32"]),
        moment_roundoff=roundoff_of(moment),
        output_roundoff=roundoff_of(output),
    )


def _(array: Array | None) -> Array:
    assert array is not None
    return array


def vector(trace: Trace, layer: str, quantity: str, rows: int) -> Array:
    found = trace.get(layer, quantity)
    if found is None or not numbers(found, 1) or len(found) < rows:
        return np.full(rows, np.nan)
    return np.asarray(found[:rows], dtype=np.float64)


def held(trace: Trace, layer: str, quantity: str) -> float:
    """A hyperparameter as the layer held it at first; NaN when it holds none."""
    found = trace.get(layer, quantity)
    usable = found is not None and numbers(found, 1) and len(found)
    return float(found[0]) if found is not None and usable else float("nan")


def numbers(array: Array, dimensions: int) -> bool:
    """Whether an array of a trace is what the table says: a damaged recording may hold anything."""
    return array.ndim == dimensions and array.dtype.kind in "fiub"


def flags(trace: Trace, layer: str, events: int) -> Array:
    found = trace.get(layer, "training")
    usable = found is not None and numbers(found, 1) and len(found) > events
    return found[: events + 1] if found is not None and usable else np.full(events + 1, -1)


def dtypes_of(case: Case, trace: Trace, layer: str) -> tuple[str, str, str]:
    """dtypes of (buffers, sums over a batch, outputs).

    A float64 or float32 buffer is taken as the precision of the sums too; a buffer of fewer bits is not, because
    kernels sum float16 in float32: there it is the case's dtype.
    """
    name = f"{layer}/running_mean"
    state = trace.dtype_of(name) if name in trace.arrays else case.dtype
    moment = state if state in ("float64", "float32") else case.dtype
    # An archive decodes an array when it is asked for: ask for one.
    first = next((key for key in trace.arrays if key.startswith("output/")), None)
    output = str(trace.arrays[first].dtype) if first is not None else case.dtype
    if case.dtype in ("float16", "bfloat16"):
        output = case.dtype
    return state, moment, output


def classify(events: tuple[Event, ...], status: tuple[str, ...], training: Array) -> tuple[Any, Any]:
    """Kind and sources of each event; the worker's rule for backward: all forwards since the last one, or again."""
    kinds: list[str] = []
    sources: list[tuple[int, ...]] = []
    pending: list[int] = []
    last: list[int] = []
    queued: list[int] = []
    mode = True
    trains: dict[int, bool] = {}
    for t, event in enumerate(events):
        kind: str = OTHER
        own: tuple[int, ...] = ()
        op = op_of(event.op)
        if op.forward:
            if op.mode is not None:
                mode = op.mode == "train"
            elif training[t] >= 0:
                mode = bool(training[t])
            if op.records:
                last = []  # also by a forward that raises: there is nothing to go back through then
            trained = CHECKPOINTED if event.op == "checkpointed_forward" else FORWARD if op.records else NO_GRAD
            kind = trained if mode else EVAL
            trains[t] = mode
            if status[t] == "ok":
                own = (t,)
                if op.records:
                    pending.append(t)
                if mode:
                    queued.append(t)
        elif event.op == "backward":
            kind = BACKWARD
            if pending:
                last, pending = pending, []
            own = tuple(i for i in reversed(last) if trains[i]) if status[t] == "ok" else ()
        elif event.op == "flush":
            kind, own, queued = FLUSH, tuple(queued), []
        elif event.op == "set_mode" and status[t] == "ok":
            mode = bool(event.arguments.get("training", mode))
        kinds.append(kind)
        sources.append(own)
    return tuple(kinds), tuple(sources)
