"""Analysis of a run folder: the same in one process and in several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from at_the_prompt import here

from bncheck.diagnosis import analyse as analysis
from bncheck.environments.devices import cores
from bncheck.environments.fork import CAN_FORK
from bncheck.playing.plan_file import read_plan
from bncheck.run_folder.drift_table import DriftTable
from bncheck.run_folder.results import Results, read_results


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("analyse") / "run"
    words = ("run", "all-ones", "events", "batch-sizes", "-q", "--no-report")
    done = here(*words, "-t", "reference", "-t", "reference[mxnet]", "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out


def judged(run: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Results, Results, list[str]]:
    """(in one process, in two, what the latter said)."""
    plan, targets = read_plan(run), read_results(run).targets
    one = analysis.analyse(run, plan, targets)
    monkeypatch.setattr(analysis, "PARALLEL_FROM", 1)
    monkeypatch.setattr(analysis, "CHUNK", 2)
    told: list[str] = []
    return one, analysis.analyse(run, plan, targets, tell=told.append, cores=2), told


def test_chunks_in_several_processes_say_the_same_as_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, several, told = judged(run, monkeypatch)
    cases = len(read_plan(run).cases)
    assert len(several.cells) == len(one.cells) > 20
    assert repr(several) == repr(one)
    assert not [text for text in told if "died" in text]
    assert [text for text in told if text.startswith("comparing")][-1].startswith(f"comparing {cases}/")


def test_what_differs_is_looked_up_once_for_all_scenarios(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[DriftTable] = []
    whole = DriftTable.differing
    monkeypatch.setattr(DriftTable, "differing", lambda table: walks.append(table) or whole(table))
    found = analysis.analyse(run, read_plan(run), read_results(run).targets)
    expecting = [scenario for scenario in found.scenarios if scenario.expectations]
    assert (len(expecting) > 1, len(walks)) == (True, 1)
    assert [scenario.expectations for scenario in found.scenarios] == [
        scenario.expectations for scenario in read_results(run).scenarios
    ]


def die(work: analysis.Work) -> analysis.Analysis:
    os._exit(1)


def test_a_judging_process_that_dies_costs_nothing_but_time(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis, "judge_part", die)
    one, several, told = judged(run, monkeypatch)
    assert repr(several) == repr(one)
    assert [text for text in told if text.endswith("died: going on without it")]


IN_A_FORK = """
import os, sys
from pathlib import Path
import bncheck.cli
from bncheck.diagnosis import analyse as analysis
from bncheck.environments.fork import do_together
from bncheck.playing.plan_file import read_plan
from bncheck.run_folder.results import read_results

run = Path(sys.argv[1])
plan, targets = read_plan(run), read_results(run).targets
one = analysis.analyse(run, plan, targets)
analysis.FORKED_FROM = 1
here, host, judged = analysis.judge_here, os.getpid(), []
def judge_here(work, chunk):
    judged.append(chunk)
    if len(sys.argv) > 2 and os.getpid() != host:
        os._exit(1)
    return here(work, chunk)
analysis.judge_here = judge_here
several = analysis.analyse(run, plan, targets, cores=2, in_two=do_together)
print(repr(several) == repr(one), len(judged), len(plan.cases))
"""


@pytest.mark.process
@pytest.mark.skipif(not CAN_FORK, reason="forks are for Linux alone")
@pytest.mark.skipif(cores() < 2, reason="one core judges alone")
@pytest.mark.parametrize("dies", [(), ("dies",)])
def test_a_fork_that_judges_says_the_same_and_one_that_dies_costs_nothing_but_time(
    run: Path, dies: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FORK, str(run), *dies], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["True", "24" if dies else "12", "24"], done.stderr
