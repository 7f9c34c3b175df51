"""Every shipped scenario file is whole, says why it exists, and makes inputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from at_the_prompt import here

from bncheck.scenario_files.files import load_scenario
from bncheck.scenario_files.inputs import make_inputs
from bncheck.scenario_files.shipped import find_scenarios

FILES = find_scenarios()
REQUESTED = {"all-ones", "all-zeros", "batch-sizes", "events", "nan-sample", "one-value-per-channel", "probe"}


def test_the_scenarios_of_the_main_job_are_there() -> None:
    assert {path.stem for path in FILES} >= REQUESTED


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_is_whole(path: Path) -> None:
    scenario = load_scenario(path)
    assert len(scenario.why.strip()) > 40, "why says where the scenario comes from"
    assert scenario.cases
    assert len({case.name for case in scenario.cases}) == len(scenario.cases)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_first_case_makes_inputs(path: Path) -> None:
    case = load_scenario(path).cases[0]
    arrays = make_inputs(case)
    assert {f"x/{name}" for name in case.inputs} <= set(arrays)
    for name, spec in case.inputs.items():
        assert arrays[f"x/{name}"].shape[1:] == spec.shape


def test_all_ones_is_the_reported_script() -> None:
    forward, both = load_scenario(next(path for path in FILES if path.stem == "all-ones")).cases
    assert [event.op for event in forward.events] == ["train_forward"] * 100
    assert [event.op for event in both.events] == ["train_forward", "backward"] * 100
    assert np.array_equal(make_inputs(forward)["x/main"], np.ones((1, 8, 3, 32, 32), np.float32))


def test_every_case_of_the_probe_has_six_values_per_channel() -> None:
    for case in load_scenario(next(path for path in FILES if path.stem == "probe")).cases:
        (x,) = (array for name, array in make_inputs(case).items() if name.startswith("x/"))
        assert x[0].size // 3 == 6
        assert len({batch.tobytes() for batch in x}) == len(x) == 10


def test_list_names_scenarios_and_targets() -> None:
    found = json.loads(here("list", "--json").stdout)
    assert {row["name"] for row in found["scenarios"]} >= REQUESTED
    assert {"reference", "torch", "mxnet"} <= {row["name"] for row in found["backends"]}
    text = here("list").stdout
    assert "all-ones" in text
    assert "[raw]" in text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_show_prints_every_file(path: Path) -> None:
    text = here("show", path.stem).stdout
    scenario = load_scenario(path)
    assert scenario.title in text
    assert f"cases ({len(scenario.cases)})" in text
    assert f"bncheck run {path.stem}" in text


def test_show_says_a_repeated_stretch_once() -> None:
    text = here("show", "all-ones", "--set", "program.repeat=3").stdout
    assert "\n  3 × train_forward\n" in text
    assert "--set program.repeat=3" in text
