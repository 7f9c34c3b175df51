"""Replicas, copies, a layer used again and views in a scenario file: what is read, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bncheck.errors import ScenarioError
from bncheck.playing.cases_file import describe_case
from bncheck.scenario import Case
from bncheck.scenario_files.files import load_scenario
from bncheck.scenario_files.inputs import content_key, make_inputs

NORM = '[[network.layers]]\nname = "bn"\ntype = "batch_norm"\n'
AGAIN = NORM + '[[network.layers]]\nname = "again"\ntype = "batch_norm"\nsame_as = "%s"\n'


def load(folder: Path, network: str = NORM, more: str = "", inputs: str = "shape = [4, 1]", events: str = "") -> Case:
    path = folder / "one.toml"
    events = events or '"train_forward"'
    path.write_text(
        f'title = "t"\nwhy = "w"\n{network}\n[network]\n{more}\n[input]\n{inputs}\n[program]\nevents = [{events}]\n',
        encoding="utf-8",
    )
    (case,) = load_scenario(path).cases
    return case


def refused(folder: Path, **parts: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        load(folder, **parts)
    return str(caught.value)


def test_replicas_divide_the_whole_batch(tmp_path: Path) -> None:
    assert load(tmp_path, more="replicas = [3, 1]").network.replicas == (3, 1)
    said = refused(tmp_path, more="replicas = [3, 2]")
    assert "input.shape: has 4 samples; replicas of [3, 2] take 5" in said


def test_one_replica_is_none(tmp_path: Path) -> None:
    assert "network.replicas: [4] is too short; at least 2 entries are needed" in refused(
        tmp_path, more="replicas = [4]"
    )


def test_a_copy_has_a_kind(tmp_path: Path) -> None:
    assert load(tmp_path, more='copied = "deepcopy"').network.copied == "deepcopy"
    assert 'did you mean "deepcopy"?' in refused(tmp_path, more='copied = "deep_copy"')


def test_events_of_a_copy_need_one(tmp_path: Path) -> None:
    said = refused(tmp_path, events='"train_copy"')
    assert "train_copy needs a copy: say how it is made in network.copied" in said


def test_a_copy_runs_on_the_batch_that_was_read_last(tmp_path: Path) -> None:
    case = load(tmp_path, more='copied = "export"', events='"train_forward", "train_forward", "eval_copy"')
    assert [(event.op, event.batch) for event in case.events] == [
        ("train_forward", 0), ("train_forward", 1), ("eval_copy", 1)
    ]  # fmt: skip


def test_a_layer_is_used_again_after_it_stood_somewhere(tmp_path: Path) -> None:
    assert [layer.same_as for layer in load(tmp_path, AGAIN % "bn").network.layers] == [None, "bn"]
    assert 'unknown BatchNorm layer before this one "again"; allowed: bn' in refused(tmp_path, network=AGAIN % "again")


def test_shifts_move_equal_parts_of_each_batch(tmp_path: Path) -> None:
    plain = make_inputs(load(tmp_path))["x/main"]
    shifted = make_inputs(load(tmp_path, inputs="shape = [4, 1]\nshifts = [0, 16]"))["x/main"]
    assert np.round(shifted - plain).ravel().tolist() == [0, 0, 16, 16]
    said = refused(tmp_path, inputs="shape = [4, 1]\nshifts = [0, 1, 2]")
    assert "3 numbers do not divide 4 samples equally" in said


def test_a_view_reaches_the_worker_and_makes_another_case(tmp_path: Path) -> None:
    plain, sliced = load(tmp_path), load(tmp_path, inputs='shape = [4, 1]\nview = "sliced"')
    assert (describe_case(plain, "")["views"], describe_case(sliced, "")["views"]) == ({}, {"main": "sliced"})
    keys = {content_key(case, make_inputs(case)) for case in (plain, sliced)}
    assert len(keys) == 2
    assert 'did you mean "strided"?' in refused(tmp_path, inputs='shape = [4, 1]\nview = "strides"')


def test_parts_that_nobody_asked_for_leave_content_keys_as_they_were(tmp_path: Path) -> None:
    """Runs of earlier versions are compared with new ones by these keys."""
    case = load(tmp_path)
    assert content_key(case, make_inputs(case)) == "0e360189ceca3d34"
