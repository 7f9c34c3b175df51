"""Analysis of a run folder: the same in one process and in several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bncheck import analyse as analysis
from bncheck.plan import read_plan
from bncheck.results import read_results


def test_chunks_in_several_processes_say_the_same_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "bncheck", "run", "all-ones", "events", "batch-sizes", "-q", "--no-report"]
    subprocess.run([*command, "-t", "reference", "-t", "reference[mxnet]", "--out", str(out)], check=True)
    plan, targets = read_plan(out), read_results(out).targets
    one = analysis.analyse(out, plan, targets)
    monkeypatch.setattr(analysis, "PARALLEL_FROM", 1)
    monkeypatch.setattr(analysis, "CHUNK", 2)
    monkeypatch.setattr(analysis, "cores", lambda: 2)
    told: list[str] = []
    several = analysis.analyse(out, plan, targets, tell=told.append)
    assert len(several.cells) == len(one.cells) > 20
    assert repr(several) == repr(one)
    assert not [text for text in told if "died" in text]
    assert [text for text in told if text.startswith("comparing")][-1].startswith(f"comparing {len(plan.cases)}/")


def die(work: analysis.Work) -> analysis.Analysis:
    os._exit(1)


def test_a_judging_process_that_dies_costs_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "bncheck", "run", "all-ones", "events", "-q", "--no-report"]
    subprocess.run([*command, "-t", "reference", "-t", "reference[mxnet]", "--out", str(out)], check=True)
    plan, targets = read_plan(out), read_results(out).targets
    one = analysis.analyse(out, plan, targets)
    monkeypatch.setattr(analysis, "PARALLEL_FROM", 1)
    monkeypatch.setattr(analysis, "CHUNK", 2)
    monkeypatch.setattr(analysis, "cores", lambda: 2)
    monkeypatch.setattr(analysis, "judge_part", die)
    told: list[str] = []
    assert repr(analysis.analyse(out, plan, targets, tell=told.append)) == repr(one)
    assert [text for text in told if text.endswith("died: going on without it")]
