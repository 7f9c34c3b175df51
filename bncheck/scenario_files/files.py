"""Scenario files: find them, read them, expand their matrix into cases, and say what is wrong with them.

Order of work: TOML → overrides (``--set``) → matrix axes → for every point: models (``schema.py``) →
case (``checks.py``). Faults are collected over all points and come out as one ScenarioError, each with
its line.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bncheck.bounded import is_regular, read_bounded
from bncheck.environments.backend_file import BackendFile
from bncheck.errors import ScenarioError
from bncheck.scenario import Case, Event, Expect, Network, Scenario, Tolerance, is_file
from bncheck.scenario_files.checks import (
    build_events,
    build_inputs,
    build_network,
    build_steps,
    expect_rules,
    fill_channels,
    replica_rules,
    size_rules,
    written_events,
)
from bncheck.scenario_files.matrix import MOST_CASES, Axis, PathError, Point, fix_axis, points, read_axes, set_value
from bncheck.scenario_files.overrides import SET_REMEDY, SHOWN_BY
from bncheck.scenario_files.schema import (
    Document,
    ExpectTable,
    Fault,
    read_document,
    read_expects,
    shown,
    unknown,
)
from bncheck.scenario_files.targets import target_rules
from bncheck.scenario_files.toml_lines import KeyPath, key_lines, line_of, written
from bncheck.scenario_files.toml_text import TomlFault, read_toml

FILE_KEYS = ("network.custom", "network.file", "network.model")
MOST_BYTES = 1_000_000
# A matrix of thousands of cases that share one fault says it once; one with many different ones stops here.
MOST_FAULTS = 50
REMEDY = f"correct the file; {SHOWN_BY}"


def load_scenario(
    path: Path,
    overrides: Mapping[str, Any] = {},
    missing_files: bool = False,
    backends: Mapping[str, BackendFile] | None = None,
) -> Scenario:
    """Read and expand a scenario file; ``overrides`` are dotted paths with values, as ``--set`` gives them.
    With ``missing_files``, those that networks name need not exist: it was played elsewhere. ``backends`` are those
    whose targets it may name (None: not checked, as for a file that is only looked at).

    Raises ScenarioError that lists every fault as ``file:line: key: what is wrong; allowed; did you mean``.
    """
    text = read_text(path)
    raw = _parse(path, text)
    faults = _Faults(path, text, overrides)
    axes, found = read_axes(raw.get("matrix", {}))
    faults.add(found)
    original = axes
    for key, value in overrides.items():
        if any(axis.key == key for axis in axes):
            axes = fix_axis(axes, key, _from_here(key, value))
            continue
        for axis in axes:
            if axis.decides(key):
                text = f'every case has its own, from the matrix\'s "{axis.key}"; this would change nothing'
                faults.add([Fault((), text, f"--set {axis.key}=..., which leaves one case for that axis")], key)
        try:
            faults.overridden[set_value(raw, key, _from_here(key, copy.deepcopy(value)))] = key
        except PathError as error:
            faults.add([error.fault], override=key)
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST_CASES:
        faults.add([Fault(("matrix",), f"makes {count:,} cases; at most {MOST_CASES:,} are run")])
        faults.stop()
    cases = []
    parts: dict[str, Any] = {}
    document: Document | None = None
    for point in points(raw, axes):
        case, found, read = _case(path, point, overrides, missing_files)
        document = document or read
        faults.add([*point.faults], origins=point.origins)
        faults.add(found, origins=point.origins)
        if case and not faults:
            cases.append(share(case, parts))
        if len(faults.lines) >= MOST_FAULTS:
            break
    tables = read_expects(raw)
    faults.add(list(expect_rules(tables)))
    if backends is not None and document is not None:
        faults.add(list(target_rules(document.targets, tables, backends)))
    expected, found = _expected(tables, original)
    faults.add(found)
    faults.stop()
    assert document is not None
    return Scenario(
        name=path.stem,
        title=document.title,
        why=document.why,
        cases=tuple(cases),
        expect=expected,
        tolerance=Tolerance(document.tolerance.rtol, document.tolerance.atol),
        default=document.default,
        probe=document.probe,
        targets=tuple(document.targets),
        tags=tuple(document.tags),
        path=str(path),
        remarks=document.remarks,
        check_order=document.check_order,
    )


def share(case: Case, parts: dict[str, Any]) -> Case:
    """The case with parts of earlier cases where it has the same: 1,000 seeds need one network and one program.

    The same is what is written the same, so that 1, 1.0 and true stay what they are.
    """
    inputs = {name: parts.setdefault(repr(spec), spec) for name, spec in case.inputs.items()}
    network, events, steps = (parts.setdefault(repr(part), part) for part in (case.network, case.events, case.steps))
    return dataclasses.replace(case, network=network, events=events, inputs=inputs, steps=steps)


def _from_here(key: str, value: Any) -> Any:
    """A file named on the command line is looked up from where the user stands, not from the scenario's folder."""
    here = key in FILE_KEYS and isinstance(value, str) and is_file(value)
    return str(Path(value).absolute()) if here else value


def read_text(path: Path) -> str:
    """ScenarioError for a file that is missing, too large, or no text."""
    try:
        return read_bounded(path, MOST_BYTES).decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise ScenarioError(f"there is no scenario file {path}", "bncheck list names the shipped ones") from None
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path} is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None
    except OSError as error:
        raise ScenarioError(f"{path} cannot be read: {error.strerror}", "check the path and its permissions") from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return read_toml(text)
    except TomlFault as fault:
        raise ScenarioError(f"{path}:{fault.line}: {fault.sentence}", "see toml.io for the format") from None


def _case(
    path: Path, point: Point, overrides: Mapping[str, Any], missing_files: bool
) -> tuple[Case | None, list[Fault], Document | None]:
    """One point of the matrix as a case, or what is wrong with it."""
    document, faults = read_document(point.raw)
    if document is None:
        return None, faults, None
    network, faults = build_network(document)
    inputs, found = build_inputs(document, network)
    faults += found
    events, found = build_events(document, inputs)
    faults += found
    faults += [] if missing_files else list(_paths(path, document, overrides))
    if not faults:
        layers, found = fill_channels(network, inputs)
        faults += found
        faults += [*replica_rules(network, inputs), *(() if found else size_rules(layers, inputs, events))]
        network = _located(path, dataclasses.replace(network, layers=layers))
        events = tuple(_with_file(path, event) for event in events)
    if faults:
        return None, faults, document
    steps = build_steps(document)
    case = Case(
        scenario=path.stem,
        name=point.name,
        label=point.label,
        matrix=point.values,
        network=network,
        inputs=inputs,
        events=events,
        dtype=document.dtype,
        steps=steps,
    )
    return case, [], document


def _located(path: Path, network: Network) -> Network:
    """Files with their whole path: a worker runs in a folder of its own."""
    folder = path.absolute().parent
    names = (network.custom, network.file, network.model)
    custom, file, model = (str(folder / name) if name and is_file(name) else name for name in names)
    return dataclasses.replace(network, custom=custom, file=file, model=model)


def _with_file(path: Path, event: Event) -> Event:
    """An event with the whole path of the file whose function it calls."""
    function = event.arguments.get("function")
    if function is None:
        return event
    located = {**event.arguments, "function": str(path.absolute().parent / function)}
    return dataclasses.replace(event, arguments=located)


def _paths(path: Path, document: Document, overrides: Mapping[str, Any]) -> Iterator[Fault]:
    """Files that the network names lie beside the scenario or below; only ``--set`` may name any file."""
    table = document.network
    code = {key: name.rpartition(":")[0] for key, name in (("custom", table.custom), ("model", table.model)) if name}
    for key, name in {**code, "file": table.file}.items():
        if not name:
            continue
        if key == "custom" and not is_file(table.custom or ""):
            if "network.custom" not in overrides:
                text = f'"{table.custom}" is code of an installed package, which no scenario may name by itself'
                yield Fault(("network", key), text, "a file beside the scenario, or --set network.custom=...")
            continue
        outside = Path(name).is_absolute() or ".." in Path(name).parts
        if outside and f"network.{key}" not in overrides:
            text = f'"{name}" lies outside of the scenario\'s folder'
            yield Fault(("network", key), text, f"a file beside the scenario, or --set network.{key}=...")
        elif not is_regular(path.parent / name):
            yield Fault(("network", key), f"there is no file {shown(name)}")
    for place, event in written_events(document):
        name = (event.function or "").rpartition(":")[0]
        if name and (Path(name).is_absolute() or ".." in Path(name).parts):
            text = f'"{name}" lies outside of the scenario\'s folder'
            yield Fault((*place, "function"), text, "a file beside the scenario")
        elif name and not is_regular(path.parent / name):
            yield Fault((*place, "function"), f"there is no file {shown(name)}")


def _expected(tables: Mapping[int, ExpectTable], axes: list[Axis]) -> tuple[tuple[Expect, ...], list[Fault]]:
    """Expectations, their ``when`` turned into values as a case's ``matrix`` shows them (labels may be written)."""
    by_key = {axis.key: axis for axis in axes}
    found, faults = [], []
    for index, table in tables.items():
        when = {}
        for key, value in table.when.items():
            place: KeyPath = ("expect", index, "when", key)
            axis = by_key.get(key)
            if axis is None:
                faults.append(unknown(place, "axis of the matrix", key, by_key))
            elif value in axis.values:
                when[key] = axis.reported(axis.values.index(value))
            elif value in axis.labels:
                when[key] = axis.reported(axis.labels.index(value))
            else:
                faults.append(Fault(place, f"{shown(value)} is no value of that axis", ", ".join(axis.labels)))
        causes = (*([table.cause] if table.cause else []), *table.causes)
        found.append(Expect(between=(table.between[0], table.between[1]), causes=causes, agree=table.agree, when=when))
    return tuple(found), faults


class _Faults:
    """The faults of one file, each once, as lines ``file:line: key: sentence``."""

    def __init__(self, path: Path, text: str, overrides: Mapping[str, Any]) -> None:
        self.path, self.text, self.overrides = path, text, overrides
        self.overridden: dict[KeyPath, str] = {}  # path in the document → key of the override
        self.lines: dict[str, int] = {}
        self._known: dict[KeyPath, int] | None = None

    def __bool__(self) -> bool:
        return bool(self.lines)

    def add(self, found: list[Fault], override: str = "", origins: Mapping[KeyPath, KeyPath] = {}) -> None:
        for one in found:
            where, line = self._where(one.path, override, origins)
            self.lines.setdefault(f"{where}: {one}", line)

    def _where(self, path: KeyPath, override: str, origins: Mapping[KeyPath, KeyPath]) -> tuple[str, int]:
        """``file:line: key`` and the line; a value from the command line has its ``--set key`` and line 0."""
        for place, origin in origins.items():
            if path[: len(place)] == place:
                path = (*origin, *path[len(place) :])
        override = override or self._override(path)
        if override:
            return f"--set {override}", 0
        if self._known is None:
            self._known = key_lines(self.text)
        line = line_of(self._known, path)
        if line is None:  # the file has no such table: an override may have made it (progam.repeat)
            made = next((key for place, key in self.overridden.items() if place[: len(path)] == path), "")
            if made:
                return f"--set {made}", 0
        return f"{self.path}:{line or 1}: {written(path)}", line or 1

    def _override(self, path: KeyPath) -> str:
        if path[:1] == ("matrix",) and len(path) > 1 and path[1] in self.overrides:
            return str(path[1])  # an axis that was given one value
        return next((key for place, key in self.overridden.items() if place == path[: len(place)]), "")

    def stop(self) -> None:
        if self.lines:
            ordered = sorted(self.lines, key=lambda text: self.lines[text])
            # Line 0: the command line said it, and there is nothing in the file to correct.
            raise ScenarioError("\n".join(ordered), REMEDY if any(self.lines.values()) else SET_REMEDY)
