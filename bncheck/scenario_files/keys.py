"""Every key of a scenario file in a sentence, for people. A test demands one for each field of ``schema``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import PydanticUndefined

from bncheck.scenario import COPIES, DTYPES, FILLS, LAYER_TYPES, ORACLES, VIEWS
from bncheck.scenario_files.schema import (
    Document,
    ExpectTable,
    InitialTable,
    InputTable,
    LayerTable,
    NetworkTable,
    ProgramTable,
    Table,
    ToleranceTable,
)


def one_of(words: tuple[str, ...]) -> str:
    return ", ".join(f"`{word}`" for word in words)


DOCUMENT = {
    "title": "one line for lists and reports",
    "why": "what it is tried for",
    "default": "whether a plain `bncheck run` plays it",
    "probe": "whether it measures conventions",
    "targets": "targets that must run, if `-t` names none",
    "tags": "words of yours, for `bncheck list --json`",
    "check_order": "play the cases once more, last case first, each in a new process",
    "remarks": "what else is good to know, such as what this input cannot tell",
    "dtype": f"of the network and of inputs that state none: {one_of(DTYPES)}",
    "network": "what is played",
    "input": "what events read unless they name another input",
    "inputs": "further inputs by name, `[inputs.clean]`, with the keys of `input`",
    "program": "the events, in order",
    "tolerance": "how far apart is still the same",
    "matrix": 'a list of values for any key, `"input.seed" = [0, 1]`: each combination is a case',
    "expect": "what must come out, `[[expect]]`",
}
NETWORK = {
    "layers": "a list of layers, in order",
    "custom": "`file.py:Class` or `package.module:Class` in place of every `batch_norm` layer",
    "parts": 'how such a layer takes its channels: in so many tensors, or `"complex"`',
    "oracle": f"what the reference plays in place of such a layer: {one_of(ORACLES)}",
    "input_gradient": "whether the input asks for a gradient, as behind other layers",
    "file": "an ONNX file instead of layers",
    "model": "`file.py:name` of what builds a whole network, or (in PyTorch) holds one, instead of layers",
    "arguments": "keywords of that function, or of `custom`",
    "output": "which tensor to compare of what a whole network returns: a key, a place, a dotted path",
    "returns": "the layer whose output eval returns, such as an embedding",
    "replicas": "sizes of the parts of a batch, each for a replica in a process of its own",
    "copied": f"how a copy of the network is made: {one_of(COPIES)}",
}
LAYER = {
    "name": "its name in reports",
    "type": one_of(LAYER_TYPES),
    "channels": "number of channels; else it follows from the input",
    "axis": "of the channels: `1`, or `-1` for channels last",
    "batch_weight": "weight of the *new* batch: PyTorch's momentum, 1 − Keras's; `\"default\"` keeps the framework's",
    "eps": 'what is added to the variance; `"default"` keeps the framework\'s',
    "averaging": "`exponential` or `cumulative` (PyTorch's `momentum=None`)",
    "affine": "whether it has gamma and beta",
    "track_running_stats": "whether it has running statistics",
    "initial": 'a table of initial values, or `"framework"` for its own',
    "native": "keywords for one backend, untouched: `native.torch = { … }`",
    "same_as": "the BatchNorm layer of that name once more, at this place",
    "out_channels": "of a `conv2d`",
    "kernel": "of a `conv2d`: a number or a pair",
    "stride": "of a `conv2d`",
    "padding": "of a `conv2d`",
    "units": "of a `dense` layer",
    "bias": "of a `conv2d` or `dense` layer: `uniform` or `zeros`",
}
INITIAL = {
    "running_mean": "a number, or one per channel",
    "running_var": "likewise",
    "gamma": "likewise",
    "beta": "likewise",
}
INPUT = {
    "shape": "batch axis first; a 0 in front is an empty batch",
    "fill": one_of(FILLS),
    "value": "of `constant`",
    "mean": "a number, or one per channel",
    "std": "a number above 0, or one per channel",
    "batches": "the `same` batch for every forward, or `distinct` ones (default, unless all values are one constant)",
    "seed": "of the random numbers",
    "dtype": "where it is not that of the scenario",
    "poison": "`nan`, `inf` or `-inf` in the first sample of one channel",
    "poison_channel": "that channel",
    "channel_axis": "where it is not that of the first BatchNorm layer",
    "gradient": "what a backward begins with: `ones` or `normal`",
    "shifts": "numbers to add to as many equal parts of the batch: a batch that is not shuffled",
    "padding": "for as many equal parts of the batch, how many last positions are zero: sequences of unlike lengths",
    "view": f"how it lies in memory: {one_of(VIEWS)}",
}
PROGRAM = {
    "first": "events that are played once, before",
    "events": "the events that are repeated",
    "repeat": "how often",
    "then": "events that are played once, after",
}
TOLERANCE = {
    "rtol": "relative to the reference; else that of `torch.testing.assert_close` for the dtype",
    "atol": "absolute, likewise",
}
EXPECT = {
    "between": "two targets; where one is absent, nothing is expected",
    "cause": "the cause that must be named",
    "causes": "causes that must all be named",
    "agree": "`true`: nothing above rounding",
    "when": "the matrix values of the cases that are meant",
}
# Table → (how its keys are written, what each says). Events have a table of their own.
TABLES: Mapping[type[Table], tuple[str, Mapping[str, str]]] = {
    Document: ("", DOCUMENT),
    NetworkTable: ("network.", NETWORK),
    LayerTable: ("network.layers[].", LAYER),
    InitialTable: ("network.layers[].initial.", INITIAL),
    InputTable: ("input.", INPUT),
    ProgramTable: ("program.", PROGRAM),
    ToleranceTable: ("tolerance.", TOLERANCE),
    ExpectTable: ("expect[].", EXPECT),
}


def key_rows() -> Iterator[tuple[str, str, str]]:
    """(key, default as TOML, what it says) of every key; "required" where there is no default."""
    for model, (before, told) in TABLES.items():
        for name, field in model.model_fields.items():
            yield before + name, as_toml(field.default), told[name]


def as_toml(value: Any) -> str:
    """A default as it could stand in the file; "" for none and for whole tables."""
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"' if value else ""
    return f"{value:g}" if isinstance(value, int | float) else ""
