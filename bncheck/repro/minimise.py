"""The smallest case that still shows a finding, found by playing smaller ones on the real targets.

Nothing is taken on trust: a smaller case counts only when the same targets, at the same versions, give the same
cause there, nothing else comes with it, and the scripts' problem is the same. Otherwise the case stays, and a note
says why.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bncheck.diagnosis.documented import Row
from bncheck.diagnosis.judge import explain_cell, judge_case
from bncheck.diagnosis.views import read_cell
from bncheck.diagnosis.whole import inside, together
from bncheck.errors import ScenarioError
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.playing.jobs import Options, run_cells
from bncheck.playing.progress import Listener
from bncheck.playing.seats import Seat, seats_at_hand
from bncheck.repro.kit import subject_of
from bncheck.repro.scene import Scene, concerned
from bncheck.repro.smaller import described, smaller_cases
from bncheck.repro.standalone.subject import CannotWriteError, Played
from bncheck.run_folder.results import Results, TargetResult
from bncheck.scenario import Case, Scenario
from bncheck.scenario_files.inputs import make_inputs
from bncheck.scenario_files.plan import Plan

# So many are tried first: nearly always one of them does, and large ones take most of the time.
FIRST = 12


class KeptError(Exception):
    """Why the case stays as it was."""


def minimise(results: Results, scene: Scene, pythons: Sequence[str], listener: Listener) -> Scene:
    """The scene of the smallest case that shows the same; the same scene with a note where there is none."""
    try:
        return find_smaller(results, scene, pythons, listener)
    except KeptError as reason:
        return replace(scene, note=f"The case is the run's own: {reason}.")


def find_smaller(results: Results, scene: Scene, pythons: Sequence[str], listener: Listener) -> Scene:
    if scene.finding.kind == "rounding":
        raise KeptError("rounding is not made smaller")
    if not scene.specs or scene.case.network.custom or scene.case.network.file:
        raise KeptError("its network or input comes from a file, which is not cut down")
    cases = [case for case in smaller_cases(scene.case) if can_be_made(case)]
    if not cases:
        raise KeptError("it is as small as it can be")
    seats = find_seats(scene, pythons)
    for batch in (cases[:FIRST], cases[FIRST:]):
        if batch:
            listener.say(f"trying {len(batch)} smaller cases of {scene.case.id}")
            found = try_cases(results, scene, batch, seats, listener)
            if found is not None:
                return found
    raise KeptError(f"none of {len(cases)} smaller cases shows the same cause alone")


def try_cases(
    results: Results, scene: Scene, cases: Sequence[Case], seats: Sequence[Seat], listener: Listener
) -> Scene | None:
    """Play all of them, one process per target, and take the first that shows the finding."""
    listener.expect(len(cases) * len(seats))
    with tempfile.TemporaryDirectory(prefix="bncheck-") as folder:
        plan = plan_of(scene, cases, seats)
        targets = run_cells(Path(folder), plan, seats, Options(), listener.cell)
        check_versions(scene, targets)
        documented = {seat.result.name: seat.documented for seat in seats}
        judged = (
            shown_by(Path(folder), plan.scenarios[0], case, targets, documented, results=results, scene=scene)
            for case in cases
        )
        return next((found for found in judged if found is not None), None)


def can_be_made(case: Case) -> bool:
    """Whether its input exists: few values can be too coarse to keep batches apart."""
    try:
        make_inputs(case)
    except ScenarioError:
        return False
    return True


# -------------------------------------------------------------------------------------------------------- playing


def find_seats(scene: Scene, pythons: Sequence[str]) -> list[Seat]:
    """A seat for every target that was played and needs no installation; every one of the finding's must be here."""
    seats = seats_at_hand([item.target for item in scene.played], pythons)
    for target in concerned(scene.finding, scene.played):
        if target.name not in seats:
            raise KeptError(f"{target.name} is not here to try smaller ones (bncheck env create {target.name})")
    return list(seats.values())


def plan_of(scene: Scene, cases: Sequence[Case], seats: Sequence[Seat]) -> Plan:
    scenario = Scenario(name=scene.case.scenario, title="", why="", cases=tuple(cases), tolerance=scene.tolerance)
    return Plan((scenario,), tuple(seat.result.name for seat in seats))


def check_versions(scene: Scene, targets: Sequence[TargetResult]) -> None:
    """Figures of another version would not be the report's."""
    recorded = {item.target.name: item.target.version for item in scene.played}
    for target in targets:
        if target.status != "ok":
            raise KeptError(f"{target.name} does not run here")
        if target.version != recorded[target.name]:
            raise KeptError(f"{target.name} is {target.version} here, and was {recorded[target.name]} in the run")


# -------------------------------------------------------------------------------------------------------- judging


def shown_by(
    folder: Path,
    scenario: Scenario,
    case: Case,
    targets: Sequence[TargetResult],
    documented: Mapping[str, Sequence[Row]],
    *,
    results: Results,
    scene: Scene,
) -> Scene | None:
    """The scene of this smaller case, if the finding is still there, alone, and its scripts see the problem."""
    read = [(target, read_cell(folder, case, target)[1]) for target in targets]
    views = [
        explain_cell(view, target, results.conventions_at.get(target.name, {}), ())
        for target, view in read
        if view is not None
    ]
    findings = [*judge_case(case, scenario, views).findings, *of_layers_inside(views, documented)]
    same = [found for found in findings if alike(found, scene.finding)]
    before = {(found.code, found.kind) for found in results.findings_at[scene.finding.scenario, scene.finding.case]}
    new = [f for f in findings if (f.code, f.kind) not in before and f.kind != "rounding"]
    if not same or new:
        return None
    played = []
    for view in views:
        if view.trace is not None:
            was = next(item.target for item in scene.played if item.target.name == view.target)
            played.append(Played(was, view.trace, was.environment, view.notes))
    sizes = f"{described(case)} instead of {described(scene.case)}"
    note = f"The scripts play the smallest case found that still shows it: {sizes}."
    found = replace(
        scene,
        case=replace(case, name=scene.case.name),
        inputs=make_inputs(case),
        played=tuple(played),
        specs=dict(case.inputs),
        note=note,
    )
    return found if same_problems(found, scene) else None


def of_layers_inside(views: Sequence[CellView], documented: Mapping[str, Sequence[Row]]) -> list[Finding]:
    """What the layers of a whole network do by themselves, which no pair of targets shows; ``documented``: rows by
    target."""
    return together([item for view in views for item in inside(view, documented.get(view.target, ())).findings])


def alike(found: Finding, wanted: Finding) -> bool:
    """The same cause, of the same kind, on the same layer, between the same targets, with the same one to blame."""

    def key(item: Finding) -> tuple[object, ...]:
        sides = frozenset(frozenset(side) for side in item.sides)
        return item.code, item.kind, item.layer, item.quantity, item.departs, sides, frozenset(item.targets)

    return key(found) == key(wanted)


def same_problems(found: Scene, scene: Scene) -> bool:
    """Every script has the same problem, with the same side, on the finding's quantity."""
    for target in concerned(scene.finding, scene.played):
        try:
            old, new = subject_of(scene, target), subject_of(found, target)
        except CannotWriteError:
            continue
        if (old.problem, old.other, bool(old.refused_here)) != (new.problem, new.other, bool(new.refused_here)):
            return False
        outside = [{q.name for q in subject.quantities if q.outside} for subject in (old, new)]
        if scene.finding.quantity in outside[0] and scene.finding.quantity not in outside[1]:
            return False
    return True
