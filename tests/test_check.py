"""bncheck check: one thing of the user's, in the user's own Python, with real frameworks and real files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import checked as checked_things
import numpy as np
import pytest
from at_the_prompt import here
from checked import LAYERS, TESTS, TORCH, checked

from bncheck.environments.pythons import Ready, prepare
from bncheck.environments.targets import Target
from bncheck.errors import NothingToJudge, UsageError
from bncheck.report import render
from bncheck.repro.torch_script.own import taken_by
from bncheck.subjects.layer import Looked, scenario_text

python = checked_things.python  # a fixture

# ----------------------------------------------------------------------------------------------------------- layers

LOOKED = Looked(
    name="MyBN",
    shape=(8, 4, 5, 5),
    channels=4,
    left_out=("momentum",),
    defaults={},
    held={"momentum": 0.01},
    affine=True,
)


def test_the_scenario_of_a_layer_asks_what_its_constructor_takes() -> None:
    text = scenario_text(LOOKED, {"groups": 2}, "my.py:MyBN", True)
    assert '"batch_weight": ' not in text and "batch_weight = 0.01" in text, "what the layer shows, for it takes none"
    assert "eps = 0.002" in text and 'custom = "my.py:MyBN"' in text and "arguments = { groups = 2 }" in text
    assert "eps = 0.01" in scenario_text(LOOKED, {"eps": 0.01}, "", True)
    assert "initial" not in scenario_text(LOOKED, {"affine": False}, "", True)


WRONG = {
    "DividesByN": ("variance-divisor", "it averages the variance over n into running_var, PyTorch's the one over n-1"),
    "EpsOutside": ("eps", "adds eps outside the square root, PyTorch's inside it"),
    "Leaky": ("graph-retention", "keeps the graph of every step"),
    "Activated": ("activation", "puts a ReLU behind the normalisation"),
    "BetaTakenBack": ("affine", "it holds beta in bn without applying it in train_forward (event 1)."),
    "AsksForGradients": ("stale-state", "averages the variance over n into running_var"),
    "MeanOfVariances": ("value-count", "it averages the variances of each sample for that of the batch"),
    "Frozen": ("normaliser-source", "normalises with the running statistics"),
    "Domains": ("unexplained", "differs from PyTorch's in the output"),
    "Ghost": (
        "update-count",
        "and running_var. That is so in a batch of 200 samples, not in one of 8.",
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        "AsksForGradients",
        "Ghost",
        *(pytest.param(each, marks=pytest.mark.slow) for each in WRONG if each not in ("AsksForGradients", "Ghost")),
    ],
)
def test_a_layer_that_is_not_equivalent_fails_and_the_cause_leads(tmp_path: Path, python: Path, name: str) -> None:
    cause, said = WRONG[name]
    answer, results, code = checked(f"{LAYERS}:{name}", tmp_path / "run", python=str(python))
    assert code == 1
    assert cause in {finding.cause for finding in results.findings}
    assert ("unexplained" in {finding.cause for finding in results.findings}) == (cause == "unexplained")
    assert f"{name} is not equivalent to torch.nn.BatchNorm" in answer.headline and said in answer.headline
    assert any(row.cells[1] == "differs" for row in answer.rows) or cause == "graph-retention"
    if name == "AsksForGradients":
        render(tmp_path / "run", ("html",), results=results)
        page = (tmp_path / "run" / "index.html").read_text(encoding="utf-8")
        assert "Band: torch, which is your layer; torch[builtin] is the built-in one." in page


def test_a_layer_that_is_equivalent_passes(tmp_path: Path, python: Path) -> None:
    answer, _, code = checked(f"{LAYERS}:Own2d", tmp_path / "run", python=str(python))
    assert code == 0
    assert answer.notes[0] == "Tried on 8×4×5×5 and 200×4×5×5 values with eps = 0.002, momentum = 0.3."
    assert answer.headline.startswith("Own2d is equivalent to torch.nn.BatchNorm2d on 8×4×5×5")
    assert {row.mark for row in answer.rows} == {"agrees"}
    assert {row.layer for row in answer.rows} >= {"output", "running variance", "gradient of gamma", "counter"}


def test_other_names_alone_are_said_as_that_and_fail(tmp_path: Path, python: Path) -> None:
    answer, _, code = checked(f"{LAYERS}:OneDeeper", tmp_path / "run", python=str(python))
    assert code == 1
    assert answer.headline.startswith("OneDeeper computes what torch.nn.BatchNorm2d computes, and is not exchangeable")
    assert "Its constructor takes no eps: PyTorch's layer got the 1e-05 that the layer shows." in answer.notes


def test_a_layer_alone_is_known_by_what_its_buffers_do(tmp_path: Path, python: Path) -> None:
    """One of them moves, the other never does; gamma and beta are called scale and shift."""
    layer = Path(__file__).parent / "inside_models.py"
    answer, results, code = checked(f"{layer}:MeanAlone", tmp_path / "run", python=str(python))
    assert code == 1
    assert (
        "MeanAlone is not equivalent to torch.nn.BatchNorm2d: it leaves running_var as it is in training, and moves"
        in answer.headline
    )
    assert {finding.cause for finding in results.findings} == {"never-updated", "layer-contract", "rounding"}
    assert any("mu and sigma2 of MeanAlone were taken for its running mean" in note for note in answer.notes)


@pytest.mark.slow
def test_one_over_a_deviation_with_an_eps_of_unknown_size_is_no_variance(tmp_path: Path, python: Path) -> None:
    layer = Path(__file__).parent / "inside_models.py"
    answer, _, code = checked(f"{layer}:InverseOfMore", tmp_path / "run", python=str(python))
    rows = {row.layer: row.cells for row in answer.rows}
    assert code == 1
    assert (rows["running mean"][1], rows["running variance"][0]) == ("agrees", "not held")


def test_a_layer_of_a_package_with_relative_imports_and_its_scenario_plays_again(
    tmp_path: Path, python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "base.py").write_text(LAYERS.read_text())
    (package / "norms.py").write_text("from .base import DividesByN\n\nclass Mine(DividesByN):\n    pass\n")
    saved = tmp_path / "mine.toml"
    _, _, code = checked("mine.norms:Mine", tmp_path / "run", python=str(python), save_scenario=saved)
    assert code == 1
    again = here("run", str(saved), "--python", f"torch={python}", "--python", f"torch[builtin]={python}",
                    "--no-report", "--out", str(tmp_path / "again"))  # fmt: skip
    assert again.returncode == 1, again.stderr
    assert "variance-divisor" in again.stdout


# ------------------------------------------------------------------------------------------------------------- ONNX


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files by torch.onnx.export and by onnx.helper."""
    target = Target("torch", variant="onnx")
    place = prepare([target], {"torch": TORCH})[target]
    if not isinstance(place, Ready):
        pytest.skip(f"torch[onnx]: {place.reason}. Remedy: {place.remedy}")
    folder = tmp_path_factory.mktemp("exported")
    script = TESTS / "checked_files.py"
    subprocess.run(
        [str(place.python), str(script), str(folder)], check=True, env={**os.environ, "PYTHONPATH": str(TESTS)}
    )
    return folder


@pytest.mark.parametrize("name", ["eval", "minus-one", "upsampled"])
def test_a_file_that_does_what_onnx_says(tmp_path: Path, exported: Path, name: str) -> None:
    answer, _, code = checked(str(exported / f"{name}.onnx"), tmp_path / "run")
    assert code == 0, answer.headline
    assert "BatchNormalization node" in answer.headline and "The file does what ONNX opset" in answer.headline
    assert {row.cells[0] for row in answer.rows} == {"inference"}
    assert {row.mark for row in answer.rows} == {"agrees"}


def test_a_file_with_an_operator_that_the_oracle_lacks_is_judged_node_by_node(tmp_path: Path, exported: Path) -> None:
    answer, _, code = checked(str(exported / "lacking.onnx"), tmp_path / "run")
    assert code == 0, answer.headline
    assert "1 BatchNormalization node checked" in answer.headline or "1 BatchNormalization node" in answer.headline


def test_a_file_in_training_mode_and_one_of_a_negative_variance(tmp_path: Path, exported: Path) -> None:
    answer, results, _ = checked(str(exported / "training.onnx"), tmp_path / "a")
    assert "mode-leak" in {finding.cause for finding in results.findings}
    assert [(row.cells[0], row.mark) for row in answer.rows] == [("training", "hazard")] * 2
    answer, results, code = checked(str(exported / "negative.onnx"), tmp_path / "b")
    assert code == 1 and "poisoned-state" in {finding.cause for finding in results.findings}
    assert "holds a running variance that cannot be one in 3 of 3 channels of bn" in answer.headline


def test_a_file_that_is_none_and_one_without_nodes(tmp_path: Path, exported: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x07garbage" + bytes(np.arange(64, dtype=np.uint8)))
    with pytest.raises(UsageError, match=r"broken\.onnx cannot be checked"):
        checked(str(broken), tmp_path / "run")
    with pytest.raises(NothingToJudge, match=r"folded\.onnx has no BatchNormalization node"):
        checked(str(exported / "folded.onnx"), tmp_path / "run")


# ------------------------------------------------------------------------------------------------------------- kits

SOURCE = """
class Base(nn.Module):
    def __init__(self, channels, epsilon=1e-5, *, momentum=0.1): ...
class Layer(Base):
    def forward(self, x): ...
class Loose(Base):
    def __init__(self, channels, **keywords): ...
class Usual(nn.BatchNorm2d):
    def forward(self, x): ...
"""


def test_the_script_of_a_kit_passes_what_the_constructor_takes() -> None:
    given = {"affine": True, "momentum": 0.3, "eps": 1e-3}
    assert taken_by(SOURCE, "my.py:Layer", given) == {"momentum": 0.3, "epsilon": 1e-3}
    for name in ("Loose", "Usual", "Gone"):
        assert taken_by(SOURCE, f"my.py:{name}", given) == given
