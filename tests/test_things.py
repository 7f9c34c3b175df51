"""What is meant by the words for a thing, its input and its arguments, and whose Python it lives in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from checked import TORCH

from bncheck.errors import UsageError
from bncheck.subjects.asked import parse_input, parse_with
from bncheck.subjects.interpreter import find_python
from bncheck.subjects.thing import parse_thing


def test_what_a_thing_is(tmp_path: Path) -> None:
    for name in ("net.onnx", "net.pt", "layers.py"):
        (tmp_path / name).write_text("import torch\nclass MyNorm: ...\ndef build(): ...\n")
    code = parse_thing(f"{tmp_path}/layers.py:MyNorm")
    assert (code.kind, code.module, code.name) == ("code", str(tmp_path / "layers.py"), "MyNorm")
    package = parse_thing("timm.layers:BatchNormAct2d")
    assert (package.kind, package.module, package.name) == ("code", "timm.layers", "BatchNormAct2d")
    assert parse_thing(str(tmp_path / "net.onnx")).kind == "onnx"
    assert parse_thing(str(tmp_path / "net.pt")).kind == "checkpoint"


@pytest.mark.parametrize("gone", ["nothing.pt", "encoder.pth", "encode.pt"])
def test_a_file_of_the_same_kind_is_what_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train.py", "encoder.pt"):
        (tmp_path / name).write_text("")
    with pytest.raises(UsageError) as caught:
        parse_thing(gone)
    assert "Did you mean encoder.pt?" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("layers.py", "which class or function of it? (it defines MyNorm, build)"),
        ("layer.py:MyNorm", "there is no file layer.py\n  → Did you mean layers.py?"),
        ("gone.pt", "there is no file gone.pt"),
        ("gone.ckpt:ema", "there is no file gone.ckpt\n  → Did you mean here.ckpt?"),
        ("my-gone.pt:ema", "there is no file my-gone.pt"),
        ("here.ckpt:ema", "check looks at every state of here.ckpt, not at 'ema' alone\n  → bncheck check here.ckpt"),
        (
            "mlx_layer.py:MyNorm",
            "mlx_layer.py:MyNorm is made of MLX; check takes layers and models of PyTorch",
        ),
        ("haiku:BatchNorm", "is made of Haiku"),
    ],
)
def test_what_cannot_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("layers.py").write_text("import torch\nclass MyNorm: ...\ndef build(): ...\n")
    Path("mlx_layer.py").write_text("import mlx\nclass MyNorm: ...\n")
    Path("here.ckpt").touch()
    with pytest.raises(UsageError) as caught:
        parse_thing(text)
    assert said in str(caught.value)


def test_a_package_of_the_current_folder_is_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "norms.py").write_text("import torch\n")
    assert parse_thing("mine.norms:Bn").module == str(tmp_path / "mine" / "norms.py")


def test_inputs_and_arguments_are_read_as_people_write_them() -> None:
    assert parse_input("8,3,32,32") == {"dtype": "float32", "shape": [8, 3, 32, 32]}
    assert parse_input("int64:8x10") == {"dtype": "int64", "shape": [8, 10]}
    with pytest.raises(UsageError, match="--input 8,c,3: not a shape"):
        parse_input("8,c,3")
    given = parse_with(["eps=1e-3", "pretrained=false", "norm=None", "name=resnet18", "damage=nan", "sizes=[1, 2]"])
    assert given == {
        "eps": 1e-3, "pretrained": False, "norm": None, "name": "resnet18", "damage": "nan", "sizes": [1, 2]
    }  # fmt: skip
    with pytest.raises(UsageError, match="--with eps: not KEY=VALUE"):
        parse_with(["eps"])


# ------------------------------------------------------------------------------------------------------- which Python


def test_the_active_environment_is_used_if_it_has_the_framework(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    assert find_python(None, TORCH, {"VIRTUAL_ENV": str(tmp_path)}).path != tmp_path / "bin" / "python"
    (packages / "torch").mkdir()
    found = find_python(None, TORCH, {"VIRTUAL_ENV": str(tmp_path)})
    assert (found.path, found.why) == (tmp_path / "bin" / "python", "the active virtual environment")
    found = find_python(None, TORCH, {"CONDA_PREFIX": str(tmp_path)})
    assert (found.path, found.why) == (tmp_path / "bin" / "python", "the active conda environment")


def test_a_python_without_the_framework_is_said(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    bare = tmp_path / "bare" / "bin" / "python"
    with pytest.raises(UsageError, match=f"{bare} has no torch and no numpy"):
        find_python(str(bare), TORCH)
    with pytest.raises(UsageError, match="does not answer as a CPython 3"):
        find_python(str(tmp_path / "nothing"), TORCH)


def test_a_link_that_leads_nowhere_is_no_slip_of_the_name(tmp_path: Path) -> None:
    """It was asked "Did you mean here.pt?" was asked of who had named here.pt."""
    (tmp_path / "here.pt").symlink_to("gone.pt")
    with pytest.raises(UsageError, match="is a link that leads nowhere"):
        parse_thing(str(tmp_path / "here.pt"))
