"""A shipped scenario of an ONNX file, with the user's file put in: no more is read than such a scenario says.

What checks scenario files (pydantic, and the models made with it) takes as long to import as ONNX Runtime, and the
file's own shape and type are nothing that a person could have mistyped. Whatever is said beyond that is for
``load_scenario``, which says what is wrong with it; of what is read here both say the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bncheck.bounded import is_regular, read_bounded
from bncheck.scenario import DTYPES, Case, Event, Expect, InputSpec, Network, Scenario, op_of
from bncheck.scenario_files.shipped import SHIPPED
from bncheck.scenario_files.toml_text import TomlFault, read_toml

MOST_BYTES = 1_000_000
MOST_ELEMENTS = 100_000_000  # of all batches together, half of what a case may hold
TABLES = {
    "": {"title", "why", "targets", "tags", "network", "input", "program", "expect"},
    "network": {"file"},
    "input": {"shape", "mean"},
    "program": {"first", "events", "repeat", "then"},
}
SET = {"network.file", "input.shape", "dtype"}


def read_plain(path: Path, overrides: Mapping[str, Any]) -> Scenario | None:
    """The scenario as ``load_scenario(path, overrides)`` reads it; None where that one has to look at it."""
    file, dtype = overrides.get("network.file"), overrides.get("dtype", "float32")
    if path.parent not in SHIPPED or not set(overrides) <= SET or not isinstance(file, str) or dtype not in DTYPES:
        return None
    try:
        raw = read_toml(read_bounded(path, MOST_BYTES).decode("utf-8"))
        plain = all(set(raw[name] if name else raw) <= keys for name, keys in TABLES.items())
        return put_in(raw, path, file, dtype, overrides.get("input.shape")) if plain else None
    except (OSError, ValueError, TypeError, KeyError, TomlFault):
        return None


def put_in(raw: Mapping[str, Any], path: Path, file: str, dtype: str, shape: Any) -> Scenario | None:
    events = unrolled(raw["program"])
    shape = raw["input"]["shape"] if shape is None else shape
    if not is_usual(shape, len(events)) or not all(op_of(event.op).forward for event in events):
        return None
    if not is_regular(Path(file)):
        return None
    spec = InputSpec(
        shape=tuple(shape),
        fill="normal",
        mean=float(raw["input"].get("mean", 0.0)),
        batches="distinct",
        dtype=dtype,
        channel_axis=1,
    )
    case = Case(
        scenario=path.stem,
        name="base",
        label="as written",
        matrix={},
        network=Network(layers=(), file=str(Path(file).absolute())),
        inputs={"main": spec},
        events=events,
        dtype=dtype,
        steps=tuple(range(len(events))),
    )
    expect = tuple(Expect(between=tuple(each["between"]), agree=each["agree"]) for each in raw.get("expect", ()))
    return Scenario(
        name=path.stem,
        title=raw["title"],
        why=raw["why"],
        cases=(case,),
        expect=expect,
        targets=tuple(raw["targets"]),
        tags=tuple(raw["tags"]),
        path=str(path),
    )


def unrolled(program: Mapping[str, Any]) -> tuple[Event, ...]:
    """Each forward reads a batch of its own."""
    names = [*program.get("first", ()), *program["events"] * program.get("repeat", 1), *program.get("then", ())]
    return tuple(Event(op=name, input="main", batch=batch) for batch, name in enumerate(names))


def is_usual(shape: Any, batches: int) -> bool:
    """Whether nothing can be said against it."""
    sizes = shape if isinstance(shape, list) else []
    whole = all(type(size) is int and size > 0 for size in sizes)
    return 2 <= len(sizes) <= 5 and whole and math.prod(sizes) * batches <= MOST_ELEMENTS
