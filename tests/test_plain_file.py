"""What is read of an ONNX file's scenario without what checks scenario files: the same, or nothing at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bncheck.scenario_files.files import load_scenario
from bncheck.scenario_files.model_file import with_input_of_file
from bncheck.scenario_files.plain_file import read_plain
from bncheck.scenario_files.shipped import find_scenarios, resolve_scenario

SCENARIO = resolve_scenario("onnx-file")
FILES = sorted(path for path in (SCENARIO.parent / "models").glob("*.onnx"))


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_a_file_put_into_the_scenario_is_read_as_what_checks_scenarios_reads_it(file: Path) -> None:
    given = with_input_of_file({"network.file": str(file)}, SCENARIO)
    assert read_plain(SCENARIO, given) == load_scenario(SCENARIO, given)


@pytest.mark.parametrize(
    "said",
    [
        {"input.shape": [8, 3, 32, 32]},
        {"input.shape": [2, 3], "dtype": "float64"},
        {"input.shape": [2, 3, 4], "dtype": "float16"},
    ],
    ids=str,
)
def test_a_shape_or_type_is_put_in_as_well(said: dict[str, Any]) -> None:
    given = {"network.file": str(FILES[0]), **said}
    assert read_plain(SCENARIO, given) == load_scenario(SCENARIO, given)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"network.file": 3},
        {"network.file": "missing.onnx"},
        {"input.shape": [3]},
        {"input.shape": [0, 3]},
        {"input.shape": [2, -3]},
        {"input.shape": [True, 3]},
        {"input.shape": "2,3"},
        {"input.shape": [2, 3, 100_000, 100_000]},
        {"dtype": "float33"},
        {"program.repeat": 2},
        {"input.mean": "x"},
    ],
    ids=str,
)
def test_whatever_may_be_wrong_is_left_to_what_says_so(said: dict[str, Any]) -> None:
    assert read_plain(SCENARIO, {"network.file": str(FILES[0]), **said} if said else {}) is None


def test_no_file_of_the_users_is_read_so(tmp_path: Path) -> None:
    assert read_plain(Path(shutil.copy(SCENARIO, tmp_path)), {"network.file": str(FILES[0])}) is None


def test_other_shipped_scenarios_say_more_than_is_read_here() -> None:
    given = {"network.file": str(FILES[0])}
    read = [path.stem for path in find_scenarios() if read_plain(path, given) is not None]
    assert read == ["onnx-file"]
