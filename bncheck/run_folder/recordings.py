"""A recording that anybody made, on plain arrays (docs/recording.md), as the rules take it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from bncheck.errors import UsageError
from bncheck.life import HAPPENINGS, Happening, LayerLife, Life, Span
from bncheck.trace import Array

PER_CHANNEL = (
    "input_mean", "input_var", "mean_before", "mean_after", "var_before", "var_after", "gamma", "beta", "used_mean",
    "used_invstd",
)  # fmt: skip
NUMBERS = (
    "index", "step", "training", "in_backward", "gradients", "n", "samples", "input_bad", "output_bad",
    "counter_before", "counter_after", "eps", "momentum", "used_residual", "output_scale", "call",
)  # fmt: skip
WHOLE = ("index", "call", "step", "n", "samples", "input_bad", "output_bad", "training", "in_backward", "gradients")
NEEDED = ("n", "training", "mean_before", "mean_after")
SEE = "docs/recording.md says what a recording holds"


def life_of(recording: Mapping[str, Any]) -> Life:
    """A recording as the rules take it. Forwards of all layers are in order of ``index``."""
    layers = recording.get("layers")
    if not isinstance(layers, Mapping) or not layers:
        raise UsageError("A recording has `layers`: a name and its quantities each.", SEE)
    lived = tuple(layer_of(str(name), found) for name, found in layers.items())
    last = max((span.last_step + 1 for each in lived for span in each.spans), default=0)
    steps = recording.get("steps", last)
    if not isinstance(steps, (int, np.integer)) or isinstance(steps, bool):
        raise UsageError("`steps` of the recording is no number.", SEE)
    told = recording.get("happenings", ())
    if not isinstance(told, Sequence) or isinstance(told, str):
        raise UsageError("`happenings` of the recording is no list.", SEE)
    happenings = [happening_of(each) for each in told]
    if not any(each.what == "nonfinite" for each in happenings):
        happenings += [born for each in lived if (born := first_nonfinite(each)) is not None]
    return Life(
        program=str(recording.get("program", "recording")),
        framework=str(recording.get("framework", "")),
        version=str(recording.get("version", "")),
        layers=lived,
        happenings=tuple(sorted(happenings, key=lambda each: each.index)),
        steps=int(steps),
        forwards=sum(each.forwards for each in lived),
        code=0,
    )


def layer_of(name: str, found: Any) -> LayerLife:
    if not isinstance(found, Mapping):
        raise UsageError(f"Layer {name!r} of the recording has no quantities.", SEE)
    missing = [each for each in NEEDED if each not in found]
    if missing:
        raise UsageError(f"Layer {name!r} of the recording lacks {' and '.join(missing)}.", SEE)
    moments = {key: array_of(name, key, value) for key, value in found.items() if key in PER_CHANNEL + NUMBERS}
    count, channels = moments["mean_before"].shape
    for key, values in moments.items():
        shape = (count, channels) if key in PER_CHANNEL else (count,)
        if values.shape != shape:
            raise UsageError(f"{key} of layer {name!r} has the shape {values.shape} and not {shape}.", SEE)
    moments.setdefault("index", np.arange(count))
    moments.setdefault("step", np.arange(count))
    moments.setdefault("in_backward", np.zeros(count, dtype=np.int64))
    moments.setdefault("gradients", np.maximum(moments["training"], 0))
    order = np.argsort(moments["index"], kind="stable")
    moments = {key: values[order] for key, values in moments.items()}
    return LayerLife(
        name=name,
        kind=str(found.get("kind", "BatchNorm")),
        channels=channels,
        moments=moments,
        spans=tuple(spans_of(moments)),
        names=(name,),
        registered=True,
        dtypes=dtypes_of(found),
        own=bool(found.get("own", False)),
    )


def dtypes_of(found: Mapping[str, Any]) -> dict[str, str]:
    """Of running statistics that come narrower than they are read. Float64 numbers may have been widened on the way."""
    held = {key: str(found[key].dtype) for key in NEEDED if isinstance(found[key], np.ndarray)}
    return {key: name for key, name in held.items() if name in ("float16", "float32")}


def array_of(name: str, key: str, value: Any) -> Array:
    """Numbers; JSON has no NaN, so ``null`` and the words "nan", "inf" and "-inf" stand for those."""
    try:
        found = np.asarray(
            value if isinstance(value, np.ndarray) else numbers(value),
            dtype=np.int64 if key in WHOLE else np.float64,
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{key} of layer {name!r} are no numbers: {str(error)[:120]}.", SEE) from None
    if found.ndim != (2 if key in PER_CHANNEL else 1):
        raise UsageError(f"{key} of layer {name!r} has {found.ndim} axes.", SEE)
    return found


def numbers(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [numbers(each) for each in value]
    return float("nan") if value is None else float(value) if isinstance(value, str) else value


def spans_of(moments: Mapping[str, Array]) -> list[Span]:
    """Forwards one after the other that are alike in mode and place."""
    before, after = moments["mean_before"], moments["mean_after"]
    moved = ~((before == after) | (np.isnan(before) & np.isnan(after))).all(axis=1)
    alike = np.stack([moments["training"], moments["in_backward"], moments["gradients"]])
    edges = [0, *(np.flatnonzero((np.diff(alike) != 0).any(axis=0)) + 1), alike.shape[1]]
    found = []
    for first, end in pairwise(edges):
        if first == end:
            continue
        part = slice(int(first), int(end))
        index, step, n = (moments[key][part] for key in ("index", "step", "n"))
        mode = int(moments["training"][first])
        found.append(
            Span(
                first_index=int(index[0]),
                last_index=int(index[-1]),
                first_step=int(step[0]),
                last_step=int(step[-1]),
                forwards=int(end - first),
                training=None if mode < 0 else bool(mode),
                in_backward=bool(moments["in_backward"][first]),
                gradients=bool(moments["gradients"][first]),
                n=(int(n.min()), int(n.max())),
                moved=int(moved[part].sum()),
                most_per_step=int(np.unique(step, return_counts=True)[1].max()),
            )
        )
    return found


def first_nonfinite(layer: LayerLife) -> Happening | None:
    """The first forward that left NaN or Inf in running statistics that held none, or gave an output with some."""
    moments, count = layer.moments, len(layer.moments["index"])

    def finite(*names: str) -> Array:
        held = [moments[name] for name in names if name in moments]
        found: Array = np.ones(count, dtype=bool)
        for each in held:
            found = found & np.isfinite(each).all(axis=1)
        return found

    state = finite("mean_before", "var_before") & ~finite("mean_after", "var_after")
    output = moments.get("output_bad", np.zeros(count)) > 0
    at = np.flatnonzero(state | output)
    if not at.size:
        return None
    first = int(at[0])
    clean = bool(finite("input_mean", "input_var")[first] and moments.get("input_bad", np.zeros(count))[first] == 0)
    known = "input_mean" in moments or "input_bad" in moments
    return Happening(
        what="nonfinite",
        index=int(moments["index"][first]),
        step=int(moments["step"][first]),
        layers=(layer.name,),
        detail={"in": ("state" if state[first] else "output") if clean else "input", "born": clean and known},
    )


def happening_of(value: Any) -> Happening:
    if not isinstance(value, Mapping) or not isinstance(value.get("what"), str) or value["what"] not in HAPPENINGS:
        raise UsageError(f"A happening of the recording is none of: {', '.join(HAPPENINGS)}.", SEE)
    try:
        index, step = int(value.get("index", 0)), int(value.get("step", 0))
    except (TypeError, ValueError, OverflowError):
        raise UsageError("A happening of the recording has an index or step that is no number.", SEE) from None
    layers = value.get("layers", ())
    if not isinstance(layers, Sequence) or isinstance(layers, str):
        raise UsageError("A happening of the recording has `layers` that are no list of names.", SEE)
    return Happening(
        what=str(value["what"]),
        index=index,
        step=step,
        layers=tuple(map(str, layers)),
        detail={key: each for key, each in value.items() if key not in ("what", "index", "step", "layers")},
    )
