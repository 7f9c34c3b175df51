"""From a document's models to a concrete case, and every rule that concerns several keys at once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from bncheck.scenario import (
    CONSTANT_FILLS,
    RECORDING,
    Event,
    InputSpec,
    Layer,
    Network,
    batch_counts,
    layer_type_of,
    op_of,
)
from bncheck.scenario_files.schema import (
    AFFINE,
    Document,
    EventTable,
    ExpectTable,
    Fault,
    InputTable,
    LayerTable,
    NetworkTable,
    shown,
    unknown,
)
from bncheck.scenario_files.shapes import ShapeError, channel_position, parameter_count, shapes_between, with_channels
from bncheck.scenario_files.toml_lines import KeyPath
from bncheck.trace import STATISTICS

MOST_ELEMENTS = 200_000_000
MOST_EVENTS = 1_000_000
# Keys of an input that only some fills read.
_FILL_KEYS = {"value": ("constant",), "mean": ("normal", "uniform", "exact"), "std": ("normal", "uniform", "exact")}


# ------------------------------------------------------------------------------------------------- network


def build_network(document: Document) -> tuple[Network, list[Fault]]:
    """The network as written; channels still to be filled in from the input's shape."""
    table, faults = document.network, []
    place: KeyPath = ("network", "layers")
    if sum(map(bool, (table.layers, table.file, table.model))) != 1:
        several = [key for key in ("layers", "file", "model") if getattr(table, key)]
        text = "needs layers, or a file instead, or a model"
        text = f"has {' and '.join(several)}; it can have one" if several else text
        faults.append(Fault(("network",), f"the network {text}"))
    names, seen = Counter(layer.name for layer in table.layers), set[str]()
    for index, layer in enumerate(table.layers):
        if layer.name in seen:
            faults.append(Fault((*place, index, "name"), f'"{layer.name}" names {names[layer.name]} layers'))
        seen.add(layer.name)
        faults += _layer_keys((*place, index), layer)
    if table.returns is not None and table.returns not in names:
        faults.append(unknown(("network", "returns"), "layer", table.returns, names))
    faults += _parts_rules(table)
    if table.custom and table.layers and not any(layer.type == "batch_norm" for layer in table.layers):
        faults.append(Fault(("network", "custom"), "takes the place of batch_norm layers, but there is none"))
    faults += _part_rules(document)
    layers = tuple(_layer(layer) for layer in table.layers)
    network = Network(
        layers=layers,
        custom=table.custom,
        file=table.file,
        returns=table.returns,
        model=table.model,
        arguments=dict(table.arguments),
        replicas=tuple(table.replicas),
        copied=table.copied,
        parts=table.parts,
        input_gradient=table.input_gradient,
        output=table.output,
        oracle=table.oracle,
    )
    return network, faults


def _parts_rules(table: NetworkTable) -> Iterator[Fault]:
    """Replicas, copies and layers that are used again: what goes together."""
    if table.replicas and table.copied:
        yield Fault(("network", "copied"), "a network of replicas cannot have a copy as well")
    for key in ("replicas", "copied"):
        if getattr(table, key) and not table.layers:
            yield Fault(("network", key), "needs a network of layers")
    norms: dict[str, None] = {}  # before this layer
    for index, layer in enumerate(table.layers):
        place: KeyPath = ("network", "layers", index, "same_as")
        if layer.same_as is not None and layer.same_as not in norms:
            yield unknown(place, "BatchNorm layer before this one", layer.same_as, norms)
        if layer.type == "batch_norm" and layer.same_as is None:
            norms[layer.name] = None


def _part_rules(document: Document) -> Iterator[Fault]:
    """A layer that takes its channels in parts is the user's own, and only parts can be whitened together."""
    table = document.network
    if table.parts != 1 and not table.custom:
        yield Fault(("network", "parts"), "is for a layer of your own, and network.custom names none")
    if table.output is not None and not table.model:
        yield Fault(("network", "output"), "is for a network of your own, and network.model names none")
    if table.oracle == "whitening" and table.parts == 1:
        yield Fault(("network", "oracle"), "whitening needs the parts of a channel", 'parts = "complex", or 2 and more')
    count = 2 if table.parts == "complex" else table.parts
    for index, layer in enumerate(table.layers):
        odd = layer.channels is not None and isinstance(count, int) and layer.channels % count
        if layer.type == "batch_norm" and odd:
            yield Fault(("network", "layers", index, "channels"), f"{layer.channels} channels are no {count} parts")
        if layer.type == "batch_norm" and layer.affine and table.oracle == "whitening":
            yield Fault(("network", "layers", index, "affine"), "the whitening oracle has no gamma and beta", "false")


def _layer_keys(place: KeyPath, layer: LayerTable) -> Iterator[Fault]:
    row = layer_type_of(layer.type)
    known = ("name", "type", "native", *row.keys, *row.options)
    for key in sorted(layer.model_fields_set.difference(known)):
        yield Fault((*place, key), f"means nothing for a {layer.type} layer", ", ".join(known))
    for key in row.required:
        if getattr(layer, key) is None:
            yield Fault((*place, key), f"is missing; a {layer.type} layer needs it")
    for key in ("stride", "kernel"):
        if layer.type == "conv2d" and 0 in _items(getattr(layer, key)):
            yield Fault((*place, key), "must be at least 1")
    absent = (*(() if layer.affine else AFFINE), *(() if layer.track_running_stats else STATISTICS))
    for key in absent:
        if key in layer.initial.model_fields_set and getattr(layer.initial, key) is not None:
            yield Fault((*place, "initial", key), "the layer is told not to have it (affine, track_running_stats)")


def _items(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _layer(table: LayerTable) -> Layer:
    normalises = table.type in ("batch_norm", "custom")
    names = (*(AFFINE if table.affine else ()), *(STATISTICS if table.track_running_stats else ()))
    given = {name: getattr(table.initial, name) for name in names} if normalises else {}
    return Layer(
        name=table.name,
        type=table.type,
        channels=table.channels,
        axis=table.axis,
        batch_weight=table.batch_weight,
        eps=table.eps,
        averaging=table.averaging,
        affine=table.affine,
        track_running_stats=table.track_running_stats,
        initial={name: value for name, value in given.items() if value is not None},
        options={key: getattr(table, key) for key in layer_type_of(table.type).options},
        native=table.native,
        same_as=table.same_as,
    )


# -------------------------------------------------------------------------------------------------- inputs


def build_inputs(document: Document, network: Network) -> tuple[dict[str, InputSpec], list[Fault]]:
    """All named inputs; those of ``[inputs]`` inherit what ``[input]`` says."""
    base = {key: getattr(document.input, key) for key in document.input.model_fields_set}
    tables: dict[str, tuple[KeyPath, InputTable]] = {"main": (("input",), document.input)}
    for name, own in document.inputs.items():
        said = {**base, **{key: getattr(own, key) for key in own.model_fields_set}}
        tables[name] = (("inputs", name), InputTable.model_construct(_fields_set=set(said), **said))
    # The first layer's axis, unless it is wrong: that is told where it is written.
    axis = next((layer.axis for layer in network.layers if layer.type in ("batch_norm", "conv2d")), 1)
    found: dict[str, InputSpec] = {}
    faults: list[Fault] = []
    if "main" in document.inputs:
        faults.append(Fault(("inputs", "main"), "the input named main is written as [input]"))
    for name, (place, table) in tables.items():
        if table.shape is None:
            # A file whose inputs all have their own shape needs no main one.
            if name != "main" or not document.inputs:
                faults.append(Fault((*place, "shape"), "is missing; it is required"))
            continue
        found[name] = _input(table, document.dtype, axis)
        faults += _input_rules(place, table, found[name])
    return found, faults


def _input(table: InputTable, dtype: str, axis: int) -> InputSpec:
    derived = axis if channel_position(axis, len(table.shape or ())) else 1
    constant = table.fill in CONSTANT_FILLS
    return InputSpec(
        shape=tuple(table.shape or ()),
        fill=table.fill,
        value={"ones": 1.0, "zeros": 0.0}.get(table.fill, table.value),
        mean=table.mean,
        std=table.std,
        batches=table.batches or ("same" if constant else "distinct"),
        seed=table.seed,
        dtype=table.dtype or dtype,
        poison=table.poison,
        poison_channel=table.poison_channel,
        channel_axis=derived if table.channel_axis is None else table.channel_axis,
        gradient=table.gradient,
        shifts=tuple(table.shifts),
        padding=tuple(table.padding),
        view=table.view,
    )


def _input_rules(place: KeyPath, table: InputTable, spec: InputSpec) -> Iterator[Fault]:
    if len(spec.shape) < 2:
        text = f"{list(spec.shape)} has no channel axis; the batch axis comes first, e.g. [6, 3] or [8, 3, 32, 32]"
        yield Fault((*place, "shape"), text)
        return
    if 0 in spec.shape[1:]:
        yield Fault((*place, "shape"), f"{list(spec.shape)} is empty in an axis other than the batch axis")
        return
    position = channel_position(spec.channel_axis, len(spec.shape))
    if position is None:
        yield Fault((*place, "channel_axis"), f"{spec.channel_axis} is not a channel axis of {list(spec.shape)}")
        return
    channels = spec.shape[position]
    for key in ("mean", "std"):
        value = getattr(spec, key)
        if isinstance(value, tuple) and len(value) != channels:
            yield Fault((*place, key), f"has {len(value)} numbers for {channels} channels")
    if spec.poison and spec.poison_channel >= channels:
        yield Fault((*place, "poison_channel"), f"{spec.poison_channel} of {channels} channels", f"0 to {channels - 1}")
    if spec.poison and spec.shape[0] == 0:
        yield Fault((*place, "poison"), "an empty batch has no sample to poison")
    if spec.shifts and spec.shape[0] % len(spec.shifts):
        yield Fault((*place, "shifts"), f"{len(spec.shifts)} numbers do not divide {spec.shape[0]} samples equally")
    yield from _padding_rules(place, spec, position)
    if spec.batches == "distinct" and spec.fill in CONSTANT_FILLS:
        yield Fault((*place, "batches"), f'fill "{spec.fill}" has only one batch', '"same", or leave the key out')
    for key, fills in _FILL_KEYS.items():
        if key in table.model_fields_set and spec.fill not in fills:
            yield Fault((*place, key), f'is not read with fill "{spec.fill}"; it is for {", ".join(fills)}')


def _padding_rules(place: KeyPath, spec: InputSpec, position: int) -> Iterator[Fault]:
    if not spec.padding:
        return
    if position == len(spec.shape) - 1:
        yield Fault((*place, "padding"), f"pads the last axis, which holds the channels of {list(spec.shape)}")
    elif spec.shape[0] % len(spec.padding):
        yield Fault((*place, "padding"), f"{len(spec.padding)} numbers do not divide {spec.shape[0]} samples equally")
    elif max(spec.padding) > spec.shape[-1]:
        yield Fault((*place, "padding"), f"{max(spec.padding)} of {spec.shape[-1]} positions")


# ------------------------------------------------------------------------------------------------- program


def written_events(document: Document) -> Iterator[tuple[KeyPath, EventTable]]:
    """Every event as written, once each, with its place."""
    for part in ("first", "events", "then"):
        for index, event in enumerate(getattr(document.program, part)):
            yield ("program", part, index), event


def build_events(document: Document, inputs: Mapping[str, InputSpec]) -> tuple[tuple[Event, ...], list[Fault]]:
    """The program unrolled, each forward with its batch.

    ``batch`` counts the forwards that read an input ("same" batches: always 0). A backward names the input
    and batch of the last forward before it; ``run_exported`` reads the batch that was read last, so that its
    output can be held against the forward before it.
    """
    program = document.program
    faults = [found for place, event in written_events(document) for found in _event_rules(place, event, document)]
    total = len(program.first) + len(program.events) * program.repeat + len(program.then)
    if not total:
        faults.append(Fault(("program", "events"), "a program without events does nothing", "at least one event"))
    if total > MOST_EVENTS:
        faults.append(Fault(("program", "repeat"), f"makes {total:,} events; at most {MOST_EVENTS:,} are run"))
    if faults:
        return (), faults
    events: list[Event] = []
    read: dict[str, int] = {}
    last, recorded, exported = ("main", 0), False, document.network.file is not None
    for place, table in _unrolled(document):
        name, batch, op = table.input or "main", 0, op_of(table.event)
        if op.forward:
            spec = inputs.get(name)
            batch = read.get(name, 0) if spec is None or spec.batches == "distinct" else 0
            read[name] = read.get(name, 0) + 1
            last, recorded = (name, batch), recorded or op.records
        elif table.event == "backward":
            name, batch = last
            if not recorded:
                text = "goes back through a forward, but none before it leaves a gradient"
                return (), [Fault(place, f"backward {text}", f"one of {', '.join(RECORDING)} before it")]
        elif op.reads == "last":
            batch = max(read.get(name, 0) - 1, 0) if name in inputs and inputs[name].batches == "distinct" else 0
            if table.event == "run_exported" and not exported:
                return (), [Fault(place, "run_exported runs what export_onnx wrote, but nothing is exported before it")]
        exported = exported or table.event == "export_onnx"
        events.append(Event(op=table.event, input=name, batch=batch, arguments=_arguments(table)))
    return tuple(events), []


def build_steps(document: Document) -> tuple[int, ...]:
    """Index of the last event of each step: every repeat of ``events`` is one, every event outside them its own."""
    program = document.program
    lengths = [1] * len(program.first) + [len(program.events)] * program.repeat + [1] * len(program.then)
    return tuple(total - 1 for total in accumulate(length for length in lengths if length))


def _unrolled(document: Document) -> Iterator[tuple[KeyPath, EventTable]]:
    program = document.program
    for part, times in (("first", 1), ("events", program.repeat), ("then", 1)):
        tables = list(enumerate(getattr(program, part)))
        for _ in range(times):
            for index, table in tables:
                yield ("program", part, index), table


def _arguments(table: EventTable) -> dict[str, Any]:
    names = [name for name in op_of(table.event).arguments if name != "input"]
    return {name: getattr(table, name) for name in names if getattr(table, name) is not None}


def _event_rules(place: KeyPath, table: EventTable, document: Document) -> Iterator[Fault]:
    known = op_of(table.event).arguments
    for key in sorted(table.model_fields_set - {"event", *known}):
        yield Fault((*place, key), f"means nothing for {table.event}", ", ".join(known) or "no argument")
    if table.event == "set_mode" and not isinstance(table.training, bool):
        yield Fault((*place, "training"), "set_mode needs training", "true, false")
    if "copy" in op_of(table.event).changes and not document.network.copied:
        yield Fault(place, f"{table.event} needs a copy: say how it is made in network.copied")
    if table.event == "apply" and table.function is None:
        yield Fault((*place, "function"), "is missing; apply needs it", "file.py:function")
    if table.event == "eval_in_batches":
        yield from _batch_rules(place, table, document)
    if table.event == "export_onnx" and isinstance(table.training, bool):
        yield Fault((*place, "training"), "the exporter's mode is a word", '"eval", "preserve", "training"')
    names = [layer.name for layer in document.network.layers]
    if table.layer is not None and table.layer not in names:
        yield unknown((*place, "layer"), "layer", table.layer, names)
    inputs = [*(["main"] if document.input.shape or not document.inputs else []), *document.inputs]
    if (table.input or "main") not in inputs and "input" in known:
        yield unknown((*place, "input"), "input", table.input or "main", inputs)


def _batch_rules(place: KeyPath, table: EventTable, document: Document) -> Iterator[Fault]:
    if table.sizes is None:
        yield Fault((*place, "sizes"), "is missing; eval_in_batches needs it", "for example [1, 4, 16, 64]")
        return
    spec = document.inputs.get(table.input) if table.input else document.input
    shape = spec.shape if spec is not None and spec.shape else document.input.shape
    if shape and max(table.sizes) > shape[0]:
        yield Fault((*place, "sizes"), f"a batch of {max(table.sizes)} needs as many samples, the input has {shape[0]}")
    if table.samples and table.samples > max(table.sizes):
        yield Fault((*place, "samples"), f"{table.samples} samples do not fit into the largest batch")


# ------------------------------------------------------------------------------------------ shapes and sizes


def fill_channels(network: Network, inputs: Mapping[str, InputSpec]) -> tuple[tuple[Layer, ...], list[Fault]]:
    """Layers with their channel counts; every input has to fit the same network."""
    layers = network.layers
    for spec in inputs.values():
        try:
            layers, _ = with_channels(layers, spec.shape)
        except ShapeError as error:
            at: KeyPath = ("network", "layers", error.layer, error.key)
            return layers, [Fault(at, f'layer "{layers[error.layer].name}": {error.message}')]
    faults = []
    for index, layer in enumerate(layers):
        if layer.channels is None and layer.type in ("batch_norm", "conv2d", "dense"):
            text = "is missing; what a custom layer puts out is not known, so the next one has to say it"
            faults.append(Fault(("network", "layers", index, "channels"), text))
        for key, value in layer.initial.items():
            if isinstance(value, tuple) and layer.channels not in (None, len(value)):
                place: KeyPath = ("network", "layers", index, "initial", key)
                faults.append(Fault(place, f"has {len(value)} numbers for {layer.channels} channels"))
    return layers, faults


def replica_rules(network: Network, inputs: Mapping[str, InputSpec]) -> Iterator[Fault]:
    """Every input's batch is divided among the replicas to the last sample."""
    for name, spec in inputs.items():
        if network.replicas and spec.shape[0] != sum(network.replicas):
            place = ("input", "shape") if name == "main" else ("inputs", name, "shape")
            total = sum(network.replicas)
            yield Fault(place, f"has {spec.shape[0]} samples; replicas of {list(network.replicas)} take {total}")


def size_rules(layers: Sequence[Layer], inputs: Mapping[str, InputSpec], events: tuple[Event, ...]) -> Iterator[Fault]:
    """What a case would hold in memory: its inputs, parameters, and what each layer puts out."""
    counts = batch_counts(inputs, events)
    total = 0
    for name, spec in inputs.items():
        size = counts[name] * math.prod(spec.shape)
        total += size
        if total > MOST_ELEMENTS:
            place = ("input", "shape") if name == "main" else ("inputs", name, "shape")
            what = f"{counts[name]} batches of {list(spec.shape)} hold {size:,} values"
            yield Fault(place, f"{what}; at most {MOST_ELEMENTS:,} fit into one case")
            return
    for index, count in enumerate(accumulate(parameter_count(layer) for layer in layers)):
        if count > MOST_ELEMENTS:
            text = f"with this layer the network has {count:,} parameters; at most {MOST_ELEMENTS:,} fit into one case"
            yield Fault(("network", "layers", index), text)
            return
    for name, spec in inputs.items():
        for index, shape in enumerate(shapes_between(layers, spec.shape)):
            if counts[name] * math.prod(shape) > MOST_ELEMENTS:
                text = f"puts out {list(shape)} for each of {counts[name]} batches"
                yield Fault(("network", "layers", index), f"{text}; at most {MOST_ELEMENTS:,} values fit into one case")
                return


def expect_rules(tables: Mapping[int, ExpectTable]) -> Iterator[Fault]:
    for index, expect in tables.items():
        place: KeyPath = ("expect", index)
        causes = (*([expect.cause] if expect.cause else []), *expect.causes)
        if bool(causes) == expect.agree:
            text = "expects both a cause and agreement" if causes else "expects nothing: no cause and no agree = true"
            yield Fault(place, text, "cause, causes or agree")
        if expect.between[0] == expect.between[1]:
            yield Fault((*place, "between"), f"names {shown(expect.between[0])} twice")
