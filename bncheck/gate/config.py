"""``[tool.bncheck]`` of the nearest pyproject.toml, and waiver files: what a project says once instead of each time.

Everything is checked, and a key that is not known is a fault with its line and the nearest spelling: a mistyped
``fail_on`` that silently does nothing would be a CI job that never fails. The command line beats the file.

.. code-block:: toml

    [tool.bncheck]
    targets = ["reference", "torch", "mxnet"]             # each must run (exit code 3)
    optional = ["torch@cuda"]                             # this one where it can
    scenarios = ["all-ones", "checks/my-layer.toml"]     # names, or files beside pyproject.toml
    tolerances = { rtol = 1e-5, atol = 1e-6 }             # for scenarios that state none
    fail-on = "convention"
    timeout = 60
    baseline = "bncheck-baseline.json"
    waivers = "bncheck-waivers.toml"                      # or right here, as [[tool.bncheck.waivers]]

    [[tool.bncheck.waivers]]
    cause = "update-phase"                                # or code = "BN103"; globs are fine
    scenario = "all-ones"
    targets = ["mxnet*"]
    reason = "mxnet 1 is archived; we flush in our own loop"
    expires = 2027-01-31
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

from bncheck.errors import ConfigurationError
from bncheck.finding import CAUSES
from bncheck.gate.bar import FAIL_ON
from bncheck.gate.waiver import Waiver
from bncheck.scenario import Tolerance
from bncheck.scenario_files.files import written
from bncheck.scenario_files.schema import Fault, shown, unknown
from bncheck.scenario_files.toml_lines import KeyPath, key_lines, line_of

MOST_BYTES = 4_000_000
TABLE = ("tool", "bncheck")
WAIVER_KEYS = ("cause", "code", "scenario", "case", "targets", "reason", "expires")
REMEDY = "correct the file; the command line's options of the same names are in: bncheck run --help"


@dataclass(frozen=True)
class Configuration:
    """None and empty: the file does not say. Paths are absolute; ``path`` is the file itself."""

    path: Path | None = None
    targets: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    tolerance: Tolerance = field(default_factory=Tolerance)
    fail_on: str | None = None
    timeout: float | None = None
    baseline: Path | None = None
    waivers: tuple[Waiver, ...] = ()


def find_configuration(start: Path) -> Configuration:
    """What the nearest pyproject.toml at or above ``start`` says; the defaults when there is none."""
    for folder in (start.resolve(), *start.resolve().parents):
        path = folder / "pyproject.toml"
        if path.is_file():
            return read_configuration(path)
    return Configuration()


def read_configuration(path: Path) -> Configuration:
    """Raises ConfigurationError that lists every fault as ``file:line: key: what is wrong``."""
    text = read_text(path)
    table = parse(path, text).get("tool", {})
    table = table.get("bncheck", {}) if isinstance(table, dict) else {}
    sheet = Sheet(path, text, TABLE)
    if not isinstance(table, dict):
        sheet.fault((), "is not a table", "[tool.bncheck]")
        table = {}
    found = read_table(sheet, table)
    sheet.stop()
    if isinstance(table.get("waivers"), str):
        found = replace(found, waivers=read_waivers(path.parent / table["waivers"]))
    return found


def read_table(sheet: Sheet, table: Mapping[str, Any]) -> Configuration:
    folder = sheet.path.parent
    readers: dict[str, Callable[[KeyPath, Any], Any]] = {
        "targets": sheet.texts,
        "optional": sheet.texts,
        "scenarios": sheet.texts,
        "tolerances": sheet.tolerance,
        "fail-on": sheet.level,
        "timeout": sheet.positive,
        "baseline": sheet.text,
        "waivers": sheet.waivers,
    }
    values = sheet.read((), table, readers)
    return Configuration(
        path=sheet.path,
        targets=values.get("targets") or (),
        optional=values.get("optional") or (),
        scenarios=tuple(beside(folder, name) for name in values.get("scenarios") or ()),
        tolerance=values.get("tolerances") or Tolerance(),
        fail_on=values.get("fail-on"),
        timeout=values.get("timeout"),
        baseline=folder / values["baseline"] if values.get("baseline") else None,
        waivers=values.get("waivers") or (),
    )


def beside(folder: Path, name: str) -> str:
    """A path as seen from pyproject.toml; a bare name stays a shipped scenario's name."""
    return str(folder / name) if name.endswith(".toml") or "/" in name else name


def read_waivers(path: Path) -> tuple[Waiver, ...]:
    """A waiver file: ``[[waivers]]`` tables and nothing else."""
    text = read_text(path)
    sheet = Sheet(path, text, ())
    values = sheet.read((), parse(path, text), {"waivers": sheet.waivers})
    sheet.stop()
    return values.get("waivers") or ()


def read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigurationError(f"{path} is {path.stat().st_size:,} bytes long", "name another file")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigurationError(f"There is no file {path}.", "check the path; it starts at pyproject.toml") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}", "check its permissions") from None


def parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: this is not valid TOML: {error}", "see toml.io for the format") from None


class Sheet:
    """One file being read: readers take a key's path and value, collect faults, and give None for what is wrong."""

    def __init__(self, path: Path, text: str, base: KeyPath) -> None:
        self.path, self.base = path, base
        self.lines = key_lines(text)
        self.faults: list[tuple[int, str]] = []

    def line(self, path: KeyPath) -> int:
        return line_of(self.lines, (*self.base, *path)) or 1

    def fault(self, path: KeyPath, message: str, allowed: str = "", suggestion: str = "") -> Any:
        """Keep a fault; gives None, for the value that is not there."""
        line = self.line(path)
        sentence = Fault(path, message, allowed, suggestion)
        self.faults.append((line, f"{self.path}:{line}: {written((*self.base, *path))}: {sentence}"))
        return None

    def stop(self) -> None:
        if self.faults:
            raise ConfigurationError("\n".join(text for _, text in sorted(self.faults)), REMEDY)

    def read(
        self, path: KeyPath, table: Mapping[str, Any], readers: Mapping[str, Callable[[KeyPath, Any], Any]]
    ) -> dict[str, Any]:
        found = {}
        for key, value in table.items():
            if key in readers:
                found[key] = readers[key]((*path, key), value)
            else:
                fault = unknown((*path, key), "key", key, readers)
                self.fault(fault.path, fault.message, fault.allowed, fault.suggestion)
        return found

    # -- readers ----------------------------------------------------------------------------------------------

    def text(self, path: KeyPath, value: Any) -> Any:
        if isinstance(value, str) and value.strip():
            return value
        return self.fault(path, f"{shown(value)} is not a text")

    def texts(self, path: KeyPath, value: Any) -> Any:
        if not isinstance(value, list):
            return self.fault(path, f"{shown(value)} is not a list", '["…", "…"]')
        return tuple(text for index, item in enumerate(value) if (text := self.text((*path, index), item)) is not None)

    def number(self, path: KeyPath, value: Any) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
            return float(value)
        return self.fault(path, f"{shown(value)} is not a number of 0 or more")

    def positive(self, path: KeyPath, value: Any) -> Any:
        found = self.number(path, value)
        return self.fault(path, "0 is too small", "seconds, above 0") if found == 0 else found

    def level(self, path: KeyPath, value: Any) -> Any:
        if isinstance(value, str) and value in FAIL_ON:
            return value
        fault = unknown(path, "level", value, FAIL_ON)
        return self.fault(path, fault.message, fault.allowed, fault.suggestion)

    def tolerance(self, path: KeyPath, value: Any) -> Any:
        if not isinstance(value, dict):
            return self.fault(path, f"{shown(value)} is not a table", "{ rtol = 1e-5, atol = 1e-6 }")
        found = self.read(path, value, {"rtol": self.number, "atol": self.number})
        return Tolerance(found.get("rtol"), found.get("atol"))

    def cause(self, path: KeyPath, value: Any) -> Any:
        """One of the causes, or a glob over them; a mistyped one would waive nothing and nobody would know why."""
        text = self.text(path, value)
        known = (*CAUSES, "expectation", "drift")
        if text is None or text in known or any(char in text for char in "*?["):
            return text
        fault = unknown(path, "cause", text, known)
        return self.fault(path, fault.message, fault.allowed, fault.suggestion)

    def day(self, path: KeyPath, value: Any) -> Any:
        if isinstance(value, date) and not isinstance(value, datetime):
            return value
        return self.fault(path, f"{shown(value)} is not a date", "a day without quotes, for example 2027-01-31")

    def waivers(self, path: KeyPath, value: Any) -> Any:
        if isinstance(value, str) and self.base:
            return ()  # a file of its own; read once this one is known to be right
        if not isinstance(value, list):
            what = f"[[{written((*self.base, *path))}]]" + (", or the path of a waiver file" if self.base else "")
            return self.fault(path, f"{shown(value)} is not a list of waivers", what)
        return tuple(self.each_waiver(path, value))

    def each_waiver(self, path: KeyPath, value: list[Any]) -> Iterator[Waiver]:
        for index, item in enumerate(value):
            place = (*path, index)
            if not isinstance(item, dict):
                self.fault(place, f"{shown(item)} is not a table", ", ".join(WAIVER_KEYS))
                continue
            found = self.read(
                place,
                item,
                {
                    "cause": self.cause,
                    "code": self.text,
                    "scenario": self.text,
                    "case": self.text,
                    "targets": self.texts,
                    "reason": self.text,
                    "expires": self.day,
                },
            )
            if ("cause" in item) == ("code" in item):
                self.fault(place, "needs a cause or a code, one of them", 'cause = "update-phase" or code = "BN103"')
            for key, form in (("reason", 'reason = "why it is accepted"'), ("expires", "expires = 2027-01-31")):
                if key not in item:
                    self.fault(place, f"has no {key}; it is required", form)
            if not all(found.get(key) for key in ("reason", "expires")):
                continue
            yield Waiver(
                cause=found.get("cause") or found.get("code") or "",
                reason=found["reason"],
                expires=found["expires"],
                scenario=found.get("scenario") or "*",
                case=found.get("case") or "*",
                targets=found.get("targets") or (),
                where=f"{self.path.name}:{self.line(place)}",
            )
