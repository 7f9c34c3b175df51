"""Smaller cases, and when one may take a case's place."""

from __future__ import annotations

import functools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import play
from literal_run import finding
from nurseries import shared
from played_scripts import reported, run_scripts

from bncheck.commands.progress import Quiet
from bncheck.repro.kit import subject_of, write_scripts
from bncheck.repro.minimise import alike, minimise
from bncheck.repro.scene import Scene, choose_finding, concerned, read_scene
from bncheck.repro.smaller import MOST, described, shrink, size, smaller_cases
from bncheck.repro.standalone.frame import Script
from bncheck.run_folder.results import Results, read_results
from bncheck.scenario import Case
from bncheck.scenario_files.files import load_scenario
from bncheck.scenario_files.inputs import make_inputs
from bncheck.scenario_files.shipped import find_scenarios


def shipped(name: str, case: str) -> Case:
    path = next(path for path in find_scenarios() if path.stem == name)
    return next(each for each in load_scenario(path).cases if each.name == case)


def test_the_smallest_comes_first_and_all_are_smaller() -> None:
    case = shipped("all-ones", "forward")
    tried = smaller_cases(case)
    assert [each.name for each in tried[:2]] == ["try-1", "try-2"]
    assert described(tried[0]) == "1 event on [2, 1, 1, 1]"
    assert tried[0].network.layers[0].channels == 1
    assert [size(each) for each in tried] == sorted(size(each) for each in tried)
    assert len(tried) <= MOST
    assert all(size(each) < size(case) for each in tried)
    assert size(tried[0]) == 2 + 4


def test_batches_are_counted_anew_and_the_end_is_kept() -> None:
    """batch-sizes: 10 × (train, backward), then eval; a cut keeps the first step, or the first and the eval."""
    case = shipped("batch-sizes", "n-8")
    programs = {tuple((event.op, event.batch) for event in each.events) for each in smaller_cases(case)}
    assert (("train_forward", 0), ("backward", 0)) in programs
    assert (("train_forward", 0), ("backward", 0), ("eval_forward", 1)) in programs


def test_poison_and_initial_values_follow_the_channels() -> None:
    case = shipped("nan-sample", "bad-step")
    small = shrink(case, {"samples": 2, "channels": 1, "pixels": 1})
    assert small is not None
    assert small.inputs["bad"].shape == (2, 1, 1, 1)
    assert small.inputs["bad"].poison_channel == 0
    probe = shipped("probe", "2-d--eps-0.05")
    small = shrink(probe, {"samples": 2, "channels": 2, "pixels": None})
    assert small is not None
    assert small.network.layers[0].initial["running_mean"] == (0.7, -1.3)
    assert make_inputs(small)["param/bn/running_mean"].shape == (2,)


def test_networks_of_several_layers_keep_their_shape() -> None:
    case = shipped("custom-graph", "good--fb")
    assert len(case.network.layers) > 1
    shapes = {tuple(each.inputs["main"].shape[1:]) for each in smaller_cases(case)}
    assert shapes == {tuple(case.inputs["main"].shape[1:])}


def test_a_finding_is_the_same_only_with_the_same_cause_sides_and_blame() -> None:
    here = finding(sides=(("reference",), ("mxnet",)))
    assert alike(here, replace(here, title="other words", explained=0.5, case="try-1"))
    assert alike(here, replace(here, sides=(("mxnet",), ("reference",))))
    for change in ({"code": "BN102"}, {"kind": "defect"}, {"departs": "mxnet"}, {"layer": "bn2"}, {"sides": ()}):
        assert not alike(here, replace(here, **change))


# -------------------------------------------------------------------------------------------------- on real targets


def scene_of(run: Path, text: str) -> tuple[Results, Scene]:
    found = read_results(run)
    return found, read_scene(run, found, choose_finding(found, text))


@functools.cache
def smallest(run: Path, text: str) -> Scene:
    """Found on real targets, once for each finding."""
    with shared():
        return minimise(*scene_of(run, text), (), Quiet())


@pytest.mark.parametrize("text", ["update-phase", "variance-divisor", "single-value", "nan-sample--bad-step"])
def test_the_smaller_case_really_shows_the_finding(text: str, default_run: Path) -> None:
    """What comes back was recorded from the real targets: every script's problem is in the figures it embeds."""
    _, scene = scene_of(default_run, text)
    small = smallest(default_run, text)
    assert small.finding == scene.finding
    assert small.note
    if "smallest" in small.note:
        assert size(small.case) < size(scene.case)
    for target in concerned(scene.finding, scene.played):
        old, new = subject_of(scene, target), subject_of(small, target)
        assert new.problem == old.problem
        if new.problem == "differs":
            assert any(quantity.outside for quantity in new.quantities) or new.refused_here != new.refused_there


def test_scripts_of_the_smaller_case_show_the_problem(default_run: Path, tmp_path: Path) -> None:
    written: dict[str, dict[str, Script]] = {}
    for text in ("update-phase", "nan-sample--bad-forward-only", "single-value"):
        small = smallest(default_run, text)
        assert "smallest" in small.note
        _, scripts, _ = write_scripts(small)
        assert scripts
        for name, script in scripts.items():
            assert not script.beside
            written.setdefault(name.removeprefix("repro_").removesuffix(".py"), {})[text] = script
    for backend, scripts in written.items():
        for text, (code, printed) in run_scripts(backend, scripts, tmp_path / backend).items():
            assert code == 1, f"{code}\n{printed}\n{scripts[text].text}"
            assert "The problem is there: " in printed
            assert [figure for figure in reported(scripts[text].text) if figure not in printed] == []


MODEL = """
title = "A model of one's own"
why = "One layer in it averages another variance."
[network]
model = "mxnet_layers.py:build"
arguments = { norm = "Unbiased" }
[input]
shape = [8, 3, 6, 6]
[program]
events = ["train_forward", "backward"]
repeat = 3
"""


@pytest.mark.slow
def test_what_a_layer_in_a_model_does_is_found_in_a_smaller_case(tmp_path: Path) -> None:
    """No pair of targets shows it: the layer was played by itself, in the smaller case as well."""
    shutil.copy(Path(__file__).with_name("mxnet_layers.py"), tmp_path)
    (tmp_path / "model.toml").write_text(MODEL, encoding="utf-8")
    play(tmp_path / "run", "run", str(tmp_path / "model.toml"), "-t", "mxnet", "--no-probe", "--no-report")
    small = minimise(*scene_of(tmp_path / "run", "variance-divisor"), (), Quiet())
    assert small.note == (
        "The scripts play the smallest case found that still shows it: 2 events on [2, 3, 6, 6] instead of 6 events "
        "on [8, 3, 6, 6]."
    )


def test_update_phase_needs_one_forward_on_two_numbers(default_run: Path) -> None:
    small = smallest(default_run, "update-phase")
    assert described(small.case) == "1 event on [2, 1, 1, 1]"
    mxnet = next(item.target for item in small.played if item.target.backend == "mxnet")
    mean = next(quantity for quantity in subject_of(small, mxnet).quantities if quantity.name == "running_mean")
    assert mean.here.tolist() == [[0.0], [0.0]]
    assert mean.there.tolist() == [[0.0], [0.1]]


def test_the_case_stays_where_it_cannot_be_played(default_run: Path) -> None:
    found, scene = scene_of(default_run, "update-phase")
    other = tuple(replace(item, target=replace(item.target, version="0.0.1")) for item in scene.played)
    with shared():
        stayed = minimise(found, replace(scene, played=other), (), Quiet())
    assert stayed.case == scene.case
    assert "was 0.0.1 in the run" in stayed.note
    gone = tuple(replace(item, target=replace(item.target, name="no-such-framework")) if item.target.backend == "mxnet"
                 else item for item in scene.played)  # fmt: skip
    wanted = replace(scene.finding, targets=("no-such-framework", "torch"), sides=())
    stayed = minimise(found, replace(scene, played=gone, finding=wanted), (), Quiet())
    assert stayed.case == scene.case
    assert "no-such-framework is not here" in stayed.note
    stayed = minimise(found, replace(scene, finding=replace(scene.finding, kind="rounding")), (), Quiet())
    assert stayed.note == "The case is the run's own: rounding is not made smaller."
