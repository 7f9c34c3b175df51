"""bncheck check: one thing of the user's, in the user's own Python, with real frameworks and real files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from at_the_prompt import bncheck, here

from bncheck.commands.progress import Quiet
from bncheck.environments.backend_file import find_backends
from bncheck.environments.pythons import Ready, prepare
from bncheck.environments.targets import Target
from bncheck.errors import BncheckError, EnvironmentFailure, NothingToJudge, UsageError
from bncheck.gate.bar import read_verdict
from bncheck.life import Held, Holding, LayerLife, Life, Span
from bncheck.playing.nursery import CAN_FORK, Nursery
from bncheck.report import render
from bncheck.repro.torch_script.own import taken_by
from bncheck.run_folder.answer import Answer, read_answer
from bncheck.run_folder.results import Results
from bncheck.subjects.asked import Asked, parse_input, parse_with
from bncheck.subjects.check import check
from bncheck.subjects.interpreter import find_python
from bncheck.subjects.layer import Looked, scenario_text
from bncheck.subjects.model import Seen, findings_of, headline, missed
from bncheck.subjects.played import batch_dependence, misfit, nonfinite, unlike_data
from bncheck.subjects.thing import parse_thing

TESTS = Path(__file__).parent
MODELS, LAYERS = TESTS / "checked_models.py", TESTS / "third_party_layers.py"
TORCH = find_backends(())["torch"]


@pytest.fixture(scope="module")
def python() -> Path:
    place = prepare([Target("torch")], {"torch": TORCH})[Target("torch")]
    if not isinstance(place, Ready):
        pytest.skip(f"torch: {place.reason}. Remedy: {place.remedy}")
    return place.python


@pytest.fixture(scope="module", autouse=True)
def nursery() -> Iterator[None]:
    """PyTorch is imported once for all that is checked here."""
    yield
    while NURSERIES:
        NURSERIES.popitem()[1].close()


NURSERIES: dict[str, Nursery] = {}


def checked(thing: str, out: Path, **more: Any) -> tuple[Answer, Results, int]:
    asked = Asked(thing=parse_thing(thing), out=out, formats=(), command="bncheck check", strict=True, **more)
    shared = more.get("python")
    if shared and CAN_FORK and shared not in NURSERIES:
        NURSERIES[shared] = Nursery(Path(shared), TORCH.module)
    run, results = check(asked, Quiet(), NURSERIES.get(shared or ""))
    answer = read_answer(run)
    assert answer is not None
    return answer, results, read_verdict(run, results).exit_code


# ------------------------------------------------------------------------------------------------------- what is meant


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


# ----------------------------------------------------------------------------------------------------------- models


def model(name: str, tmp_path: Path, python: Path, **more: Any) -> tuple[Answer, Results, int]:
    return checked(f"{MODELS}:{name}", tmp_path / "run", python=str(python), **more)


def test_a_healthy_model_of_any_output_is_played_and_nothing_is_said(tmp_path: Path, python: Path) -> None:
    answer, results, code = model("trained", tmp_path, python)
    assert (code, results.findings) == (0, ())
    assert answer.headline == "2 normalising layers, nothing wrong, played in eval and through 3 training steps."
    assert [(row.layer, row.cells[1], row.cells[3]) for row in answer.rows] == [
        ("bn1", "eval", "3 of 5"), ("bn2", "eval", "3 of 5"),
    ]  # fmt: skip
    assert any("float32 8×3×64×64" in note for note in answer.notes), "the shape that was chosen is said"


def test_a_fresh_model_with_arguments_is_healthy_too(tmp_path: Path, python: Path) -> None:
    answer, results, code = model("build", tmp_path, python, given={"classes": 3}, inputs=["4,3,20,20"], steps=1)
    assert (code, results.findings) == (0, ())
    assert answer.rows[0].cells == ("BatchNorm2d", "train", "1,296", "1 of 3", "–", "in order")


def test_a_negative_variance_is_named_with_its_layer(tmp_path: Path, python: Path) -> None:
    answer, results, code = model("negative", tmp_path, python)
    assert code == 1
    assert {(finding.cause, finding.layer) for finding in results.findings} == {("poisoned-state", "bn2")}
    assert "running_var of bn2 is below zero" in answer.headline
    assert [row.mark for row in answer.rows] == ["agrees", "defect"]


def test_a_layer_left_in_training_and_one_without_eval(tmp_path: Path, python: Path) -> None:
    _, results, _ = model("left_training", tmp_path / "a", python)
    assert [(finding.cause, finding.layer) for finding in results.findings] == [("mode-leak", "bn1")]
    _, results, _ = model("no_eval", tmp_path / "b", python)
    found = {finding.layer: finding for finding in results.findings if finding.cause == "normaliser-source"}
    assert "In eval bn1 (a NoEval) gives the same sample another output in another batch" in found["bn1"].title
    assert "bn2" not in found, "its input already differs"


def test_layers_in_a_plain_list_are_seen_though_the_model_does_not_know_them(tmp_path: Path, python: Path) -> None:
    answer, results, _ = model("Listed", tmp_path, python, inputs=["4,3,16,16"])
    (finding,) = results.findings
    assert (finding.cause, finding.layer) == ("unregistered", "BatchNorm2d#1")
    assert [(row.layer, row.cells[-1]) for row in answer.rows] == [
        ("BatchNorm2d#1", "unregistered"), ("BatchNorm2d#2", "unregistered"),
    ]  # fmt: skip


def test_what_a_model_recomputes_by_itself_is_its_own(tmp_path: Path, python: Path) -> None:
    _, results, _ = model("Recomputed", tmp_path, python, inputs=["4,3,16,16"])
    (finding,) = results.findings
    assert (finding.cause, finding.layer) == ("update-count", "block.0")
    assert "3 forwards inside a backward took the same batch in again (checkpointing)." in finding.title


def test_a_lazy_layer_has_no_shape_yet_and_that_is_no_error(tmp_path: Path, python: Path) -> None:
    _, results, code = model("lazy_head", tmp_path, python, inputs=["4,3,16,16"])
    assert (code, results.findings) == (0, ())


@pytest.mark.parametrize("name", ["lazy_norm", "Recurrent"])
def test_an_input_is_found_for_lazy_normalisers_and_recurrent_layers(name: str, tmp_path: Path, python: Path) -> None:
    answer, results, code = model(name, tmp_path, python)
    assert (code, results.findings) == (0, ())
    assert len(answer.rows) == 1


def test_layers_of_which_none_was_seen_to_run_are_not_said_to_be_right() -> None:
    holding = Holding(name="net", framework="torch", format="model", layers=(Held(layer="bn"),))
    life = Life(program="net", framework="torch", version="2.13.0", layers=())
    seen = Seen(said={"layers": [{"name": "bn"}], "steps": 3}, holding=holding, life=life)
    assert headline(seen, ()) == "1 normalising layer, none of which was seen to run."
    (shortfall,) = missed(Asked(thing=parse_thing("net:build")), seen)
    assert shortfall.sentence == "no normalising layer of net:build was seen to run"


@pytest.mark.parametrize(
    ("backbone_in_training", "root_in_training", "named"),
    [(False, True, []), (True, True, ["mode-leak"]), (False, False, ["mode-leak"])],
)
def test_a_backbone_that_the_models_own_train_keeps_in_eval_is_meant_so(
    backbone_in_training: bool, root_in_training: bool, named: list[str]
) -> None:
    """After train() of the whole model, in the phase of training, the backbone is in eval: its own train() holds it."""
    handed = {"backbone.bn": False, "head.bn": True}
    trained = {"backbone.bn": backbone_in_training, "head.bn": True}
    statistics = {"running_mean": np.array([0.5, -0.5]), "running_var": np.array([2.0, 3.0])}
    held = tuple(Held(layer=name, training=mode, **statistics) for name, mode in handed.items())
    holding = Holding("net", "torch", "model", held)
    spans = {
        name: tuple(Span(first, first + 1, 0, 3, 1, mode) for first, mode in ((0, False), (2, trained[name])))
        for name in handed
    }
    layers = tuple(LayerLife(name, "BatchNorm2d", 2, {}, spans=spans[name]) for name in handed)
    life = Life(program="net", framework="torch", version="2.13.0", layers=layers, steps=3)
    described = [{"name": name, "kind": "BatchNorm2d"} for name in handed]
    said = {"layers": described, "steps": 3, "training": root_in_training, "input": {"from": "made"}}
    assert [item.cause for item in findings_of(Seen(said=said, holding=holding, life=life))] == named


def test_a_forward_that_does_not_come_to_its_end_is_not_said_to_be_played() -> None:
    """The layer ran, and an error ended the forward behind it."""
    statistics = {"running_mean": np.array([0.5, -0.5]), "running_var": np.array([2.0, 3.0])}
    holding = Holding("net", "torch", "model", (Held(layer="bn", **statistics),))
    ran = LayerLife("bn", "BatchNorm2d", 2, {}, spans=(Span(0, 1, 0, 0, 1, False), Span(1, 2, 0, 0, 1, True)))
    life = Life(program="net", framework="torch", version="2.13.0", layers=(ran,))
    remarks = ["eval was not played: SystemExit: 0 (line 36)", "training was not played: SystemExit: 0 (line 36)"]
    seen = Seen(said={"layers": [{"name": "bn"}], "steps": 0, "remarks": remarks}, holding=holding, life=life)
    assert headline(seen, ()) == "1 normalising layer, nothing wrong as far as its forward came."
    (shortfall,) = missed(Asked(thing=parse_thing("net:build")), seen)
    assert shortfall.sentence.startswith("net:build was not played: eval was not played: SystemExit: 0 (line 36)")
    trained = replace(seen, said={"layers": [{"name": "bn"}], "steps": 3, "remarks": remarks[:1]})
    assert headline(trained, ()) == "1 normalising layer, nothing wrong, played through 3 training steps."
    assert missed(Asked(thing=parse_thing("net:build")), trained) == ()


def test_statistics_that_no_training_moves_any_more(tmp_path: Path, python: Path) -> None:
    _, results, _ = model("switched_off", tmp_path, python, inputs=["4,3,20,20"])
    (finding,) = results.findings
    assert (finding.cause, finding.kind, finding.layer) == ("never-updated", "hazard", "bn1")
    assert finding.title.startswith("bn1 holds running statistics that no training moves: its track_running_stats was")


def test_a_shape_alone_is_made_in_the_models_own_precision(tmp_path: Path, python: Path) -> None:
    answer, _, code = model("in_half", tmp_path, python, inputs=["4,3,8,8"])
    assert code == 0
    assert answer.notes[0] == "Played on made-up numbers: float16 4×3×8×8."


def test_a_function_that_a_model_compiles_runs_as_it_was_written(tmp_path: Path, python: Path) -> None:
    answer, results, code = model("CompilesAFunction", tmp_path, python, inputs=["4,3,8,8"])
    assert (code, results.findings) == (0, ())
    assert answer.headline == "1 normalising layer, nothing wrong, played in eval and through 3 training steps."
    assert answer.notes[-1] == "torch.compile() was taken off normed: it runs as it was before."


def test_weights_are_loaded_and_what_does_not_fit_is_said(tmp_path: Path, python: Path) -> None:
    script = f"""
import sys; sys.path.insert(0, {str(TESTS)!r})
import torch, numpy, checked_models as models
net = models.trained()
held = net.state_dict()
torch.save({{"epoch": 3, "model": {{"module." + key: value for key, value in held.items()}}}}, "good.pt")
torch.save({{"state_dict": {{"task.backbone." + key: value for key, value in held.items()}}}}, "inside.ckpt")
lost = {{key: value for key, value in held.items() if "running" not in key}}
lost["fc.weight"] = torch.zeros(4, 16)
torch.save(lost, "lost.pt")
torch.save(net, "whole.pt")
net.bn1.to("meta")
torch.save(net.state_dict(), "meta.pt")
numpy.savez("batch.npz", x=torch.randn(6, 3, 12, 12).numpy())
"""
    subprocess.run([str(python), "-c", script], check=True, cwd=tmp_path)
    good = tmp_path / "good.pt"
    answer, results, code = model("build", tmp_path / "a", python, weights=good, data=tmp_path / "batch.npz")
    assert (code, results.findings) == (0, ())
    assert (
        "16 of 16 keys were loaded from good.pt, found in 'model'; 'module.' was taken from its keys." in answer.notes
    )
    assert answer.notes[0] == "Played on your data: float32 6×3×12×12."
    assert float(answer.rows[0].cells[4].split()[0]) < 0.5, "the statistics are those of such data"
    answer, results, code = model("build", tmp_path / "d", python, weights=tmp_path / "inside.ckpt")
    assert (code, results.findings) == (0, ())
    assert any("'task.backbone.' was taken from its keys." in note for note in answer.notes)
    answer, results, code = model("build", tmp_path / "b", python, weights=tmp_path / "lost.pt")
    assert code == 1
    first = next(finding for finding in results.findings if finding.code == "BN115")
    assert first.layer == "bn1" and "1 key of another shape (fc.weight: [4, 16] for [10, 16])" in first.title
    assert "running statistics of 2 layers stay as built" in first.title
    with pytest.raises(BncheckError, match="holds more than weights"):
        model("build", tmp_path / "c", python, weights=tmp_path / "whole.pt")
    with pytest.raises(
        BncheckError, match=r"meta\.pt has shapes and no numbers for bn1\.bias, .* and 2 more: it was saved"
    ):
        model("build", tmp_path / "e", python, weights=tmp_path / "meta.pt")


def test_several_inputs_of_several_types(tmp_path: Path, python: Path) -> None:
    answer, _, code = model("TwoInputs", tmp_path, python, inputs=["int64:8,5", "8,4"])
    assert code == 0
    assert answer.notes[0] == "Played on made-up numbers: int64 8×5 and float32 8×4."
    with pytest.raises(UsageError, match="takes 2 inputs \\(tokens, numbers\\)"):
        model("TwoInputs", tmp_path / "b", python)


def test_what_the_model_refuses_in_training_is_a_remark_and_no_finding(tmp_path: Path, python: Path) -> None:
    answer, results, code = model("RaisesInTraining", tmp_path, python)
    assert (code, results.findings) == (0, ())
    said = next(note for note in answer.notes if note.startswith("training was not played"))
    assert "ValueError: targets should be given in training (line " in said


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("needs", UsageError, "needs\\(\\) needs the argument size\n  → say what: --with size=VALUE"),
        ("no_model", BncheckError, "no_model\\(\\) returns a int, not a torch.nn.Module"),
        ("gone", BncheckError, "checked_models.py has no gone\n  → it has: "),
        ("Sized", UsageError, "Sized needs the argument groups beside channels"),
        (
            "PriorFirst",
            UsageError,
            "PriorFirst needs the argument prior beside num_features\n  → say what: --with prior=VALUE; ",
        ),
        ("Pair", UsageError, "Pair cannot be compared with BatchNorm: it makes a tuple of \\(8, 4\\)"),
        ("OfComplex", UsageError, "OfComplex cannot be compared with BatchNorm: it takes complex numbers"),
        (
            "on_meta",
            BncheckError,
            "on_meta makes a model without numbers: 0.weight, 0.bias, 1.weight and 4 more are on the "
            "meta device, which holds shapes alone\n  → make it on the CPU, or fill it: model.to_empty",
        ),
        (
            "OnMeta",
            BncheckError,
            "OnMeta makes a layer without numbers: weight, bias, running_mean and 2 more are on the",
        ),
        ("RaisesAlways", UsageError, "no input was found that the model takes: .* ValueError: not today \\(line "),
    ],
)
def test_what_cannot_be_made_is_a_sentence(tmp_path: Path, python: Path, name: str, kind: Any, said: str) -> None:
    with pytest.raises(kind, match=said):
        model(name, tmp_path, python)
    assert not (tmp_path / "run").exists(), "nothing is written for what could not be made"


def test_a_missing_package_is_named_with_the_python_that_lacks_it(tmp_path: Path, python: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import torch\nimport no_such_package_at_all\n\ndef build():\n    return None\n")
    with pytest.raises(BncheckError) as caught:
        checked(f"{path}:build", tmp_path / "run", python=str(python))
    assert str(caught.value).startswith(f"no_such_package_at_all is not installed in {python}\n  → mine.py needs it; ")
    with pytest.raises(BncheckError, match="no_such_package is not installed in"):
        checked("no_such_package:build", tmp_path / "run", python=str(python))


def test_a_framework_that_does_not_import_is_no_fault_of_the_model_or_of_bncheck(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import torch\n\ndef build():\n    return None\n")
    for code, words in (
        ("raise RuntimeError('no driver')", "torch does not import: RuntimeError: no driver\n  → see it by itself: "),
        ("import os; os._exit(7)", "importing torch ended the process (exit code 7)\n  → see it by itself: "),
    ):
        env = tmp_path / str(len(words))
        venv.create(env, symlinks=True)
        (site,) = (env / "lib").glob("*/site-packages")
        (site / "torch").mkdir()
        (site / "numpy").symlink_to(Path(np.__file__).parent)
        (site / "torch" / "__init__.py").write_text(code)
        own = str(env / "bin" / "python")
        done = here("check", f"{tmp_path / 'mine.py'}:build", "--python", own, "--out", str(tmp_path / "run"))
        assert f"bncheck: {words}{own} -c 'import torch'" in done.stderr


def test_a_model_that_ends_its_process_is_said(tmp_path: Path, python: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import os\nimport torch\n\ndef build():\n    print('giving up')\n    os._exit(7)\n")
    with pytest.raises(EnvironmentFailure, match="died \\(exit code 7\\)"):
        checked(f"{path}:build", tmp_path / "run", python=str(python))


def test_a_model_without_normalising_layers_is_not_success(tmp_path: Path, python: Path) -> None:
    answer, _, code = model("NoNorm", tmp_path, python)
    assert (code, answer.headline) == (3, "It has no layer that is known to normalise by running statistics.")


def test_at_the_prompt(tmp_path: Path, python: Path) -> None:
    done = bncheck("check", f"{MODELS}:negative", "--python", str(python), "--out", str(tmp_path / "run"), "-v")
    assert done.returncode == 1, done.stderr
    assert "running_var of bn2 is below zero" in done.stdout
    assert f"lives in {python} (--python)" in done.stderr
    assert (tmp_path / "run" / "index.html").is_file()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["findings"][0]["cause"] == "poisoned-state"
    lost = here("check", f"{MODELS}:gone", "--python", str(python))
    assert lost.returncode == 2 and "Traceback" not in lost.stderr


# ------------------------------------------------------------------------------------------- findings, in numbers


def played(**more: Any) -> Mapping[str, Any]:
    return {"layers": [{"name": "bn", "kind": "BatchNorm2d"}, {"name": "bn2", "kind": "BatchNorm2d"}], **more}


def loaded(missing: list[str], unexpected: list[str], misshaped: dict[str, Any]) -> Mapping[str, Any]:
    counts = [len(missing), len(unexpected), len(misshaped)]
    return {"missing": missing, "unexpected": unexpected, "misshaped": misshaped, "counts": counts}


def test_counters_alone_that_a_file_lacks_are_nothing() -> None:
    old = loaded(["bn.num_batches_tracked"], [], {})
    assert not list(misfit(played(weights=old), "net"))
    (found,) = misfit(played(weights=loaded([], ["head.weight"], {})), "net")
    assert (found.code, found.cause, found.kind) == ("BN115", "state-mismatch", "hazard")
    (found,) = misfit(played(weights=loaded(["bn2.running_var"], [], {})), "net")
    assert (found.kind, found.layer, found.quantity) == ("defect", "bn2", "running_var")


def batches(**gaps: list[float]) -> Mapping[str, Any]:
    return {"sizes": [1, 3], "samples": 8, "layers": gaps}


def test_the_first_layer_that_looks_at_the_batch_is_named_and_rounding_is_not() -> None:
    assert not list(batch_dependence(played(batches=batches(bn=[1e-7, 2e-7], bn2=[3e-7, 5e-5])), "net", []))
    (found,) = batch_dependence(played(batches=batches(bn=[1e-7, 0.4], bn2=[0.4, 0.5])), "net", [])
    assert (found.code, found.cause, found.layer) == ("BN111", "normaliser-source", "bn")
    for cause in ("mode-leak", "normaliser-source", "unregistered"):
        said = replace(found, cause=cause, layer="" if cause == "unregistered" else "bn")
        assert not list(batch_dependence(played(batches=batches(bn=[1e-7, 0.4])), "net", [said])), f"{cause} says why"
    (found,) = batch_dependence(
        played(batches={**batches(bn=[0, 0]), "layers": {"bn": [0, 0], "": [0.3, 0.3]}}), "net", []
    )
    assert found.layer == "" and "In eval something behind its normalising layers" in found.title


def lived(mean: float, var: float, given: float, spread: float) -> LayerLife:
    """One forward in eval of a layer of two channels that are alike."""
    arrays = {"mean_before": mean, "var_before": var, "input_mean": given, "input_var": spread}
    moments = {name: np.full((1, 2), value) for name, value in arrays.items()}
    moments |= {"training": np.array([0]), "eps": np.array([0.0])}
    return LayerLife(name="bn", kind="BatchNorm2d", channels=2, moments=moments)


def test_data_of_another_scale_are_named_and_like_data_are_not() -> None:
    (found,) = unlike_data([lived(0.5, 0.25, 127.5, 16256.0)], "net")
    assert (found.code, found.cause, found.layer) == ("BN412", "data-shift", "bn")
    assert "means lie 254 standard deviations" in found.title and "are 6.5e+04 times the running ones" in found.title
    assert not list(unlike_data([lived(0.5, 0.25, 0.9, 0.5)], "net"))
    assert not list(unlike_data([lived(0.0, 1.0, 127.5, 16256.0)], "net")), "at its start"
    later = [lived(0.5, 0.25, 0.5, 0.25), lived(0.5, 0.25, 127.5, 16256.0)]
    assert not list(unlike_data(later, "net")), "the first layer tells"


def test_nan_in_the_output_is_said_unless_a_layer_explains_it() -> None:
    said = played(output=[{"name": "logits", "shape": [8, 10], "bad": 80}])
    (found,) = nonfinite(said, "net", ())
    assert (found.code, found.cause) == ("BN301", "poisoned-state") and "80 of 80 values of logits" in found.title
    assert not list(nonfinite(said, "net", (found,)))
    assert not list(nonfinite(played(output=[{"name": "y", "shape": [2], "bad": 0}]), "net", ()))


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
