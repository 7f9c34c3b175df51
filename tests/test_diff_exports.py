"""``bncheck diff`` of a model and its ONNX file, of two files, of two models: outputs of the same bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from at_the_prompt import here
from test_checkpoints import made_by, python_of

from bncheck.checkpoints.recognise import Checkpoint, read_checkpoint
from bncheck.diagnosis.held.measured import Measured
from bncheck.diagnosis.held.outputs import bound, gap, hold_against, readings
from bncheck.diagnosis.held.reading import Sides
from bncheck.finding import Finding
from bncheck.life import Holding
from bncheck.subjects.exchanged import follows
from bncheck.subjects.played_file import Played
from bncheck.trace import Array

SIDES = Sides(a="A", b="B", eps_a=1e-5)


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


# ---------------------------------------------------------------------------------------------------- outputs, pure


def test_a_gap_is_relative_to_the_largest_value_and_infinite_where_nothing_goes_together() -> None:
    assert gap([f32(1, -4)], [f32(1, -3)]) == 0.25
    assert gap([f32(0, 0)], [f32(0, 0)]) == 0
    assert gap([f32(1, 2)], [f32(1, 2, 3)]) == float("inf")
    assert gap([f32(1, 2)], []) == float("inf")
    assert gap([f32(1, np.nan)], [f32(1, 2)]) == float("inf")
    assert gap([f32(1, np.nan)], [f32(1, np.nan)]) == 0


def test_rounding_goes_as_far_as_the_models_own_does() -> None:
    plays = {"eval": [f32(1, 2)], "eval64": [np.array([1.0, 2.000002])]}
    assert bound(plays, "eval") == pytest.approx(32 * 1e-6, rel=0.2)
    assert bound({"eval": [f32(1, 2)]}, "eval") == 16 * 2.0**-23


def said(**gaps: float) -> tuple[str, str]:
    found = {name.replace("_", " "): Measured(value, 1e-5) for name, value in gaps.items()}
    made = readings(SIDES, found)
    return (made[0].cause, made[0].title) if made else ("", "")


def test_the_way_of_running_it_that_the_other_equals_is_named() -> None:
    assert said(eval=0.0, train=0.3) == ("", "")
    assert said(eval=1e-6, train=0.3)[0] == "rounding"
    assert said(eval=0.3, train=1e-6, start=0.2)[0] == "mode-leak"
    assert said(eval=0.3, train=1e-6, start=0.2)[1].startswith("B equals A in train mode, not in eval")
    assert said(eval=0.3, train=1e-6)[1].endswith("(off by 30 % in eval, by 0.0001 % this way).")
    assert said(eval=0.3, batch=1e-6, train=0.4)[0] == "mode-leak"
    assert said(eval=0.3, train=0.2, start=1e-6)[0] == "stale-state"
    assert said(eval=0.3, train=1e-6, start=1e-6)[0] == "unexplained"  # this input does not tell
    assert said(eval=0.3, train=0.2, start=0.2)[0] == "unexplained"


def test_another_eps_is_named_with_its_share() -> None:
    found = {"eval": Measured(1e-3, 1e-5), "eps 0.001": Measured(1e-5, 1e-5), "eps 0.01": Measured(9e-3, 1e-5)}
    (reading,) = readings(SIDES, found)
    assert reading.cause == "eps"
    assert "B computes with eps 0.001, A with 1e-05: that explains 99 % of the difference" in reading.title
    found["eps 0.001"] = Measured(5e-4, 1e-5)
    assert readings(SIDES, found)[0].cause == "unexplained"


def test_two_causes_at_once_are_named_with_their_shares_where_their_pair_alone_fits() -> None:
    found = {
        "eval": Measured(0.5, 1e-5), "train": Measured(0.125, 1e-5), "start": Measured(0.4, 1e-5),
        "eps 0.001": Measured(0.375, 1e-5), "train, eps 0.001": Measured(0.0, 1e-5),
        "start, eps 0.001": Measured(0.3, 1e-5),
    }  # fmt: skip
    mode, eps = readings(SIDES, found)
    assert (mode.cause, eps.cause) == ("mode-leak", "eps")
    assert mode.title.startswith("B equals A in train mode and with another eps")
    assert mode.evidence["explained"] == 0.75  # ((0.5 - 0.125) + (0.375 - 0)) / 2 / 0.5
    assert "B computes with eps 0.001, A with 1e-05: that makes up 25 % of the difference" in eps.title

    both_fit = found | {"start, eps 0.001": Measured(1e-6, 1e-5)}
    assert [reading.cause for reading in readings(SIDES, both_fit)] == ["unexplained"]  # this input does not tell
    near = found | {"train, eps 0.001": Measured(1e-3, 1e-5)}
    assert [reading.cause for reading in readings(SIDES, near)] == ["unexplained"]
    one = found | {"train": Measured(1e-6, 1e-5)}
    assert [reading.cause for reading in readings(SIDES, one)] == ["mode-leak"]  # one cause is enough


def test_ways_that_are_held_against_the_other() -> None:
    plays = {"eval": [f32(1)], "nudged": [f32(1)], "eval64": [f32(1)], "train": [f32(3)]}
    assert set(hold_against(plays, [f32(1)])) == {"eval", "train"}


# ------------------------------------------------------------------------------------------------------- real ones


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    python_of("onnxruntime")
    return made_by("torch[onnx]", "torch_exports.py", tmp_path_factory.mktemp("exports"))


def told(files: Path, out: Path, a: str, b: str, *more: str) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    words = [str(files / name) for name in (a, b)]
    python = ["--python", str(python_of("torch"))] if "model.py" in a + b else []
    done = here("diff", *words, *more, *python, "--out", str(out / "run"), "-q", "--no-report")
    assert done.returncode in (0, 1), done.stderr
    answer, results = (json.loads((out / "run" / name).read_text()) for name in ("answer.json", "run.json"))
    return done.returncode, answer, results["findings"]


def test_a_file_that_was_exported_rightly(files: Path, tmp_path: Path) -> None:
    code, answer, findings = told(files, tmp_path, "model.py:build", "folded.onnx")
    assert code == 0
    assert answer["headline"] == (
        "folded.onnx and model.py:build give outputs that are equal up to rounding, with 2 BatchNorm layers folded."
    )
    assert {found["cause"] for found in findings} <= {"rounding", "folding"}
    assert [row["mark"] for row in answer["rows"]] == ["agrees", "agrees"]


@pytest.mark.parametrize(
    ("file", "cause", "words"),
    [
        ("train.onnx", "mode-leak", "train.onnx equals model.py:build in train mode, not in eval"),
        ("start.onnx", "stale-state", "start.onnx holds the statistics of step 0"),
        ("eps.onnx", "eps", "eps.onnx computes with eps 0.001, model.py:build with 1e-05: that explains"),
        ("other.onnx", "", ""),
        ("train-eps.onnx", "mode-leak", "equals model.py:build in train mode and with another eps"),
        ("start-eps.onnx", "stale-state", "start-eps.onnx holds the statistics of step 0, and another eps"),
    ],
)
def test_files_that_were_not(files: Path, tmp_path: Path, file: str, cause: str, words: str) -> None:
    code, answer, findings = told(files, tmp_path, "model.py:build", file)
    assert code == 1
    assert not cause or findings[0]["cause"] == cause
    assert words in answer["headline"]
    causes = {found["cause"] for found in findings}
    assert cause or "unexplained" in causes
    assert "another eps" not in words or "eps" in causes


def test_two_files(files: Path, tmp_path: Path) -> None:
    code, answer, _ = told(files, tmp_path, "kept.onnx", "folded.onnx")
    assert code == 0 and "equal up to rounding, with 2 BatchNorm layers folded" in answer["headline"]
    (tmp_path / "second").mkdir()
    code, answer, findings = told(files, tmp_path / "second", "kept.onnx", "start.onnx")
    assert code == 1
    assert [found["cause"] for found in findings] == ["stale-state"]
    assert findings[0]["evidence"]["explained"] > 0.999  # played again with what kept.onnx holds


def test_a_fold_by_hand_that_is_wrong_is_all_of_the_difference(files: Path, tmp_path: Path) -> None:
    """Forum question 139598 and its like: the convolution's own bias was forgotten."""
    inputs = ("--input", "4,3,12,12")
    _, _, (found,) = told(files, tmp_path, "model.py:fused_without_bias", "model.py:build", *inputs)
    assert (found["cause"], found["kind"]) == ("folding", "defect")
    assert found["title"].startswith("model.py:fused_without_bias folds 1 and 4 with another bias than")
    assert "folded rightly, it gives the same up to rounding" in found["title"]
    assert found["evidence"]["explained"] > 0.999


def test_a_quantised_file_costs_what_quantisation_costs_and_nothing_else(files: Path, tmp_path: Path) -> None:
    code, answer, (found,) = told(files, tmp_path, "model.py:build", "quantised.onnx")
    assert (code, found["cause"], found["kind"]) == (1, "reduced-precision", "convention")
    assert (
        "quantised.onnx is model.py:build quantised, with 2 BatchNorm layers folded, and nothing else" in found["title"]
    )
    assert found["evidence"]["explained"] > 0.999
    assert found["evidence"]["gap"] > 1e-4 and found["evidence"]["gap of rounded weights alone"] > 1e-4
    assert [row["cells"][-1].partition(":")[0] for row in answer["rows"]] == ["folded, quantised"] * 2


def test_what_differs_beside_quantisation_is_named(files: Path, tmp_path: Path) -> None:
    _, _, findings = told(files, tmp_path, "model.py:build", "quantised_start.onnx")
    assert findings[0]["cause"] == "stale-state"
    assert findings[0]["title"].endswith("What quantisation adds is left out here.")


def test_a_file_that_computes_in_whole_numbers_is_not_measured(files: Path, tmp_path: Path) -> None:
    _, answer, findings = told(files, tmp_path, "folded.onnx", "dynamic.onnx")
    assert [found["cause"] for found in findings] == ["unexplained"]
    assert "dynamic.onnx is quantised, and what that costs is not measured: ConvInteger" in answer["headline"]


@pytest.mark.slow
def test_a_model_that_pytorch_quantised_is_said_to_be_one(files: Path, tmp_path: Path) -> None:
    _, answer, _ = told(files, tmp_path, "model.py:build", "model.py:quantised", "--input", "4,3,12,12")
    assert "model.py:quantised keeps weights in int8; what that costs is not measured here" in answer["headline"]


def test_two_models_and_the_first_layer_that_differs(files: Path, tmp_path: Path) -> None:
    code, answer, _ = told(files, tmp_path, "model.py:build", "model.py:other", "--input", "4,3,12,12")
    assert code == 1
    assert any("The first layer whose output differs in eval is 4:" in note for note in answer["notes"])


@pytest.mark.parametrize(
    ("name", "cause", "kind", "words"),
    [
        ("swapped", "state-mismatch", "defect", "In model.py:swapped gamma and beta are swapped, in layer 4."),
        ("below_zero", "poisoned-state", "defect", "model.py:below_zero holds variances below zero in running_var"),
        ("rounded", "reduced-precision", "convention", "gamma and beta are equal to the bit in float16, in 1 and 4."),
    ],
)
def test_what_layers_hold_is_all_of_the_difference(
    files: Path, tmp_path: Path, name: str, cause: str, kind: str, words: str
) -> None:
    """The outputs were unexplained beside the cause, and those of NaN "cannot be held together"."""
    _, answer, findings = told(files, tmp_path, "model.py:build", f"model.py:{name}", "--input", "4,3,12,12")
    (found,) = [each for each in findings if each["kind"] != "rounding"]
    assert (found["cause"], found["kind"]) == (cause, kind)
    assert words in found["title"] and " That is all of the difference of their outputs" in found["title"]
    assert f"with these numbers in its layers model.py:build gives what model.py:{name} gives." in answer["headline"]


OPEN = Finding(
    code="BN902", cause="unexplained", kind="unexplained", title="", targets=("A", "B"), scenario="diff", case="",
    quantity="output",
)  # fmt: skip


def finding_on(cause: str, quantity: str) -> Finding:
    return replace(OPEN, cause=cause, kind="hazard", title=f"{cause}.", quantity=quantity, layer="1")


def test_a_momentum_is_no_part_of_what_eval_gives() -> None:
    """A swap and another momentum were said to be "together all of the difference"."""
    state = Checkpoint(holding=Holding(name="x", framework="torch", format="model", layers=()))
    how = {"arrays": Path(), "backend": "torch", "title": "PyTorch", "version": "2", "python": "", "taps": {}}
    one = Played(checkpoint=state, plays={"eval": [f32(1, 2)]}, exchanged=[f32(1, 3)], **how)  # type: ignore[arg-type]
    two = Played(checkpoint=state, plays={"eval": [f32(1, 3)]}, **how)  # type: ignore[arg-type]
    held = [finding_on("state-mismatch", "gamma"), finding_on("batch-weight", "momentum")]
    outputs, now = follows(SIDES, one, two, [OPEN], held, Measured(0.5, 1e-6))
    assert outputs == []
    assert now[0].title == (
        "state-mismatch. That is all of the difference of their outputs, 50 % of the largest: with these numbers in "
        "its layers A gives what B gives."
    )
    assert now[1] == held[1]


def test_a_model_in_bfloat16_costs_what_such_rounding_costs(files: Path, tmp_path: Path) -> None:
    _, answer, findings = told(files, tmp_path, "model.py:build", "model.py:halved", "--input", "4,3,12,12")
    (found,) = [each for each in findings if each["kind"] != "rounding"]
    assert (found["cause"], found["kind"]) == ("reduced-precision", "convention")
    assert found["title"].startswith(
        "model.py:halved is model.py:build in bfloat16: converted to that, model.py:build gives the same. It is "
    )
    assert any(note.endswith("are equal up to rounding, 0 differ.") for note in answer["notes"])
    same = [note for note in answer["notes"] if "got the same values" in note or "got them as" in note]
    assert same == [
        "Both got the same values: float32 4×3×12×12.",
        "model.py:halved got them as bfloat16 4×3×12×12.",
    ]


def test_what_an_onnx_file_holds(files: Path) -> None:
    (kept,) = read_checkpoint(files / "kept.onnx")
    assert [layer.layer for layer in kept.holding.layers] == ["1", "4"]
    first = kept.holding.layers[0]
    assert (kept.holding.framework, first.training) == ("onnx", False)
    assert first.eps == pytest.approx(1e-5) and first.momentum == pytest.approx(0.9)
    (trained,) = read_checkpoint(files / "train.onnx")
    assert [layer.training for layer in trained.holding.layers] == [True, True]
    (folded,) = read_checkpoint(files / "folded.onnx")
    assert folded.holding.layers == ()


def test_what_cannot_be_played(files: Path, tmp_path: Path) -> None:
    python = str(python_of("torch"))
    model, file = str(files / "model.py"), str(files / "kept.onnx")
    for words, code, said_of in (
        ((f"{model}:fails", file), 2, "eval forward failed"),
        ((f"{model}:nothing", file), 2, "nothing"),
        ((file, str(files / "kept.onnx"), "--input", "4,5,12,12"), 2, "ONNX Runtime does not run"),
    ):
        done = here("diff", *words, "--python", python, "--out", str(tmp_path / "x"), "-q")
        assert done.returncode == code and said_of in done.stderr, done.stderr
