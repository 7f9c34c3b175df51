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

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bncheck.bounded import read_bounded
from bncheck.errors import ConfigurationError
from bncheck.gate.config_schema import ProjectTable, WaiverFile, WaiverTable, read_table
from bncheck.gate.configuration import Configuration
from bncheck.gate.waiver import Waiver
from bncheck.scenario import Tolerance
from bncheck.scenario_files.schema import Fault, Table
from bncheck.scenario_files.toml_lines import KeyPath, key_lines, line_of, written
from bncheck.scenario_files.toml_text import TomlFault, read_toml

MOST_BYTES = 1_000_000
TABLE = ("tool", "bncheck")
REMEDY = "correct the file; the command line's options of the same names are in: bncheck run --help"


def read_configuration(path: Path) -> Configuration:
    """Raises ConfigurationError that lists every fault as ``file:line: key: what is wrong``."""
    text = read_text(path)
    table = parse(path, text, TABLE).get("tool", {})
    table = table.get("bncheck", {}) if isinstance(table, dict) else {}
    sheet, folder = Sheet(path, key_lines(text), TABLE), path.parent
    if not isinstance(table, dict):
        raise sheet.error([Fault((), "is not a table", "[tool.bncheck]")])
    # Waivers in a file of their own are read once this one is known to be right.
    apart = table.pop("waivers") if isinstance(table.get("waivers"), str) else None
    found = sheet.read(ProjectTable, table)
    return Configuration(
        path=path,
        targets=found.targets,
        optional=found.optional,
        scenarios=tuple(beside(folder, name) for name in found.scenarios),
        tolerance=Tolerance(rtol=found.tolerances.rtol, atol=found.tolerances.atol),
        fail_on=found.fail_on,
        timeout=found.timeout,
        baseline=folder / found.baseline if found.baseline else None,
        waivers=sheet.waivers(found.waivers) if apart is None else read_waivers(folder / apart),
    )


def beside(folder: Path, name: str) -> str:
    """A path as seen from pyproject.toml; a bare name stays a shipped scenario's name."""
    return str(folder / name) if name.endswith(".toml") or "/" in name else name


def read_waivers(path: Path) -> tuple[Waiver, ...]:
    """A waiver file: ``[[waivers]]`` tables and nothing else."""
    text = read_text(path)
    raw = parse(path, text)
    sheet = Sheet(path, key_lines(text), ())
    return sheet.waivers(sheet.read(WaiverFile, raw).waivers)


def read_text(path: Path) -> str:
    try:
        return read_bounded(path, MOST_BYTES).decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise ConfigurationError(f"There is no file {path}.", "check the path; it starts at pyproject.toml") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}", "check the path, and what is there"
        ) from None


def parse(path: Path, text: str, of: KeyPath = ()) -> dict[str, Any]:
    try:
        return read_toml(text, of)
    except TomlFault as fault:
        raise ConfigurationError(f"{path}:{fault.line}: {fault.sentence}", "see toml.io for the format") from None


Read = TypeVar("Read", bound=Table)


@dataclass(frozen=True)
class Sheet:
    """One file with the lines of its keys; ``base`` is the table of it that is read."""

    path: Path
    lines: dict[KeyPath, int]
    base: KeyPath

    def line(self, place: KeyPath) -> int:
        return line_of(self.lines, (*self.base, *place)) or 1

    def read(self, model: type[Read], raw: Mapping[str, Any]) -> Read:
        """The table as a model; raises ConfigurationError with every fault."""
        found, faults = read_table(model, raw)
        if found is None:
            raise self.error(faults)
        return found

    def error(self, faults: Iterable[Fault]) -> ConfigurationError:
        """The faults in the order of their lines, as ``file:line: key: sentence``."""
        told = sorted((self.line(each.path), f"{written((*self.base, *each.path))}: {each}") for each in faults)
        return ConfigurationError("\n".join(f"{self.path}:{line}: {sentence}" for line, sentence in told), REMEDY)

    def waivers(self, tables: Iterable[WaiverTable]) -> tuple[Waiver, ...]:
        return tuple(
            Waiver(
                cause=item.cause or item.code or "",
                reason=item.reason,
                expires=item.expires,
                scenario=item.scenario,
                case=item.case,
                targets=item.targets,
                where=f"{self.path.name}:{self.line(('waivers', index))}",
            )
            for index, item in enumerate(tables)
        )
