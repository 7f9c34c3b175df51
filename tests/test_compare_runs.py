"""bncheck compare on real run folders: shards, versions, other inputs, and folders that somebody edited."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from at_the_prompt import bncheck, here

from bncheck.errors import RunFolderError, UsageError
from bncheck.joining.runs import labels, open_sources

TARGETS = ("-t", "reference", "-t", "reference[batch_weight=0.9]")
SCENARIO = """\
title = "Two batch sizes"
why = "A small scenario for tests"

[network]
layers = [{ name = "bn", type = "batch_norm" }]

[input]
shape = [4, 2]

[program]
repeat = 3
events = ["train_forward"]

[matrix]
"input.shape" = [[2, 2], [4, 2], [8, 2]]
"""


def played(folder: Path, name: str, *arguments: str, scenario: str = SCENARIO, file: str = "sizes.toml") -> Path:
    (folder / file).write_text(scenario)
    done = here("run", file, *TARGETS, "--no-report", "-q", "--out", name, *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / name


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run as a whole, and the same in two parts."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "pyproject.toml").write_text("")
    played(folder, "whole")
    played(folder, "first", "--shard", "1/2")
    played(folder, "second", "--shard", "2/2")
    return folder


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    """Copies that a test may edit."""
    for name in ("first", "second"):
        shutil.copytree(runs / name, tmp_path / name)
    (tmp_path / "pyproject.toml").write_text("")
    return tmp_path


def content(run: Path) -> Any:
    """run.json without what differs between any two runs: when, by which command, how long."""

    def without_times(value: Any) -> Any:
        if isinstance(value, dict):
            left = {key: item for key, item in value.items() if key not in ("created", "command")}
            return {key: without_times(item) for key, item in left.items() if not key.endswith("seconds")}
        return [without_times(item) for item in value] if isinstance(value, list) else value

    return without_times(json.loads((run / "run.json").read_text()))


def test_comparing_shards_equals_the_unsplit_run(runs: Path, tmp_path: Path) -> None:
    cases = [
        json.loads((runs / name / "run.json").read_text())["scenarios"][0]["cases"] for name in ("first", "second")
    ]
    assert [len(found) for found in cases] == [2, 1]
    done = here("compare", "second", "first", "-q", "--no-report", "--out", str(tmp_path / "all"), cwd=runs)
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "all") == content(runs / "whole")
    files = {path.name for path in (runs / "whole").iterdir()} - {
        "writer.json"
    }  # who played: nobody did in a comparison
    assert {path.name for path in (tmp_path / "all").iterdir()} == files


def test_a_joined_run_can_be_joined_again(runs: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        played(tmp_path, name, "--shard", f"{'abc'.index(name) + 1}/3")
    first = here("compare", "a", "b", "--no-report", "--out", "ab", cwd=tmp_path)
    assert "part 3 of 3 is not among these runs" in first.stderr
    second = here("compare", "ab", "c", "--no-report", "--out", "abc", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "is not among" not in second.stderr
    assert content(tmp_path / "abc") == content(runs / "whole")


def test_the_same_target_of_two_runs_is_two(copied: Path) -> None:
    for run in ("first", "second"):
        plan = json.loads((copied / run / "plan.json").read_text())
        plan["part"] = {}
        (copied / run / "plan.json").write_text(json.dumps(plan))
        text = (copied / run / "run.json").read_text()
        # Another framework's name: the reference, and only it, counts as one oracle.
        (copied / run / "run.json").write_text(text.replace('"backend": "reference"', '"backend": "torch"'))
    done = here("compare", "first", "second", "--no-report", "-q", "--out", "both", cwd=copied)
    # What was the reference now claims to be a framework that breaks its own documentation.
    assert done.returncode in (0, 1), done.stderr
    names = [target["name"] for target in json.loads((copied / "both" / "run.json").read_text())["targets"]]
    assert names == [
        "reference@cpu (first)", "reference@cpu (second)",
        "reference[batch_weight=0.9]@cpu (first)", "reference[batch_weight=0.9]@cpu (second)",
    ]  # fmt: skip


def test_the_same_content_under_another_name_is_the_same_case(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "whole", tmp_path / "whole")
    played(tmp_path, "renamed", file="other-name.toml")
    done = here("compare", "whole", "renamed", "--no-report", "-q", "--out", "both", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "both" / "run.json").read_text())
    assert [scenario["name"] for scenario in found["scenarios"] if not scenario["probe"]] == ["sizes"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("repeat = 3", "repeat = 4", "the events differ"),
        ('type = "batch_norm"', 'type = "batch_norm", eps = 0.5', "the network differs"),
        ("[4, 2]\n\n[program]", '[4, 2]\nfill = "uniform"\n\n[program]', "the array x/main holds other values"),
    ],
)
def test_other_inputs_under_the_same_name_are_refused_with_the_reason(
    runs: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in SCENARIO
    shutil.copytree(runs / "whole", tmp_path / "whole")
    played(tmp_path, "changed", scenario=SCENARIO.replace(old, new))
    done = here("compare", "whole", "changed", "--out", "both", cwd=tmp_path)
    assert done.returncode == 2
    assert "is not the same in whole and changed" in done.stderr
    assert said in done.stderr
    assert not (tmp_path / "both").exists()


def swap_inputs(run: Path) -> None:
    path = sorted((run / "inputs").glob("*.npz"))[0]
    with np.load(path) as arrays:
        changed = {name: arrays[name] + 1 for name in arrays}
    np.savez(path, **changed)


def climb(run: Path) -> None:
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text.replace('"slug": "reference"', '"slug": "../../etc"'))


def link(run: Path) -> None:
    (run / "cells" / "more").symlink_to("/etc")


def pickle(run: Path) -> None:
    path = sorted((run / "inputs").glob("*.npz"))[0]
    np.savez(path, **{"x/main": np.array([{"a": 1}], dtype=object)})


def name_key(run: Path) -> None:
    keys = json.loads((run / "contents.json").read_text())
    (run / "contents.json").write_text(json.dumps(dict.fromkeys(keys, "../../../etc/passwd")))


def cut_plan(run: Path) -> None:
    path = run / "plan.json"
    path.write_text(path.read_text()[:100])


def change_plan(**values: Any) -> Callable[[Path], object]:
    def edit(run: Path) -> None:
        plan = json.loads((run / "plan.json").read_text())
        (run / "plan.json").write_text(json.dumps({**plan, **values}))

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (swap_inputs, "are not those that its key"),
        (climb, "cannot be the name of a folder|not a name that bncheck gives"),
        (link, "is a link; a run folder has none"),
        (pickle, "pickle"),
        (name_key, "does not say what the inputs"),
        (cut_plan, "plan.json cannot be read"),
        (change_plan(part={"whole": "x", "of": "many", "index": 1}), "plan.json has a wrong shape"),
        (change_plan(part={"joined": [{}]}), "plan.json has a wrong shape"),
        (change_plan(part={"whole": "x", "of": 10**12, "index": 1}), "plan.json has a wrong shape"),
        (change_plan(tolerance={"rtol": "wide"}), "plan.json has a wrong shape"),
        (change_plan(overrides=[]), "plan.json has a wrong shape"),
        (change_plan(scenarios=[{"name": "../../../etc/passwd", "probe": False}]), "is not a name that bncheck gives"),
        (lambda run: (run / "contents.json").unlink(), "contents.json is missing"),
        (lambda run: shutil.rmtree(run / "inputs"), "is missing"),
        (lambda run: (run / "contents.json").write_text("[]"), "wrong shape"),
        (lambda run: (run / "run.json").unlink(), "has no run.json yet"),
    ],
)
def test_an_edited_folder_is_refused_in_a_sentence(copied: Path, edit: Callable[[Path], object], said: str) -> None:
    edit(copied / "second")
    done = here("compare", "first", "second", "-q", "--no-report", "--out", "both", cwd=copied)
    assert done.returncode == 2
    assert any(word in done.stderr for word in said.split("|")), done.stderr
    assert not (copied / "both").exists()


def test_one_run_or_the_same_twice_is_refused(copied: Path) -> None:
    assert here("compare", "first", cwd=copied).returncode == 2
    with pytest.raises(UsageError, match="is named twice"):
        open_sources([str(copied / "first"), f"{copied}/second/../first"], print)
    with pytest.raises(RunFolderError, match="There is no run folder"):
        open_sources([str(copied / "first"), str(copied / "none")], print)


def test_labels_are_the_shortest_names_that_differ() -> None:
    assert labels([Path("/a/x"), Path("/b/y")]) == ["x", "y"]
    assert labels([Path("/a/run"), Path("/b/run")]) == ["a", "b"]
    assert labels([Path("/a/run"), Path("/c/a/run")]) == ["run 1", "run 2"]


def test_it_needs_no_framework_and_no_worker(copied: Path) -> None:
    refusing = (
        "import sys\n"
        "def refuse(event, details):\n"
        "    assert event != 'subprocess.Popen', details\n"
        "    assert event != 'import' or details[0] not in ('torch', 'mxnet', 'tensorflow', 'jax'), details\n"
        "sys.addaudithook(refuse)"
    )
    done = bncheck("compare", "first", "second", "-q", "--out", "both", cwd=copied, first=refusing)
    assert done.returncode == 0, done.stderr
    assert (copied / "both" / "index.html").exists()
