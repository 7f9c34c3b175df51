"""Models as PyTorch transformed them, and layers that hold what is not theirs: ``check`` and ``diff``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from at_the_prompt import here
from test_checkpoints import python_of

MODELS = Path(__file__).parent / "transformed_models.py"
SHAPE = ("--input", "64,3,8,8", "--no-report", "-q")


def told(folder: Path, verb: str, *names: str) -> tuple[int, dict[str, Any], dict[str, Any], str]:
    things = [f"{MODELS}:{name}" for name in names]
    done = here(verb, *things, *SHAPE, "--python", str(python_of("torch")), "--out", str(folder / "run"))
    assert done.returncode in (0, 1, 3), done.stderr
    answer, results = (json.loads((folder / "run" / name).read_text()) for name in ("answer.json", "run.json"))
    return done.returncode, answer, results, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("compiled", "torch.compile() was taken off: the layers are those of the model as it was before."),
        ("compiled_inside", "torch.compile() was taken off: the layers are those of the model as it was before."),
        ("parallel", "DataParallel was taken off: the layers are those of the model in it."),
    ],
)
def test_a_model_in_a_wrapper_is_played_as_it_was_before(tmp_path: Path, name: str, said: str) -> None:
    code, answer, _, _ = told(tmp_path, "check", name)
    assert code == 0
    assert answer["headline"] == "2 normalising layers, nothing wrong, played in eval and through 3 training steps."
    assert [row["layer"] for row in answer["rows"]] == ["1", "4"]
    assert said in answer["notes"]


def test_a_scripted_model_is_not_played_and_what_to_check_instead_is_said(tmp_path: Path) -> None:
    code, answer, _, stderr = told(tmp_path, "check", "scripted")
    assert code == 3
    assert "it is a scripted module, and PyTorch lets nobody look into its layers" in stderr
    assert [row["layer"] for row in answer["rows"]] == ["1", "4"], "what they hold is shown all the same"


@pytest.mark.slow
def test_the_mode_of_an_exported_program_is_that_of_its_graph(tmp_path: Path) -> None:
    code, answer, _, _ = told(tmp_path, "check", "program_in_training_mode")
    assert code == 3
    assert [row["cells"][1] for row in answer["rows"]] == ["train", "train"]
    assert "It was exported in training mode: 1, 4 normalise by the batch in it" in answer["notes"][0]
    code, answer, _, _ = told(tmp_path / "eval", "check", "program")
    assert code == 3
    assert [row["cells"][1] for row in answer["rows"]] == ["eval", "eval"]
    assert answer["notes"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("second", "code", "cause", "words"),
    [
        ("scripted", 0, "", "give outputs that are equal"),
        ("frozen", 0, "rounding", "give outputs that are equal up to rounding"),
        ("frozen_with_another_eps", 1, "eps", "computes with eps 0.01, "),
        ("program_in_training_mode", 1, "mode-leak", "in train mode, not in eval"),
    ],
)
def test_a_model_and_what_was_made_of_it_are_held_against_each_other(
    tmp_path: Path, second: str, code: int, cause: str, words: str
) -> None:
    exit_code, answer, results, _ = told(tmp_path, "diff", "build", second)
    assert exit_code == code
    assert words in answer["headline"]
    assert {found["cause"] for found in results["findings"]} <= {cause, "rounding"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cause", "words"),
    [
        ("other_statistics", "state-mismatch", "Layers 1 and 4 begin with the same running statistics"),
        ("out_of_reach", "poisoned-state", "eval keeps nothing of its input in channel 2 of layer 1"),
    ],
)
def test_statistics_that_are_not_the_layers_own(tmp_path: Path, name: str, cause: str, words: str) -> None:
    code, _, results, _ = told(tmp_path, "check", name)
    assert code == 1
    (found,) = results["findings"]
    assert found["cause"] == cause
    assert words in found["title"]
