"""The twelve faults that people make with BatchNorm, planted in a small model of each framework (planted_models/): each
is named, by ``bncheck check`` or, where it is of the training alone, by ``bncheck watch``, and nothing else is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from at_the_prompt import here
from test_checkpoints import python_of

MODELS = Path(__file__).parent / "planted_models"
# What each is called by; a framework whose file has no such function cannot have the fault in a model.
FAULTS = {
    "no_running_statistics": {"normaliser-source", "mode-leak"},
    "never_moves": {"batch-weight"},
    "nan_variance": {"poisoned-state"},
    "negative_variance": {"poisoned-state"},
    "statistics_lost": {"never-updated"},
    "frozen_by_halves": {"mode-leak"},
    "at_two_places": {"shared-state"},
    "used_twice": {"shared-state"},
    "in_a_plain_list": {"unregistered"},
    "ignores_eval": {"normaliser-source", "update-phase"},
    "forward_trains": {"mode-leak"},
    "low_precision": {"low-precision-stall"},
}
HEALTHY = ("healthy", "healthy_branch", "healthy_loop", "healthy_frozen", "healthy_frozen_stem", "healthy_head_alone")
FRAMEWORKS = {
    "torch": "16,3,8,8", "paddle": "16,3,8,8", "flax": "16,8,8,3", "mxnet": "16,3,8,8", "keras[torch]": "16,8,8,3",
    "keras[jax]": "16,8,8,3",
}  # fmt: skip
QUICK = ("at_two_places", "healthy_branch", "healthy_loop", "used_twice")


def file_of(framework: str) -> Path:
    return MODELS / f"{framework.partition('[')[0]}_model.py"


def planted(framework: str) -> list[str]:
    text = file_of(framework).read_text()
    return [name for name in (*HEALTHY, *FAULTS) if f"def {name}(" in text]


def causes(run: Path) -> list[str]:
    return sorted({item["cause"] for item in json.loads((run / "run.json").read_text())["findings"]})


def checked(framework: str, name: str, run: Path) -> list[str]:
    engine = framework.partition("[")[2].rstrip("]")
    done = here(
        "check", f"{file_of(framework)}:{name}", "--input", FRAMEWORKS[framework], "--python",
        str(python_of(framework)), "--no-report", "-q", "--out", str(run), KERAS_BACKEND=engine or "jax",
    )  # fmt: skip
    assert done.returncode in (0, 1, 3), done.stderr
    return causes(run)


@pytest.mark.process
@pytest.mark.parametrize("name", QUICK)
def test_a_batch_norm_between_unlike_neighbours_is_at_two_places_and_a_part_that_runs_twice_is_not(
    tmp_path: Path, name: str
) -> None:
    assert checked("torch", name, tmp_path / "run") == sorted(FAULTS.get(name, ()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "name"), [(framework, name) for framework in FRAMEWORKS for name in planted(framework)]
)
def test_each_fault_is_named_and_nothing_else(tmp_path: Path, framework: str, name: str) -> None:
    found = set(checked(framework, name, tmp_path / "run"))
    assert found <= FAULTS.get(name, set())
    assert bool(found) is (name in FAULTS)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_statistics_that_lag_are_named_where_their_training_is_watched(tmp_path: Path, framework: str) -> None:
    engine = framework.partition("[")[2].rstrip("]")
    done = here(
        "watch", "-q", "--out", str(tmp_path / "run"), "--", str(python_of(framework)), str(file_of(framework)),
        "lags", KERAS_BACKEND=engine or "jax",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert causes(tmp_path / "run") == ["few-updates"]


SCENARIO = """
title = "State under names of its own"
why = "It is known by what it does."
targets = ["{target}"]
[network]
model = "{model}"
[input]
shape = [{shape}]
channel_axis = {axis}
[program]
events = ["train_forward", "backward"]
repeat = 2
then = ["eval_forward"]
"""


def played(framework: str, name: str, folder: Path, file: Path | None = None) -> tuple[int, str, dict[str, Any]]:
    """(exit code, what stderr says, run.json) of ``bncheck run`` of a scenario with a model of ``*_unusual.py``."""
    file = file or MODELS / f"{framework.partition('[')[0]}_unusual.py"
    shutil.copy(file, folder)
    shape = FRAMEWORKS[framework].replace(",", ", ")
    text = SCENARIO.format(
        target=framework, model=f"{file.name}:{name}", shape=shape, axis=1 if "3, 8" in shape else -1
    )
    (folder / "unusual.toml").write_text(text, encoding="utf-8")
    done = here("run", str(folder / "unusual.toml"), "--no-probe", "--no-report", "-q", "--out", str(folder / "run"))
    return done.returncode, done.stderr, json.loads((folder / "run" / "run.json").read_text())


def named_in_run(framework: str, name: str, folder: Path) -> list[str]:
    code, said, run = played(framework, name, folder, file_of(framework))
    assert code == 0, said
    assert run["cells"][0]["judged"], run["cells"][0]["unjudged"]
    assert not any("no known rule" in each for each in run["cells"][0]["remarks"])
    return sorted({item["cause"] for item in run["findings"]})


@pytest.mark.process
@pytest.mark.parametrize("name", ["used_twice", "healthy_branch"])
def test_run_names_a_layer_at_two_places_as_check_does(tmp_path: Path, name: str) -> None:
    assert named_in_run("torch", name, tmp_path) == sorted(FAULTS.get(name, ()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "name"),
    [
        (framework, name)
        for framework in FRAMEWORKS
        for name in planted(framework)
        if name in QUICK or name.startswith("healthy")
    ],
)
def test_run_names_what_check_names_of_places_and_frozen_layers(tmp_path: Path, framework: str, name: str) -> None:
    assert named_in_run(framework, name, tmp_path) == sorted(FAULTS.get(name, ()))


def judged_in_run(framework: str, name: str, folder: Path) -> int:
    code, said, run = played(framework, name, folder)
    assert code == 0, said
    assert [(item["layer"], item["cause"]) for item in run["findings"]] == [("SampleVariance", "variance-divisor")]
    (cell,) = run["cells"]
    assert any(
        each == "By what they do in training, stats.mu and stats.sigma2 of Nested were taken for its running mean and "
        "variance."
        for each in cell["remarks"]
    )
    return int(cell["judged"])


@pytest.mark.process
def test_run_judges_layers_whose_state_has_unusual_names(tmp_path: Path) -> None:
    """All but the two that average no variance."""
    assert judged_in_run("mxnet", "Net", tmp_path) == 4


@pytest.mark.slow
@pytest.mark.parametrize("framework", [name for name in FRAMEWORKS if name not in ("torch", "mxnet")])
def test_run_judges_layers_whose_state_has_unusual_names_in_each_framework(tmp_path: Path, framework: str) -> None:
    assert judged_in_run(framework, "net" if framework.startswith("keras") else "Net", tmp_path) == 4


@pytest.mark.process
def test_parameters_that_wait_for_a_batch_get_one(tmp_path: Path) -> None:
    """MXNet: in ``run`` and in ``check``, with usual names and others beside them."""
    code, said, run = played("mxnet", "Waiting", tmp_path)
    assert code == 0, said
    assert [(item["layer"], item["cause"]) for item in run["findings"]] == [("v", "variance-divisor")]
    assert run["cells"][0]["judged"] == 3
    checking = (
        "--as", "model", "--input", "16,3,8,8", "--python", str(python_of("mxnet")), "--no-report", "-q", "--out",
    )  # fmt: skip
    done = here("check", f"{MODELS / 'mxnet_unusual.py'}:Waiting", *checking, str(tmp_path / "checked"))
    assert done.returncode == 1, done.stderr
    assert causes(tmp_path / "checked") == ["variance-divisor"]
    done = here("check", f"{MODELS / 'mxnet_unusual.py'}:Misfit", *checking, str(tmp_path / "misfit"))
    assert done.returncode == 2, done.stderr
    assert "parameters of Misfit() wait for a first batch, and one of the shape (16, 3, 8, 8) raises" in done.stderr
    assert "data should be 4D in batch-num_filter-y-x (line " in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("framework", [name for name in FRAMEWORKS if name != "torch"])
def test_layers_whose_state_has_unusual_names_are_found_and_judged(tmp_path: Path, framework: str) -> None:
    plain, _, engine = framework.partition("[")
    thing = f"{MODELS / f'{plain}_unusual.py'}:{'net' if plain == 'keras' else 'Net'}"
    done = here(
        "check", thing, "--as", "model", "--input", FRAMEWORKS[framework], "--python", str(python_of(framework)),
        "--no-report", "-q", "--out", str(tmp_path / "run"), KERAS_BACKEND=engine.rstrip("]") or "jax",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    found = json.loads((tmp_path / "run" / "run.json").read_text())["findings"]
    assert [(item["layer"], item["cause"]) for item in found] == [("SampleVariance", "variance-divisor")]
    answer = json.loads((tmp_path / "run" / "answer.json").read_text())
    said = {row["layer"]: row["cells"][-1] for row in answer["rows"]}
    assert said == {
        "Plain": "in order", "Wide": "in order", "Nested": "in order", "SampleVariance": "variance-divisor",
        "Deviation": "not compared", "Inverse": "not compared",
    }  # fmt: skip
    apart = [note for note in answer["notes"] if "it averages the deviation of each batch" in note]
    assert [note.partition(" ")[0] for note in apart] == ["Deviation", "Inverse"]
