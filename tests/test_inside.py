"""Layers of one's own inside a model, each judged by its own record: ``bncheck check model.py:build``."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from at_the_prompt import here
from test_checkpoints import python_of

from bncheck.diagnosis.inside import (
    CLAIMS,
    Alone,
    Framework,
    Verdict,
    findings_inside,
    read_alone,
    remarks_inside,
    verdict_on,
)
from bncheck.environments.backend_file import find_backends
from bncheck.scenario import OPS, describe_ops
from bncheck.worker.backends import reference
from bncheck.worker.own_side import alone

TESTS = Path(__file__).parent
SHAPES = {"torch": "8,3,6,6", "paddle": "8,3,6,6", "flax": "8,6,6,3", "mxnet": "8,3,6,6", "keras": "8,6,6,3"}
# The causes of each layer of a zoo; right ones have none.
FAULTS = {
    "Unbiased": {"variance-divisor"},
    "Swapped": {"batch-weight"},
    "EpsOutside": {"eps"},
    "EpsLiteral": {"eps"},
    "SampleVariance": {"normaliser-divisor"},
    "NeverEval": {"normaliser-source", "update-phase"},
    "NeverMoves": {"never-updated"},
    "MeanForVariance": {"wrong-statistic"},
    "FirstSample": {"value-count"},
    "OnePlusGamma": {"affine"},
    "RunningInTraining": {"normaliser-source"},
}
FROZEN = {"FineTuned": {"mode-leak"}}  # its statistics move, alone in the model: said of its life, not of its class
FACTS: dict[str, Any] = {
    "shape": [8, 4, 6, 6], "axis": 1, "channels": 4, "eps": 1e-5, "weight": 0.1, "own": [],
    "has": ["running_mean", "running_var", "gamma", "beta"],
}  # fmt: skip


# ------------------------------------------------------------------------------------- traces of the float64 oracle


def recorded(**otherwise: Any) -> dict[str, Any]:
    """What BatchNorm of these settings leaves."""
    from bncheck.worker import cell

    found, why = alone.played(
        cell, reference, {**FACTS, **otherwise}, None, "torch", describe_ops(op.name for op in OPS)
    )
    assert not why
    return found


def layer(own: dict[str, Any], kind: str = "MyBN", why: str = "", **row: Any) -> Alone:
    arrays = {
        f"alone:0:{who}:{key.replace('/', ':')}": value
        for who, trace in (("own", own), ("builtin", recorded()))
        for key, value in trace.items()
    }
    said = {
        **FACTS, "names": ["bn1"], "class": kind, "bases": [kind], "why": why, "held": 0.1, "events": alone.EVENTS,
        **row,
    }  # fmt: skip
    (found,) = read_alone([said], arrays, "model.py")
    return found


def judged(one: Alone) -> Verdict:
    return verdict_on(one, Framework("torch", find_backends(())["torch"].documented, "2.13.0"))


@pytest.mark.parametrize(
    ("otherwise", "cause", "words"),
    [
        ({"eps": 1e-2}, "eps", "MyBN adds an eps of 0.01 to the variance, PyTorch's one of 1e-05."),
        ({"weight": 0.9}, "batch-weight", "A new batch weighs 0.9 in MyBN and 0.1 in PyTorch's"),
    ],
)
def test_a_layer_of_other_rules_is_named_with_its_share(otherwise: dict[str, Any], cause: str, words: str) -> None:
    verdict = judged(layer(recorded(**otherwise)))
    assert [item.cause for item in verdict.findings] == [cause]
    assert verdict.findings[0].title.startswith(words)
    assert verdict.findings[0].explained == pytest.approx(1.0, abs=1e-3)
    assert verdict.findings[0].kind == "defect"


def test_a_right_layer_is_not_named() -> None:
    assert judged(layer(recorded())) == Verdict(("bn1",), "MyBN")


def test_a_layer_that_only_does_what_batch_norm_does_is_a_hazard() -> None:
    verdict = judged(layer(recorded(eps=1e-2), kind="Stem"))
    assert [(item.cause, item.kind) for item in verdict.findings] == [("eps", "hazard")]


def test_a_layer_that_never_adds_its_beta_takes_the_batchs_mean_off_all_the_same() -> None:
    found = recorded()
    slope = found["bn/gamma"][:-1] * found["bn/used_invstd"]
    found["bn/used_mean"] = found["bn/used_mean"] + found["bn/beta"][:-1] / slope
    verdict = judged(layer(found, kind="Stem"))
    assert verdict.remark == ""
    assert [item.cause for item in verdict.findings] == ["affine"]


def test_a_layer_that_is_meant_otherwise_is_not_held_against_it() -> None:
    verdict = judged(layer(recorded(eps=1e-2), kind="FrozenBN"))
    assert verdict.findings == ()
    assert remarks_inside([verdict], [], "PyTorch") == [
        "bn1 (FrozenBN): not held against PyTorch's BatchNorm; its name says that it is something else than PyTorch's "
        "BatchNorm."
    ]


def holding_its_eps(eps: float) -> dict[str, Any]:
    """What a layer leaves that keeps sqrt(var + eps) and divides by it: its average has eps in it, eval adds none."""
    found = recorded(eps=eps)
    updates = np.array([0, *(event // 2 + 1 for event in range(8)), 4])
    found["bn/running_var"] = found["bn/running_var"] + eps * (1 - 0.9 ** updates[:, None])
    found["bn/used_invstd"] = found["bn/used_invstd"].copy()
    found["bn/used_invstd"][-1] = found["bn/running_var"][-1] ** -0.5
    return found


def test_of_a_layer_that_holds_a_deviation_an_eps_is_said_that_training_and_eval_both_add() -> None:
    """A deviation may hold an eps: what eval adds is then none of the layer's."""
    assert judged(layer(holding_its_eps(1e-2), form="deviation")).findings == ()
    (found,) = judged(layer(recorded(eps=1e-2), form="deviation")).findings
    assert found.title.startswith("MyBN adds an eps of 0.01 to the variance")


def test_one_gamma_for_all_channels_is_said_and_no_gradient_of_it() -> None:
    verdict = judged(layer(recorded(), single=["gamma", "beta"]))
    assert verdict.findings == ()
    assert remarks_inside([verdict], [], "PyTorch") == [
        "bn1 (MyBN): it has one gamma and one beta for all its channels, where PyTorch's BatchNorm has one for each."
    ]


def test_a_layer_that_could_not_be_played_says_why() -> None:
    verdict = judged(layer({}, why="it takes two tensors", names=["1"]))
    assert verdict.remark == "it could not be played by itself: it takes two tensors"
    assert remarks_inside([verdict], [], "PyTorch") == [
        "layer 1 (MyBN): not held against PyTorch's BatchNorm; it could not be played by itself: it takes two tensors."
    ]


def test_layers_of_one_class_are_named_together() -> None:
    found = judged(layer(recorded(eps=1e-2), names=["bn1", "bn2"]))
    (item,) = findings_inside([found])
    assert item.title.startswith("bn1 and bn2: MyBN adds an eps of 0.01")
    assert {place for place, _ in item.places} == {"bn1", "bn2"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("MyBN", True), ("BN2d", True), ("BatchNorm2d", True), ("batch_norm", True), ("BNReLU", True), ("my_bn", True),
        ("MyBn2d", True), ("Stem", False), ("Subnet", False), ("RMSNorm", False), ("AbNormal", False),
    ],
)  # fmt: skip
def test_which_names_say_that_a_layer_is_batch_norm(name: str, says: bool) -> None:
    assert bool(CLAIMS.search(name)) is says


@pytest.mark.parametrize(
    ("shown", "held", "weight"),
    [
        (0.1, 0.9, 0.1),  # its momentum is the other share
        (0.9, 0.1, 0.1),  # nobody means that a new batch weighs 0.9
        (0.05, 0.1, 0.05),  # another name for its share: it holds 0.05
    ],
)
def test_which_share_a_layer_means_by_its_momentum(shown: float, held: float, weight: float) -> None:
    arrays = recorded(weight=shown)
    assert alone.settled(arrays, {**FACTS, "weight": held, "own": [0.05]})["weight"] == pytest.approx(weight)


def test_an_eps_of_another_name_is_the_layers_eps() -> None:
    arrays = recorded(eps=1e-3)
    assert alone.settled(arrays, {**FACTS, "own": [1e-3]})["eps"] == 1e-3
    assert alone.settled(arrays, {**FACTS, "own": []})["eps"] == 1e-5


def grouped(*settings: dict[str, Any]) -> list[list[str]]:
    """Of layers of one class with 4 channels each, called 0, 1, …"""
    layers = {str(place): (SimpleNamespace(**each), FACTS) for place, each in enumerate(settings)}
    return alone.alike(layers)


@pytest.mark.parametrize(
    ("one", "two", "apart"),
    [
        ({"share": 0.1, "training": True}, {"share": 0.2, "training": False}, True),
        ({"share": 0.1, "training": True}, {"share": 0.1, "training": False}, False),
        ({"kind": "biased"}, {"kind": "unbiased"}, True),
        ({"divisor": 0}, {"divisor": 1}, True),
        ({"update": lambda: 0}, {}, True),  # a method that only this one has
        ({"_full_name": "bn_0"}, {"_full_name": "bn_1"}, False),
    ],
)
def test_layers_with_other_settings_are_played_apart(one: dict[str, Any], two: dict[str, Any], apart: bool) -> None:
    assert grouped(one, two) == ([["0"], ["1"]] if apart else [["0", "1"]])


def test_numbers_and_names_that_no_two_layers_share_are_no_settings() -> None:
    assert grouped(*({"index": place, "label": f"bn{place}", "kind": place % 2} for place in range(4))) == [
        ["0", "2"],
        ["1", "3"],
    ]
    assert grouped(*({"share": 0.1 * place} for place in range(1, 5))) == [["0"], ["1"], ["2"], ["3"]]


def test_batches_tell_rules_apart() -> None:
    x = alone.inputs_of(FACTS)["x/main"]
    assert x.shape == (5, 8, 4, 6, 6)
    assert np.ptp(x.mean((0, 1, 3, 4))) > 4
    assert x.std((0, 1, 3, 4)).min() < 0.03


# ------------------------------------------------------------------------------------------------------- real layers


def zoo(framework: str, python: str, tmp_path: Path) -> dict[str, set[str]]:
    """{layer: causes} of a model that holds a layer of each kind."""
    thing = f"{TESTS / f'{framework}_layers.py'}:zoo"
    done = here(
        "check", thing, "--input", SHAPES[framework], "--python", python, "--no-report", "-q", "--out",
        str(tmp_path / "run"),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    found: dict[str, set[str]] = {}
    for item in json.loads((tmp_path / "run" / "run.json").read_text())["findings"]:
        found.setdefault(item["layer"], set()).add(item["cause"])
    notes = json.loads((tmp_path / "run" / "answer.json").read_text())["notes"]
    apart = [note.partition(" ")[0] for note in notes if "not held against" in note]
    assert apart == (["FrozenBN"] if framework == "torch" else [])
    return found


@pytest.mark.process
def test_each_fault_of_a_layer_inside_a_model_of_pytorch_is_named_and_nothing_else(tmp_path: Path) -> None:
    more = {
        **FROZEN,
        "Standardised": {
            "normaliser-divisor"
        },  # no BatchNorm by its name, "in training it does not normalise" was said
    }
    assert zoo("torch", str(python_of("torch")), tmp_path) == {**FAULTS, **more}


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["paddle", "flax", "mxnet", "keras"])
def test_each_fault_of_a_layer_inside_a_model_is_named_and_nothing_else(tmp_path: Path, framework: str) -> None:
    freezes = framework in ("paddle", "mxnet")  # in Flax that is the optimiser's; in Keras such a layer is in inference
    assert zoo(framework, str(python_of(framework)), tmp_path) == {**FAULTS, **(FROZEN if freezes else {})}
