"""A scenario file's matrix: dotted paths into the raw document, their values, the product of them.

An axis of ``[matrix]`` is a dotted path with a list of values (``"program.events" = [[…], […]]``), or a free
name whose values are tables of dotted paths, so that keys which belong together move together:

    path = [{ "input.shape" = [6, 3] }, { "input.shape" = [2, 3, 3], "network.layers.bn.axis" = -1 }]

``[matrix.labels]`` may give an axis a list of names, one per value.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from bncheck.errors import nearest
from bncheck.scenario_files.schema import TOP_LEVEL, Fault, shown, unknown
from bncheck.scenario_files.toml_lines import KeyPath, split_key

MOST_CASES = 100_000


class PathError(Exception):
    """A dotted path that leads nowhere in this document."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


@dataclass(frozen=True)
class Axis:
    """One axis: its key, where it stands in the file, its values and their labels (for people)."""

    key: str
    place: KeyPath
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    bundle: bool = False  # a free name; each value is a table of dotted paths

    def settings(self, index: int) -> Mapping[str, Any]:
        value = self.values[index]
        return value if self.bundle else {self.key: value}

    def decides(self, key: str) -> bool:
        """True if every value of the axis sets ``key`` itself or something around it."""
        return all(
            any(f"{key}.".startswith(f"{name}.") for name in self.settings(index)) for index in range(len(self.values))
        )

    def reported(self, index: int) -> Any:
        """What a case's ``matrix`` shows: the value, or the label that stands for a bundle."""
        return self.labels[index] if self.bundle else self.values[index]


@dataclass(frozen=True)
class Point:
    """One point of the matrix: the document with the values put in, and where each of them came from."""

    raw: dict[str, Any]
    values: Mapping[str, Any]
    name: str
    label: str
    origins: Mapping[KeyPath, KeyPath] = field(default_factory=dict)  # path set → place in [matrix]
    faults: tuple[Fault, ...] = ()


def read_axes(matrix: Any) -> tuple[list[Axis], list[Fault]]:
    """Axes of a raw ``[matrix]`` table, and what is wrong with it."""
    if not isinstance(matrix, dict):
        return [], [Fault(("matrix",), f"must be a table, not {shown(matrix)}")]
    labels = matrix.get("labels", {})
    faults: list[Fault] = []
    if not isinstance(labels, dict):
        faults.append(Fault(("matrix", "labels"), "must be a table of lists, one name per value"))
        labels = {}
    named = {key: (place, value) for key, place, value in _flat(labels, ("matrix", "labels"))}
    rest = {key: value for key, value in matrix.items() if key != "labels"}
    axes: list[Axis] = []
    for key, place, values in _flat(rest, ("matrix",)):
        axis = _axis(key, place, values, named.pop(key, (place, None)), faults)
        if axis:
            axes.append(axis)
    keys = [axis.key for axis in axes]
    faults += [unknown(place, "axis", key, keys) for key, (place, _) in named.items()]
    return axes, faults


def _flat(table: Mapping[str, Any], place: KeyPath) -> Iterator[tuple[str, KeyPath, Any]]:
    """Keys of nested tables joined by dots, so that an unquoted dotted key means the same as a quoted one."""
    for key, value in table.items():
        if isinstance(value, dict):
            for inner, inner_place, found in _flat(value, (*place, key)):
                yield f"{key}.{inner}", inner_place, found
        else:
            yield key, (*place, key), value


def _axis(key: str, place: KeyPath, values: Any, names: tuple[KeyPath, Any], faults: list[Fault]) -> Axis | None:
    """One axis, or None with what is wrong with it put into ``faults``; ``names`` are its labels and their place."""
    given_place, given = names
    if not isinstance(values, list):
        faults.append(Fault(place, f"must be a list of values, not {shown(values)}"))
        return None
    if not values:
        faults.append(Fault(place, "an empty list leaves no case to run", "at least one value"))
        return None
    try:
        top = split_key(key)[0]
    except ValueError as error:
        faults.append(Fault(place, str(error)))
        return None
    if top in ("matrix", "expect", "title", "why"):
        faults.append(Fault(place, f'"{top}" is the same for all cases and cannot be varied'))
        return None
    bundle = top not in TOP_LEVEL and all(isinstance(value, dict) for value in values)
    if given is not None and not (
        isinstance(given, list) and len(given) == len(values) and all(isinstance(name, str) for name in given)
    ):
        faults.append(Fault(given_place, f"must be a list of {len(values)} names, one for each value of the axis"))
        given = None
    labels = given or [_label(key, value, bundle) for value in values]
    return Axis(key=key, place=place, values=tuple(values), labels=tuple(labels), bundle=bundle)


def fix_axis(axes: list[Axis], key: str, value: Any) -> list[Axis]:
    """Axes after an override from the command line: the overridden axis keeps that one value."""
    return [
        Axis(key=key, place=axis.place, values=(value,), labels=(_label(key, value, False),))
        if axis.key == key
        else axis
        for axis in axes
    ]


def points(raw: Mapping[str, Any], axes: list[Axis]) -> Iterator[Point]:
    """Every point of the product of ``axes``, in the file's order, the last axis fastest."""
    base = {key: value for key, value in raw.items() if key != "matrix"}
    used: dict[str, int] = {}
    for indices in itertools.product(*(range(len(axis.values)) for axis in axes)):
        document = copy.deepcopy(base)
        faults: list[Fault] = []
        origins: dict[KeyPath, KeyPath] = {}
        for axis, index in zip(axes, indices, strict=True):
            place = (*axis.place, index)
            for key, value in axis.settings(index).items():
                try:
                    origins[set_value(document, key, copy.deepcopy(value))] = place
                except PathError as error:
                    faults.append(Fault(place, error.fault.message, error.fault.allowed, error.fault.suggestion))
        chosen = list(zip(axes, indices, strict=True))
        labels = [axis.labels[index] for axis, index in chosen]
        yield Point(
            document,
            {axis.key: axis.reported(index) for axis, index in chosen},
            _unique("--".join(_slug(label) for label in labels) or "base", used),
            ", ".join(labels) or "as written",
            origins,
            tuple(faults),
        )


def set_value(document: dict[str, Any], key: str, value: Any) -> KeyPath:
    """Put ``value`` at a dotted path; lists take an index or, for tables with a name, that name.

    Returns the path as the document's own keys and indices. Missing tables are made: whether the key may
    exist is the schema's business. Raises PathError when the path runs through something that has no inside.
    """
    try:
        parts = split_key(key)
    except ValueError as error:
        raise PathError(Fault((), str(error))) from error
    here: Any = document
    path: list[str | int] = []
    for number, part in enumerate(parts):
        step = _step(here, part, path)
        path.append(step)
        if number == len(parts) - 1:
            here[step] = value
        elif isinstance(here, dict):
            here = here.setdefault(step, {})
        else:
            here = here[step]
    return tuple(path)


def _step(here: Any, part: str, path: list[str | int]) -> str | int:
    where = ".".join(map(str, path))
    if isinstance(here, dict):
        return part
    if not isinstance(here, list):
        raise PathError(Fault(tuple(path), f'"{where}" is {shown(here)}; it has no "{part}" inside'))
    if re.fullmatch(r"-?\d+", part):
        if -len(here) <= int(part) < len(here):
            return int(part) % len(here)
        raise PathError(Fault(tuple(path), f'"{where}" has {len(here)} entries, so there is no entry {part}'))
    names = [item["name"] for item in here if isinstance(item, dict) and isinstance(item.get("name"), str)]
    if part in names:
        return next(i for i, item in enumerate(here) if isinstance(item, dict) and item.get("name") == part)
    allowed = ", ".join([*names, f"0 to {len(here) - 1}"] if here else names)
    raise PathError(Fault(tuple(path), f'"{where}" has no entry "{part}"', allowed, nearest(part, names)))


def _label(key: str, value: Any, bundle: bool) -> str:
    """A value in words: events joined by plus signs, the batch size as n, other keys by their last part."""
    if bundle:
        return ", ".join(_label(inner, found, False) for inner, found in value.items())
    if key.startswith("program.") and isinstance(value, list):
        names = [str(item.get("event", "?")) if isinstance(item, dict) else str(item) for item in value]
        return " + ".join(name.removeprefix("train_") for name in names) or "nothing"
    if isinstance(value, list) and value and all(isinstance(item, int) for item in value):
        return "×".join(map(str, value)) if key.endswith("shape") else f"{_last(key)} {value}"
    if isinstance(value, str):
        return PurePath(value).name if PurePath(value).is_absolute() else value
    if isinstance(value, bool):
        return f"{_last(key)} {'on' if value else 'off'}"
    return f"{_last(key)} {value}"


def _last(key: str) -> str:
    try:
        parts = split_key(key)
    except ValueError:  # one of a bundle that is said to be no key where it is put in
        return key[:60]
    if len(parts) > 1 and parts[-2] == "shape":
        return "n" if parts[-1] == "0" else f"axis {parts[-1]}"
    return parts[-1].replace("_", " ")


def _slug(label: str) -> str:
    text = label.lower().replace("×", "x").replace(" -", " minus ")
    return re.sub(r"[^a-z0-9.]+", "-", text).strip("-.")[:60].rstrip("-.") or "value"


def _unique(name: str, used: dict[str, int]) -> str:
    """``name``, with a number behind it when it is taken; folders are named by it, so it also stays short."""
    name = name[:100].rstrip("-.")
    found, count = name, used.get(name, 1)
    while found in used:  # counting on from where this name stood: thousands of cases can have the same
        count += 1
        found = f"{name}-{count}"
    used[name] = count
    used[found] = used.get(found, 1)
    return found
