"""bncheck check of a model: what its layers hold, what they do, and what is said of one that cannot be played."""

from __future__ import annotations

import json
import subprocess
import venv
from dataclasses import replace
from pathlib import Path
from typing import Any

import checked as checked_things
import numpy as np
import pytest
from at_the_prompt import bncheck, here
from checked import MODELS, TESTS, checked

from bncheck.errors import BncheckError, EnvironmentFailure, UsageError
from bncheck.life import Held, Holding, LayerLife, Life, Span
from bncheck.run_folder.answer import Answer
from bncheck.run_folder.results import Results
from bncheck.subjects.asked import Asked
from bncheck.subjects.model import findings_of, missed
from bncheck.subjects.model_answer import headline
from bncheck.subjects.seen import Seen
from bncheck.subjects.thing import parse_thing

python = checked_things.python  # a fixture


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
    (elsewhere,) = missed(Asked(thing=replace(parse_thing("net:build"), framework="flax")), replace(seen, life=None))
    assert elsewhere.sentence == "no normalising layer of net:build was seen to run"
    assert "nnx.remat()" in elsewhere.remedy
    assert "torch" not in elsewhere.remedy


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
        ("ChannelsLast", UsageError, "ChannelsLast cannot be compared with BatchNorm: it makes \\(1, 8, 4\\) of"),
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
