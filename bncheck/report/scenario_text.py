"""A scenario in lines of text: what it does, why it exists, its cases."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bncheck.scenario import Case, Event, InputSpec, Layer, Scenario

MOST_ROWS = 40


def describe(scenario: Scenario) -> Iterator[str]:
    """The scenario in lines of text."""
    first = scenario.cases[0]
    yield scenario.title
    yield ""
    yield from scenario.why.strip().splitlines()
    if scenario.remarks:
        yield from ("", *scenario.remarks.strip().splitlines())
    varied = " (of the first case; the cases vary it)" if len(scenario.cases) > 1 else ""
    if scenario.targets:
        yield f"\ntargets (unless -t names others)\n  {', '.join(scenario.targets)}"
    if scenario.check_order:
        yield "\nits cases are played a second time, last case first, in new processes"
    yield f"\nnetwork{varied}"
    yield from (f"  {describe_layer(layer)}" for layer in first.network.layers)
    if first.network.file:
        yield f"  the file {first.network.file}"
    if first.network.model:
        given = ", ".join(f"{key}={value}" for key, value in first.network.arguments.items())
        yield f"  {first.network.model}({given})"
    if first.network.custom:
        yield f"  {first.network.custom} takes the place of batch_norm"
    if first.network.parts != 1:
        yield f"  it takes its channels in parts: {first.network.parts}; oracle: {first.network.oracle}"
    if first.network.replicas:
        yield f"  in {len(first.network.replicas)} replicas, of {_listed(first.network.replicas)} samples"
    if first.network.copied:
        yield f"  and a copy of it ({first.network.copied})"
    yield f"\ninputs{varied}"
    yield from (f"  {name}: {describe_input(spec)}" for name, spec in first.inputs.items())
    yield f"\nprogram{varied}"
    yield f"  {describe_events(first.events)}"
    yield f"\ncases ({len(scenario.cases)})"
    yield from _rows(scenario.cases)
    yield "\nexpected"
    yield from _expected(scenario)


def _rows(cases: Sequence[Case]) -> Iterator[str]:
    width = max(len(case.name) for case in cases[:MOST_ROWS])
    for case in cases[:MOST_ROWS]:
        yield f"  {case.name:{width}}  {len(case.events):4} events  {case.label}"
    if len(cases) > MOST_ROWS:
        yield f"  … and {len(cases) - MOST_ROWS} more (--json shows all)"


def _listed(numbers: Sequence[float]) -> str:
    return " and ".join(f"{number:g}" for number in numbers)


def _expected(scenario: Scenario) -> Iterator[str]:
    if not scenario.expect:
        yield "  nothing is written down"
    for expect in scenario.expect:
        what = "agree" if expect.agree else f"show {', '.join(expect.causes)}"
        where = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in expect.when.items()]
        yield f"  {expect.between[0]} and {expect.between[1]} {what}" + (f", when {'; '.join(where)}" if where else "")


def describe_layer(layer: Layer) -> str:
    facts = [f"{layer.channels} channels"] if layer.channels is not None else []
    if layer.type in ("batch_norm", "custom"):
        facts.append(f"axis {layer.axis}")
        weight = "the framework's default" if layer.batch_weight is None else f"{layer.batch_weight:g}"
        facts.append(f"weight of the new batch {weight if layer.averaging == 'exponential' else '1/count'}")
        facts.append(f"eps {'the framework' + chr(39) + 's default' if layer.eps is None else f'{layer.eps:g}'}")
        facts += [f"{name} {_number(value)}" for name, value in layer.initial.items()]
    facts += [f"{name} {value}" for name, value in layer.options.items()]
    facts += [f"the layer {layer.same_as}, used again"] if layer.same_as else []
    facts += [f"native {name} {dict(words)}" for name, words in layer.native.items()]
    return f"{layer.name}: {layer.type}" + (f" ({', '.join(facts)})" if facts else "")


def describe_input(spec: InputSpec) -> str:
    facts = ["×".join(map(str, spec.shape)), spec.dtype, spec.fill]
    if spec.fill == "constant":
        facts.append(f"{spec.value:g}")
    if spec.fill in ("normal", "uniform", "exact"):
        facts.append(f"mean {_number(spec.mean)}, std {_number(spec.std)}, seed {spec.seed}")
    facts.append("one batch for all forwards" if spec.batches == "same" else "a new batch for every forward")
    if spec.shifts:
        facts.append(f"its parts moved by {_listed(spec.shifts)}")
    if spec.padding:
        facts.append(f"{_listed(spec.padding)} positions of its parts padded with zeros")
    if spec.view != "contiguous":
        facts.append(f"as a {spec.view} view")
    if spec.poison:
        facts.append(f"{spec.poison} in sample 0, channel {spec.poison_channel}")
    return ", ".join(facts)


def describe_events(events: Iterable[Event]) -> str:
    """Events in order, a repeated stretch once with its count."""
    names = [_event(event) for event in events]
    parts: list[str] = []
    while names:
        length, times = max(
            ((size, _times(names, size)) for size in range(1, min(len(names), 12) + 1)),
            key=lambda found: (found[0] * found[1] if found[1] > 1 else 1, -found[0]),
        )
        text = ", ".join(names[:length])
        parts.append(text if times == 1 else f"{times} × ({text})" if length > 1 else f"{times} × {text}")
        del names[: length * times]
    return ", ".join(parts)


def _times(names: Sequence[str], size: int) -> int:
    """How often the first ``size`` names stand in a row at the beginning."""
    block = names[:size]
    starts = itertools.takewhile(lambda at: names[at : at + size] == block, range(0, len(names), size))
    return sum(1 for _ in starts)


def _event(event: Event) -> str:
    facts = [f"{key} {value}" for key, value in event.arguments.items()]
    if event.input != "main" and event.op != "backward":
        facts.insert(0, f"input {event.input}")
    return f"{event.op} ({', '.join(facts)})" if facts else event.op


def _number(value: Any) -> str:
    return ", ".join(f"{item:g}" for item in value).join("[]") if isinstance(value, tuple) else f"{value:g}"
