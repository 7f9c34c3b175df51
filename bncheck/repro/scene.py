"""What a kit is made from: the finding a user named, its case, its bytes and what each target recorded. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import gcd
from pathlib import Path
from typing import Any

from bncheck.errors import BncheckError, RunFolderError, UsageError, nearest
from bncheck.finding import Finding
from bncheck.playing.cases_file import read_job
from bncheck.report.layers import told_of, was_played
from bncheck.report.plain_text import one_line
from bncheck.repro.own_files import custom_source, model_file
from bncheck.repro.standalone.subject import USUAL, Played
from bncheck.run_folder.arrays import open_archive
from bncheck.run_folder.cell import folder_of, read_record, trace_of
from bncheck.run_folder.folder import read_json
from bncheck.run_folder.results import CaseResult, Results, ScenarioResult, TargetResult
from bncheck.scenario import Case, Event, InputSpec, Layer, Network, Scenario, Tolerance
from bncheck.trace import Array


@dataclass(frozen=True)
class Scene:
    """One case as it was played. ``note`` says how it relates to the case of the run (the very same when empty)."""

    finding: Finding
    case: Case
    inputs: Mapping[str, Array]
    played: tuple[Played, ...]
    tolerance: Tolerance = USUAL
    specs: Mapping[str, InputSpec] = field(default_factory=dict)
    sample: int = 4096
    custom_source: str = ""  # of the file that network.custom or network.model names
    model_file: bytes = b""  # the file that network.file names
    note: str = ""
    lost: Mapping[str, str] = field(default_factory=dict)  # target of the finding → why it left nothing to look at
    unsteady: frozenset[str] = frozenset()  # targets that gave something else when the case was played again


# ----------------------------------------------------------------------------------------------- which finding


def choose_finding(results: Results, text: str) -> Finding:
    """A code (BN103), a cause, either with #k for the k-th, or SCENARIO--CASE for the gravest one there."""
    name, _, number = text.partition("#")
    found = [f for f in results.findings if name.lower() in (f.code.lower(), f.cause.lower())]
    # What only a probe shows comes last: its input was made for measuring, not for people.
    probes = {scenario.name for scenario in results.scenarios if scenario.probe}
    found.sort(key=lambda finding: finding.scenario in probes)
    if not found:
        found = [f for f in results.findings if name == f"{f.scenario}--{f.case}"]
    if not found:
        raise UsageError(*not_found(results, name))
    if number and not (number.isascii() and number.isdigit() and 1 <= int(number) <= len(found)):
        raise UsageError(
            f"{name} was found {len(found)} times, and #{number} is none of them.",
            f"Name {name}#1 to {name}#{len(found)}.",
        )
    return found[int(number) - 1 if number else 0]


def not_found(results: Results, name: str) -> tuple[str, str]:
    known = list(dict.fromkeys([*(f.code for f in results.findings), *(f.cause for f in results.findings)]))
    cases = [f"{f.scenario}--{f.case}" for f in results.findings]
    near = nearest(name, [*known, *cases])
    hint = f" Did you mean {near}?" if near else ""
    if (*name.partition("--")[::2],) in results.case_at:
        return (
            f"Nothing was found in the case {one_line(name, 80)}.",
            "All targets agree there; there is nothing to report.",
        )
    if not known:
        return "This run has no findings.", "There is nothing to report; look at it with: bncheck report"
    return f"This run has no finding {one_line(name, 80)!r}.{hint}", f"Found were: {', '.join(known)}"


def choose_place(results: Results, text: str) -> tuple[ScenarioResult, CaseResult, str]:
    """Scenario, case and layer of a finding, or of a case in which nothing was found."""
    scenario, _, case = text.partition("--")
    key, layer = (scenario, case), ""
    if key not in results.case_at or key in results.findings_at:
        finding = choose_finding(results, text)
        key, layer = (finding.scenario, finding.case), finding.layer
    if key not in results.case_at:
        raise UsageError("This finding is about a whole target, not about a case.", "Name SCENARIO--CASE instead.")
    described = next(each for each in results.scenarios if each.name == key[0])
    return described, results.case_at[key], layer


# -------------------------------------------------------------------------------------------------- what was played


def read_scene(run: Path, results: Results, finding: Finding, case: Case | None = None) -> Scene:
    """The finding's case as it lies in the run folder; RunFolderError where parts of it are missing."""
    if told_of(results, run) is not None and not was_played(results, run):
        raise RunFolderError(
            "There is no kit for this finding: a kit plays cases of bncheck run once more, and this answer has none.",
            f"Its cause, its layers and the fix stand in the report: bncheck report {run}. A model has a kit where a "
            'scenario plays it: network.model = "FILE.py:NAME", then bncheck run and bncheck repro.',
        )
    recorded = results.case_at.get((finding.scenario, finding.case))
    if recorded is None:
        raise RunFolderError("This finding is about a whole target, not about a case.", "Name a finding of a case.")
    played = read_cells(run, results, recorded, finding)
    if not played:
        raise RunFolderError(f"No cell of {finding.scenario}--{finding.case} left a trace.", "Run it again.")
    job = read_job(run, f"{finding.scenario}--{finding.case}")
    scenario = None if case else load_plan_scenario(run, finding.scenario)
    known = case or next((each for each in scenario.cases if each.name == finding.case) if scenario else iter(()), None)
    case = known or rebuild(job, finding, recorded)
    described = next(each for each in results.scenarios if each.name == finding.scenario)
    return Scene(
        finding=finding,
        case=case,
        inputs=read_inputs(run, job),
        played=played,
        tolerance=Tolerance(described.rtol, described.atol),
        specs=dict(known.inputs) if known else {},
        sample=int(job.get("sample", 4096)),
        custom_source=custom_source(case),
        model_file=model_file(case),
        lost=lost(results, finding, played),
        unsteady=unsteady(results, finding),
    )


def read_cells(run: Path, results: Results, case: CaseResult, finding: Finding) -> tuple[Played, ...]:
    """All targets that left a trace of this case."""
    found = []
    for target in results.targets:
        cell = results.cell_at.get((finding.scenario, finding.case, target.name))
        trace = trace_of(run, cell, case.ops) if cell is not None and target.status == "ok" else None
        if cell is not None and trace is not None:
            record = read_record(folder_of(run, cell))
            found.append(Played(target, trace, target.environment, record.notes if record is not None else {}))
    return tuple(found)


def unsteady(results: Results, finding: Finding) -> frozenset[str]:
    here = results.findings_at.get((finding.scenario, finding.case), ())
    found = [item for item in here if item.cause == "order-dependence" and item.kind != "rounding"]
    return frozenset(name for item in found for name in item.targets)


def lost(results: Results, finding: Finding, played: Sequence[Played]) -> dict[str, str]:
    """Targets of the finding whose cell left no trace, and why: such a one has no figures that a script could print."""
    here, found = {item.target.name for item in played}, {}
    for target in results.targets:
        cell = results.cell_at.get((finding.scenario, finding.case, target.name))
        if target.name in here or target.name not in named(finding) or target.backend == "reference" or cell is None:
            continue
        words = {"raised": "refuses to build the network", "unsupported": "does not build the network"}
        why = words.get(cell.outcome, f"its cell ended as {cell.outcome} and left no figures")
        found[target.label] = f"{why}: {one_line(cell.error, 200)}" if cell.error else why
    return found


def named(finding: Finding) -> tuple[str, ...]:
    """The targets that a finding names, the departing one first."""
    names = [finding.departs, *finding.targets, *(name for side in finding.sides for name in side)]
    return tuple(dict.fromkeys(names))


def read_inputs(run: Path, job: Mapping[str, Any]) -> dict[str, Array]:
    archive = open_archive(run / "inputs" / str(job["inputs"]))
    if archive is None:
        raise RunFolderError(f"{run / 'inputs' / str(job['inputs'])} is missing.", "The run folder is incomplete.")
    return dict(archive.items())


def load_plan_scenario(run: Path, name: str) -> Scenario | None:
    """The scenario file as it was, expanded again; None where it cannot be (its own layers' files stayed elsewhere)."""
    from bncheck.run_folder.folder import check_slug
    from bncheck.scenario_files.files import load_scenario

    try:
        plan = read_json(run / "plan.json")
        probes = [item["name"] for item in plan["scenarios"] if item["probe"]]
        return load_scenario(
            run / "scenarios" / f"{check_slug(name)}.toml", {} if name in probes else plan["overrides"]
        )
    except (BncheckError, KeyError, TypeError, AttributeError):
        return None


def rebuild(job: Mapping[str, Any], finding: Finding, recorded: CaseResult) -> Case:
    """The case from the job that was played: all but the recipes of its inputs, whose bytes are there anyway."""
    try:
        network = job["network"]
        layers = tuple(build(Layer, layer) for layer in network["layers"])
        events = tuple(build(Event, event) for event in job["events"])
        check_words(network)
        whole = build(Network, {**network, "layers": layers, "replicas": tuple(network.get("replicas") or ())})
        return Case(
            scenario=finding.scenario,
            name=finding.case,
            label=recorded.label,
            matrix=recorded.matrix,
            network=whole,
            inputs={},
            events=events,
            dtype=str(job["dtype"]),
            steps=recorded.steps,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"What was played of {finding.scenario} has a wrong shape: {error!r}.", "Run it again."
        ) from error


def check_words(network: Mapping[str, Any]) -> None:
    """TypeError where an edited job says something else than a text, numbers or a table."""
    words = [network.get(key) for key in ("custom", "file", "returns", "model", "copied")]
    sizes, arguments, parts = (network.get(key) for key in ("replicas", "arguments", "parts"))
    plain = all(word is None or isinstance(word, str) for word in words) and isinstance(parts or 1, int | str)
    if not plain or not isinstance(arguments or {}, dict) or not all(isinstance(size, int) for size in sizes or ()):
        raise TypeError("network")


def build(kind: type[Any], values: Mapping[str, Any]) -> Any:
    return kind(**{item.name: values[item.name] for item in fields(kind) if item.name in values})


def stride_of(scene: Scene, shape: tuple[int, ...]) -> int:
    """The stride at which the worker sampled outputs of this shape: as ``sample`` in worker/recorder.py."""
    size = 1
    for side in shape:
        size *= side
    if size <= scene.sample:
        return 1
    step = -(-size // scene.sample)
    while gcd(step, size) != 1:
        step += 1
    return step


def concerned(finding: Finding, played: Sequence[Played]) -> list[TargetResult]:
    """Targets whose framework gets a script: those the finding names, the departing one first."""
    here = {item.target.name: item.target for item in played}
    return [here[name] for name in named(finding) if name in here and here[name].backend != "reference"]
