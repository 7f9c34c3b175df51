"""Playing everything a second time in another order: a backend that leaks is caught, one that does not is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from at_the_prompt import here
from left_by_cells import cells_of

from bncheck.diagnosis.repeats import same_bits
from bncheck.diagnosis.rules.mode_and_state.bn403_order_dependence import check_target
from bncheck.evidence import CellView, Repeat, TargetView
from bncheck.run_folder.results import Results, read_results
from bncheck.scenario import Case, Network
from bncheck.trace import Trace

FOLDER = Path(__file__).parent
BARE = ("--no-report", "--fail-on", "never", "--backend-file", str(FOLDER / "leaky_backend.py"))
SCENARIO = """
title = "Two cases that must not know of each other"
why = "Order dependence"

[network]
layers = [{ name = "bn", type = "batch_norm", channels = 3 }]

[input]
shape = [4, 3]
fill = "ones"

[program]
events = ["train_forward"]

[matrix]
"program.repeat" = [1, 2]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("order")
    (folder / "two.toml").write_text(SCENARIO, encoding="utf-8")
    targets = ("-t", "leaky_backend", "-t", "leaky_backend[clean]", "-t", "reference")
    words = ("--check-order", "--out", str(folder / "run"), *BARE)
    done = here("run", str(folder / "two.toml"), *targets, "--no-probe", *words)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def results(run: Path) -> Results:
    return read_results(run)


def test_a_buffer_that_outlives_its_cell_is_a_defect_of_that_target(results: Results) -> None:
    found = [finding for finding in results.findings if finding.cause == "order-dependence"]
    assert {finding.targets for finding in found} == {("leaky_backend",)}
    assert {finding.kind for finding in found} == {"defect"}
    assert {(finding.case, finding.quantity) for finding in found} == {
        ("repeat-1", "running_mean"),
        ("repeat-2", "running_mean"),
    }


def test_a_scenario_may_ask_for_it_and_then_only_its_cases_are_played_again(tmp_path: Path) -> None:
    asking = "check_order = true\n" + SCENARIO.replace('"program.repeat" = [1, 2]', '"program.repeat" = [3, 4]')
    (tmp_path / "two.toml").write_text(SCENARIO, encoding="utf-8")
    (tmp_path / "more.toml").write_text(asking, encoding="utf-8")
    words = ("-t", "leaky_backend", "--no-reference", "--no-probe", "--out", "run")
    done = here("run", "two.toml", "more.toml", *words, *BARE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert cells_of(tmp_path / "run" / "again" / "cells" / "leaky_backend") == ["more--repeat-4", "more--repeat-3"]
    found = [item for item in read_results(tmp_path / "run").findings if item.cause == "order-dependence"]
    assert {(item.scenario, item.case) for item in found} == {("more", "repeat-3"), ("more", "repeat-4")}
    assert "6/6 cells" in done.stderr


def test_how_far_off_is_measured(results: Results) -> None:
    # In order: 0 → 1/2, then 1/2 → 3/4 → 7/8. Reversed: 0 → 1/2 → 3/4, then 3/4 → 7/8.
    sizes = {
        finding.case: finding.evidence["max_abs"] for finding in results.findings if finding.cause == "order-dependence"
    }
    assert sizes == {"repeat-1": 0.75, "repeat-2": 0.5}


@pytest.mark.parametrize("again", [(), ("--check-order",)])
def test_a_resumed_run_still_checks_the_order(
    results: Results, tmp_path: Path, run: Path, again: tuple[str, ...]
) -> None:
    """Killed before the second playing: nothing of it is there, and only the plan knows that it was asked for."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "again")
    (copy / "run.json").unlink()
    plan = json.loads((copy / "plan.json").read_text(encoding="utf-8"))
    assert plan["check_order"] is True
    if again:  # asked for only now
        (copy / "plan.json").write_text(json.dumps({**plan, "check_order": False}), encoding="utf-8")
    done = here("run", "--resume", str(copy), *again, *BARE)
    assert done.returncode == 0, done.stderr
    resumed = read_results(copy)
    causes = [finding.cause for finding in results.findings]
    assert [finding.cause for finding in resumed.findings] == causes
    assert json.loads((copy / "plan.json").read_text(encoding="utf-8"))["check_order"] is True


def test_other_bits_within_rounding_are_said_once_and_are_no_defect() -> None:
    case = Case("s", "base", "", {}, Network(()), {}, ())
    cell = CellView(case, "t", "t", "ok", None)
    (found,) = check_target(TargetView("t", "t", {}, repeats=[Repeat(cell), Repeat(cell, identical=True)]))
    assert (found.kind, found.evidence) == ("rounding", {"cases": 1, "of": 2})


def test_bits_are_compared_and_durations_are_not() -> None:
    def trace(value: float, seconds: float) -> Trace:
        return Trace((), {"bn/running_mean": np.array([value]), "event_seconds": np.array([seconds])})

    assert same_bits(trace(1.0, 0.1), trace(1.0, 0.2))
    assert not same_bits(trace(0.0, 0.1), trace(-0.0, 0.1))
    assert same_bits(None, None)
    assert not same_bits(trace(1.0, 0.1), None)
