"""``bncheck diff`` of Keras, TFLite and OpenVINO files, made by their framework and played by their runtime."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from at_the_prompt import here
from test_checkpoints import made_by, python_of

from bncheck.checkpoints.recognise import Checkpoint
from bncheck.checkpoints.tensor import in_memory
from bncheck.diagnosis.held.matching import Matching
from bncheck.diagnosis.held.measured import Measured
from bncheck.diagnosis.held.outputs import aligned, in_the_files_type, readings
from bncheck.diagnosis.held.reading import Sides
from bncheck.environments.pythons import Ready, make_ready
from bncheck.environments.targets import Target
from bncheck.life import Held, Holding
from bncheck.subjects.folded import folded_layers
from bncheck.subjects.played_file import players
from bncheck.trace import Array
from bncheck.worker.players import keras as keras_player
from bncheck.worker.players import playing

SIDES = Sides(a="A", b="B")


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


# ------------------------------------------------------------------------------------------------ the same input


def test_an_input_is_given_as_a_file_takes_it() -> None:
    batch = np.arange(4 * 3 * 5 * 6).reshape(4, 3, 5, 6)
    for declared, shape, word in (
        ([None, 3, None, None], (4, 3, 5, 6), ""),
        ([None, 5, 6, 3], (4, 5, 6, 3), "last"),
        ([1, 3, 5, 6], (4, 3, 5, 6), "single"),
        ([1, 5, 6, 3], (4, 5, 6, 3), "single"),
        (None, (4, 3, 5, 6), ""),
    ):
        found, said = playing.fitted(batch, "x", declared)
        assert (found.shape, said) == (shape, word)
    assert playing.fitted(np.zeros((4, 5, 6, 3)), "x", [None, 3, 5, 6])[1] == "first"
    with pytest.raises(playing.PlayError, match="its input x is any×7, and the batch 4×3×5×6"):
        playing.fitted(batch, "x", [None, 7])


def test_samples_that_were_run_one_by_one_are_one_batch() -> None:
    one, two = f32(1, 2)[None], f32(3, 4)[None]
    assert playing.joined([[one], [two]])[0].tolist() == [[1, 2], [3, 4]]
    with pytest.raises(playing.PlayError, match="its outputs are no samples"):
        playing.joined([[f32(1, 2)], [f32(3, 4)]])


def test_open_sizes_are_small_and_whole_numbers_are_0_and_1() -> None:
    (made,) = playing.made_up([("x", "float32", [None, None, 8, 3])], [])
    assert (made.shape, made.dtype) == ((4, 64, 8, 3), np.float32)
    (words,) = playing.made_up([("ids", "int64", [2, 7])], [])
    assert words.dtype == np.int64 and set(words.ravel().tolist()) == {0, 1}


def test_code_in_a_keras_file_is_refused_and_its_own_layers_are_not() -> None:
    keras_player.refuse_code({"class_name": "Dense", "module": "keras.layers", "config": {}}, playing)
    keras_player.refuse_code({"class_name": "Functional", "config": {"layers": [{"class_name": "ReLU"}]}}, playing)
    for config, words in (
        ({"class_name": "Lambda", "module": "keras.layers"}, "it holds Lambda, and"),
        ({"config": [{"class_name": "system", "module": "os"}]}, "it holds system of os, and"),
        ({"class_name": "X", "module": "keras_evil"}, "it holds X of keras_evil, and"),
    ):
        with pytest.raises(playing.PlayError, match=words):
            keras_player.refuse_code(config, playing)


# ---------------------------------------------------------------------------------------------- the same outputs


def test_outputs_in_another_layout_or_order_are_the_same_outputs() -> None:
    image, vector = np.arange(24.0).reshape(1, 2, 3, 4), f32(1, 2)
    found = aligned([image, vector], [vector, np.moveaxis(image, 1, -1)])
    assert all(np.array_equal(a, b) for a, b in zip(found, [image, vector], strict=True))
    unlike = [f32(1, 2, 3)]
    assert aligned([vector], unlike) is unlike


def test_weights_in_float16_account_for_what_such_rounding_costs_and_no_more() -> None:
    plays = {"eval": [f32(1, 2)], "nudged16": [f32(1, 2.002)]}  # off by 0.1 %
    for apart, cause in ((0.0015, "reduced-precision"), (0.0025, ""), (1e-7, "")):
        found = in_the_files_type(SIDES, plays, {"eval": Measured(apart, 1e-6)}, {"float16": 3})
        assert [reading.cause for reading in found] == [cause] * bool(cause)
    assert in_the_files_type(SIDES, plays, {"eval": Measured(0.0015, 1e-6)}, {"int8": 3}) == []
    (open_one,) = readings(SIDES, {"eval": Measured(0.0025, 1e-6)}, {"int8": 3})
    assert "B keeps weights in int8; what that costs is not measured here." in open_one.title


def test_a_layer_behind_an_activation_became_a_product_and_a_sum() -> None:
    layer = Held(
        layer="bn", running_mean=f32(1, 2), running_var=f32(3.99999, 0.24999), gamma=f32(1, 1), beta=f32(0, 1), eps=1e-5
    )
    one = Checkpoint(Holding(name="a", framework="torch", format="model", layers=(layer,), others={}))
    constants = {"mul": in_memory(f32(0.5, 2)), "add": in_memory(f32(-0.5, -3)), "else": in_memory(f32(7, 8))}
    others = {key: tensor.shape for key, tensor in constants.items()}
    two = Checkpoint(Holding(name="b", framework="tflite", format="", layers=(), others=others), tensors=constants)
    found = folded_layers(one, two, Matching(pairs=(), only_a=(layer,)))
    assert [(each.fold.word, each.keys) for each in found.layers] == [("folded", ("add", "mul"))]
    del constants["mul"]
    assert folded_layers(one, two, Matching(pairs=(), only_a=(layer,))).left_a == (layer,)


# ------------------------------------------------------------------------------------------------------ real ones


def test_what_cannot_be_held_against_each_other(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(b"")
    np.savez(tmp_path / "m.npz", x=f32(1))
    file, weights = str(tmp_path / "m.tflite"), str(tmp_path / "m.npz")
    for words, said in (
        ((file, weights), "m.npz is weights alone"),
        ((file, str(tmp_path / "n.tflite")), "Did you mean"),
    ):
        done = here("diff", *words, "-q")
        assert done.returncode == 2 and said in done.stderr, done.stderr
    done = here("check", file, "-q")
    assert done.returncode == 2 and "bncheck diff model.py:build" in done.stderr, done.stderr


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_by("tf_keras", "keras_exports.py", tmp_path_factory.mktemp("keras"))


def told(a: Path, b: Path, out: Path, *more: str) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    done = here("diff", str(a), str(b), *more, "--out", str(out / "run"), "-q", "--no-report")
    assert done.returncode in (0, 1), done.stderr
    answer, results = (json.loads((out / "run" / name).read_text()) for name in ("answer.json", "run.json"))
    return done.returncode, answer, results["findings"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("a", "b", "cause", "words"),
    [
        ("model.keras", "model.tflite", "", "equal up to rounding, with 2 BatchNorm layers folded"),
        ("model.h5", "model.tflite", "", "equal up to rounding, with 2 BatchNorm layers folded"),
        ("model.keras", "eps.tflite", "eps", "eps.tflite computes with eps 1e-05, model.keras with 0.001"),
        ("model.keras", "start.tflite", "stale-state", "start.tflite holds the statistics of step 0"),
    ],
)
def test_a_keras_model_against_its_tflite_file(
    files: Path, tmp_path: Path, a: str, b: str, cause: str, words: str
) -> None:
    code, answer, findings = told(files / a, files / b, tmp_path, "--timeout", "400")
    assert words in answer["headline"]
    assert code == bool(cause)
    assert [found["cause"] for found in findings if found["kind"] != "rounding"] == [cause] * bool(cause)


@pytest.mark.slow
def test_a_keras_file_with_code_in_it_is_not_played(files: Path) -> None:
    done = here("diff", str(files / "code.keras"), str(files / "model.tflite"), "-q")
    assert done.returncode == 2
    assert "bncheck runs no code that a file names" in done.stderr


OPENVINO = """
import sys
import openvino
model = openvino.convert_model(sys.argv[1] + "/kept.onnx")
openvino.save_model(model, sys.argv[1] + "/wide.xml", compress_to_fp16=False)
openvino.save_model(model, sys.argv[1] + "/half.xml")
"""


@pytest.mark.slow
def test_a_model_against_its_openvino_files(tmp_path: Path) -> None:
    made_by("torch[onnx]", "torch_exports.py", tmp_path)
    ready = make_ready(Target("openvino"), players()[".xml"].runtime, {}, lambda text: None)
    assert isinstance(ready, Ready)
    subprocess.run([str(ready.python), "-c", OPENVINO, str(tmp_path)], check=True, capture_output=True)
    python = ("--python", str(python_of("torch")))
    # At its default precision a processor may compute in bfloat16: that is one finding more, of the same cause.
    for file, causes in (("wide.xml", [set(), {"reduced-precision"}]), ("half.xml", [{"reduced-precision"}])):
        (tmp_path / file[:4]).mkdir()
        _, _, findings = told(tmp_path / "model.py:build", tmp_path / file, tmp_path / file[:4], *python)
        assert {found["cause"] for found in findings if found["kind"] != "rounding"} in causes


def test_every_player_says_what_it_plays_and_needs() -> None:
    found = players()
    assert sorted(found) == [".h5", ".hdf5", ".keras", ".onnx", ".tflite", ".xml"]
    assert {player.runtime.module for player in found.values()} == {
        "keras", "onnxruntime", "ai_edge_litert", "openvino"
    }  # fmt: skip
