"""Layers and models of one's own in Paddle, Flax nnx and MXNet Gluon: network.custom, network.model, ``bncheck check``.

Keras has a file of its own (test_keras_own.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from at_the_prompt import here
from test_checkpoints import python_of

from bncheck.diagnosis.rules.own_advice import in_its_words
from bncheck.errors import UsageError
from bncheck.finding import Finding
from bncheck.subjects.layer import in_words, looked, scenario_text
from bncheck.subjects.sides import parse_side
from bncheck.subjects.thing import parse_thing

TESTS = Path(__file__).parent
FOUND: dict[str, Any] = {
    "kind": "layer", "class": "MyBN", "shape": [8, 4, 5, 5], "channels": 4, "left_out": [], "defaults": {}, "held": {},
    "affine": True, "single": [],
}  # fmt: skip
PADDLE = {
    **FOUND, "framework": "paddle", "title": "Paddle", "axis": 1, "like": "paddle.nn.BatchNorm2D", "in_backward": False,
}  # fmt: skip
LIKE = {
    "paddle": ("Paddle", "paddle.nn.BatchNorm2D"),
    "flax": ("Flax", "flax.nnx.BatchNorm"),
    "mxnet": ("MXNet", "mxnet.gluon.nn.BatchNorm"),
}

# The framework's causes of each planted fault; a right layer has none.
FAULTS = {
    "MyBN": set(),
    "Renamed": set(),
    "Unbiased": {"variance-divisor"},
    "Swapped": {"batch-weight"},
    "EpsOutside": {"eps"},
    "NeverEval": {"normaliser-source", "update-phase"},
    "NeverMoves": {"never-updated"},
}


# -------------------------------------------------------------------------------------------------- what is asked


def test_the_scenario_of_a_layer_is_written_in_the_words_of_its_framework() -> None:
    text = scenario_text(looked(PADDLE), {}, "bn.py:MyBN", False)
    assert 'targets = ["paddle", "paddle[builtin]"]' in text
    assert 'title = "MyBN against paddle.nn.BatchNorm2D"' in text
    assert "batch_weight = 0.3" in text, "momentum 0.7, of the old average"
    assert "eps = 0.002" in text


def test_where_the_built_in_layer_moves_in_backward_each_forward_has_one() -> None:
    text = scenario_text(looked({**PADDLE, "in_backward": True}), {}, "bn.py:MyBN", False)
    assert "two forwards per backward" not in text
    assert '"program.then" = ["eval_forward", "reload", "eval_forward"]' in text


def test_sentences_name_the_framework_and_not_its_target() -> None:
    said = in_words("MyBN in paddle 3.3.1@cpu does; paddle[builtin] 3.3.1@cpu does not.", looked(PADDLE))
    assert said == "MyBN does; Paddle's does not."


@pytest.mark.parametrize(
    ("text", "framework"),
    [
        ("import paddle\n", "paddle"),
        ("import jax\nfrom flax import nnx\n", "flax"),
        ("from mxnet.gluon import nn\n", "mxnet"),
    ],
)
def test_a_file_shows_its_framework_by_what_it_imports(tmp_path: Path, text: str, framework: str) -> None:
    (tmp_path / "bn.py").write_text(text)
    assert parse_thing(f"{tmp_path / 'bn.py'}:MyBN").framework == framework


def test_diff_plays_code_of_pytorch_alone(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import paddle\n")
    with pytest.raises(UsageError, match="is not made of PyTorch"):
        parse_side(f"{tmp_path / 'model.py'}:build")


@pytest.mark.parametrize(
    ("backend", "cause", "words"),
    [
        ("paddle", "variance-divisor", "unbiased=False"),
        ("flax", "variance-divisor", "ddof=0"),
        ("mxnet", "never-updated", "set_data()"),
    ],
)
def test_advice_is_in_the_frameworks_call(backend: str, cause: str, words: str) -> None:
    finding = Finding(
        code="BN1", cause=cause, kind="defect", title="", targets=(backend,), scenario="s", case="c", advice=""
    )
    assert words in in_its_words(finding, [backend]).advice


# -------------------------------------------------------------------------------------------------- real layers


def played(tmp_path: Path, file: str, *targets: str) -> dict[str, Any]:
    words = [word for target in targets for word in ("-t", target)]
    done = here("run", str(TESTS / file), *words, "--no-report", "-q", "--out", str(tmp_path / "run"))
    assert done.returncode in (0, 1, 2), done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "run" / "run.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["paddle", "flax", "mxnet"])
def test_each_planted_fault_of_a_layer_is_named_and_nothing_else(tmp_path: Path, framework: str) -> None:
    python_of(framework)
    run = played(tmp_path, f"{framework}-layers.toml", framework, f"{framework}[builtin]")
    grave = [
        item for item in run["findings"] if item["kind"] != "rounding" and not item["scenario"].startswith("probe")
    ]
    found = {name: {item["cause"] for item in grave if item["case"].endswith(f"py-{name.lower()}")} for name in FAULTS}
    assert found == FAULTS
    cells = [cell for cell in run["cells"] if cell["case"].endswith("raises") and cell["target"] == framework]
    assert [(cell["outcome"], cell["origin"]) for cell in cells] == [("raised", "subject")]
    assert "not today" in cells[0]["error"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "layer"), [("paddle", "block.1"), ("flax", "block.layers.1"), ("mxnet", "block.1")]
)
def test_a_model_of_ones_own_is_judged_layer_by_layer(tmp_path: Path, framework: str, layer: str) -> None:
    python_of(framework)
    run = played(tmp_path, f"{framework}-models.toml", framework)
    grave = [item for item in run["findings"] if item["kind"] != "rounding"]
    found = {(item["cause"], item["case"]): item["title"] for item in grave}
    assert set(found) == {
        ("normaliser-source", "never-eval"),
        ("update-phase", "never-eval"),
        ("never-updated", "never-moves"),
        ("variance-divisor", "unbiased"),
    }
    assert all(set(title.partition(": ")[0].split(" and ")) == {"bn1", layer} for title in found.values())
    asked = [cell for cell in run["cells"] if cell["scenario"] == f"{framework}-models"]
    errors = {cell["case"]: cell["error"] for cell in asked if cell["outcome"] != "ok"}
    assert set(errors) - {"unbuilt"} == {"several", "nothing"}
    assert ": say which to compare, with network.output" in errors["several"]
    assert "returns a int, not a " in errors["nothing"]


@pytest.mark.slow
@pytest.mark.parametrize("framework", sorted(LIKE))
@pytest.mark.parametrize("name", ["Renamed", "Unbiased"])
def test_check_says_what_a_layer_does_unlike_the_built_in_one(tmp_path: Path, framework: str, name: str) -> None:
    thing, python = f"{TESTS / f'{framework}_layers.py'}:{name}", str(python_of(framework))
    title, like = LIKE[framework]
    done = here("check", thing, "--python", python, "--no-report", "-q", "--out", str(tmp_path / "run"))
    answer = json.loads((tmp_path / "run" / "answer.json").read_text())
    if name == "Renamed":
        assert done.returncode == 0, answer["headline"]
        assert answer["headline"].startswith(f"Renamed is equivalent to {like} on ")
        return
    assert done.returncode == 1, done.stderr
    assert answer["headline"] == (
        f"Unbiased is not equivalent to {like}: it averages the variance over n-1 into running_var, {title}'s the one "
        "over n."
    )


FUNCTIONS = {
    "freeze": ["mode-leak"],
    "spoil": ["state-mismatch"],
    "calibrate": ["state-mismatch"],
    "evaluate": ["mode-leak"],
    "anew": ["stale-state", "state-mismatch"],  # its weights are drawn anew, its statistics at the start
}
# Flax has no switch for training, MXNet no mode of a model.
WITHOUT = {"flax": "freeze", "mxnet": "evaluate", "paddle": ""}


@pytest.mark.slow
@pytest.mark.parametrize("framework", sorted(LIKE))
def test_what_a_function_does_to_a_model_is_said_in_the_frameworks_words(tmp_path: Path, framework: str) -> None:
    python_of(framework)
    run = played(tmp_path, f"{framework}-applied.toml", framework)
    found: dict[str, list[str]] = {}
    for item in run["findings"]:
        found.setdefault(item["case"], []).append(item["cause"])
    expected = {name: causes for name, causes in FUNCTIONS.items() if name != WITHOUT[framework]}
    assert {name: sorted(causes) for name, causes in found.items()} == expected
    said = " ".join(item["title"] + item["advice"] for item in run["findings"])
    assert "spoil() moved running_var of bn1. In eval its output is " in said
    assert not [word for word in ("torch", "requires_grad", "counter") if word in said]
    errors = {cell["case"]: cell["error"] for cell in run["cells"] if cell["outcome"] != "ok"}
    assert "crash raises RuntimeError: no (line" in errors["crash"]


@pytest.mark.slow
@pytest.mark.parametrize("framework", sorted(LIKE))
def test_check_of_a_model(tmp_path: Path, framework: str) -> None:
    thing, python = f"{TESTS / f'{framework}_layers.py'}:build", str(python_of(framework))
    shape = "8,6,6,3" if framework == "flax" else "8,3,6,6"
    more = ["--python", python, "--no-report", "-q"]
    done = here("check", thing, *more)
    assert done.returncode == 2
    assert "does not say what it takes\n  → give its shape: --input 8,3,32,32" in done.stderr
    for norm, code, words, causes in (
        ("builtin", 0, "2 normalising layers, nothing wrong, played in eval and through 3 training steps.", []),
        (
            "NeverEval",
            1,
            "In eval NeverEval normalises with the batch's statistics",
            ["update-phase", "normaliser-source"],
        ),
    ):
        out = tmp_path / norm
        done = here("check", thing, "--with", f"norm={norm}", "--input", shape, *more, "--out", str(out))
        assert done.returncode == code, done.stderr
        assert words in json.loads((out / "answer.json").read_text())["headline"]
        assert [item["cause"] for item in json.loads((out / "run.json").read_text())["findings"]] == causes
