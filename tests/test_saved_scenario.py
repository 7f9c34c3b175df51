"""``--save-scenario`` of models and files: what is written is a scenario, or a sentence says why it cannot be one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bncheck.errors import UsageError
from bncheck.scenario_files.files import load_scenario
from bncheck.subjects.asked import Asked
from bncheck.subjects.saved_scenario import save_file, save_model
from bncheck.subjects.thing import Thing

ONE = {"input": {"shapes": [{"dtype": "float32", "shape": [8, 3, 16, 16]}]}}


def asked(folder: Path, **more: Any) -> Asked:
    (folder / "net.py").touch()
    thing = Thing("code", "net.py:build", module=str(folder / "net.py"), name="build", path=folder / "net.py")
    return Asked(thing=thing, command="", **more)


def test_a_model_is_written_with_what_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    again = save_model(asked(tmp_path, given={"width": 4}, steps=5), ONE, path)
    assert again == f"bncheck run {path}"
    (case,) = load_scenario(path).cases
    assert (case.network.model or "").endswith("net.py:build") and case.network.arguments == {"width": 4}
    events = [event.op for event in case.events]
    assert events == ["eval_forward", "eval_in_batches", *["train_forward", "backward"] * 5, "eval_forward"]


def test_a_model_elsewhere_is_named_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "scenarios").mkdir()
    again = save_model(asked(tmp_path), ONE, tmp_path / "scenarios" / "mine.toml")
    assert again.endswith(f"mine.toml --set network.model={tmp_path}/net.py:build")


@pytest.mark.parametrize(
    ("more", "found", "words"),
    [
        ({"weights": Path("w.pt")}, ONE, "it has no key for --weights"),
        ({"data": Path("x.npz")}, ONE, "it has no key for --data"),
        ({}, {"input": {"shapes": [{"dtype": "int64", "shape": [8, 16]}]}}, "a scenario gives one"),
        ({}, {"input": {"shapes": [*ONE["input"]["shapes"]] * 2}}, "a scenario gives one"),
    ],
)
def test_what_a_scenario_has_no_words_for(tmp_path: Path, more: dict[str, Any], found: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        save_model(asked(tmp_path, **more), found, tmp_path / "mine.toml")
    assert not (tmp_path / "mine.toml").exists()


def test_a_model_of_a_package_is_none_that_a_scenario_can_name(tmp_path: Path) -> None:
    thing = Thing("code", "torchvision.models:resnet18", module="torchvision.models", name="resnet18")
    with pytest.raises(UsageError, match="lives in a package"):
        save_model(Asked(thing=thing, command=""), ONE, tmp_path / "mine.toml")


def test_a_file_is_written_with_the_shape_that_was_played(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    path, thing = tmp_path / "mine.toml", Thing("onnx", "m.onnx", path=tmp_path / "m.onnx")
    assert save_file(Asked(thing=thing, command=""), [4, 3, 8, 8], "float32", path) == f"bncheck run {path}"
    text = path.read_text()
    assert 'file = "m.onnx"' in text and "shape = [4, 3, 8, 8]" in text and "agree = true" in text
