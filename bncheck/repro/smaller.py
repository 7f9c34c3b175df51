"""Smaller cases of a case: fewer steps, samples, channels, pixels; the smallest first. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

from bncheck.scenario import Case, Event, InputSpec, Layer, batch_counts, op_of
from bncheck.scenario_files.shapes import channel_position

MOST = 60  # cases that are tried at once: a few ms each, after one import of the framework


def smaller_cases(case: Case) -> list[Case]:
    """What to try, the smallest first; none is as large as ``case``. Names are try-1, try-2, …"""
    programs, shapes = list(shorter_programs(case)), list(shape_limits(case))
    found = []
    for (events, steps), limits in product(programs, shapes):
        smaller = shrink(replace(case, events=events, steps=steps), limits)
        if smaller is not None and size(smaller) < size(case):
            found.append(smaller)
    unique = {repr((one.events, one.inputs, one.network)): one for one in found}
    ranked = sorted(unique.values(), key=size)[:MOST]
    return [replace(one, name=f"try-{number}") for number, one in enumerate(ranked, 1)]


def size(case: Case) -> int:
    """What a reader has to take in: numbers of the input, and a few per event."""
    counts = batch_counts(case.inputs, case.events)
    used = {event.input for event in case.events}
    numbers = sum(prod(spec.shape) * counts[name] for name, spec in case.inputs.items() if name in used)
    return numbers + 4 * len(case.events)


# --------------------------------------------------------------------------------------------------------- program


def shorter_programs(case: Case) -> Iterator[tuple[tuple[Event, ...], tuple[int, ...]]]:
    """The first one to three steps, each also with the last step behind; and the whole program."""
    ends = case.step_ends
    for count in range(1, min(4, len(ends))):
        head = list(range(ends[count - 1] + 1))
        yield select(case, head)
        last = [t for t in range(ends[-2] + 1, ends[-1] + 1) if t not in head]
        if last:
            yield select(case, head + last)
    yield case.events, case.steps


def select(case: Case, kept: list[int]) -> tuple[tuple[Event, ...], tuple[int, ...]]:
    """These events, their batches counted anew from 0, and where their steps end now."""
    places: dict[str, dict[int, int]] = {}
    events = []
    for t in kept:
        event = case.events[t]
        if op_of(event.op).reads == "next":
            seen = places.setdefault(event.input, {})
            event = replace(event, batch=seen.setdefault(event.batch, len(seen)))
        elif op_of(event.op).reads == "last":  # or on the first one, where that is left out
            event = replace(event, batch=places.get(event.input, {}).get(event.batch, 0))
        events.append(event)
    ends = set(case.step_ends)
    return tuple(events), tuple(position for position, t in enumerate(kept) if t in ends)


# ----------------------------------------------------------------------------------------------------------- shape


def shape_limits(case: Case) -> Iterator[Mapping[str, int | None]]:
    """Upper bounds for samples, channels and pixels; None leaves a side as it is."""
    alone = len(case.network.layers) == 1
    for samples, channels, pixels in product((2, 3, None), (1, None), (1, 2, None)):
        if alone or (channels is None and pixels is None):
            yield {"samples": samples, "channels": channels, "pixels": pixels}


def shrink(case: Case, limits: Mapping[str, int | None]) -> Case | None:
    """The case with every side at most as long as its limit; None where a layer or an input does not allow it."""
    inputs = {}
    in_batches = any(event.op == "eval_in_batches" for event in case.events)
    for name, spec in case.inputs.items():
        position = channel_position(spec.channel_axis, len(spec.shape))
        if position is None:
            return None
        kinds = ["samples", *("channels" if axis == position else "pixels" for axis in range(1, len(spec.shape)))]
        shape = tuple(bounded(side, limits[kind]) for side, kind in zip(spec.shape, kinds, strict=True))
        width = shape[position]
        if shape != spec.shape and spec.padding:
            return None
        if shape[0] != spec.shape[0] and (spec.shifts or case.network.replicas or in_batches):
            return None  # they say what becomes of every sample
        inputs[name] = replace(
            spec,
            shape=shape,
            mean=cut(spec.mean, width),
            std=cut(spec.std, width),
            poison_channel=min(spec.poison_channel, width - 1) if spec.poison else spec.poison_channel,
        )
    channels = limits["channels"]
    layers = tuple(layer if channels is None else narrow(layer, channels) for layer in case.network.layers)
    return replace(case, inputs=inputs, network=replace(case.network, layers=layers))


def bounded(side: int, limit: int | None) -> int:
    return side if limit is None else min(side, limit)


def narrow(layer: Layer, channels: int) -> Layer:
    """The layer with at most so many channels, and the initial values of those."""
    if layer.channels is None or layer.channels <= channels:
        return layer
    initial = {name: cut(value, channels) for name, value in layer.initial.items()}
    return replace(layer, channels=channels, initial=initial)


def cut(value: Any, width: int) -> Any:
    return value[:width] if isinstance(value, tuple) else value


def described(case: Case, inputs: Mapping[str, InputSpec] | None = None) -> str:
    """``2 events on [2, 1, 1, 1]``."""
    shapes = {
        tuple(spec.shape)
        for name, spec in (inputs or case.inputs).items()
        if any(event.input == name for event in case.events)
    }
    count = len(case.events)
    return f"{count} event{'' if count == 1 else 's'} on {' and '.join(str(list(shape)) for shape in sorted(shapes))}"
