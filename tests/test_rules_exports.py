"""Exports and files, BN114, BN301, BN401, BN406, BN501: literal notes whose cause is plain on sight."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rule_views import only, own_cell

from bncheck.diagnosis.rules.conventions import bn114_hyperparameter_lost
from bncheck.diagnosis.rules.mode_and_state import bn401_mode_leak, bn406_folding, file_plays
from bncheck.diagnosis.rules.nonfinite import bn301_poisoned_state
from bncheck.diagnosis.rules.refusals import bn501_refusal
from bncheck.diagnosis.rules.remainder import bn902_unexplained
from bncheck.evidence import CellView

B = "backward"
NAN = float("nan")


# ------------------------------------------------------------------------------------------------- what an export does


EXPORT = ["forward", "export_onnx", "run_exported"]


def exported(run: dict[str, Any], export: dict[str, Any] | None = None, **arrays: Any) -> CellView:
    arrays = {"training": [1, 1, 1, 1], **arrays}
    return own_cell(EXPORT, {"1": {"export": export or {}}, "2": {"run_exported": run}}, **arrays)


def run_notes(as_was: float, evaluated: float, trained: float = 0.5, optimised: float = 0.0) -> dict[str, Any]:
    return {
        "difference_as_exported": as_was,
        "difference_eval": evaluated,
        "difference_train": trained,
        "optimisation_change": optimised,
        "scale": 1.0,
    }


def test_an_export_that_flips_a_frozen_layer_names_it_and_the_output_change() -> None:
    export = {"exporter": "legacy", "flipped": [["bn", False, True]], "output_change": 0.56}
    found = only(bn401_mode_leak.check_cell(exported(run_notes(0.0, 0.0), export, training=[0, 0, 1, 1])))
    assert (found.cause, found.kind, found.event, found.layer) == ("mode-leak", "defect", 1, "bn")
    assert "export_onnx switches bn from eval to training" in found.title
    assert found.evidence == {"flipped": "bn: eval to training", "output change": 0.56, "exporter": "legacy"}


def test_a_file_that_equals_the_eval_model() -> None:
    found = only(bn401_mode_leak.check_cell(exported(run_notes(0.4, 1e-7))))
    assert found.kind == "hazard"
    assert "this file equals your eval model, you exported a train-mode one" in found.title


def test_a_file_in_another_mode_than_asked_is_a_defect() -> None:
    found = only(bn401_mode_leak.check_cell(exported(run_notes(0.4, 1e-7), {"asked_training": "TRAINING"})))
    assert (found.kind, found.departs) == ("defect", "torch")


def test_an_export_that_leaves_everything_alone_is_clean() -> None:
    view = exported(run_notes(1e-7, 1e-7))
    assert not list(bn401_mode_leak.check_cell(view))
    assert not list(bn406_folding.check_cell(view))


def test_a_file_that_equals_no_mode_of_the_model_was_folded_wrongly() -> None:
    found = only(bn406_folding.check_cell(exported(run_notes(0.2, 0.3, 0.25))))
    assert (found.code, found.cause, found.kind, found.event) == ("BN406", "folding", "defect", 2)
    assert "0.2 off the model" in found.title


@pytest.mark.parametrize("notes", [run_notes(0.2, 0.3, 1e-7), run_notes(0.0, 0.0, 0.5, 3e-6)])
def test_training_files_and_rounding_are_no_folding(notes: dict[str, Any]) -> None:
    assert not list(bn406_folding.check_cell(exported(notes)))


def test_graph_optimisation_that_changes_the_output() -> None:
    found = only(bn406_folding.check_cell(exported(run_notes(0.0, 0.0, 0.5, 0.01))))
    assert "0.01 apart with and without graph optimisation" in found.title


def test_graph_optimisation_that_leads_away_from_the_model_is_the_runtimes_defect() -> None:
    """The plain play of the file is what the model gives: torch exported it well."""
    plain = {"plain_as_exported": 1e-7, "plain_eval": 0.5, "onnxruntime": "1.31.1"}
    notes = {**run_notes(0.25, 0.5, 0.25, 0.25), **plain, "optimisers": ["Sharing"], "optimisers_tried": 2}
    found = only(bn406_folding.check_cell(exported(notes)))
    assert (found.kind, found.departs, found.departs_from) == ("defect", "", "arithmetic")
    assert found.title == (
        "Own in torch: onnxruntime 1.31.1 computes the exported file wrongly with graph optimisation: 0.25 off the "
        "model, 1e-07 off without. Without the optimiser Sharing the result is right."
    )
    assert 'disabled_optimizers=["Sharing"]' in found.advice


def test_dropout_in_the_file_makes_runs_differ_by_design() -> None:
    export = {"graph": {"dropouts": [{"training": True}]}}
    assert not list(bn406_folding.check_cell(exported(run_notes(0.2, 0.3, 0.25), export)))


# ------------------------------------------------------------------------------------- what became of momentum and eps


def in_file(momentum: float | None, stored: float, eps: float = 1e-5) -> CellView:
    export = {
        "norms": {"bn": {"momentum": [momentum, momentum], "eps": [1e-5, 1e-5]}},
        "graph": {"batch_norms": [{"momentum": stored, "eps": eps}]},
    }
    return exported(run_notes(0.0, 0.0), export)


def test_momentum_none_becomes_one_in_the_file() -> None:
    found = only(bn114_hyperparameter_lost.check_cell(in_file(None, 1.0)))
    assert (found.cause, found.quantity, found.evidence["in the file"]) == ("hyperparameter-lost", "momentum", 1.0)
    assert "never takes a batch in" in found.title


def test_eps_of_another_size_in_the_file() -> None:
    assert only(bn114_hyperparameter_lost.check_cell(in_file(0.1, 0.9, 1e-3))).quantity == "eps"


def test_momentum_in_onnx_sense_and_single_precision_is_kept() -> None:
    assert not list(bn114_hyperparameter_lost.check_cell(in_file(0.1, 0.8999999761581421, 9.999999747378752e-06)))


# ------------------------------------------------------------------------------------------------------ existing files


def with_file(facts: dict[str, Any], ops: tuple[str, ...] = ("forward", "eval_forward"), **arrays: Any) -> CellView:
    view = own_cell(list(ops), {"cell": {"file": {"opset": 15, "dtype": "float32", **facts}}}, **arrays)
    network = replace(view.case.network, custom=None, file="/somewhere/model.onnx")
    return replace(view, case=replace(view.case, network=network))


def test_a_file_in_training_mode_is_named_with_how_it_says_so() -> None:
    nodes = [{"name": "a", "training": True}, {"name": "b", "training": False}]
    found = only(bn401_mode_leak.check_cell(with_file({"batch_norms": nodes, "dropouts": []})))
    assert found.kind == "hazard"
    assert found.title.startswith("model.onnx has 1 of 2 BatchNormalization nodes in training mode (training_mode = 1)")
    (older,) = bn401_mode_leak.check_cell(with_file({"opset": 9, "batch_norms": nodes, "dropouts": []}))
    assert "(five outputs)" in older.title
    drops = [{"name": "d", "training": True}]
    (dropping,) = bn401_mode_leak.check_cell(with_file({"batch_norms": nodes[1:], "dropouts": drops}))
    assert "1 of 1 Dropout nodes that drop: it gives another output each time" in dropping.title
    without = [{"name": "d", "training": True, "drops": False}]
    assert not list(bn401_mode_leak.check_cell(with_file({"batch_norms": nodes[1:], "dropouts": without}))), "ratio 0"
    computed = [{"name": "d", "training": "computed"}]
    assert not list(bn401_mode_leak.check_cell(with_file({"batch_norms": nodes[1:], "dropouts": computed})))


@pytest.mark.parametrize(
    ("play", "kind", "words"),
    [
        (
            {"mode": "eval", "optimised": 0.5, "no_oracle": "the oracle has no operator If"},
            "hazard",
            "gives two results for model.onnx (in inference), 0.5 apart: plainly, and with graph optimisation. Nobody "
            "can tell which is right: the oracle has no operator If.",
        ),
        ({"mode": "eval", "optimised": "inf"}, "defect", "NaN or Inf on one side"),
        ({"mode": "train", "unused": 0.5}, "hazard", "and when its optional outputs are not asked for"),
        (
            {"mode": "eval", "optimised_refused": "Fail: no"},
            "defect",
            "refuses model.onnx with graph optimisation, and",
        ),
        (
            {
                "mode": "as_is",
                "optimised": 0.5,
                "off": {"recorded": 1e-6, "optimised": 0.5},
                "optimisers": ["Sharing"],
                "optimisers_tried": 3,
                "second_run": 0.7,
            },
            "defect",
            "computes model.onnx wrongly with graph optimisation (as it is): 0.5 off float64, 1e-06 off without; a "
            "second run of the same session on the same batch gives yet another result. Without the optimiser Sharing "
            "the result is right.",
        ),
        (
            {"mode": "as_is", "optimised": 0.5, "off": {"recorded": 0.5, "optimised": 1e-6}},
            "hazard",
            "is 0.5 off float64 in model.onnx (as it is), and 1e-06 with graph optimisation: the plain play loses",
        ),
        (
            {"mode": "as_is", "optimised": 0.5, "off": {"recorded": 0.4, "optimised": 0.6}},
            "hazard",
            "is 0.4 off float64 in model.onnx (as it is), and 0.6 with graph optimisation: it is off however it is run",
        ),
        (
            {
                "mode": "as_is",
                "optimised": 0.5,
                "no_oracle": "no If",
                "nodes": {"bn": 0.1},
                "optimised_nodes": {"bn": 1e5},
                "optimisers": [],
                "optimisers_tried": 7,
            },
            "defect",
            "computes bn of model.onnx (as it is) wrongly with graph optimisation, from its own input: 1e+05 times "
            "further off float64 than rounding may be. None of the 7 optimisers that were tried, left out one by "
            "one, makes the result that of the plain play.",
        ),
        (
            {
                "mode": "train",
                "optimised_statistics": 0.5,
                "off": {"recorded_statistics": 1e-6, "optimised_statistics": 0.5},
                "optimisers": ["A", "B"],
                "optimisers_tried": 2,
            },
            "defect",
            "computes model.onnx, in its running statistics, wrongly with graph optimisation (in training mode): 0.5 "
            "off float64, 1e-06 off without. Without the optimisers A, B together the result is right.",
        ),
    ],
)
def test_a_file_that_depends_on_how_it_is_run(play: dict[str, Any], kind: str, words: str) -> None:
    quiet = {"mode": "as_is", "scale": 1.0, "optimised": 1e-7, "unused": 0.0}
    play = {"scale": 1.0, **play}
    said = bn406_folding.check_cell(with_file({"plays": [quiet, play]}))
    found = only(item for item in said if item.kind != "rounding")
    assert (found.cause, found.kind, found.event) == ("folding", kind, 1)
    assert words in found.title
    assert found.departs_from == ("arithmetic" if kind == "defect" and "refuses" not in words else "itself")
    assert not list(bn406_folding.check_cell(with_file({"plays": [quiet, quiet]})))
    dropping = [{"name": "d", "training": True}]
    said = bn406_folding.check_cell(with_file({"plays": [quiet, play], "dropouts": dropping}))
    assert not [item for item in said if item.kind != "rounding"]


@pytest.mark.parametrize(
    ("tried", "says"),
    [
        (None, ""),
        (0, ""),
        (1, "Leaving out the one optimiser that was tried does not make the result right."),
        (2, "None of the 2 optimisers that were tried, left out one by one, makes the result right."),
    ],
)
def test_optimisers_that_were_tried_in_vain(tried: int | None, says: str) -> None:
    """How many more there are is not recorded: trying stops after some."""
    assert file_plays.named({"optimisers": [], "optimisers_tried": tried}, "right") == says


def test_a_node_in_training_mode_that_no_batch_reaches_is_no_hazard() -> None:
    """Its input is a constant: it gives the same for every batch. Or no output of the file reads it."""
    constant = {"name": "a", "training": True, "fed": False, "used": True}
    unread = {"name": "b", "training": True, "fed": True, "used": False}
    assert not list(bn401_mode_leak.check_cell(with_file({"batch_norms": [constant, unread], "dropouts": []})))
    batch = {"name": "c", "training": True, "fed": True, "used": True}
    (found,) = bn401_mode_leak.check_cell(with_file({"batch_norms": [constant, batch], "dropouts": []}))
    assert "has 1 of 2 BatchNormalization nodes in training mode" in found.title
    assert found.evidence["training"] == "c"


def test_what_an_input_moved_by_its_last_place_does_is_rounding() -> None:
    play = {"mode": "train", "scale": 1.0, "optimised": 0.5, "moved": 0.06}
    assert not list(bn406_folding.check_cell(with_file({"plays": [play]})))
    assert list(bn406_folding.check_cell(with_file({"plays": [{**play, "moved": 0.04}]})))


def test_the_gravest_play_speaks() -> None:
    unknown = {"mode": "as_is", "scale": 1.0, "optimised": 0.5}
    wrong = {"mode": "eval", "scale": 1.0, "optimised": 0.5, "off": {"recorded": 0.0, "optimised": 0.5}}
    found = only(bn406_folding.check_cell(with_file({"plays": [unknown, wrong]})))
    assert (found.kind, found.event) == ("defect", 1)


def test_a_file_without_nodes_and_one_whose_nodes_are_compared_alone() -> None:
    empty = only(bn406_folding.check_cell(with_file({"batch_norms": [], "plays": []})))
    assert empty.kind == "rounding"
    assert empty.title == (
        "model.onnx holds no BatchNormalization node: if the model had any, they were folded or removed on export. "
        "Only its outputs are compared."
    )
    play = {"mode": "as_is", "scale": 1.0, "no_oracle": "no If", "nodes": {"a": 0.25, "b": 0.5}}
    alone = only(bn406_folding.check_cell(with_file({"plays": [play, play]})))
    assert alone.kind == "rounding"
    assert "each of 2 BatchNormalization nodes agrees in all 2 forwards with float64 from its own input" in alone.title
    assert (alone.layer, alone.evidence["nodes compared"]) == ("b", 2)
    odd = {**play, "nodes": {"a": 0.25, "b": 12.0}}
    assert not list(bn406_folding.check_cell(with_file({"plays": [odd]})))
    found = only(bn902_unexplained.check_cell(with_file({"plays": [odd]})))
    assert "b of model.onnx on" in found.title
    assert "by 12 times what rounding may do" in found.title


def test_an_input_of_size_zero_that_the_runtime_takes_literally() -> None:
    found = only(bn501_refusal.check_cell(with_file({"closed": ["x"]})))
    assert "model.onnx gives its input x a size of 0" in found.title


@pytest.mark.parametrize(
    ("var", "lost"), [([-0.5, 1, 1], 1), ([NAN, 1, np.inf], 2), ([0, 1, 1], 0), ([-1e-6, 1, 1], 0)]
)
def test_a_file_whose_variance_cannot_be_one(var: list[float], lost: int) -> None:
    view = with_file({}, running_var=[var] * 3, output_bad=[4, 4], eps=[1e-5] * 3)
    found = [item for item in bn301_poisoned_state.check_cell(view) if item.quantity == "running_var"]
    assert len(found) == bool(lost)
    for item in found:
        assert (item.kind, item.evidence["channels"]) == ("defect", lost)
        assert f"cannot be one in {lost} of 3 channels of bn" in item.title


@pytest.mark.parametrize(("eps", "var", "said"), [(0.0, 0.0, "0"), (-0.3, 0.25, "-0.3")])
def test_a_file_whose_epsilon_leaves_no_variance(eps: float, var: float, said: str) -> None:
    view = with_file({}, running_var=[[var, 1, 1]] * 3, output_bad=[4, 4], eps=[eps] * 3)
    item = only(item for item in bn301_poisoned_state.check_cell(view) if item.quantity == "running_var")
    assert item.title.startswith(
        f"model.onnx has an epsilon of {said}, and variance + epsilon is not above zero in 1 of 3 channels of bn "
        f"(variance {var:g}): 2 of 2 forwards"
    )
    assert item.advice == "set the attribute epsilon of bn to a number above zero; its default is 1e-05"


def test_a_variance_below_zero_beside_an_epsilon_of_zero() -> None:
    view = with_file({}, running_var=[[-0.5, 0, 1]] * 3, output_bad=[4, 4], eps=[0.0] * 3)
    below, zero = (item for item in bn301_poisoned_state.check_cell(view) if item.quantity == "running_var")
    assert "cannot be one in 1 of 3 channels of bn (-0.5)" in below.title
    assert (
        "an epsilon of 0, and variance + epsilon is not above zero in 1 of 3 channels of bn (variance 0)" in zero.title
    )
