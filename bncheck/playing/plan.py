"""What a run will do: scenarios × targets, written to the run folder first, so that a run can be resumed.

A plan holds copies of the scenario files as they were; resuming expands them again and skips cells that have a result.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bncheck.errors import RunFolderError
from bncheck.run_folder.folder import check_slug, read_json, write_json
from bncheck.scenario import Case, Scenario, Tolerance, layer_type_of
from bncheck.scenario_files.files import check_override, load_scenario

MOST_PARTS = 10_000  # of --shard i/N
MOST_SCENARIOS = 2_000


@dataclass(frozen=True)
class Plan:
    """``targets`` are canonical names; ``background`` names the probes that only serve to measure conventions:
    nobody asked for them, so their cells are not compared. ``tolerance`` is for scenarios that state none;
    ``part`` says which shard this is (``shard.py``). A comparison's scenarios may each have overrides of their own."""

    scenarios: tuple[Scenario, ...]
    targets: tuple[str, ...]
    background: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    created: str = ""
    tolerance: Tolerance = Tolerance()
    part: Mapping[str, Any] = field(default_factory=dict)
    own_overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    check_order: bool = False  # play everything a second time, last case first
    required: tuple[str, ...] = ()  # targets that somebody asked for by name
    alone: bool = False  # one target is enough (--no-reference)

    @property
    def cases(self) -> list[Case]:
        return [case for scenario in self.scenarios for case in scenario.cases]

    @property
    def repeated(self) -> list[Case]:
        """Cases that are played a second time: all of them, or those of scenarios that ask for it."""
        asking = (scenario for scenario in self.scenarios if self.check_order or scenario.check_order)
        return [case for scenario in asking for case in scenario.cases]


def write_plan(run: Path, plan: Plan) -> None:
    """Keep the scenario files and what was asked of them."""
    folder = run / "scenarios"
    folder.mkdir(exist_ok=True)
    for scenario in plan.scenarios:
        shutil.copyfile(scenario.path, folder / f"{scenario.name}.toml")
        for path in files_beside(scenario):
            copy = folder / path.relative_to(Path(scenario.path).resolve().parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    value = {
        "format": 1,
        "scenarios": [describe_scenario(scenario, plan) for scenario in plan.scenarios],
        "targets": list(plan.targets),
        "background": list(plan.background),
        "overrides": dict(plan.overrides),
        "command": plan.command,
        "created": plan.created,
        "tolerance": asdict(plan.tolerance),
        "part": dict(plan.part),
        "check_order": plan.check_order,
        "required": list(plan.required),
        "alone": plan.alone,
    }
    write_json(run / "plan.json", value)


def remember_order(run: Path) -> None:
    """A run that is gone on with is to be played a second time as well, also when it is resumed once more."""
    write_json(run / "plan.json", {**read_json(run / "plan.json"), "check_order": True})


def describe_scenario(scenario: Scenario, plan: Plan) -> dict[str, Any]:
    """``cases`` only where this run has not all of them (a shard, a comparison of shards)."""
    found: dict[str, Any] = {"name": scenario.name, "probe": scenario.probe}
    if scenario.name in plan.own_overrides:
        found["overrides"] = dict(plan.own_overrides[scenario.name])
    if plan.part:
        found["cases"] = [case.name for case in scenario.cases]
    return found


def files_beside(scenario: Scenario) -> set[Path]:
    """Files that a scenario's networks name and that lie in its folder; one that --set names stays where it is."""
    home = Path(scenario.path).resolve().parent
    named = [case.network.custom and case.network.custom.rpartition(":")[0] for case in scenario.cases]
    named += [case.network.model and case.network.model.rpartition(":")[0] for case in scenario.cases]
    named += [case.network.file for case in scenario.cases]
    named += [name.rpartition(":")[0] for case in scenario.cases for name in case.functions]
    paths = {Path(name).resolve() for name in named if name}
    # What a user's file imports lies beside it.
    paths |= {beside for path in paths if path.suffix == ".py" for beside in path.parent.glob("*.py")}
    return {path for path in paths if path.is_relative_to(home) and path.is_file()}


def code_of(plan: Plan) -> list[str]:
    """Files whose code playing this plan would run."""
    named = [case.network.custom for case in plan.cases] + [case.network.model for case in plan.cases]
    named += [name for case in plan.cases for name in case.functions]
    return sorted({name.rpartition(":")[0] for name in named if name})


def read_plan(run: Path, played: bool = False) -> Plan:
    """The plan of an earlier run, expanded again from its own copies of the scenario files.

    ``played``: it is only to be looked at, so files that networks name (on another machine) need not be there."""
    data = read_json(run / "plan.json")
    try:
        names = [str(item["name"]) for item in data["scenarios"]]
        if len(names) > min(len(set(names)), MOST_SCENARIOS):
            raise TypeError("too many scenarios, or one of them twice")
        scenarios = []
        for item in data["scenarios"]:
            path = run / "scenarios" / f"{check_slug(str(item['name']))}.toml"
            # Overrides are the user's for the scenarios that were asked for; probes are always as shipped.
            overrides = item.get("overrides", {} if item["probe"] else data["overrides"])
            for key, value in overrides.items():
                check_override(key, value)
            scenarios.append(narrow(load_scenario(path, overrides, missing_files=played), item.get("cases")))
        targets, background = (tuple(str(name) for name in data[key]) for key in ("targets", "background"))
        command, created = str(data["command"]), str(data["created"])
        tolerance = read_tolerance(data.get("tolerance", {}))
        own = {str(item["name"]): item["overrides"] for item in data["scenarios"] if "overrides" in item}
        found = tuple(with_tolerance(scenario, tolerance) for scenario in scenarios)
        part = read_part(data.get("part", {}))
        again, alone = (data.get(key, False) is True for key in ("check_order", "alone"))
        required = tuple(str(name) for name in data.get("required", ()))
        return Plan(
            scenarios=found,
            targets=targets,
            background=background,
            overrides=data["overrides"],
            command=command,
            created=created,
            tolerance=tolerance,
            part=part,
            own_overrides=own,
            check_order=again,
            required=required,
            alone=alone,
        )
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise RunFolderError(
            f"{run / 'plan.json'} has a wrong shape: {error!r}.", "Start a new run instead."
        ) from error


def read_tolerance(data: Mapping[str, Any]) -> Tolerance:
    found = Tolerance(**data)
    if not all(value is None or type(value) in (int, float) for value in (found.rtol, found.atol)):
        raise TypeError(f"tolerance {data!r}")
    return found


def read_part(data: Mapping[str, Any]) -> dict[str, Any]:
    """Which shard, or which shards were joined; TypeError for what no bncheck wrote."""
    kinds = {"whole": str, "index": int, "of": int, "joined": list}
    for key, value in data.items():
        if type(value) is not kinds.get(key):
            raise TypeError(f"part {key} = {value!r}")
    if not all(isinstance(item, (int, str)) for item in data.get("joined", ())):
        raise TypeError(f"part joined = {data['joined']!r}")
    if "whole" in data and not 1 <= data["of"] <= MOST_PARTS:
        raise TypeError(f"part of = {data['of']!r}")
    return dict(data)


def narrow(scenario: Scenario, names: Sequence[str] | None) -> Scenario:
    """The scenario with these of its cases only; None: with all."""
    if names is None:
        return scenario
    return replace(scenario, cases=tuple(case for case in scenario.cases if case.name in names))


def with_tolerance(scenario: Scenario, tolerance: Tolerance) -> Scenario:
    """The scenario with ``tolerance`` where it states none itself; probes are as shipped."""
    return scenario if scenario.probe else replace(scenario, tolerance=scenario.tolerance.otherwise(tolerance))


def layer_ranks(case: Case) -> list[int]:
    """Number of axes that reaches each layer; flatten, dense and global pooling leave two."""
    rank = max((len(spec.shape) for spec in case.inputs.values()), default=2)
    ranks = []
    for layer in case.network.layers:
        ranks.append(rank)
        rank = 2 if layer_type_of(layer.type).flattens else rank
    return ranks


def layer_path(case: Case) -> str:
    """The kernel path of a case's first BatchNorm layer: "2-D", "4-D", "4-D channels last"; "" without one.

    Conventions are measured per path, because they can differ: tf_keras divides by n − 1 on 4-D input only.
    """
    for layer, rank in zip(case.network.layers, layer_ranks(case), strict=True):
        if layer.type == "batch_norm":
            return f"{rank}-D channels last" if layer.axis == -1 and rank > 2 else f"{rank}-D"
    return ""
