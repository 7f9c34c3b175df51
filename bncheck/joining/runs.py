"""``bncheck compare``: runs of other machines, devices, versions or shards joined into one run folder.

Cases are matched by their content key, never by name, and each key is verified first: it is computed again from the
scenario and the input arrays that lie in the run's folder. The same name with other content is refused, the same
content under another name is the same case. No framework is needed: the cells are there already.

Targets of the same name stay apart (by version where versions differ, else by the run's name), with two exceptions:
the parts of one sharded run, and the reference, which is one oracle. Where a case was played by several of those,
the first run's cell stands.

Run folders are untrusted: names are checked before they become paths, links are refused, only known files are copied.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bncheck.bounded import is_folder
from bncheck.errors import RunFolderError, UsageError
from bncheck.joining.targets import Member, join_targets
from bncheck.playing.cases_file import join_cases
from bncheck.playing.plan_file import read_plan, write_plan
from bncheck.run_folder.arrays import MAX_ARCHIVE, open_archive
from bncheck.run_folder.cell import cell_folder, record_or_crash
from bncheck.run_folder.cell_files import copy_cell_files
from bncheck.run_folder.folder import again_folder, check_slug, find_run, read_json, write_json
from bncheck.run_folder.results import Results, TargetResult, read_results
from bncheck.scenario import Scenario
from bncheck.scenario_files.files import load_scenario
from bncheck.scenario_files.inputs import content_key
from bncheck.scenario_files.plan import Plan, with_tolerance

KEY = re.compile(r"[0-9a-f]{16}\Z")


@dataclass(frozen=True)
class Source:
    """One run to be joined. ``keys``: case id → content key, verified; ``label`` tells it from the others."""

    folder: Path
    label: str
    plan: Plan
    results: Results
    keys: Mapping[str, str]

    @property
    def whole(self) -> str:
        return str(self.plan.part.get("whole", ""))


@dataclass(frozen=True)
class Joined:
    """What the new folder will hold. ``renamed``: for each source, case id → id in the new run."""

    plan: Plan
    targets: tuple[TargetResult, ...]
    members: tuple[Member, ...]
    renamed: tuple[Mapping[str, str], ...]
    keys: Mapping[str, str]


def open_sources(names: Sequence[str], tell: Callable[[str], None]) -> tuple[Source, ...]:
    """Read and verify the runs; RunFolderError says which one is wrong, and how."""
    folders = [find_run(name) for name in names]
    real = [folder.resolve() for folder in folders]
    for place, folder in enumerate(real):
        if folder in real[:place]:
            raise UsageError(f"{names[place]} is named twice.", "Name two different runs.")
    sources = []
    for folder, label in zip(folders, labels(real), strict=True):
        tell(f"checking {label}")
        results, plan = read_results(folder), read_plan(folder, played=True)
        for target in results.targets:
            check_slug(target.slug)
        sources.append(Source(folder, label, plan, results, verified_keys(folder, plan)))
    return tuple(sources)


def labels(folders: Sequence[Path]) -> list[str]:
    """The folders' own names; where these are all alike (``cpu/run``, ``gpu/run``), those above them; else numbers."""
    for level in ([folder.name for folder in folders], [folder.parent.name for folder in folders]):
        if len(set(level)) == len(level) and all(level):
            return level
    return [f"run {number}" for number, _ in enumerate(folders, 1)]


def verified_keys(folder: Path, plan: Plan) -> dict[str, str]:
    """Case id → content key, each computed again from the case and its arrays."""
    said = read_json(folder / "contents.json")
    if not isinstance(said, dict):
        raise RunFolderError(f"{folder / 'contents.json'} has a wrong shape.", "Run it again.")
    keys = {}
    for case in plan.cases:
        key = said.get(case.id)
        if not isinstance(key, str) or not KEY.match(key):
            raise RunFolderError(f"{folder} does not say what the inputs of {case.id} were.", "Run it again.")
        if content_key(case, arrays_of(folder, key)) != key:
            raise RunFolderError(
                f"The inputs of {case.id} in {folder} are not those that its key {key} stands for.",
                "The folder was edited, or another version of bncheck wrote it; run it again.",
            )
        keys[case.id] = key
    return keys


def arrays_of(folder: Path, key: str) -> dict[str, Any]:
    path = folder / "inputs" / f"{key}.npz"
    archive = open_archive(path)
    if archive is None:
        raise RunFolderError(f"{path} is missing.", "The run folder is incomplete; copy all of it, or run it again.")
    return dict(archive)


# --------------------------------------------------------------------------------------------- what is the same


def join(sources: Sequence[Source], command: str, created: str) -> Joined:
    """The plan of the comparison: cases by content, scenarios in the first run's order, targets told apart."""
    renamed, keys = match_cases(sources)
    scenarios, own = join_scenarios(sources, renamed)
    runs = [(source.label, source.whole, source.results.targets) for source in sources]
    targets, members = join_targets(runs)
    asked = {name for source in sources for name in scenario_names(source) if name not in source.plan.background}
    background = tuple(scenario.name for scenario in scenarios if scenario.name not in asked)
    first = sources[0].plan
    names = tuple(target.name for target in targets)
    # Asked for by name in any of the runs; one that could not run there gave way to one that did elsewhere.
    required = tuple(name for name in names if any(name in source.plan.required for source in sources))
    plan = Plan(
        scenarios=scenarios,
        targets=names,
        background=background,
        overrides={},
        command=command,
        created=created,
        tolerance=first.tolerance,
        part=joined_part(sources),
        own_overrides=own,
        required=required,
    )
    return Joined(plan=plan, targets=targets, members=members, renamed=renamed, keys=keys)


def match_cases(sources: Sequence[Source]) -> tuple[tuple[dict[str, str], ...], dict[str, str]]:
    """For each source case id → id in the joined run; and the joined run's case id → key."""
    keys: dict[str, str] = {}
    owner: dict[str, Source] = {}
    renamed = []
    for source in sources:
        names: dict[str, str] = {}
        for case, key in source.keys.items():
            if keys.get(case, key) != key:
                raise RunFolderError(
                    f"{case} is not the same in {owner[case].label} and {source.label}: "
                    f"{difference(case, owner[case], source)}.",
                    "Only the same inputs can be compared: run both with the same scenario file, or rename one.",
                )
            # The same content under another name, unless this run has that other name too.
            alike = [name for name, found in keys.items() if found == key and name not in source.keys]
            names[case] = case if case in keys or not alike else alike[0]
            keys.setdefault(names[case], key)
            owner.setdefault(names[case], source)
        renamed.append(names)
    return tuple(renamed), keys


def difference(case: str, a: Source, b: Source) -> str:
    """The first thing in which two cases of one name differ, in words."""
    one, two = ({each.id: each for each in source.plan.cases}[case] for source in (a, b))
    for word, x, y in (
        ("dtype", one.dtype, two.dtype),
        ("events", said(one.events), said(two.events)),
        ("network", said(one.network), said(two.network)),
    ):
        if x != y:
            return f"the {word} differ{'s' if word != 'events' else ''}"
    left, right = arrays_of(a.folder, a.keys[case]), arrays_of(b.folder, b.keys[case])
    for name in sorted({*left, *right}):
        if name not in left or name not in right:
            return f"the array {name} is in one of them only"
        if left[name].shape != right[name].shape or left[name].dtype != right[name].dtype:
            x, y = (f"{array.dtype} {list(array.shape)}" for array in (left[name], right[name]))
            return f"the array {name} is {x} in one and {y} in the other"
        if not np.array_equal(left[name], right[name], equal_nan=True):
            return f"the array {name} holds other values"
    return "the bytes of its inputs differ"


def said(value: Any) -> str:
    plain = [asdict(item) for item in value] if isinstance(value, tuple) else asdict(value)
    return json.dumps(plain, sort_keys=True, default=str)


def scenario_names(source: Source) -> list[str]:
    return [scenario.name for scenario in source.plan.scenarios]


def join_scenarios(
    sources: Sequence[Source], renamed: Sequence[Mapping[str, str]]
) -> tuple[tuple[Scenario, ...], dict[str, Mapping[str, Any]]]:
    """Every scenario with the cases of all runs, in its file's order; and the overrides that made it."""
    found: list[Scenario] = []
    own: dict[str, Mapping[str, Any]] = {}
    kept = {new for names in renamed for new in names.values()}
    for name in dict.fromkeys(name for source in sources for name in scenario_names(source)):
        wanted = {
            case.id
            for source in sources
            for scenario in source.plan.scenarios
            if scenario.name == name
            for case in scenario.cases
            if case.id in kept
        }
        if not wanted:
            continue
        scenario, overrides = making(name, wanted, sources)
        found.append(scenario)
        if overrides:
            own[name] = overrides
    return tuple(found), own


def making(name: str, wanted: set[str], sources: Sequence[Source]) -> tuple[Scenario, Mapping[str, Any]]:
    """The scenario from the first run whose file makes all the wanted cases."""
    having = [source for source in sources if name in scenario_names(source)]
    for source in having:
        short = next(scenario for scenario in source.plan.scenarios if scenario.name == name)
        plan = source.plan
        overrides = plan.own_overrides.get(name, {} if short.probe else plan.overrides)
        scenario = load_scenario(Path(short.path), overrides, missing_files=True)
        if wanted <= {case.id for case in scenario.cases}:
            cases = tuple(case for case in scenario.cases if case.id in wanted)
            return replace(with_tolerance(scenario, sources[0].plan.tolerance), cases=cases), overrides
    raise RunFolderError(
        f"The scenario {name} has other cases in {having[0].label} than in {having[-1].label}.",
        "Run both with the same scenario file, or give one of the files another name.",
    )


def joined_part(sources: Sequence[Source]) -> dict[str, Any]:
    """Empty when the joined run is whole; otherwise its plan lists the cases that it has."""
    parts = shards(sources)
    if len({source.whole for source in sources}) == 1 and sources[0].whole:
        missing = missing_parts(sources)
        whole = sources[0].whole
        return {"whole": whole, "of": sources[0].plan.part["of"], "joined": sorted(parts[whole])} if missing else {}
    return {"joined": [source.label for source in sources]}


def shards(sources: Sequence[Source]) -> dict[str, set[int]]:
    """whole → the parts of it that are here."""
    found: dict[str, set[int]] = {}
    for source in sources:
        part = source.plan.part
        if source.whole:
            found.setdefault(source.whole, set()).update(part.get("joined") or [part.get("index", 0)])
    return found


def missing_parts(sources: Sequence[Source]) -> list[str]:
    """``part 2 of 3`` for every shard that is not here."""
    of = {source.whole: int(source.plan.part.get("of", 0)) for source in sources if source.whole}
    return [
        f"part {number} of {of[whole]}"
        for whole, here in shards(sources).items()
        for number in range(1, of[whole] + 1)
        if number not in here
    ]


# ------------------------------------------------------------------------------------------------- the new folder


def write_joined(joined: Joined, sources: Sequence[Source], run: Path) -> None:
    """Plan, inputs and cells of a comparison. Inputs and exported models are linked where the file system can."""
    write_plan(run, joined.plan)
    write_json(run / "contents.json", dict(joined.keys))
    (run / "inputs").mkdir(exist_ok=True)
    for source in sources:
        for key in set(source.keys.values()):
            place(source.folder / "inputs" / f"{key}.npz", run / "inputs" / f"{key}.npz", MAX_ARCHIVE)
    join_cases(run, [(source.folder, names) for source, names in zip(sources, joined.renamed, strict=True)])
    copy_cells(joined, sources, run)


def copy_cells(joined: Joined, sources: Sequence[Source], run: Path) -> None:
    """The cells of all runs, also those that were played a second time, and when each of them ended."""
    with (run / "records.jsonl").open("w", encoding="utf-8") as records:
        for source in sources:
            held = source.folder / "records.jsonl"
            if held.is_file() and held.stat().st_size <= MAX_ARCHIVE:
                records.write(held.read_text(encoding="utf-8", errors="replace"))
    for member in joined.members:
        source, names = sources[member.source], joined.renamed[member.source]
        for here, there in ((source.folder, run), (again_folder(source.folder), again_folder(run))):
            for case, new in names.items() if is_folder(here) else ():
                copy_cell(cell_folder(here, member.slug, case), cell_folder(there, member.new_slug, new))


def copy_cell(old: Path, new: Path) -> None:
    """The files of one finished cell, unless an earlier run's are there already."""
    record = record_or_crash(old)
    if record is None or record_or_crash(new) is not None:
        return
    for name in ("stderr.txt", *(check_slug(name) for name in record.artifacts)):
        if (old / name).is_file():
            new.mkdir(parents=True, exist_ok=True)
            place(old / name, new / name, MAX_ARCHIVE)
    copy_cell_files(old, ("trace.npz", "result.json"), new, MAX_ARCHIVE)


def place(old: Path, new: Path, most: int) -> None:
    if new.exists():
        return
    if old.stat().st_size > most:
        raise RunFolderError(
            f"{old} is {old.stat().st_size:,} bytes long, more than bncheck reads.", "Leave that run out."
        )
    try:
        os.link(old, new)
    except OSError:  # another file system, or one without links
        shutil.copyfile(old, new)
