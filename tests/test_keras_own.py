"""Layers and models of one's own in Keras: network.custom, network.model, and ``bncheck check``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from at_the_prompt import here
from rule_views import make_case, make_cell, make_trace
from test_checkpoints import python_of

from bncheck.diagnosis.held.advice import in_its_words as about_function
from bncheck.diagnosis.held.reading import Reading
from bncheck.diagnosis.rules.handed_over import odd_weight
from bncheck.diagnosis.rules.own_advice import in_its_words
from bncheck.errors import UsageError
from bncheck.finding import Finding
from bncheck.subjects.layer import in_words, looked, scenario_text
from bncheck.subjects.seen import handed_in
from bncheck.subjects.thing import parse_thing

TESTS = Path(__file__).parent
FOUND = {
    "kind": "layer", "class": "MyBN", "shape": [8, 5, 5, 4], "channels": 4, "left_out": [], "defaults": {}, "held": {},
    "affine": True, "single": [], "engine": "torch",
}  # fmt: skip


# -------------------------------------------------------------------------------------------------- what is asked


def test_the_scenario_of_a_keras_layer_is_written_in_its_words() -> None:
    text = scenario_text(looked(FOUND), {}, "bn.py:MyBN", False)
    assert 'targets = ["keras[torch]", "keras[builtin_torch]"]' in text
    assert '"axis" = -1' in text.replace("axis = -1", '"axis" = -1')
    assert "batch_weight = 0.3" in text, "momentum 0.7, of the old average"
    assert "eps = 0.02" in text, "what nobody writes into a forward"


def test_sentences_name_keras_and_not_its_target() -> None:
    said = in_words("MyBN in keras[torch] 3.15.1@cpu does; keras[builtin_torch] 3.15.1@cpu does not.", looked(FOUND))
    assert said == "MyBN does; Keras's does not."


@pytest.mark.parametrize(
    ("text", "framework", "engine"),
    [
        ("import keras\n", "keras", ""),
        ("import tensorflow as tf\n", "keras", "tensorflow"),
        ("import torch\nimport keras\n", "keras", "torch"),
        ("import torch\n", "torch", ""),
        ("import numpy\n", "torch", ""),
    ],
)
def test_a_file_shows_its_framework_by_what_it_imports(tmp_path: Path, text: str, framework: str, engine: str) -> None:
    (tmp_path / "bn.py").write_text(text)
    thing = parse_thing(f"{tmp_path / 'bn.py'}:MyBN")
    assert (thing.framework, thing.engine) == (framework, engine)


def test_other_frameworks_are_not_taken_yet(tmp_path: Path) -> None:
    (tmp_path / "bn.py").write_text("import mlx\n")
    with pytest.raises(UsageError, match="is made of MLX"):
        parse_thing(f"{tmp_path / 'bn.py'}:MyBN")


def test_advice_is_in_the_words_of_the_framework() -> None:
    finding = Finding(
        code="BN102", cause="variance-divisor", kind="defect", title="", targets=("keras",), scenario="s", case="c",
        advice="x.var(unbiased=False)",
    )  # fmt: skip
    assert in_its_words(finding, ["torch"]).advice == "x.var(unbiased=False)"
    assert "unbiased" not in in_its_words(finding, ["keras"]).advice


def test_what_to_do_about_a_function_is_in_the_words_of_the_framework() -> None:
    reading = Reading(cause="mode-leak", kind="hazard", title="", advice="copy requires_grad", places=())
    assert about_function(reading, "torch").advice == "copy requires_grad"
    assert about_function(reading, "keras").advice == "set layer.trainable again after it"


@pytest.mark.parametrize(
    ("backend", "momentum", "words"),
    [("torch", 0.99, "Keras's momentum of 0.99 is 0.01 here"), ("keras", 0.1, "PyTorch's momentum of 0.1 is 0.9 here"),
     ("keras", 0.99, ""), ("torch", 0.1, "")],
)  # fmt: skip
def test_a_momentum_reads_like_another_frameworks_in_its_own_sense(backend: str, momentum: float, words: str) -> None:
    case = make_case(("eval_forward",))
    trace = make_trace(("eval_forward",), momentum=[momentum, momentum])
    found = odd_weight(make_cell(case, backend, trace), trace)
    assert words in found.title if words and found is not None else found is None and not words


def test_one_half_reads_the_same_in_either_sense() -> None:
    trace = make_trace(("eval_forward",), momentum=[0.5, 0.5])
    found = odd_weight(make_cell(make_case(("eval_forward",)), "mxnet", trace), trace)
    assert found is not None
    assert found.title == (
        "momentum of 1 of 1 BatchNorm layers (bn) is 0.5. After each step 50 % of the old average is left."
    )


# -------------------------------------------------------------------------------------------------- real layers


def played(tmp_path: Path, file: str, *targets: str) -> dict[str, Any]:
    words = [word for target in targets for word in ("-t", target)]
    words += [
        word
        for target in targets
        if "torch" in target
        for word in ("--python", f"{target}={python_of('keras[torch]')}")
    ]
    done = here("run", str(TESTS / file), *words, "--no-report", "-q", "--out", str(tmp_path / "run"))
    assert done.returncode in (0, 1, 2), done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "run" / "run.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("targets", [("keras", "keras[builtin]"), ("keras[torch]", "keras[builtin_torch]")])
def test_each_planted_fault_of_a_layer_is_named_and_nothing_else(tmp_path: Path, targets: tuple[str, str]) -> None:
    python_of("keras")
    run = played(tmp_path, "keras-layers.toml", *targets)
    names = ("MyBN", "NoAxis", "Unbiased", "Swapped", "NeverEval", "EpsOutside")
    grave = [item for item in run["findings"] if item["kind"] != "rounding" and item["scenario"] == "keras-layers"]
    found = {name: {item["cause"] for item in grave if item["case"].endswith(name.lower())} for name in names}
    assert found == {
        "MyBN": set(),
        "NoAxis": {"layer-contract"},  # get_config() holds an axis that its constructor does not take
        "Unbiased": {"variance-divisor"},
        "Swapped": {"batch-weight"},
        "NeverEval": {"normaliser-source", "update-phase"},
        "EpsOutside": {"eps"},
    }
    (cell,) = [cell for cell in run["cells"] if cell["case"].endswith("raises") and cell["target"] == targets[0]]
    assert (cell["outcome"], cell["origin"]) == ("raised", "subject")
    assert "not today" in cell["error"]


@pytest.mark.slow
def test_what_a_function_does_to_a_model_is_said_in_keras_words(tmp_path: Path) -> None:
    python_of("keras")
    run = played(tmp_path, "keras-applied.toml", "keras")
    said: dict[str, list[tuple[str, str]]] = {}
    for item in run["findings"]:
        said.setdefault(item["case"], []).append((item["cause"], item["title"] + item["advice"]))
    assert {case: sorted(cause for cause, _ in items) for case, items in said.items()} == {
        "freeze": ["mode-leak"],
        "spoil": ["state-mismatch"],
        "clone": ["stale-state", "state-mismatch"],  # its weights are drawn anew, its statistics at the start
    }
    assert (
        "stopped gamma and beta of 2 layers (bn0 and bn1) from being trained (layer.trainable)" in said["freeze"][0][1]
    )
    assert "spoil() moved running_var of bn1" in said["spoil"][0][1]
    assert not [text for items in said.values() for _, text in items if "torch" in text or "requires_grad" in text]
    errors = {cell["case"]: cell["error"] for cell in run["cells"] if cell["outcome"] != "ok"}
    assert "crash raises RuntimeError: no (line" in errors["crash"]


@pytest.mark.slow
def test_a_model_of_ones_own_is_the_same_on_each_engine(tmp_path: Path) -> None:
    python_of("keras")
    run = played(tmp_path, "keras-models.toml", "keras", "keras[torch]")
    assert [item["cause"] for item in run["findings"] if item["kind"] != "rounding"] == []
    outcomes = {
        (cell["case"], cell["target"]): cell["outcome"] for cell in run["cells"] if cell["scenario"] == "keras-models"
    }
    assert {case for (case, _), outcome in outcomes.items() if outcome == "ok"} == {"built-in", "own", "subclassed"}
    (cell, _) = [cell for cell in run["cells"] if cell["case"] == "unbuilt"]
    assert "has no weights yet: give it an Input" in cell["error"]


@pytest.mark.slow
def test_check_says_what_a_layer_does_unlike_keras(tmp_path: Path) -> None:
    thing, python = f"{TESTS / 'keras_layers.py'}:Unbiased", str(python_of("keras"))
    done = here("check", thing, "--python", python, "--no-report", "-q", "--out", str(tmp_path / "run"))
    assert done.returncode == 1, done.stderr
    answer = json.loads((tmp_path / "run" / "answer.json").read_text())
    assert answer["headline"] == (
        "Unbiased is not equivalent to keras.layers.BatchNormalization: it averages the variance over n-1 into "
        "running_var, Keras's the one over n."
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code", "causes", "words"),
    [
        ("build", 0, [], "2 normalising layers, nothing wrong, played in eval and through 3 training steps."),
        ("negative", 1, ["poisoned-state"], "moving_variance of bn1 is below zero (lowest -0.2)"),
        (
            "trains",
            1,
            ["mode-leak"],
            "The model runs batch_normalization in training mode while it is evaluated",
        ),
        ("unbuilt", 2, [], ""),
    ],
)
def test_check_of_a_model(tmp_path: Path, name: str, code: int, causes: list[str], words: str) -> None:
    thing, python = f"{TESTS / 'keras_layers.py'}:{name}", str(python_of("keras"))
    more = ["--input", "8,6,6,3", "--python", python, "--no-report", "-q", "--out", str(tmp_path / "run")]
    done = here("check", thing, *more)
    assert done.returncode == code, done.stderr
    if code == 2:
        assert "has no weights yet: give it an Input" in done.stderr
        return
    answer, run = (json.loads((tmp_path / "run" / file).read_text()) for file in ("answer.json", "run.json"))
    assert words in answer["headline"]
    assert [item["cause"] for item in run["findings"]] == causes


def test_what_a_models_process_wrote_down_is_a_life(tmp_path: Path) -> None:
    rows = {"training": [1, 0], "n": [8, 8], "mean_before": [[0.0], [0.5]], "mean_after": [[0.5], [0.5]]}
    np.savez(tmp_path / "recording.npz", **{f"bn/{what}": np.array(values) for what, values in rows.items()})
    said = {"layers": [{"name": "bn", "kind": "MyBN", "own": True}], "version": "3", "steps": 1, "happenings": []}
    life = handed_in("model", said, tmp_path / "recording.npz", "keras")
    assert life is not None
    (layer,) = life.layers
    assert (life.framework, layer.kind, layer.own, layer.forwards) == ("keras", "MyBN", True, 2)
    assert [span.moved for span in layer.spans] == [1, 0]
    np.savez(tmp_path / "recording.npz")
    assert handed_in("model", said, tmp_path / "recording.npz", "keras") is None
