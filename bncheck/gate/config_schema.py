"""What ``[tool.bncheck]`` and a waiver file may say: a strict pydantic model per table, and faults as sentences.

The models check single values; that a waiver names a cause or a code concerns two keys, and is checked beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from bncheck.finding import CAUSES
from bncheck.gate.bar import FAIL_ON
from bncheck.scenario_files.schema import Fault, Table, fault, fault_of, shown, unknown
from bncheck.scenario_files.toml_lines import KeyPath


def is_a(kind: type, what: str, allowed: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        raise fault(f"{shown(value)} is not {what}", allowed)

    return BeforeValidator(check)


def text(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise fault(f"{shown(value)} is not a text")


def size(value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value)
    raise fault(f"{shown(value)} is not a number of 0 or more")


def seconds(value: Any) -> float:
    found = size(value)
    if not 0 < found <= 10**7:
        raise fault(f"{shown(value)} is too {'large' if found else 'small'}", "seconds, above 0, up to 10,000,000")
    return found


def level(value: Any) -> str:
    return value if isinstance(value, str) and value in FAIL_ON else refuse("level", value, FAIL_ON)


def known_cause(word: str) -> str:
    """One of the causes, or a glob over them; a mistyped one would waive nothing and nobody would know why."""
    known = (*CAUSES, "expectation", "drift")
    return word if word in known or any(char in word for char in "*?[") else refuse("cause", word, known)


def refuse(what: str, word: Any, known: Iterable[str]) -> NoReturn:
    found = unknown((), what, word, known)
    raise fault(found.message, found.allowed, found.suggestion)


def day(value: Any) -> date:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    raise fault(f"{shown(value)} is not a date", "a day without quotes, for example 2027-01-31")


Text = Annotated[str, BeforeValidator(text)]
# TOML has lists; what is read here is frozen.
Texts = Annotated[tuple[Text, ...], Field(strict=False), is_a(list, "a list", '["…", "…"]')]
Size = Annotated[float, BeforeValidator(size)]


class ToleranceTable(Table):
    rtol: Size | None = None
    atol: Size | None = None


class WaiverTable(Table):
    cause: Annotated[Text, AfterValidator(known_cause)] | None = None
    code: Text | None = None
    scenario: Text = "*"
    case: Text = "*"
    targets: Texts = ()
    reason: Text
    expires: Annotated[date, BeforeValidator(day)]


# How the keys that a waiver must have are written.
REQUIRED = {"reason": 'reason = "why it is accepted"', "expires": "expires = 2027-01-31"}
EITHER = 'cause = "update-phase" or code = "BN103"'
Waivers = tuple[Annotated[WaiverTable, is_a(dict, "a table", ", ".join(WaiverTable.model_fields))], ...]
APART = "[[tool.bncheck.waivers]], or the path of a waiver file"


class WaiverFile(Table):
    waivers: Annotated[Waivers, Field(strict=False), is_a(list, "a list of waivers", "[[waivers]]")] = ()


class ProjectTable(Table):
    """``waivers`` as a path is taken out by whoever reads the file it names."""

    targets: Texts = ()
    optional: Texts = ()
    scenarios: Texts = ()
    tolerances: Annotated[ToleranceTable, is_a(dict, "a table", "{ rtol = 1e-5, atol = 1e-6 }")] = ToleranceTable()
    fail_on: Annotated[str, BeforeValidator(level)] | None = Field(default=None, alias="fail-on")
    timeout: Annotated[float, BeforeValidator(seconds)] | None = None
    baseline: Text | None = None
    waivers: Annotated[Waivers, Field(strict=False), is_a(list, "a list of waivers", APART)] = ()


Read = TypeVar("Read", bound=Table)


def read_table(model: type[Read], raw: Mapping[str, Any]) -> tuple[Read | None, list[Fault]]:
    """The table as a model, or every fault of it."""
    faults = list(unnamed(raw))
    try:
        found = model.model_validate(raw)
    except ValidationError as error:
        return None, [*faults, *faults_of(error, model)]
    return (None if faults else found), faults


def unnamed(raw: Mapping[str, Any]) -> Iterator[Fault]:
    """Waivers that name both a cause and a code, or neither."""
    items = raw.get("waivers")
    for index, item in enumerate(items if isinstance(items, list) else []):
        if isinstance(item, dict) and ("cause" in item) == ("code" in item):
            yield Fault(("waivers", index), "needs a cause or a code, one of them", EITHER)


def faults_of(error: ValidationError, model: type[Table]) -> Iterator[Fault]:
    def keys_at(place: KeyPath) -> list[str]:
        table = ToleranceTable if place == ("tolerances",) else WaiverTable if place else model
        return [item.alias or name for name, item in table.model_fields.items()]

    for detail in error.errors(include_url=False):
        *place, key = detail["loc"]
        if detail["type"] == "missing":
            yield Fault(tuple(place), f"has no {key}; it is required", REQUIRED[str(key)])
        else:
            yield fault_of(detail, keys_at)
