"""What is seen of cells while others are still played: the same as is seen afterwards, or it is looked at again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from at_the_prompt import here

from bncheck.diagnosis import views
from bncheck.diagnosis.analyse import analyse, fit_target
from bncheck.diagnosis.views import Ahead, look_ahead, see_cell
from bncheck.playing.plan_file import read_plan
from bncheck.run_folder.cell import CellRecord, cell_folder, write_record
from bncheck.run_folder.results import TargetResult, read_results
from bncheck.scenario_files.plan import Plan


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("views") / "run"
    words = ("run", "all-ones", "events", "-q", "--no-report", "-t", "reference", "-t", "reference[mxnet]")
    assert here(*words, "--out", str(out)).returncode == 0
    return out


def seen_ahead(run: Path, plan: Plan, *targets: TargetResult) -> Ahead:
    ahead: Ahead = {}
    for target in targets:
        for _ in look_ahead(run, plan, target, fit_target(run, plan, target), (), ahead):
            pass
    return ahead


def test_what_was_seen_ahead_gives_the_same_results(run: Path) -> None:
    plan, targets = read_plan(run), read_results(run).targets
    ahead = seen_ahead(run, plan, *targets)
    compared = [case for case in plan.cases if case.scenario not in plan.background]
    assert len(ahead) == len(targets) * len(compared) > 8
    assert repr(analyse(run, plan, targets, ahead=ahead)) == repr(analyse(run, plan, targets))


def test_a_cell_that_was_touched_meanwhile_is_looked_at_again(run: Path, tmp_path: Path) -> None:
    plan, (target, *_) = read_plan(run), read_results(run).targets
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    ahead = seen_ahead(copy, plan, target)
    case = next(case for case in plan.cases if case.scenario == "events")
    seen = ahead[target.name, case.id]
    assert see_cell(copy, case, target, {}, (), ahead) == (seen.cell, seen.view)
    other = replace(target, version="9")
    assert see_cell(copy, case, other, {}, (), ahead)[1] is not seen.view
    write_record(cell_folder(copy, target.slug, case.id), CellRecord("crashed", error_type="SIGSEGV", error="died"))
    cell, _ = see_cell(copy, case, target, {}, (), ahead)
    assert cell is not None and (cell.outcome, cell.error) == ("crashed", "died")
    with (copy / "cells" / target.slug / "cells.tar").open("ab") as tar:
        tar.write(b"\0" * 512)
    neighbour = next(each for each in plan.cases if each.scenario == "events" and each != case)
    assert see_cell(copy, neighbour, target, {}, (), ahead)[1] is not ahead[target.name, neighbour.id].view


@pytest.mark.parametrize("bound", [("MOST_AHEAD", 3), ("LARGEST_AHEAD", 1000)])
def test_much_is_read_case_by_case(run: Path, bound: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, *bound)
    assert seen_ahead(run, read_plan(run), read_results(run).targets[0]) == {}


def test_all_targets_together_are_bounded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = read_results(run).targets
    sizes = [(run / "cells" / target.slug / "cells.tar").stat().st_size for target in targets]
    monkeypatch.setattr(views, "LARGEST_AHEAD", sum(sizes) - 1)
    assert {target for target, _ in seen_ahead(run, read_plan(run), *targets)} == {targets[0].name}
