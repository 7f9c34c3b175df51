"""What a run will do: scenarios × targets, and what of them its cases are. Plain data and questions to it.

``playing/plan_file`` keeps it in the run folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bncheck.scenario import Case, Scenario, Tolerance

MOST_PARTS = 10_000  # of --shard i/N


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


def narrow(scenario: Scenario, names: Sequence[str] | None) -> Scenario:
    """The scenario with these of its cases only; None: with all."""
    if names is None:
        return scenario
    return replace(scenario, cases=tuple(case for case in scenario.cases if case.name in names))


def with_tolerance(scenario: Scenario, tolerance: Tolerance) -> Scenario:
    """The scenario with ``tolerance`` where it states none itself; probes are as shipped."""
    return scenario if scenario.probe else replace(scenario, tolerance=scenario.tolerance.otherwise(tolerance))
