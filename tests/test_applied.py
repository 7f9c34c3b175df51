"""A function of the user's that is called with a model: what it did is named, and that it did nothing is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from at_the_prompt import here
from test_checkpoints import python_of

from bncheck.diagnosis.held.applied import Application, Moment, readings, unchanged
from bncheck.diagnosis.held.reading import Others
from bncheck.diagnosis.held.recorded import application_of
from bncheck.errors import ScenarioError
from bncheck.life import Held, Holding
from bncheck.scenario_files.files import load_scenario
from bncheck.trace import Array

TESTS = Path(__file__).parent


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def held(layer: str = "bn", mean: float = 1, training: bool = True, counter: float = 5, **more: Any) -> Held:
    given = {"gamma": f32(1, 1), "beta": f32(0, 0), "eps": 1e-5, "momentum": 0.1} | more
    return Held(
        layer=layer, running_mean=f32(mean, 2), running_var=f32(3, 4), training=training, counter=counter, **given
    )


def moment(*layers: Held, training: bool = True, frozen: tuple[str, ...] = (), kind: str = "BatchNorm2d") -> Moment:
    return Moment(
        holding=Holding(name="model", framework="torch", format="model", layers=layers),
        training=training,
        frozen=frozenset(frozen),
        kinds={layer.layer: kind for layer in layers},
    )


def said(before: Moment, after: Moment, given: float = 1.0, **more: Any) -> list[tuple[str, str, str]]:
    """(cause, kind, sentence) of each reading, of a function after which the output in eval, 1 before, is ``given``."""
    plays = {"eval": [f32(1)], "given": [f32(given)]} | {
        name: [f32(more.pop(name))] for name in ("restored",) if name in more
    }
    found = readings(Application(function="f", before=before, after=after, plays=plays, **more))
    return [(reading.cause, reading.kind, reading.title) for reading in found]


def test_a_function_that_changed_nothing_has_a_note_and_no_finding() -> None:
    same = moment(held())
    assert said(same, same) == []
    plays = {"eval": [f32(1)], "given": [f32(1)]}
    quiet = Application(function="f", before=same, after=same, plays=plays)
    assert unchanged(quiet) == (
        "f() changed nothing: state, modes and the output in eval are the same to the bit, in 1 normalising layer."
    )
    put = Application(function="f", before=same, after=moment(held(), kind="SyncBatchNorm"), plays=plays)
    assert unchanged(put).startswith(
        "f() put SyncBatchNorm in the place of BatchNorm2d in bn, and changed nothing else"
    )
    assert unchanged(Application(function="f", before=same, after=same)) == "", "no output was seen"


def test_statistics_that_moved_are_told_by_what_the_move_looks_like() -> None:
    before = moment(held())
    (one,) = said(before, moment(held(mean=1.5, counter=7)), given=1.5, restored=1.0)
    assert one[:2] == ("update-count", "hazard")
    assert one[2] == (
        "f() moved running_mean of bn, as 2 training forwards do. In eval its output is 50 % of the largest away from "
        "what it was; all of that goes away with the old values put back."
    )
    assert said(before, moment(held(mean=1.5)))[0][0] == "state-mismatch"
    assert said(before, moment(held(counter=0)))[0][0] == "counter-skew"
    new = held(counter=0)
    new = Held(layer="bn", running_mean=f32(0, 0), running_var=f32(1, 1), training=True, gamma=new.gamma, beta=new.beta)
    assert said(before, moment(new))[0][0] == "stale-state"
    assert said(before, moment(held(mean=float("nan"))))[0][:2] == ("poisoned-state", "defect")


def test_numbers_that_were_rounded_did_not_move() -> None:
    """model.half().float(): "moved the statistics, with no training forward that a counter shows" was said of it."""
    long = f32(0.1, 0.2, 0.3, 0.7)
    arrays = {"running_mean": long, "running_var": long + 1, "gamma": long, "beta": long}
    short = {name: array.astype(np.float16).astype(np.float32) for name, array in arrays.items()}
    before, after = (Held(layer="bn", counter=5, training=True, **each) for each in (arrays, short))
    (found,) = said(moment(before), moment(after), given=1.1, restored=1.0)
    assert found[:2] == ("reduced-precision", "hazard")
    assert found[2].startswith("f() rounded running_mean, running_var, gamma and beta of bn to float16.")


def test_the_part_of_a_difference_that_the_old_values_do_not_take_away_is_unexplained() -> None:
    moved, rest = said(moment(held()), moment(held(mean=1.5)), given=2.0, restored=1.5)
    assert "50 % of that goes away" in moved[2]
    assert rest[0] == "unexplained" and "nothing beside that" in rest[2]


def test_the_mode_of_a_layer_that_is_frozen_by_its_class_says_nothing() -> None:
    """FrozenBatchNorm2d, put in as it is made: it normalises by its statistics in training mode as well."""
    before, after = moment(held(training=False), training=False), moment(held(), training=False, kind="FrozenBatchNorm")
    assert said(before, after) == []
    plays = {"eval": [f32(1)], "given": [f32(1)]}
    assert unchanged(Application(function="f", before=before, after=after, plays=plays)) == (
        "f() put FrozenBatchNorm in the place of BatchNorm2d in bn, and changed nothing else: state and the output in "
        "eval are the same to the bit, in 1 normalising layer."
    )


def test_modes_and_what_is_trained() -> None:
    frozen = [held(name, training=False) for name in ("a", "b")]
    (one,) = said(moment(*frozen), moment(held("a"), held("b")))
    assert one[2] == (
        "f() put 2 frozen layers into training (a and b). They normalise by the batch and move their statistics from "
        "the next forward on."
    )
    assert one[:2] == ("mode-leak", "hazard")
    ((_, _, title),) = said(moment(held("a")), moment(held("a", training=False), training=False))
    assert title == "f() left the model in eval mode."
    ((_, _, title),) = said(moment(held("a")), moment(held("a", training=False)))
    assert title == "f() put a into eval."
    ((_, _, title),) = said(moment(held("a", training=False), training=False), moment(held("a")))
    assert title == (
        "f() left the model in training mode. a normalises by the batch and moves its statistics from the next forward "
        "on."
    )  # "It" was the model
    still = held("a", training=False)
    plays = {"eval": [f32(1)], "given": [f32(1)]}
    (reading,) = readings(
        Application(function="f", before=moment(still), after=moment(still, frozen=("a",)), plays=plays)
    )
    assert reading.advice.startswith("nothing, if it was to freeze them and they are in eval as well")
    ((_, _, title),) = said(moment(*frozen, frozen=("a", "b")), moment(*frozen))
    assert title == "f() let gamma and beta of 2 layers (a and b) be trained again (requires_grad)."


def test_layers_that_are_gone_were_folded_where_the_outputs_stay() -> None:
    before = moment(held("a"), held("b"))
    assert [each[:2] for each in said(before, moment(training=False), given=1 + 1e-7)] == [("folding", "rounding")]
    ((cause, kind, title),) = said(before, moment(), given=1.5)
    assert (cause, kind) == ("folding", "hazard")
    assert title.startswith("f() took 2 layers (a and b) away. In eval its output is ")


def test_other_tensors_and_what_nothing_accounts_for() -> None:
    same = moment(held())
    ((cause, _, title),) = said(same, same, given=1.5, others=Others(same=2, different=("conv.weight",)))
    assert cause == "state-mismatch" and title.startswith("f() changed 1 of 3 other tensors (conv.weight); in eval")
    ((cause, _, title),) = said(same, same, given=1.5, replaced=("relu: ReLU → GELU",))
    assert cause == "unexplained" and title.endswith("it put other modules in (relu: ReLU → GELU).")
    assert said(same, same, given=1.5)[0][0] == "unexplained"
    assert said(same, same, given=1 + 1e-7)[0][:2] == ("rounding", "rounding")
    assert said(same, same, unplayed={"given": "TypeError: no"})[0][0] == "unexplained"


def test_settings_a_cumulative_average_included() -> None:
    before = moment(held())
    ((cause, _, title),) = said(before, moment(held(eps=1e-3)))
    assert (cause, title) == ("hyperparameter-lost", "f() changed eps of bn from 1e-05 to 0.001.")
    after = moment(held(momentum=None))
    after = Moment(holding=after.holding, training=True, cumulative=frozenset(["bn"]), kinds=after.kinds)
    assert said(before, after)[0][2] == "f() changed momentum of bn from 0.1 to None."


@pytest.mark.parametrize("notes", [None, {}, [], {"function": "f", "others": 3}, {"others": {"same": "x"}}])
def test_notes_that_make_no_sense_are_left_out(notes: Any) -> None:
    assert application_of(notes, {}, "model", "torch") is None


# ------------------------------------------------------------------------------------------------------ scenarios


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ('{ event = "apply" }', "function: is missing; apply needs it"),
        ('{ apply = "nothing.py:f" }', "there is no file"),
        ('{ apply = "../f.py:f" }', "lies outside of the scenario's folder"),
        ('{ apply = "os:abort" }', "cannot stand here"),
        ('{ event = "forward", function = "f.py:f" }', "means nothing for forward"),
    ],
)
def test_an_event_that_calls_nothing_is_a_mistake_with_its_line(tmp_path: Path, event: str, words: str) -> None:
    text = (TESTS / "applied.toml").read_text().partition("[matrix]")[0]
    text = text.replace('{ apply = "applied_functions.py:summarise" }', event)
    (tmp_path / "applied_functions.py").write_text("")
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ScenarioError) as caught:
        load_scenario(tmp_path / "s.toml")
    assert words in str(caught.value)
    assert "s.toml:11: program.events" in str(caught.value)


# -------------------------------------------------------------------------------------------- real functions, torch


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The findings of each case, and the notes of all, of one run with one worker."""
    python_of("torch")
    out = tmp_path_factory.mktemp("applied") / "run"
    words = ["-t", "torch", "--no-probe", "--no-reference", "--no-report", "-q", "--out", str(out)]
    done = here("run", str(TESTS / "applied.toml"), *words)
    assert done.returncode == 2, done.stderr  # one function raises
    found: dict[str, Any] = json.loads((out / "run.json").read_text())
    return found


def of_case(run: dict[str, Any], name: str) -> dict[str, str]:
    """Cause → sentence."""
    case = name.replace("_", "-")
    return {
        item["cause"]: item["title"] for item in run["findings"] if item["case"] == case and item["kind"] != "rounding"
    }


def notes(run: dict[str, Any], name: str) -> list[str]:
    said = [text for cell in run["cells"] if cell["case"] == name.replace("_", "-") for text in cell["remarks"]]
    return [text for text in said if not text.startswith("BatchNorm itself is innocent")]


NOTHING = "state, modes and the output in eval are the same to the bit, in 3 normalising layers."


@pytest.mark.parametrize("name", ["summarise", "wrap"])
def test_nothing_changed(run: dict[str, Any], name: str) -> None:
    assert of_case(run, name) == {}
    assert notes(run, name) == [f"{name}() changed nothing: {NOTHING}"]


def test_a_conversion_that_keeps_the_mode_is_no_finding(run: dict[str, Any]) -> None:
    assert of_case(run, "convert_as_torch_does") == {}
    (note,) = notes(run, "convert_as_torch_does")
    assert "put SyncBatchNorm in the place of BatchNorm2d in 3 layers (bn0, bn1 and bn2)" in note


def test_a_conversion_that_puts_frozen_layers_into_training(run: dict[str, Any]) -> None:
    """mmengine 1624 and 1695."""
    found = of_case(run, "convert")
    assert "convert() put 3 frozen layers into training (bn0, bn1 and bn2)." in found["mode-leak"]
    assert set(found) == {"mode-leak"}


def test_fusing_rounds_and_is_no_finding(run: dict[str, Any]) -> None:
    """pytorch 121470."""
    assert of_case(run, "fuse") == {}
    (rounding,) = [item for item in run["findings"] if item["case"] == "fuse"]
    assert "fuse() folded 3 layers (bn0, bn1 and bn2); the output in eval is equal up to rounding" in rounding["title"]


def test_a_visualiser_that_moves_the_statistics(run: dict[str, Any]) -> None:
    """torchvista 39."""
    found = of_case(run, "visualise")
    assert set(found) == {"update-count"}
    assert (
        "moved running_mean and running_var of 3 layers (bn0, bn1 and bn2), as one training forward does"
        in (found["update-count"])
    )
    assert found["update-count"].endswith("all of that goes away with the old values put back.")


@pytest.mark.parametrize(
    ("name", "cause", "words"),
    [
        ("fuse_without_eps", "folding", "took 3 layers (bn0, bn1 and bn2) away. In eval its output is "),
        ("evaluate", "mode-leak", "evaluate() left the model in eval mode."),
        ("patch", "hyperparameter-lost", "patch() changed"),
        ("reset", "stale-state", "reset() put running_mean and running_var of bn0 back to the start"),
        ("prune", "state-mismatch", "prune() changed 1 of 3 other tensors (conv2.weight); in eval its output is "),
        ("swap", "unexplained", "it put other modules in (relu2: ReLU → GELU)"),
        ("spoil", "poisoned-state", "spoil() put NaN, Inf or a variance below zero into running_var of bn1."),
        ("unfreeze", "mode-leak", "let gamma and beta of 3 layers (bn0, bn1 and bn2) be trained again"),
    ],
)
def test_what_a_function_did_is_named(run: dict[str, Any], name: str, cause: str, words: str) -> None:
    found = of_case(run, name)
    assert set(found) == {cause}
    assert words in found[cause]


def test_a_function_that_raises_is_the_users_mistake_with_its_line(run: dict[str, Any]) -> None:
    (cell,) = [cell for cell in run["cells"] if cell["case"] == "crash"]
    assert cell["origin"] == "subject"
    assert cell["error"] == "crash raises AttributeError: 'Sequential' object has no attribute 'nothing' (line 116)"


# ----------------------------------------------------------------------------------------------------- diff --after


def test_diff_before_and_after(tmp_path: Path) -> None:
    file, python = TESTS / "applied_functions.py", str(python_of("torch"))
    words = ["--input", "8,3,8,8", "--python", python, "-q", "--no-report", "--out", str(tmp_path / "run")]
    done = here("diff", f"{file}:build_frozen", "--after", f"{file}:convert", *words)
    assert done.returncode == 1, done.stderr
    answer = json.loads((tmp_path / "run" / "answer.json").read_text())
    assert answer["headline"].startswith("convert() put 3 frozen layers into training (bn0, bn1 and bn2).")
    first = dict(zip(answer["columns"], answer["rows"][0]["cells"], strict=True))
    assert first["class"] == "BatchNorm2d → SyncBatchNorm"
    assert first["mode"] == "eval → train"
    assert first["verdict"] == "mode-leak"


@pytest.mark.slow
def test_a_function_that_leaves_shapes_alone_is_said(tmp_path: Path) -> None:
    file, python = TESTS / "applied_functions.py", str(python_of("torch"))
    words = ["--input", "8,3,8,8", "--python", python, "-q", "--no-report", "--out", str(tmp_path / "run")]
    done = here("diff", f"{file}:build", "--after", f"{file}:to_meta", *words)
    assert done.returncode == 2
    assert "to_meta leaves a model without numbers: conv0.weight, bn0.weight, bn0.bias and 15 more" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("function", "code"), [("summarise", 0), ("fuse", 0), ("visualise", 1), ("crash", 2)])
def test_diff_ends_with_1_where_the_function_changed_something(tmp_path: Path, function: str, code: int) -> None:
    file, python = TESTS / "applied_functions.py", str(python_of("torch"))
    words = ["--input", "8,3,8,8", "--python", python, "-q", "--no-report", "--out", str(tmp_path / "run")]
    assert here("diff", f"{file}:build", f"{file}:build", "--after", f"{file}:{function}", *words).returncode == code


def test_diff_of_one_thing_and_of_two_with_a_function(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def build(): ...\n")
    alone = here("diff", "a.py:build", cwd=tmp_path)
    assert alone.returncode == 2
    assert "diff compares two things" in alone.stderr
    both = here("diff", "a.py:build", "b.pt", "--after", "a.py:build", cwd=tmp_path)
    assert both.returncode == 2
    assert "--after looks at one model" in both.stderr
