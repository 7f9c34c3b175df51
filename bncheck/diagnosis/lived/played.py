"""A cell of a whole network as a life: what each of its layers did in the forwards of the program. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bncheck.evidence import CellView
from bncheck.life import LayerLife, Life
from bncheck.run_folder.recordings import life_of
from bncheck.scenario import op_of
from bncheck.trace import Array, Trace

SAME = ("input_mean", "input_var", "n", "input_bad", "output_bad", "used_mean", "used_invstd")  # per event
TRAINS = {"train": 1, "eval": 0}  # what an event puts the network into


def layers_told(view: CellView) -> Mapping[str, Mapping[str, Any]]:
    """What the worker says of a whole network's layers: ``kind``, ``own``, ``calls`` (0: may be many), ``dtype``."""
    cell = view.notes.get("cell")
    told = cell.get("layers") if isinstance(cell, Mapping) else None
    if not isinstance(told, Mapping):
        return {}
    return {str(name): each for name, each in told.items() if isinstance(each, Mapping)}


def life_in(view: CellView) -> Life | None:
    """The life of its layers, call by call; None where there are none, or nobody says."""
    told = layers_told(view)
    if view.trace is None or not told:
        return None
    found = {
        name: rows
        for name in view.trace.layers
        if name in told and told[name].get("calls", 1)
        for rows in [by_calls(view.trace, name) or recording(view, view.trace, name)]
        if rows is not None
    }
    if not found:
        return None
    lived = life_of(
        {
            "program": view.own_code,
            "framework": view.backend,
            "version": str(view.environment.get("version", "")),
            "layers": {
                name: {**rows, "kind": str(told[name].get("kind", "")), "own": told[name].get("own") is True}
                for name, rows in found.items()
            },
        }
    )
    return replace(lived, layers=tuple(described(each, told[each.name], view.trace) for each in lived.layers))


def described(layer: LayerLife, told: Mapping[str, Any], trace: Trace) -> LayerLife:
    """With what its outputs and its statistics are held in, as the recording was widened; whether it has any, and every
    name that leads to it."""
    before, training = layer.get("mean_before"), layer.get("training")
    looked = before is not None and training is not None and bool(np.isfinite(before[training != 0]).any())
    spans = tuple(
        replace(span, input_dtype=str(told.get("dtype", "")), moved=span.moved if looked or not span.training else None)
        for span in layer.spans
    )
    name = f"{layer.name}/running_mean"
    held = {"running_mean": trace.dtype_of(name)} if name in trace.arrays else {}
    paths = told.get("names")
    names = tuple(map(str, paths)) if isinstance(paths, list) and paths else layer.names
    return replace(layer, spans=spans, dtypes={**layer.dtypes, **held}, tracks=bool(held), names=names)


def by_calls(trace: Trace, layer: str) -> dict[str, Any] | None:
    """The same of a layer that one forward calls more than once, and that says so; None of others."""
    start = f"calls:{layer}:"
    rows = {name.removeprefix(start): array for name, array in trace.arrays.items() if name.startswith(start)}
    event = rows.get("event")
    wide = {name for name, array in rows.items() if array.ndim == 2}
    shapes = {rows[name].shape for name in wide}
    if event is None or len(shapes) != 1 or any(len(array) != len(event) for array in rows.values()):
        return None
    if not {"training", "used_residual", *SAME} <= set(rows) or event.dtype.kind not in "iu":
        return None
    if not ((event >= 0) & (event < len(trace.events))).all():
        return None
    held = {name: trace.get(layer, name) for name in ("gamma", "beta", "eps", "momentum")}
    blank = np.full(next(iter(shapes)), np.nan)
    return {
        **{name: rows[name] for name in SAME},
        **{name: array[event] for name, array in held.items() if array is not None},
        "index": np.arange(len(event)),
        "step": event,
        "training": rows["training"],
        "samples": rows["n"],
        "gradients": records(trace, event),
        "call": event,
        "in_backward": np.zeros(len(event), dtype=np.int64),
        "mean_before": rows.get("running_mean_before", blank),
        "mean_after": rows.get("running_mean_after", blank),
        "var_before": rows.get("running_var_before", blank),
        "var_after": rows.get("running_var_after", blank),
        "counter_before": rows.get("counter_before", np.full(len(event), np.nan)),
        "counter_after": rows.get("counter_after", np.full(len(event), np.nan)),
        "used_residual": over_size(rows["used_residual"], rows, held["gamma"], event),
    }


def recording(view: CellView, trace: Trace, layer: str) -> dict[str, Any] | None:
    """The quantities of docs/recording.md, of the events in which the layer ran."""
    n = trace.get(layer, "n")
    if n is None or any(trace.get(layer, name) is None for name in (*SAME, "used_residual")):
        return None
    ran = [event for event in np.flatnonzero(n >= 0).tolist() if trace.events[event].status == "ok"]
    behind = {event: event + 1 for event in ran}
    if moves_in_backward(view):
        behind = {event: event + 2 for event in ran if followed(trace, event)}
        behind.update((event, event + 1) for event in ran if trace.events[event].op == "eval_forward")
    ran = [event for event in ran if event in behind]
    if not ran:
        return None
    at, after = np.array(ran), np.array([behind[event] for event in ran])
    blank = np.full(trace.arrays[f"{layer}/input_mean"].shape, np.nan)

    def state(name: str, rows: Array) -> Array:
        held = trace.get(layer, name)
        return blank[at] if held is None else held[rows]

    found: dict[str, Any] = {name: trace.arrays[f"{layer}/{name}"][at] for name in SAME}
    found.update(
        index=at,
        step=at,
        training=np.array([mode(trace, layer, event) for event in ran]),
        samples=found["n"],
        gradients=records(trace, at),
        call=at,
        mean_before=state("running_mean", at),
        mean_after=state("running_mean", after),
        var_before=state("running_var", at),
        var_after=state("running_var", after),
        used_residual=over_size(trace.arrays[f"{layer}/used_residual"][at], found, trace.get(layer, "gamma"), at),
    )
    found.update((name, state(name, at)) for name in ("gamma", "beta") if trace.get(layer, name) is not None)
    for name in ("eps", "momentum"):
        held = trace.get(layer, name)
        found.update({} if held is None else {name: held[at]})
    counter = trace.get(layer, "counter")
    found.update({} if counter is None else {"counter_before": counter[at], "counter_after": counter[after]})
    return without_steps(found, np.array([trace.ran(layer, "calls", event) > 1 for event in ran]))


def without_steps(found: dict[str, Any], several: Array) -> dict[str, Any]:
    """Without the states around forwards that called a layer ``several`` times in training: what it got and gave is of
    the last call, and they moved with all of them."""
    mixed = several & (found["training"] != 0)
    for name in ("mean_before", "mean_after", "var_before", "var_after") if mixed.any() else ():
        found[name] = np.where(mixed[:, None], np.nan, found[name])
    return found


def moves_in_backward(view: CellView) -> bool:
    known = view.convention.facets.get("update_on") if view.convention is not None else None
    return known is not None and known.value == "backward"


def followed(trace: Trace, event: int) -> bool:
    """Whether a backward comes directly behind: what it moves belongs to this forward."""
    return event + 1 < len(trace.events) and trace.events[event + 1].op == "backward"


def mode(trace: Trace, layer: str, event: int) -> int:
    """1 in training, 0 in eval: as it was seen to run, else the layer's own flag where it holds one, else what the
    program asks for; -1 unknown."""
    if (seen := trace.ran(layer, "trains", event)) >= 0:
        return seen
    flags = trace.get(layer, "training")
    held = -1 if flags is None else int(flags[event + 1])
    return held if held >= 0 else TRAINS.get(op_of(trace.events[event].op).mode or "", -1)


def records(trace: Trace, at: Array) -> Array:
    """(K,) 1 for each event that leaves a graph to go back through."""
    return np.array([op_of(trace.events[event].op).records for event in at.tolist()], dtype=np.int64)


def over_size(residual: Array, rows: Mapping[str, Array], gamma: Array | None, at: Array) -> Array:
    """(K,) largest |y − fit| over the size of y − beta, as the moments of x and the fit show it: at least as large as
    over the largest |y − beta|."""
    scale = 1.0 if gamma is None else np.abs(np.asarray(gamma, dtype=np.float64)[at])
    with np.errstate(all="ignore"):
        reach = scale * np.abs(rows["used_invstd"])
        reach = reach * (np.abs(rows["input_mean"] - rows["used_mean"]) + np.sqrt(rows["input_var"]))
        off, size = (np.where(np.isfinite(each), each, 0.0).max(axis=1, initial=0.0) for each in (residual, reach))
        return np.asarray(off / size)
