"""Checkpoints become holdings: real files of each framework, and such that were damaged."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from at_the_prompt import here
from conftest import finish, once

from bncheck.checkpoints.recognise import read_checkpoint
from bncheck.checkpoints.tensor import natural
from bncheck.diagnosis.held.likeness import compared
from bncheck.environments.backend_file import find_backends
from bncheck.environments.pythons import Ready, prepare
from bncheck.environments.targets import parse_target
from bncheck.errors import CheckpointError
from bncheck.life import Held, Holding
from bncheck.subjects.checkpoint import look_at

TOOLS = Path(__file__).parent / "tools"


def python_of(name: str) -> Path:
    backends = find_backends(())
    target = parse_target(name, backends)
    answer = prepare([target], backends)[target]
    if not isinstance(answer, Ready):
        pytest.skip(f"{name}: {answer.reason}. Remedy: {answer.remedy}")
    return answer.python


def made_by(target: str, tool: str, folder: Path) -> Path:
    subprocess.run([python_of(target), str(TOOLS / tool), str(folder)], check=True, capture_output=True)
    return folder


# Writes the files of several tools with one import of PyTorch: a tool and its folder, another tool, …
WRITING = """
import runpy, sys
given = sys.argv[1:]
for tool, folder in zip(given[::2], given[1::2]):
    sys.argv = [tool, folder]
    runpy.run_path(tool, run_name="__main__")
"""


@pytest.fixture(scope="session")
def torch_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each tool."""
    python = python_of("torch")
    base, empty, lock = once(tmp_path_factory, "torch-files")
    try:
        words = []
        for tool in ("torch_checkpoints", "torch_pairs") if empty else ():
            (base / tool).mkdir(parents=True)
            words += [str(TOOLS / f"{tool}.py"), str(base / tool)]
        subprocess.run([python, "-c", WRITING, *words], check=True, capture_output=True) if words else None
    finally:
        finish(base, lock)
    return base


@pytest.fixture(scope="module")
def files(torch_files: Path) -> Path:
    return torch_files / "torch_checkpoints"


def only(path: Path) -> Holding:
    (found,) = read_checkpoint(path)
    return found.holding


def bn(holding: Holding) -> Held:
    return next(layer for layer in holding.layers if layer.layer == "bn")


# ------------------------------------------------------------------------------------------------------- PyTorch

SAME = ("state.pt", "legacy.pth", "legacy2.pth", "protocol5.pt", "parameters.pt", "whole.pt", "parallel.pt",
        "compiled.pt", "script.pt", "state.npz", "packed.npz", "state.npy")  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_every_way_to_save_a_model_gives_the_same_layers(files: Path, name: str) -> None:
    holding = only(files / name)
    assert [layer.layer for layer in holding.layers] == ["bn", "head.1", "own"]
    layer = bn(holding)
    assert layer.running_mean is not None and layer.running_mean.tolist() == [1, 2, 3, 4]
    assert layer.running_var is not None and layer.running_var.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert layer.gamma is not None and layer.gamma.tolist() == [1, 0.5, 0.25, 2]
    assert layer.beta is not None and layer.beta.tolist() == [0.125] * 4
    assert layer.counter == 7
    assert layer.running_mean.dtype == np.float32
    assert holding.framework == "torch"


def test_a_layer_of_ones_own_is_told_by_names_and_shapes(files: Path) -> None:
    own = only(files / "state.pt").layers[2]
    assert own.running_mean is not None and own.running_mean.tolist() == [0.5, 0.5, 0.5]
    assert own.running_var is not None and own.running_var.tolist() == [4, 4, 4]
    assert own.gamma is not None and own.gamma.tolist() == [2, 2, 2]
    assert own.shapes["running_mean"] == (1, 3, 1, 1)
    assert own.keys == {
        "gamma": "own.gamma", "beta": "own.beta", "running_mean": "own.stored_mean", "running_var": "own.stored_var"
    }  # fmt: skip


def test_group_and_layer_norm_are_others(files: Path) -> None:
    others = only(files / "state.pt").others
    assert {"group.weight", "group.bias", "layer.weight", "layer.bias", "conv.weight", "conv.bias"} <= set(others)
    assert others["conv.weight"] == (4, 3, 3, 3)


def test_a_whole_model_says_eps_momentum_and_mode_though_its_class_is_nowhere(files: Path) -> None:
    layer = bn(only(files / "whole.pt"))
    assert (layer.eps, layer.momentum, layer.training) == (1e-3, 0.2, True)
    assert bn(only(files / "state.pt")).eps is None


def test_reduced_precision_keeps_its_name(files: Path) -> None:
    wide, half = bn(only(files / "bfloat16.pt")), bn(only(files / "half.pt"))
    assert wide.running_var is not None and wide.running_var.dtype == np.float32
    assert wide.running_var.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert wide.dtypes["running_var"] == "bfloat16"
    assert half.running_var is not None and half.running_var.dtype == np.float16


def test_tensors_of_the_meta_device_are_said_to_hold_no_numbers(files: Path) -> None:
    with pytest.raises(CheckpointError, match=r"meta\.pt holds tensors without numbers: they are on the meta device"):
        read_checkpoint(files / "meta.pt")


def test_views_of_one_storage_are_read_with_their_strides(files: Path) -> None:
    layer = bn(only(files / "views.pt"))
    assert layer.running_mean is not None and layer.running_mean.tolist() == [1, 2, 3, 4]
    assert layer.gamma is not None and layer.gamma.tolist() == [1, 0.5, 0.25, 2]


def test_two_states_of_one_file_are_judged_each(files: Path) -> None:
    one, two = read_checkpoint(files / "two.pt")
    assert (one.path, two.path) == ("model", "ema.module")
    assert [layer.layer for layer in two.holding.layers] == ["bn", "head.1", "own"]
    answer = look_at(files / "two.pt", "two.pt").answer
    assert [row.layer for row in answer.rows][:4] == ["model:bn", "model:head.1", "model:own", "ema.module:bn"]
    assert any("2 states" in note and "model, ema.module" in note for note in answer.notes)


def test_weights_without_batch_norm_and_files_without_weights(files: Path) -> None:
    checked = look_at(files / "convolution.pt", "convolution.pt")
    assert checked.answer.headline == "It holds no BatchNorm."
    assert "holds no BatchNorm" in checked.missed[0].sentence
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_checkpoint(files / "numbers.pt")


def test_safetensors_written_by_hand_and_by_its_own_words(files: Path, tmp_path: Path) -> None:
    arrays = {
        "bn.running_mean": np.array([1, 2], "<f4"),
        "bn.running_var": np.array([0x3F80, 0x4000], "<u2"),  # bfloat16 1 and 2
        "bn.weight": np.array([1, 1], "<f2"),
    }
    words = {"bn.running_mean": "F32", "bn.running_var": "BF16", "bn.weight": "F16"}
    path = tmp_path / "state.safetensors"
    path.write_bytes(safetensors(arrays, words))
    layer = bn(only(path))
    assert layer.running_var is not None and layer.running_var.tolist() == [1, 2]
    assert layer.dtypes == {"running_var": "bfloat16"}
    assert only(path).framework == "torch"


def safetensors(arrays: dict[str, np.ndarray], words: dict[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, array in arrays.items():
        header[name] = {"dtype": words[name], "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in arrays.values())


# ------------------------------------------------------------------------------------------------ other frameworks

# What the programs in tests/tools wrote with their own frameworks: Keras 3.15.1, tf_keras 2.21, Paddle 3.3.1, MXNet
# 1.9.1, Flax 0.12.12, safetensors 0.8. A slow test makes them again.
KEPT = Path(__file__).parent / "data" / "checkpoints.zip"
# File: its framework, the name of the layer, eps and momentum where the file says them.
OTHERS = {
    "keras3.keras": ("keras", "bn", 2e-3, 0.9),
    "keras3.weights.h5": ("keras", "batch_normalization", None, None),
    "keras3.h5": ("keras", "bn", 2e-3, 0.9),
    "tf_keras.h5": ("keras", "bn", 2e-3, 0.9),
    "state.pdparams": ("paddle", "1", None, None),
    "protocol2.pdparams": ("paddle", "1", None, None),
    "nested.pdparams": ("paddle", "1", None, None),
    "state.safetensors": ("torch", "bn", None, None),
    "gluon.params": ("mxnet", "1", None, None),
    "exported-0000.params": ("mxnet", "batchnorm0", None, None),
    "half.params": ("mxnet", "bn", None, None),
    "state.msgpack": ("flax", "bn", None, None),
    "bfloat16.msgpack": ("flax", "bn", None, None),
    "train_state.msgpack": ("flax", "bn", None, None),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    with zipfile.ZipFile(KEPT) as archive:
        archive.extractall(folder)
    return folder


KEPT_NAMES = sorted(OTHERS.keys() - {"keras3.h5"})


@pytest.mark.parametrize("name", KEPT_NAMES)
def test_files_of_other_frameworks_hold_the_same_layer(kept: Path, name: str) -> None:
    as_written(kept / name)


def as_written(path: Path) -> None:
    framework, layer_name, eps, momentum = OTHERS[path.name]
    holding = only(path)
    layer = holding.layers[0]
    assert (holding.framework, layer.layer, layer.eps, layer.momentum) == (framework, layer_name, eps, momentum)
    values = [layer.running_mean, layer.running_var, layer.gamma, layer.beta]
    assert [value.tolist() for value in values if value is not None] == [
        [1, 2, 3, 4], [0.5, 1.5, 2.5, 3.5], [1, 0.5, 0.25, 2], [0.125] * 4
    ]  # fmt: skip
    assert layer.counter is None
    assert (layer.dtypes.get("running_var") == "bfloat16") == path.name.startswith("bfloat16")


def test_keras_says_which_layers_are_no_batch_norm_and_which_part_is_missing(kept: Path) -> None:
    holding = only(kept / "keras3.keras")
    assert [layer.layer for layer in holding.layers] == ["bn", "sequential/inner_bn"]  # Normalization is none
    inner = holding.layers[1]
    assert inner.gamma is None and inner.beta is not None and inner.beta.tolist() == [0.5, 0.5]
    assert (inner.eps, inner.momentum) == (1e-3, 0.99)
    # Without the config a file does not say whether it is gamma or beta that is missing.
    unknown = only(kept / "keras3.weights.h5").layers[1]
    assert unknown.gamma is None and unknown.beta is None
    assert unknown.running_mean is not None and unknown.running_mean.tolist() == [5, 6]
    pair = compared(inner, unknown)
    assert set(pair.quantities) == {"running_mean", "running_var"} and pair.differing() == ()


def test_layers_come_in_the_order_of_their_numbers() -> None:
    assert sorted(["bn_10", "bn_2", "bn", "a/bn_1"], key=natural) == ["a/bn_1", "bn", "bn_2", "bn_10"]


@pytest.mark.parametrize("name", KEPT_NAMES)
def test_mutations_of_files_of_other_frameworks(kept: Path, tmp_path: Path, name: str) -> None:
    assert survive(kept / name, tmp_path / name, 40) > 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "tool"),
    [
        ("keras", "keras_checkpoints.py"),
        ("tf_keras", "keras_checkpoints.py"),
        ("paddle", "paddle_checkpoints.py"),
        ("mxnet", "mxnet_checkpoints.py"),
        ("flax", "flax_checkpoints.py"),
    ],
)
def test_files_that_frameworks_write_today(tmp_path: Path, target: str, tool: str) -> None:
    folder = made_by(target, tool, tmp_path)
    found = [path for path in folder.iterdir() if path.name in OTHERS]
    assert found
    for path in found:
        as_written(path)


# --------------------------------------------------------------------------------- what is a normaliser, what is not


def held_in(tmp_path: Path, **arrays: Any) -> tuple[Held, ...]:
    path = tmp_path / "some.npz"
    np.savez(path, **{name.replace("__", "."): np.asarray(value, np.float32) for name, value in arrays.items()})
    return only(path).layers


def test_preprocessing_is_no_normaliser(tmp_path: Path) -> None:
    assert (
        held_in(tmp_path, pixel_mean=np.ones((3, 1, 1)), pixel_std=np.ones((3, 1, 1)), x__mean=[1, 2], x__var=[1, 2])
        == ()
    )


def test_mean_and_var_with_a_scale_beside_them_are_one(tmp_path: Path) -> None:
    (layer,) = held_in(tmp_path, a__mean=[1, 2], a__var=[3, 4], a__scale=[5, 6], a__bias=[7, 8])
    assert layer.layer == "a" and layer.gamma is not None and layer.gamma.tolist() == [5, 6]


def test_lengths_must_agree_and_a_gamma_that_does_not_fit_is_said(tmp_path: Path) -> None:
    assert held_in(tmp_path, a__running_mean=[1, 2], a__running_var=[1, 2, 3]) == ()
    path = tmp_path / "misfit.npz"
    np.savez(path, **{"a.running_mean": np.ones(2), "a.running_var": np.ones(2), "a.weight": np.ones(3)})
    holding = only(path)
    assert holding.layers[0].gamma is None
    assert holding.remarks == ("a.weight has the shape (3,) beside statistics of 2 channels; it is left out.",)


def test_a_running_deviation_is_shown_as_its_square(tmp_path: Path) -> None:
    (layer,) = held_in(tmp_path, a__running_mean=[1, 2], a__running_std=[3, -2])
    assert layer.running_var is not None and layer.running_var.tolist() == [9, -4]


def test_names_of_gluon_end_behind_an_underscore(tmp_path: Path) -> None:
    (layer,) = held_in(tmp_path, bn0_running_mean=[1, 2], bn0_running_var=[3, 4], bn0_gamma=[1, 1], bn0_beta=[0, 0])
    assert layer.layer == "bn0" and layer.beta is not None


def test_complex_statistics_are_said_not_to_be_judged(tmp_path: Path) -> None:
    """Their real halves alone would be called equal to the bit where the others differ."""
    whole = {"bn.running_mean": [1, 2], "bn.running_var": [3, 4], "bn.weight": [1, 1], "bn.bias": [0, 0]}
    np.savez(tmp_path / "x.npz", **(whole | {"bn.running_mean": np.array([1 + 5j, 2])}))
    (found,) = read_checkpoint(tmp_path / "x.npz")
    assert found.holding.layers == ()
    assert found.holding.remarks == ("bn.running_mean holds complex numbers: its layer is not judged.",)


def test_a_file_that_counts_batches_is_not_said_to_hold_no_batch_norm(tmp_path: Path) -> None:
    """Its advice was for BatchNorm that was folded away."""
    np.savez(tmp_path / "x.npz", **{"stem.1.weight": np.ones(2), "stem.1.num_batches_tracked": np.array(60)})
    looked = look_at(tmp_path / "x.npz", "x.npz")
    assert [(each.cause, each.kind, each.layer) for each in looked.findings] == [("state-mismatch", "hazard", "stem.1")]
    (missed,) = looked.missed
    assert missed.sentence.startswith("x.npz counts the batches of BatchNorm layers, and holds no running mean and")


@pytest.mark.parametrize(
    ("mean", "words"),
    [
        (np.array(["a", "b"]), "bn.running_mean holds no numbers (str32): its layer is not judged."),
        (np.array(["2024-01-01"] * 2, "M8[D]"), "bn.running_mean holds no numbers (datetime64[D]): its layer is"),
        (np.zeros(0), "bn.running_mean has the shape (0,), which is not one number per channel: its layer is"),
        (np.float32(0.5), "bn.running_mean has the shape (), which is not one number per channel: its layer is"),
        (np.zeros((3, 2)), "bn.running_mean has the shape (3, 2), which is not one number per channel: its layer is"),
    ],
)
def test_statistics_that_are_none_are_said_not_to_be_judged(mean: Any, words: str, tmp_path: Path) -> None:
    """Text brought a traceback, and of the others it was said that the file names no mean and variance."""
    np.savez(tmp_path / "x.npz", **{"bn.running_mean": mean, "bn.running_var": np.ones(2)})
    looked = look_at(tmp_path / "x.npz", "x.npz")
    assert any(note.startswith(words) for note in looked.answer.notes), looked.answer.notes
    (missed,) = looked.missed
    assert missed.sentence == "x.npz holds no BatchNorm that can be judged, though it names one"
    assert looked.answer.headline == "It holds no BatchNorm that can be judged."


def test_a_line_break_in_a_name_begins_no_line(tmp_path: Path) -> None:
    (layer,) = held_in(tmp_path, **{"bn\n ✓ all is well\x1b[0m__running_mean": [1, 2],
                                    "bn\n ✓ all is well\x1b[0m__running_var": [3, 4]})  # fmt: skip
    assert layer.layer == "bn\ufffd ✓ all is well\ufffd[0m"


# ------------------------------------------------------------------------------------------ files that were damaged


def mutated(raw: bytes, dice: random.Random) -> bytes:
    found = bytearray(raw)
    kind = dice.randrange(4)
    if kind == 0:
        return bytes(found[: dice.randrange(len(found))])
    for _ in range(dice.randrange(1, 8)):
        at = dice.randrange(len(found))
        if kind == 1:
            found[at] ^= 1 << dice.randrange(8)
        elif kind == 2:
            found[at : at + 4] = dice.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
        else:
            del found[at : at + dice.randrange(1, 9)]
    return bytes(found)


@pytest.mark.parametrize("name", ["state.pt", "legacy.pth", "whole.pt", "script.pt", "packed.npz", "state.npy"])
def test_mutations_of_real_files_give_a_holding_or_a_sentence(files: Path, tmp_path: Path, name: str) -> None:
    refused = survive(files / name, tmp_path / name, 150)
    assert refused > 20


def survive(real: Path, path: Path, tries: int) -> int:
    """How many damaged copies of a real file are refused; anything but a holding or a sentence is an error here."""
    raw, dice, refused = real.read_bytes(), random.Random(3), 0
    for _ in range(tries):
        path.write_bytes(mutated(raw, dice))
        try:
            assert all(isinstance(each.holding, Holding) for each in read_checkpoint(path))
        except CheckpointError:
            refused += 1
    return refused


# -------------------------------------------------------------------------------------------------- at the prompt


def test_check_of_a_checkpoint(files: Path, tmp_path: Path) -> None:
    done = here("check", str(files / "state.pt"), "--out", str(tmp_path / "run"), "-q")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads((tmp_path / "run" / "answer.json").read_text())
    assert answer["headline"] == "3 BatchNorm layers, nothing wrong with what they hold."
    assert answer["rows"][0]["cells"][:5] == ["4", "1 … 4", "0.5 … 3.5", "7", "float32"]
    nothing = here("check", str(files / "convolution.pt"), "--out", str(tmp_path / "none"), "-q")
    assert nothing.returncode == 3 and "holds no BatchNorm" in nothing.stderr
    bad = here("check", str(files / "numbers.pt"), "--out", str(tmp_path / "bad"), "-q")
    assert bad.returncode == 2 and "holds no tensors" in bad.stderr
    assert not (tmp_path / "bad").exists()


def test_a_small_file_takes_no_time(files: Path) -> None:
    look_at(files / "state.pt", "state.pt")
    began = time.perf_counter()
    look_at(files / "state.pt", "state.pt")
    assert time.perf_counter() - began < 0.25
