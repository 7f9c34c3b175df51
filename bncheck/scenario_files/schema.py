"""What a scenario file may say: one strict pydantic model per table, and faults as sentences.

The models check single values (type, range, spelling); what concerns several keys at once (shapes, programs)
is checked in ``checks.py``. Every default of the format stands here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from bncheck.errors import nearest
from bncheck.finding import CAUSES
from bncheck.scenario import (
    COPIES,
    DEFAULT_BATCH_WEIGHT,
    DEFAULT_EPS,
    DTYPES,
    FILLS,
    LAYER_TYPES,
    OP_NAMES,
    ORACLES,
    VIEWS,
)
from bncheck.scenario_files.synonyms import answer
from bncheck.scenario_files.toml_lines import KeyPath
from bncheck.trace import STATISTICS

MOST_LAYERS = 5_000  # a ResNet-1001 has 3,000
MOST_AXES = 16  # NumPy takes 64, with the axis of the batches and others on top; no framework takes more than eight
AFFINE = ("gamma", "beta")
STATES = (*STATISTICS, "counter", *AFFINE)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where in the document, a sentence, what is allowed, the nearest spelling."""

    path: KeyPath
    message: str
    allowed: str = ""
    suggestion: str = ""

    def __str__(self) -> str:
        parts = [self.message]
        if self.allowed:
            parts.append(f"allowed: {self.allowed}")
        if self.suggestion:
            parts.append(f'did you mean "{self.suggestion}"?')
        return "; ".join(parts)


def unknown(
    path: KeyPath, what: str, word: object, choices: Iterable[str], tables: Callable[[str], list[str]] = lambda key: []
) -> Fault:
    """``tables`` names those of a scenario file that have a key; of other files none is known."""
    names = list(choices)
    known = answer(what, str(word), names, tables)
    if known:
        return Fault(path, f'unknown {what} "{word}"; {known}')
    return Fault(path, f'unknown {what} "{word}"', ", ".join(names) or "none", nearest(word, names))


def fault(message: str, allowed: str = "", suggestion: str = "") -> PydanticCustomError:
    context = {"sentence": message, "allowed": allowed, "suggestion": suggestion}
    return PydanticCustomError("bncheck", "{sentence}", context)


def one_of(what: str, choices: Iterable[str]) -> AfterValidator:
    names = tuple(choices)

    def check(word: str) -> str:
        if word not in names:
            found = unknown((), what, word, names)
            raise fault(found.message, found.allowed, found.suggestion)
        return word

    return AfterValidator(check)


def number(value: Any, allowed: str = "a finite number") -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise fault(f"must be a number, not {shown(value)}", allowed)
    if not math.isfinite(value):
        raise fault(f"must be finite, not {value}", allowed)
    return float(value)


def number_between(low: float, high: float = math.inf) -> BeforeValidator:
    allowed = f"{low:g} to {high:g}" if math.isfinite(high) else f"a finite number from {low:g} up"

    def check(value: Any) -> float | None:
        found = number(value, allowed)
        if not low <= found <= high:
            raise fault(f"{value} is out of range", allowed)
        return found

    return BeforeValidator(check)


def or_default(low: float, high: float = math.inf) -> BeforeValidator:
    """A number in range, or the word "default": the framework's own value is kept (``None``)."""
    allowed = f'{low:g} to {high:g}, or "default"' if math.isfinite(high) else f'from {low:g} up, or "default"'

    def check(value: Any) -> float | None:
        if value is None or value == "default":
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise fault(f"must be a number, not {shown(value)}", allowed, nearest(value, ["default"]))
        if not low <= value <= high or not math.isfinite(value):
            raise fault(f"{value} is out of range", allowed)
        return float(value)

    return BeforeValidator(check)


def number_or_list(value: Any) -> float | tuple[float, ...]:
    if not isinstance(value, list):
        return number(value, "a finite number, or a list with one per channel")
    if not value:
        raise fault("an empty list says nothing", "a finite number, or a list with one per channel")
    return tuple(number(item) for item in value)


def spread(value: Any) -> float | tuple[float, ...]:
    found = number_or_list(value)
    if min(found if isinstance(found, tuple) else (found,)) <= 0:
        raise fault(f"{shown(value)} is not a spread", 'above 0; for values without spread say fill = "constant"')
    return found


def one_initial(value: Any) -> float | tuple[float, ...] | None:
    """``None`` stands for "framework": its own initial value is kept."""
    if isinstance(value, str):
        if value != "framework":
            raise fault(
                f"must be a number, not {shown(value)}", 'numbers or "framework"', nearest(value, ["framework"])
            )
        return None
    return number_or_list(value)


def initial_values(value: Any) -> Any:
    if value == "framework":
        return dict.fromkeys((*STATISTICS, *AFFINE), "framework")
    if not isinstance(value, dict):
        raise fault(f'must be a table or the word "framework", not {shown(value)}')
    return value


def size_or_pair(value: Any) -> int | tuple[int, ...]:
    items = value if isinstance(value, list) else [value]
    if len(items) not in (1, 2) or not all(type(item) is int and item >= 0 for item in items):
        raise fault(f"must be a whole number or a pair of them, not {shown(value)}")
    return items[0] if len(items) == 1 else tuple(items)


def event_table(value: Any) -> Any:
    """An event alone is its name; ``{ apply = "file.py:function" }`` says the function where others say the name."""
    if isinstance(value, dict) and "apply" in value and "event" not in value and "function" not in value:
        return {"event": "apply", "function": value["apply"], **{key: value[key] for key in value if key != "apply"}}
    return {"event": value} if isinstance(value, str) else value


def training_flag(value: Any) -> bool | str:
    if isinstance(value, bool) or value in ("eval", "preserve", "training"):
        return value  # type: ignore[no-any-return]
    raise fault(f"{shown(value)} is no mode", 'true, false, "eval", "preserve", "training"')


def parts_of(value: Any) -> int | str:
    if value == "complex" or (type(value) is int and 1 <= value <= 8):
        return value  # type: ignore[no-any-return]
    raise fault(f"{shown(value)} is no number of tensors", '1 to 8, or "complex"', nearest(value, ["complex"]))


def shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, str) else f'"{value}"'
    return text if len(text) <= 40 else text[:37] + "..."


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]
Whole = Annotated[int, Field(ge=1)]
NumberOrList = Annotated[float | tuple[float, ...], BeforeValidator(number_or_list)]
Initial = Annotated[float | tuple[float, ...] | None, BeforeValidator(one_initial)]
Pair = Annotated[int | tuple[int, ...], BeforeValidator(size_or_pair)]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class InitialTable(Table):
    running_mean: Initial = 0.0
    running_var: Initial = 1.0
    gamma: Initial = 1.0
    beta: Initial = 0.0


class LayerTable(Table):
    name: Name
    type: Annotated[str, one_of("layer type", LAYER_TYPES)]
    channels: Whole | None = None
    axis: int = 1
    batch_weight: Annotated[float | None, or_default(0, 1)] = DEFAULT_BATCH_WEIGHT
    eps: Annotated[float | None, or_default(0)] = DEFAULT_EPS
    averaging: Annotated[str, one_of("averaging", ("exponential", "cumulative"))] = "exponential"
    affine: bool = True
    track_running_stats: bool = True
    initial: Annotated[InitialTable, BeforeValidator(initial_values)] = InitialTable()
    native: dict[str, dict[str, Any]] = {}
    same_as: Name | None = None
    out_channels: Whole | None = None
    kernel: Pair | None = None
    stride: Pair = 1
    padding: Pair = 0
    units: Whole | None = None
    bias: Annotated[str, one_of("bias", ("uniform", "zeros"))] = "uniform"


class NetworkTable(Table):
    layers: Annotated[list[LayerTable], Field(max_length=MOST_LAYERS)] = []
    custom: Annotated[str, Field(pattern=r"^([^:]+\.py|[A-Za-z_][A-Za-z0-9_.]*):[A-Za-z_][A-Za-z0-9_.]*$")] | None = (
        None
    )
    parts: Annotated[int | str, BeforeValidator(parts_of)] = 1
    oracle: Annotated[str, one_of("oracle", ORACLES)] = "batch_norm"
    input_gradient: bool = True
    file: str | None = None
    model: Annotated[str, Field(pattern=r"^[^:]+\.py:[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    arguments: dict[str, bool | int | float | str | list[int]] = {}
    output: Annotated[str, Field(min_length=1)] | Annotated[int, Field(ge=0)] | None = None
    returns: str | None = None
    replicas: Annotated[list[Whole], Field(min_length=2, max_length=8)] = []
    copied: Annotated[str, one_of("kind of copy", COPIES)] | None = None


class InputTable(Table):
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=MOST_AXES)] | None = None
    fill: Annotated[str, one_of("fill", FILLS)] = "normal"
    value: Annotated[float, BeforeValidator(number)] = 1.0
    mean: NumberOrList = 0.0
    std: Annotated[float | tuple[float, ...], BeforeValidator(spread)] = 1.0
    batches: Annotated[str, one_of("kind of batches", ("same", "distinct"))] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    dtype: Annotated[str, one_of("dtype", DTYPES)] | None = None
    poison: Annotated[str, one_of("poison", ("nan", "inf", "-inf"))] | None = None
    poison_channel: Annotated[int, Field(ge=0)] = 0
    channel_axis: int | None = None
    gradient: Annotated[str, one_of("gradient", ("ones", "normal"))] = "normal"
    shifts: list[Annotated[float, BeforeValidator(number)]] = []
    padding: list[Annotated[int, Field(ge=0)]] = []
    view: Annotated[str, one_of("view", VIEWS)] = "contiguous"


class EventTable(Table):
    event: Annotated[str, one_of("event", OP_NAMES)]
    input: str | None = None
    layer: str | None = None
    training: Annotated[bool | str, BeforeValidator(training_flag)] | None = None
    exporter: str | None = None
    opset: Whole | None = None
    keep: bool | None = None
    drop: list[Annotated[str, one_of("state", STATES)]] | None = None
    sizes: Annotated[list[Whole], Field(min_length=2)] | None = None
    samples: Whole | None = None
    function: Annotated[str, Field(pattern=r"^[^:]+\.py:[A-Za-z_][A-Za-z0-9_]*$")] | None = None


Events = list[Annotated[EventTable, BeforeValidator(event_table)]]


class ProgramTable(Table):
    first: Events = []
    events: Events = []
    repeat: Whole = 1
    then: Events = []


class ToleranceTable(Table):
    rtol: Annotated[float, number_between(0)] | None = None
    atol: Annotated[float, number_between(0)] | None = None


class ExpectTable(Table):
    between: Annotated[list[str], Field(min_length=2, max_length=2)]
    cause: Annotated[str, one_of("cause", CAUSES)] | None = None
    causes: list[Annotated[str, one_of("cause", CAUSES)]] = []
    agree: bool = False
    when: dict[str, Any] = {}


class Document(Table):
    title: Annotated[str, Field(min_length=1)]
    why: str = ""
    default: bool = False
    probe: bool = False
    targets: list[Annotated[str, Field(min_length=1)]] = []
    tags: list[str] = []
    check_order: bool = False
    remarks: str = ""
    dtype: Annotated[str, one_of("dtype", DTYPES)] = "float32"
    network: NetworkTable
    input: InputTable = InputTable()
    inputs: dict[Name, InputTable] = {}
    program: ProgramTable
    tolerance: ToleranceTable = ToleranceTable()
    matrix: dict[str, Any] = {}  # expanded before these models see the document
    expect: list[ExpectTable] = []


TOP_LEVEL = tuple(Document.model_fields)

# Which model stands where; list positions and free names are "*".
_MODELS: Mapping[tuple[str, ...], type[Table]] = {
    (): Document,
    ("network",): NetworkTable,
    ("network", "layers", "*"): LayerTable,
    ("network", "layers", "*", "initial"): InitialTable,
    ("input",): InputTable,
    ("inputs", "*"): InputTable,
    ("program",): ProgramTable,
    ("program", "first", "*"): EventTable,
    ("program", "events", "*"): EventTable,
    ("program", "then", "*"): EventTable,
    ("tolerance",): ToleranceTable,
    ("expect", "*"): ExpectTable,
}


def tables_with(key: str) -> list[str]:
    """The tables of a scenario file that have a key, as they are written: ``[[network.layers]]``."""
    places = [place for place, model in _MODELS.items() if key in model.model_fields and place not in REPEATED]
    return [header(place) for place in places]


REPEATED = (("inputs", "*"), ("program", "first", "*"), ("program", "then", "*"))  # like one that stands before it


def header(place: tuple[str, ...]) -> str:
    if not place:
        return "the top of the file"
    name = ".".join(part for part in place if part != "*")
    return f"[[{name}]]" if place[-1] == "*" else f"[{name}]"


def read_document(raw: Mapping[str, Any]) -> tuple[Document | None, list[Fault]]:
    """The document as models, or every fault of its single values."""
    try:
        return Document.model_validate(raw), []
    except ValidationError as error:
        return None, [fault_of(detail, _keys_at, tables_with) for detail in error.errors(include_url=False)]


def read_expects(raw: Mapping[str, Any]) -> dict[int, ExpectTable]:
    """The expectations that can be read, by position; ``read_document`` reports the others."""
    found: dict[int, ExpectTable] = {}
    tables = raw.get("expect", [])
    for index, table in enumerate(tables if isinstance(tables, list) else []):
        try:
            found[index] = ExpectTable.model_validate(table)
        except ValidationError:
            continue
    return found


def _keys_at(path: KeyPath) -> list[str]:
    place = tuple("*" if isinstance(part, int) else part for part in path)
    if len(place) == 2 and place[0] == "inputs":
        place = ("inputs", "*")
    model = _MODELS.get(place)
    return [name for name in model.model_fields if name != "matrix"] if model else []


# pydantic's error type → our words, given its context and the value.
_SENTENCES: Mapping[str, Callable[[Mapping[str, Any], Any], str]] = {
    "string_type": lambda _, value: f"must be a string in quotes, not {shown(value)}",
    "int_type": lambda _, value: f"must be a whole number, not {shown(value)}",
    "bool_type": lambda _, value: f"must be true or false, not {shown(value)}",
    "list_type": lambda _, value: f"must be a list, not {shown(value)}",
    "dict_type": lambda _, value: f"must be a table, not {shown(value)}",
    "model_type": lambda _, value: f"must be a table, not {shown(value)}",
    "greater_than_equal": lambda ctx, value: f"{shown(value)} is too small; the least is {ctx['ge']}",
    "less_than": lambda ctx, value: f"{shown(value)} is too large; it must be below {ctx['lt']}",
    "too_short": lambda ctx, value: f"{shown(value)} is too short; at least {ctx['min_length']} entries are needed",
    "too_long": lambda ctx, value: f"{shown(value)} is too long; at most {ctx['max_length']} entries",
    "string_too_short": lambda _, value: "must not be empty",
    "string_too_long": lambda ctx, value: f"{shown(value)} is longer than {ctx['max_length']} letters",
}


def fault_of(
    detail: ErrorDetails,
    keys_at: Callable[[KeyPath], list[str]],
    tables: Callable[[str], list[str]] = lambda key: [],
) -> Fault:
    """What pydantic says, in our words. ``keys_at`` names the keys that a table may have, ``tables`` those that have a
    key."""
    path = tuple(part for part in detail["loc"] if part != "[key]")
    kind, value, context = detail["type"], detail["input"], detail.get("ctx") or {}
    if kind == "bncheck":
        return Fault(path, context["sentence"], context["allowed"], context["suggestion"])
    if kind == "missing":
        return Fault(path, "is missing; it is required")
    if kind == "extra_forbidden":
        return unknown(path, "key", path[-1], keys_at(path[:-1]), tables)
    if kind == "string_pattern_mismatch":
        form = {
            "custom": "file.py:Class, or package.module:Class",
            **dict.fromkeys(("model", "function"), "file.py:function"),
        }.get(str(path[-1]), "letters, digits, _ and -")
        return Fault(path, f"{shown(value)} cannot stand here", form)
    if kind in _SENTENCES:
        return Fault(path, _SENTENCES[kind](context, value))
    return Fault(path, f"{detail['msg']}, not {shown(value)}")
