"""``run.json``: what was played and what was found, as frozen data that is written and read back.

A run folder may come from anywhere (a CI artifact, a colleague), so it is untrusted input: types are checked, and what
is wrong with it is said in a sentence (:class:`RunFolderError`).

JSON knows no NaN: non-finite numbers are the strings ``"nan"``, ``"inf"`` and ``"-inf"``.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from bncheck.bounded import read_bounded
from bncheck.convention import Convention
from bncheck.errors import RunFolderError
from bncheck.evidence import Drift
from bncheck.finding import Finding
from bncheck.run_folder.drift_table import DriftTable
from bncheck.run_folder.whole import write_whole
from bncheck.trace import Place

FORMAT = 1
PLAYED = ("ok", "raised")  # outcomes of a cell that a worker saw through to its end
CRASHED = ("crashed", "timeout")
SINGLE = ("str", "int", "float", "bool", "int | None", "float | None", "bool | None")  # annotations of single values
# What bncheck itself says of somebody's file: no word about the framework that should have taken it.
OUR_ERRORS = ("FileError", "CustomLayerError")
# Ten times what a run of 10,000 cells writes; more than this was not written by us.
MAX_RUN_JSON = 512 * 1024**2


@dataclass(frozen=True)
class TargetResult:
    """One column of the run. ``slug`` names its folder; ``remedy`` is the command that makes it available."""

    name: str
    slug: str
    backend: str
    variant: str = ""
    version: str = ""  # as the framework itself reports it
    device: str = "cpu"
    python: str = ""
    status: str = "ok"  # or unavailable
    reason: str = ""
    remedy: str = ""
    simulated: bool = False  # simulated in NumPy under another framework's conventions
    environment: Mapping[str, Any] = field(default_factory=dict)
    measured_on: str = ""  # the day (UTC) on which its probes were played, where an earlier run played them

    @property
    def label(self) -> str:
        """Name with version and device, so that a picture or a column stands alone."""
        version = "" if not self.version or self.version in self.name else f" {self.version}"
        device = "" if f"@{self.device}" in self.name or not self.device else f"@{self.device}"
        return f"{self.name}{version}{device}{' (simulated)' if self.simulated else ''}"


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case: ``name`` is its slug within the scenario, ``ops`` the event names in order."""

    name: str
    label: str = ""
    matrix: Mapping[str, Any] = field(default_factory=dict)
    ops: tuple[str, ...] = ()
    dtype: str = "float32"
    inputs: Mapping[str, Any] = field(default_factory=dict)  # input name → shape and fill, for people
    # The last event of each step (a repeat of the program); empty: every event is a step.
    steps: tuple[int, ...] = ()

    def step_of(self, event: int) -> int:
        """The step that ``event`` belongs to: 0 is the initial state, 1 the first repeat of the program."""
        return bisect_left(self.steps, event) + 1 if self.steps and event >= 0 else event + 1

    def rows(self, points: int) -> list[int]:
        """Rows of a (T+1, C) state array at the initial state and at the end of each step."""
        ends = [end + 1 for end in self.steps if 0 <= end < points - 1]
        return [0, *ends] if ends and points else list(range(points))


@dataclass(frozen=True)
class Expectation:
    """What the scenario's author expected, and whether it is so. None: it was not checked, for ``reason``, or because
    one of the two targets was not there."""

    between: tuple[str, str]
    causes: tuple[str, ...] = ()
    agree: bool = False
    when: Mapping[str, Any] = field(default_factory=dict)
    met: bool | None = None
    found: tuple[str, ...] = ()  # causes that were found instead, or as well
    reason: str = ""


@dataclass(frozen=True)
class ScenarioResult:
    name: str
    title: str = ""
    why: str = ""
    remarks: str = ""
    cases: tuple[CaseResult, ...] = ()
    expectations: tuple[Expectation, ...] = ()
    # The bound |a − b| <= atol + rtol·|b| that verdicts used; None: not recorded, no band is drawn.
    rtol: float | None = None
    atol: float | None = None
    probe: bool = False  # ran in the background to measure conventions: its cells are not compared


@dataclass(frozen=True, slots=True)
class CellResult:
    """One case on one target; ``slug`` is the target's folder, ``event`` where it raised or died.

    ``origin`` says whose error it is (``worker/blame.py``; "": a run that does not say). ``remarks`` are sentences
    about what a layer of the user's was not asked, or was not tried. ``unsound`` are the places of its trace that hold
    NaN, Inf or a variance below zero. ``judged`` counts the layers inside a whole model that were held against what
    their framework documents, each by itself; where it is none, ``unjudged`` says why, layer by layer."""

    scenario: str
    case: str
    target: str
    slug: str
    outcome: str
    event: int | None = None
    error_type: str = ""
    error: str = ""
    seconds: float = 0.0
    origin: str = ""
    remarks: tuple[str, ...] = ()
    unsound: tuple[Place, ...] = ()
    judged: int = 0
    unjudged: tuple[str, ...] = ()


@dataclass(frozen=True)
class Results:
    """A parsed run.json. ``named_yardstick`` is the target that tables compare with ("": the first)."""

    version: str
    command: str
    created: str
    targets: tuple[TargetResult, ...]
    scenarios: tuple[ScenarioResult, ...]
    cells: tuple[CellResult, ...]
    drifts: Sequence[Drift] = ()
    conventions: tuple[Convention, ...] = ()
    findings: tuple[Finding, ...] = ()
    named_yardstick: str = ""
    format: int = FORMAT
    KEYS: ClassVar[Mapping[str, str]] = MappingProxyType({"named_yardstick": "baseline"})

    @cached_property
    def yardstick(self) -> str:
        """The target that tables compare the others with: the named one, else the first available; but one that played
        any of the cases that were asked for, where there is one (the reference cannot play a whole model)."""
        names = [target.name for target in self.targets if target.status == "ok"]
        names = [self.named_yardstick, *names] if self.named_yardstick in names else names
        probes = {scenario.name for scenario in self.scenarios if scenario.probe}
        played = {cell.target for cell in self.cells if cell.outcome in PLAYED and cell.scenario not in probes}
        return next((name for name in names if name in played), next(iter(names), ""))

    @cached_property
    def case_at(self) -> Mapping[tuple[str, str], CaseResult]:
        return {(scenario.name, case.name): case for scenario in self.scenarios for case in scenario.cases}

    @cached_property
    def cell_at(self) -> Mapping[tuple[str, str, str], CellResult]:
        return {(cell.scenario, cell.case, cell.target): cell for cell in self.cells}

    @cached_property
    def conventions_at(self) -> Mapping[str, Mapping[str, Convention]]:
        """target → layer path → convention, in the order of the run."""
        found: dict[str, dict[str, Convention]] = {}
        for convention in self.conventions:
            found.setdefault(convention.target, {})[convention.path] = convention
        return found

    @cached_property
    def drift_table(self) -> DriftTable:
        return self.drifts if isinstance(self.drifts, DriftTable) else DriftTable(self.drifts)

    def drifts_between(self, scenario: str, case: str, a: str, b: str) -> tuple[Drift, ...]:
        """The drifts of one pair in one case, in either order of a and b; empty where there are none."""
        return self.drift_table.between(scenario, case, a, b)

    @cached_property
    def findings_at(self) -> Mapping[tuple[str, str], tuple[Finding, ...]]:
        """(scenario, case) → findings of that case."""
        grouped: dict[tuple[str, str], list[Finding]] = {}
        for finding in self.findings:
            grouped.setdefault((finding.scenario, finding.case), []).append(finding)
        return {key: tuple(found) for key, found in grouped.items()}


# ------------------------------------------------------------------------------------------------------- writing


def write_results(results: Results, run_folder: Path) -> Path:
    """Write ``run.json``."""
    names = (item.name for item in fields(results) if item.name != "format")
    # `format` first: the one key a person or an older program has to see.
    return write_object(
        run_folder / "run.json",
        {"format": results.format, **{key_of(results, name): getattr(results, name) for name in names}},
    )


def key_of(record: Any, name: str) -> str:
    """The word of run.json for a field of a record or of its class: its name but where the code has another one."""
    return str(getattr(record, "KEYS", {}).get(name, name))


for kind in (Drift, Results):  # read by the same words; pydantic looks for them here
    setattr(kind, "__pydantic_config__", {"alias_generator": partial(key_of, kind)})  # noqa: B010


def write_object(path: Path, values: Mapping[str, Any]) -> Path:
    """Write a JSON object.

    One line per target, cell, drift, … : only one of them is in memory as text at a time (of 2,000 cells, all of them
    together took 40 MiB), and two runs can be compared line by line.
    """
    return write_whole(path, object_text(values))


def object_text(values: Mapping[str, Any]) -> Iterator[str]:
    for number, (name, value) in enumerate(values.items()):
        yield f'{"," if number else "{"}\n"{name}": '
        yield from value_text(value)
    yield "\n}\n"


def value_text(value: Any) -> Iterator[str]:
    if not records(value):
        yield dump(value)
        return
    for number, item in enumerate(value):
        yield ",\n " if number else "[\n "
        yield from item_text(item)
    yield "\n]"


def item_text(item: Any) -> Iterator[str]:
    """One line, but for a scenario: its cases have lines of their own."""
    kind: type = type(item)
    if not any(records(getattr(item, name)) for name in lists_of(kind)):
        yield dump(item)
        return
    for number, (name, key) in enumerate(words_of(kind)):
        yield f'{", " if number else "{"}"{key}": '
        yield from value_text(getattr(item, name))
    yield "}"


@cache
def words_of(kind: type) -> tuple[tuple[str, str], ...]:
    """(field, its word of run.json) of a kind of record: of thousands that are alike this is asked once."""
    return tuple((item.name, key_of(kind, item.name)) for item in fields(kind))


@cache
def lists_of(kind: type) -> tuple[str, ...]:
    """The fields of a kind of record that may hold records."""
    return tuple(item.name for item in fields(kind) if item.type not in SINGLE)


def records(value: Any) -> bool:
    """True for a sequence of frozen data."""
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0 and is_dataclass(value[0])


def dump(value: Any) -> str:
    """The JSON of ``plain(value)``, from the encoder itself where there is no NaN to be spelled: in a fifth of the
    time."""
    try:
        return ENCODER.encode(value)
    except ValueError:
        return json.dumps(plain(value), allow_nan=False, ensure_ascii=False)


def encodable(value: Any) -> Any:
    """What the encoder asks for where it has no word for a value: a record as an object, all else as in ``plain``."""
    if not is_dataclass(value) or isinstance(value, type):
        return plain(value)
    found = {key: getattr(value, name) for name, key in words_of(type(value))}
    if "environment" in found:
        found["environment"] = dict(sorted(found["environment"].items()))
    return found


ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, default=encodable)


def plain(value: Any) -> Any:
    """The JSON form of data: NumPy scalars become numbers, non-finite ones words.

    Mappings keep their order where it is somebody's choice (matrix, evidence, facets); environments are sorted.
    """
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else spell(value)
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        found = {key: plain(getattr(value, name)) for name, key in words_of(type(value))}
        if "environment" in found:
            found["environment"] = dict(sorted(found["environment"].items()))
        return found
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    return str(value)


def spell(number: float) -> str:
    return "nan" if math.isnan(number) else ("inf" if number > 0 else "-inf")


# ------------------------------------------------------------------------------------------------------- reading


def read_results(run_folder: Path) -> Results:
    """Parse ``run.json``. Raises RunFolderError that says what is wrong where, and what to do."""
    path = run_folder / "run.json"
    try:
        size = path.stat().st_size
        if size > MAX_RUN_JSON:
            raise RunFolderError(f"{path} has {size} bytes, which no run of bncheck writes", "run it again")
        raw = read_bounded(path, MAX_RUN_JSON)
    except (FileNotFoundError, NotADirectoryError) as error:
        if (run_folder / "plan.json").is_file():
            raise RunFolderError(
                f"{run_folder} has no run.json yet, like a run that was interrupted before its end",
                f"go on with: bncheck run --resume {run_folder}",
            ) from error
        raise RunFolderError(
            f"{run_folder} is not a run folder: it has no run.json",
            "name a folder that `bncheck run` wrote, for example reports/latest",
        ) from error
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror or error}") from error
    results = parse_results(raw, path)
    check_references(results, path)
    return results


def parse_results(raw: bytes, path: Path) -> Results:
    """Check the types of everything in ``raw``; unknown keys are left alone (a newer bncheck may add some)."""
    from pydantic import TypeAdapter, ValidationError

    try:
        results = TypeAdapter(Results).validate_json(raw)
    except ValidationError as error:
        refuse_format(format_of(raw, path), path)
        faults = error.errors(include_url=False, include_input=False)
        first = [f"  {'.'.join(map(str, fault['loc']))[:120]}: {fault['msg'][:120]}" for fault in faults[:5]]
        more = [f"  and {len(faults) - 5} more"] if len(faults) > 5 else []
        raise RunFolderError(
            "\n".join([f"{path} is damaged or was edited:", *first, *more]), "run it again, or restore the file"
        ) from error
    refuse_format(results.format, path)
    try:
        return replace(results, drifts=DriftTable(results.drifts))
    except OverflowError as error:
        raise RunFolderError(
            f"{path} is damaged or was edited: a drift counts more than there can be",
            "run it again, or restore the file",
        ) from error


def refuse_format(found: Any, path: Path) -> None:
    if found == FORMAT and not isinstance(found, bool):
        return
    newer = isinstance(found, int) and not isinstance(found, bool) and found > FORMAT
    raise RunFolderError(
        f"{path} has format {str(found)[:40]!r}; this bncheck reads format {FORMAT}",
        "install the newer bncheck that wrote it" if newer else "run it again",
    )


def format_of(raw: bytes, path: Path) -> Any:
    from pydantic_core import from_json

    try:
        value = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise RunFolderError(
            f"{path} is not JSON ({str(error)[:160]}); the run was cut short or the file was edited",
            "run it again, or continue it with `bncheck run --resume`",
        ) from error
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} does not hold a run", "name a folder that `bncheck run` wrote")
    return value.get("format")


def check_references(results: Results, path: Path) -> None:
    """Every cell belongs to a target and a case that exist, once; an edited file may say otherwise."""
    slugs = {target.name: target.slug for target in results.targets}
    cases = {(scenario.name, case.name) for scenario in results.scenarios for case in scenario.cases}
    faults = []
    if len(slugs) != len(results.targets):
        faults.append("two targets have the same name")
    if len(results.cell_at) != len(results.cells):
        faults.append("one cell is there twice")
    for cell in results.cells:
        if slugs.get(cell.target) != cell.slug:
            faults.append(f"a cell names the target {cell.target[:60]!r}, which is not in `targets`")
        elif (cell.scenario, cell.case) not in cases:
            faults.append(f"a cell names the case {cell.scenario[:60]} {cell.case[:60]!r}, not in `scenarios`")
    if faults:
        raise RunFolderError(f"{path} contradicts itself: {faults[0]}", "run it again, or restore the file")
