"""The plan of a run in its folder: written first, so that a run can be resumed.

It holds copies of the scenario files as they were; resuming expands them again and skips cells that have a result.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bncheck.errors import RunFolderError
from bncheck.run_folder.folder import check_slug, read_json, write_json
from bncheck.scenario import Scenario, Tolerance
from bncheck.scenario_files.overrides import check_override
from bncheck.scenario_files.plan import MOST_PARTS, Plan, files_beside, narrow, with_tolerance

MOST_SCENARIOS = 2_000


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


def read_plan(run: Path, played: bool = False) -> Plan:
    """The plan of an earlier run, expanded again from its own copies of the scenario files.

    ``played``: it is only to be looked at, so files that networks name (on another machine) need not be there."""
    from bncheck.scenario_files.files import load_scenario  # who only writes one does without what checks them

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
