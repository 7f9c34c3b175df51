"""What a layer counts, how many updates one event makes, and the state before any event."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bncheck.convention import Facet
from bncheck.diagnosis.fit.average import Averages
from bncheck.diagnosis.fit.interval import number
from bncheck.diagnosis.fit.rows import horizon, moved, update_counts
from bncheck.diagnosis.fit.stream import OTHER, Stream
from bncheck.trace import Array

MOST_UPDATES = 8


def measure_counter(streams: Sequence[Stream], averages: Averages) -> tuple[dict[str, Facet], int | None]:
    """counter, and the number of updates per event if the counter counts updates (else None)."""
    if not streams:
        return {"counter": Facet(None, identifiable=False, reason="no layer was recorded")}, None
    if all(np.all(np.isnan(stream.counter)) for stream in streams):
        if not any(stream.events for stream in streams):
            return {"counter": Facet(None, identifiable=False, reason="no event was recorded")}, None
        return {"counter": Facet("none", True, 0.0, reason="the layer holds no counter")}, None
    advance, forwards, updates = (
        np.concatenate(part) for part in zip(*(steps(s, averages) for s in streams), strict=True)
    )
    good = np.isfinite(advance) & np.isfinite(updates)
    advance, forwards, updates = advance[good], forwards[good], updates[good]
    as_forwards = bool(np.all(advance == forwards))
    counted = np.arange(1, MOST_UPDATES + 1)
    times = [int(k) for k in counted[np.all(advance == counted[:, None] * updates, axis=1)]]
    if not advance.size or not advance.any():
        return {"counter": Facet(None, identifiable=False, reason="the counter never moved")}, None
    if as_forwards and times:
        text = "every forward here makes as many updates, so counting either gives the same"
        return {
            "counter": Facet(
                value=None, identifiable=False, residual=0.0, runner_up="updates", runner_up_residual=0.0, reason=text
            )
        }, None
    if as_forwards:
        return {"counter": Facet(value="forwards", identifiable=True, residual=0.0, runner_up="updates")}, None
    if times:
        return {"counter": Facet(value="updates", identifiable=True, residual=0.0, runner_up="forwards")}, times[0]
    return {"counter": Facet(None, identifiable=False, reason="it counts neither forwards nor updates")}, None


def steps(stream: Stream, averages: Averages) -> tuple[Array, Array, Array]:
    """(T,) the counter's advance, the training forwards and the batches averaged, row by row.

    A forward that raised is left out: whether it counts is no rule of the average.
    """
    trained = stream.trains.astype(np.float64)
    regular = np.diff(update_counts(stream, averages.rows.moving), prepend=0.0)
    small = np.array([any(stream.n[i] < 2 for i in own) for own in stream.sources], dtype=bool)
    # A small batch that moved the state was averaged; among several batches of one event, nobody can tell.
    several = np.array([len(own) > 1 for own in stream.sources], dtype=bool)
    taken = np.where(small & several, np.nan, np.where(small & moved(stream), 1.0, regular))
    lost = np.array(
        [status != "ok" or kind == OTHER for kind, status in zip(stream.kinds, stream.status, strict=True)],
        dtype=bool,
    )
    # Where no event of a kind would have shown a move, nobody knows whether it averaged its batch.
    silent = np.array(
        [bool(own) and kind not in averages.kinds for kind, own in zip(stream.kinds, stream.sources, strict=True)],
        dtype=bool,
    )
    advance = np.where(lost | silent, np.nan, np.diff(stream.counter))
    advance[horizon(stream) + 1 :] = np.nan
    return advance, trained, taken


def split_weight(streams: Sequence[Stream], averages: Averages, counted: int | None) -> dict[str, Facet]:
    """updates_per_event and batch_weight from the weight per event.

    The counter tells how many updates an event made. Without one, a weight per event that is the weight asked for
    is one update: several would need another weight that happens to multiply up to it. Else the number stays open,
    and batch_weight is the weight per event.
    """
    weight = averages.facets["batch_weight"]
    if counted is not None:
        times = Facet(counted, True, 0.0, reason="the counter")
        if counted == 1 or not isinstance(weight.value, float):
            return {"updates_per_event": times, "batch_weight": weight}
        return {"updates_per_event": times, "batch_weight": one_of(weight, averages, counted, streams)}
    asked = streams[0].layer.batch_weight if streams else None
    if weight.identifiable and asked is not None and weight.value == asked:
        return {
            "updates_per_event": Facet(1, True, weight.residual, reason="the weight per event is the one asked for"),
            "batch_weight": weight,
        }
    text = "no counter of updates, and the weight per event is not the one asked for: one update or several"
    return {"updates_per_event": Facet(None, identifiable=False, reason=text), "batch_weight": weight}


def one_of(weight: Facet, averages: Averages, times: int, streams: Sequence[Stream]) -> Facet:
    """The weight of each of several updates that together have the measured weight."""
    lo, hi = (1.0 - (1.0 - min(edge, 1.0)) ** (1.0 / times) for edge in averages.weight)
    return number(lo, hi, weight.residual, streams[0].layer.batch_weight)


def measure_initial(streams: Sequence[Stream]) -> dict[str, Facet]:
    """The state before any event, from layers whose initial values nobody set."""
    found: dict[str, Facet] = {}
    for name, quantity in (
        ("mean", "running_mean"),
        ("var", "running_var"),
        ("gamma", "gamma"),
        ("beta", "beta"),
    ):
        found[f"initial_{name}"] = initial(streams, quantity)
    return found


def initial(streams: Sequence[Stream], quantity: str) -> Facet:
    free = [s for s in streams if quantity not in s.layer.initial]
    if not free:
        return Facet(None, identifiable=False, reason=f"every case sets {quantity} itself")
    present = [s.trace.get(s.layer.name, quantity) for s in free]
    if all(array is None for array in present):
        return Facet("none", True, 0.0, reason="the layer holds none")
    rows = [np.asarray(array[0], dtype=np.float64) for array in present if array is not None and len(array)]
    values = np.unique(np.concatenate(rows)) if rows else np.zeros(0)
    if len(values) == 1 and np.isfinite(values[0]):
        value = float(values[0])
        words = {("gamma", 1.0): "ones", ("beta", 0.0): "zeros"}
        return Facet(words.get((quantity, value), value), True, 0.0)
    if quantity == "gamma" and len(values) > 2 and values[0] >= 0.0 and values[-1] <= 1.0:
        return Facet("uniform", True, 0.0, reason="different in every channel, all in [0, 1]")
    return Facet(
        None,
        identifiable=False,
        reason="it differs between channels or cases" if len(values) else "no channels",
    )
