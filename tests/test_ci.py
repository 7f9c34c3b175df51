"""bncheck in a CI job: the action's own scripts, a baseline, and a layer that somebody breaks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from at_the_prompt import here

from bncheck.gate.bar import FAIL_ON
from bncheck.gate.config import read_configuration

ROOT = Path(__file__).parent.parent
ACTION = ROOT / ".github" / "actions" / "bncheck"
GOOD_LAYER = ROOT / "scenarios" / "layers" / "good_bn.py"
SCENARIO = """\
title = "Our own BatchNorm"
why = "It has to train as PyTorch's does"

[network]
custom = "bn.py:GoodBatchNorm2d"
layers = [{ name = "bn", type = "batch_norm", channels = 3 }]

[input]
shape = [4, 3, 5, 5]

[program]
repeat = 5
events = ["train_forward", "backward"]
"""
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="the action's scripts are for bash")


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """An empty repository, and a folder for PATH in which ``bncheck`` is this one."""
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin" / "bncheck"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bncheck "$@"\n')
    shim.chmod(0o755)
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "pyproject.toml").write_text("")
    return tmp_path


def step(job: Path, script: str = "run.sh", **variables: str) -> subprocess.CompletedProcess[str]:
    """One step of the action as the runner starts it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BNCHECK_", "GITHUB_"))}
    environment = {
        **kept,
        "PATH": f"{job / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(job / "summary.md"),
        "GITHUB_OUTPUT": str(job / "output"),
        **{f"BNCHECK_{name}": value for name, value in variables.items()},
    }
    # Caches stay where they are: only the variables of the action are ours.
    environment |= {name: os.environ[name] for name in ("BNCHECK_CACHE", "BNCHECK_CONVENTIONS") if name in os.environ}
    (job / "output").write_text("")
    (job / "summary.md").write_text("")
    command = [str(BASH), str(ACTION / script)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=job / "repo", env=environment)


def accept(job: Path, run: str) -> None:
    done = here("baseline", "update", run, "known.json", cwd=job / "repo")
    assert done.returncode == 0, done.stderr


def test_unchanged_exits_0_and_another_convention_exits_1_with_its_cause_in_the_summary(job: Path) -> None:
    common = {"SCENARIOS": "all-ones", "ARGS": "--no-report -q"}
    assert step(job, TARGETS="reference reference[torch]", OUT="first", **common).returncode == 0
    accept(job, "first")
    same = step(job, TARGETS="reference reference[torch]", OUT="second", BASELINE="known.json", **common)
    assert same.returncode == 0, same.stderr
    assert "nothing new or worse" in (job / "summary.md").read_text()
    assert "::error" not in same.stdout

    changed = step(job, TARGETS="reference reference[batch_weight=0.9]", OUT="third", BASELINE="known.json", **common)
    assert changed.returncode == 1, changed.stderr
    summary = (job / "summary.md").read_text()
    assert summary.startswith("## ❌ bncheck: 1 finding in 2 cases new or worse")
    assert "BN106 **batch-weight** (convention)" in summary
    assert "::error title=bncheck BN106 batch-weight::all-ones · forward: " in changed.stdout
    assert (job / "output").read_text() == "run=third\nexit-code=1\n"
    junit = ElementTree.parse(job / "repo" / "third" / "junit.xml")
    assert len(list(junit.iter("failure"))) == 2


def test_a_layer_with_inverted_momentum_exits_1_with_that_cause_in_the_summary(job: Path) -> None:
    good = GOOD_LAYER.read_text()
    broken = good.replace("+= self.momentum * (", "+= (1 - self.momentum) * (")
    assert broken.count("(1 - self.momentum)") == 2
    repo = job / "repo"
    (repo / "own-layer.toml").write_text(SCENARIO)
    (repo / "bn.py").write_text(good)
    common = {"SCENARIOS": "own-layer.toml", "TARGETS": "reference torch", "ARGS": "--no-report -q"}
    first = step(job, OUT="first", REQUIRE="torch", **common)
    assert first.returncode == 0, first.stderr
    accept(job, "first")
    (repo / "bn.py").write_text(broken)
    second = step(job, OUT="second", BASELINE="known.json", **common)
    assert second.returncode == 1, second.stderr
    summary = (job / "summary.md").read_text()
    (row,) = [line for line in summary.split("### Scenarios")[0].splitlines() if "batch-weight" in line]
    assert "own-layer" in row
    assert "momentum read in the opposite sense" in row
    assert "| new |" in row


def test_parts_of_two_jobs_are_joined_by_the_third(job: Path) -> None:
    for part in ("1/2", "2/2"):
        done = step(
            job, SCENARIOS="all-ones batch-sizes", TARGETS="reference reference[torch]", SHARD=part, FAIL_ON="never",
            OUT=f"runs/part-{part[0]}", ARGS="--no-report",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    done = step(job, COMMAND="compare", RUNS="runs", OUT="report", ARGS="--no-report --fail-on never")
    assert done.returncode == 0, done.stderr
    found = json.loads((job / "repo" / "report" / "run.json").read_text())
    assert [len(scenario["cases"]) for scenario in found["scenarios"] if not scenario["probe"]] == [2, 3]
    assert (job / "summary.md").read_text().startswith("## ✅ bncheck: ")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"COMMAND": "rm"}, "the action's command is run or compare, not 'rm'"),
        ({"COMMAND": "compare", "RUNS": "bin"}, "there is no run in bin"),
        ({"SCENARIOS": "all-ones", "BASELINE": "none.json"}, "There is no baseline none.json"),
        ({"SCENARIOS": "$(touch pwned) `touch pwned` ;touch pwned"}, "there is no scenario"),
        ({"SCENARIOS": "--help"}, "there is no scenario"),
    ],
)
def test_what_is_wrong_is_said_and_exits_2(job: Path, variables: dict[str, str], said: str) -> None:
    (job / "repo" / "bin").mkdir()
    done = step(job, **variables)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (job / "repo" / "pwned").exists()


def test_the_install_step_says_which_version_is_there(job: Path) -> None:
    done = step(job, "install.sh", INSTALL="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("bncheck, version ")


def test_the_action_names_scripts_and_variables_that_exist() -> None:
    text = (ACTION / "action.yml").read_text()
    for script in re.findall(r"GITHUB_ACTION_PATH/([a-z.]+)", text):
        assert os.access(ACTION / script, os.X_OK), script
    read = set(re.findall(r"BNCHECK_[A-Z_]+", "".join(path.read_text() for path in ACTION.glob("*.sh"))))
    assert read - set(re.findall(r"(BNCHECK_[A-Z_]+):", text)) == set()
    inputs = set(re.findall(r"^  ([a-z-]+):$", text.split("outputs:")[0], re.MULTILINE))
    assert set(re.findall(r"inputs\.([a-z-]+)", text)) == inputs
    # Nothing that a pull request can choose is pasted into a shell.
    assert not [line for line in text.splitlines() if line.strip().startswith("run:") and "${{" in line]


def test_the_example_gives_the_action_only_inputs_that_it_has() -> None:
    inputs = set(re.findall(r"^  ([a-z-]+):$", (ACTION / "action.yml").read_text().split("outputs:")[0], re.MULTILINE))
    text = (ROOT / ".github" / "workflows-example" / "bncheck.yml").read_text()
    blocks = re.findall(r"uses: \./\.github/actions/bncheck\n        with:\n((?:          .*\n)+)", text)
    assert len(blocks) == 3
    for block in blocks:
        assert set(re.findall(r"^ {10}([a-z-]+):", block, re.MULTILINE)) <= inputs


def test_the_action_s_readme_shows_a_configuration_that_is_right(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "ci.md").read_text()
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "pyproject.toml").write_text(block)
    found = read_configuration(tmp_path / "pyproject.toml")
    assert (found.fail_on, found.timeout, len(found.waivers)) == ("convention", 60.0, 1)
    assert all(f"| `{level}`" in text for level in FAIL_ON)
