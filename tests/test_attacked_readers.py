"""Inputs whose size or links fell once, where a file of the corpus would be too large or is no plain file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bncheck.environments.backend_file import read_backend
from bncheck.environments.index_settings import read_index_settings
from bncheck.errors import BncheckError, ScenarioError
from bncheck.gate.baseline import read_baseline
from bncheck.gate.config import read_configuration, read_waivers
from bncheck.python.recording import judge
from bncheck.scenario_files.files import load_scenario
from bncheck.scenario_files.start import begun_from
from bncheck.subjects.checkpoint import look_at
from bncheck.worker.onnx_side import file as onnx_file

CPU_SECONDS = 5.0


def look_at_it(path: Path) -> object:
    return look_at(path, path.name)


def begun(path: Path) -> object:
    return begun_from(path, "mine", path.parent)


def field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message that holds bytes."""
    size, length = len(content), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "loop"])
@pytest.mark.parametrize(
    "read", [load_scenario, read_waivers, read_configuration, read_baseline, read_backend, judge, look_at_it, begun]
)
def test_what_never_ends_is_no_file_of_the_users(read: Callable[[Path], object], kind: str, tmp_path: Path) -> None:
    path = tmp_path / "given.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path.name)
    began = time.process_time()
    with pytest.raises(BncheckError):
        read(path)
    assert time.process_time() - began < 1


def test_settings_of_pip_and_uv_that_are_no_files_say_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    variables = {"PIP_CONFIG_FILE": str(tmp_path / "pipe"), "UV_CONFIG_FILE": "/dev/zero", "HOME": str(tmp_path)}
    assert read_index_settings(variables).uv_own == ()


def test_very_many_nodes_of_one_name(tmp_path: Path) -> None:
    node = b"".join(field(1, name) for name in (b"x", b"g", b"b", b"m", b"v"))
    node += field(2, b"y") + field(3, b"bn") + field(4, b"BatchNormalization")
    path = tmp_path / "many.onnx"
    path.write_bytes(field(8, b"\x10\x11") + field(7, field(1, node) * 20_000 + field(12, field(1, b"y"))))
    began = time.process_time()
    assert len(onnx_file.batch_norms(onnx_file.read(str(path)))) == 20_000
    assert time.process_time() - began < CPU_SECONDS


def test_weights_beside_a_model_are_not_read_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "secret.bin")
    (tmp_path / "model" / "own.bin").write_bytes(bytes(16))
    model = str(tmp_path / "model" / "m.onnx")
    assert len(onnx_file.read_outside(model, {"location": "own.bin"}, 16, "w")) == 16
    for name in ("link.bin", "../secret.bin", str(tmp_path / "secret.bin")):
        with pytest.raises(onnx_file.FileError):
            onnx_file.read_outside(model, {"location": name}, 16, "w")


def test_a_scenario_of_very_many_layers(tmp_path: Path) -> None:
    layers = ", ".join(f'{{ name = "bn{number}", type = "batch_norm" }}' for number in range(20_000))
    path = tmp_path / "many.toml"
    path.write_text(
        f'title = "many"\nwhy = "size"\n[network]\nlayers = [{layers}]\n[input]\nshape = [4, 3]\n'
        '[program]\nevents = ["train_forward"]\n'
    )
    began = time.process_time()
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    assert time.process_time() - began < CPU_SECONDS
    assert "layers" in str(caught.value)
