"""Rules about own layers and exports, each on literal notes and traces whose cause is plain on sight."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rule_views import make_case, make_cell, make_trace, raise_at

from bncheck.diagnosis.rules import (
    bn101_initial_state,
    bn102_variance_divisor,
    bn104_update_count,
    bn114_hyperparameter_lost,
    bn301_poisoned_state,
    bn401_mode_leak,
    bn404_graph_retention,
    bn405_in_place,
    bn406_folding,
    bn409_layer_contract,
    bn501_refusal,
    bn902_unexplained,
    file_plays,
)
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.scenario import Case

FB = ["train_forward", "backward"] * 3
FFB = ["train_forward", "train_forward", "backward"]
EXPORT = ["forward", "export_onnx", "run_exported"]
FREED = "Trying to backward through the graph a second time (or directly access saved tensors …)"
IN_PLACE = "one of the variables needed for gradient computation has been modified by an inplace operation: …"
NAN = float("nan")


def own(case: Case) -> Case:
    return replace(case, network=replace(case.network, custom="own.py:Own"))


def cell(ops: list[str], notes: dict[str, Any] | None = None, **arrays: Any) -> CellView:
    return make_cell(own(make_case(ops)), "torch", make_trace(ops, **arrays), notes=notes or {})


def only(found: Any) -> Finding:
    (finding,) = found
    return finding  # type: ignore[no-any-return]


def with_nodes(view: CellView, *nodes: float) -> CellView:
    assert view.trace is not None
    arrays = {**view.trace.arrays, "bn/graph_nodes": np.array(nodes), "bn/graph_bytes": np.array(nodes) * 4}
    return replace(view, trace=replace(view.trace, arrays=arrays))


# --- graph retention


def test_seven_nodes_more_at_each_step_are_kept_graphs() -> None:
    notes = {"cell": {"custom": {"bn": {"with_graph": {"running_mean": 21}, "deepcopy": "RuntimeError: no"}}}}
    found = only(bn404_graph_retention.check_cell(with_nodes(cell(FB, notes), 0, 7, 7, 14, 14, 21, 21)))
    assert (found.code, found.cause, found.kind, found.layer) == ("BN404", "graph-retention", "defect", "bn")
    assert found.evidence["nodes per training forward"] == 7
    assert found.evidence["nodes at the end"] == 21
    assert found.evidence["bytes per training forward"] == 28
    assert found.evidence["buffers"] == "running_mean"
    assert found.evidence["deepcopy"] == "RuntimeError: no"
    assert "7 more autograd nodes per training forward, 21 at the end behind running_mean" in found.title


@pytest.mark.parametrize(
    "nodes",
    [(0, 0, 0, 0, 0, 0, 0), (0, 13, 13, 13, 13, 13, 13), (0, 13, 13, 0, 0, 13, 13), (0, 7, 7, 14, 0, 7, 7)],
)
def test_a_graph_that_does_not_grow_is_not_kept(nodes: tuple[float, ...]) -> None:
    assert not list(bn404_graph_retention.check_cell(with_nodes(cell(FB), *nodes)))


def test_a_layer_without_node_counts_says_nothing() -> None:
    assert not list(bn404_graph_retention.check_cell(cell(FB)))


def test_a_backward_into_a_freed_graph() -> None:
    view = cell(FB)
    assert view.trace is not None
    view = with_nodes(replace(view, trace=raise_at(view.trace, 3, "RuntimeError", FREED)), 0, 5, 5, 5, 5, 5, 5)
    found = only(bn404_graph_retention.check_cell(view))
    assert (found.event, found.layer, found.evidence["error"]) == (3, "bn", FREED)


# --- in place


def test_an_in_place_change_names_the_forwards_before_the_backward() -> None:
    view = cell(FFB)
    assert view.trace is not None
    found = only(bn405_in_place.check_cell(replace(view, trace=raise_at(view.trace, 2, "RuntimeError", IN_PLACE))))
    assert (found.code, found.cause, found.event, found.layer) == ("BN405", "in-place", 2, "bn")
    assert found.evidence["forwards before this backward"] == 2


def test_another_error_is_no_in_place_change() -> None:
    view = cell(FFB)
    assert view.trace is not None
    assert not list(bn405_in_place.check_cell(replace(view, trace=raise_at(view.trace, 2, "RuntimeError", FREED))))


# --- exports


def exported(run: dict[str, Any], export: dict[str, Any] | None = None, **arrays: Any) -> CellView:
    arrays = {"training": [1, 1, 1, 1], **arrays}
    return cell(EXPORT, {"1": {"export": export or {}}, "2": {"run_exported": run}}, **arrays)


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


# --- element count, skipped steps, empty start


def moved(ratio: float, values: int = 4) -> CellView:
    """Two channels, one training forward of weight 0.5 from (0, 1): batch mean 2, biased variance 3."""
    case = own(make_case(["train_forward"], channels=2))
    trace = make_trace(
        ["train_forward"],
        running_mean=[[0.0, 0.0], [1.0, 1.0]],
        running_var=[[1.0, 1.0], [0.5 + 1.5 * ratio] * 2],
        input_mean=[[2.0, 2.0]],
        input_var=[[3.0, 3.0]],
        n=[values],
    )
    return make_cell(case, "torch", trace)


def test_eight_sevenths_with_four_values_and_two_channels_is_numel() -> None:
    found = only(bn102_variance_divisor.check_cell(moved(8 / 7)))
    assert (found.cause, found.kind, found.departs_from) == ("variance-divisor", "defect", "arithmetic")
    assert "8/7, of all 8 elements, where 4/3 is due" in found.title


@pytest.mark.parametrize("ratio", [1.0, 4 / 3, 1.2])
def test_other_ratios_are_no_element_count(ratio: float) -> None:
    assert not list(bn102_variance_divisor.check_cell(moved(ratio)))


def test_a_framework_is_not_suspected_of_counting_wrongly() -> None:
    view = moved(8 / 7)
    view = replace(view, case=replace(view.case, network=replace(view.case.network, custom=None)))
    assert not list(bn102_variance_divisor.check_cell(view))


def test_statistics_that_move_in_every_second_step() -> None:
    view = cell(["train_forward"] * 3, running_mean=[0, 1, 1, 2], input_mean=[2, 5, 3])
    found = only(bn104_update_count.check_cell(view))
    assert found.cause == "update-count"
    assert "1 of the first 3 training forwards leave the running statistics of bn as they are" in found.title


def test_a_batch_with_the_running_mean_moves_nothing_by_right() -> None:
    view = cell(["train_forward"] * 3, running_mean=[0, 1, 1, 2], input_mean=[2, 1, 3])
    assert not list(bn104_update_count.check_cell(view))


def test_eval_on_nothing_before_the_first_batch() -> None:
    view = cell(
        ["eval_forward", "train_forward"], running_mean=[NAN, NAN, 1], running_var=[NAN, NAN, 1], output_bad=[4, 0]
    )
    found = only(bn101_initial_state.check_cell(view))
    assert (found.cause, found.kind, found.event) == ("initial-state", "hazard", 0)


def test_eval_after_the_first_batch_is_no_empty_start() -> None:
    view = cell(["train_forward", "eval_forward"], running_mean=[NAN, 1, 1], running_var=[NAN, 1, 1], output_bad=[0, 0])
    assert not list(bn101_initial_state.check_cell(view))


# --- what a layer of one's own does besides computing

MOVES = {".to(float64)": "ok", ".cuda()": "unavailable: no CUDA", "deepcopy": "raises RuntimeError: no", "eval": "ok"}


def with_moves(moves: dict[str, str], **more: Any) -> CellView:
    return cell(FB, {"cell": {"custom": {"bn": {"class": "Own", "moves": moves, **more}}}})


def test_a_layer_that_cannot_be_copied_is_no_drop_in() -> None:
    found = only(bn409_layer_contract.check_cell(with_moves(MOVES)))
    assert (found.code, found.cause, found.kind, found.layer) == ("BN409", "layer-contract", "hazard", "bn")
    assert "1 of 4 actions. deepcopy: raises RuntimeError: no" in found.title
    assert found.evidence == {"deepcopy": "raises RuntimeError: no"}


def test_a_new_layer_that_starts_otherwise_is_said_as_that() -> None:
    answer = "starts with running_var 0 instead of 1; the case sets them itself"
    found = only(bn409_layer_contract.check_cell(with_moves({"a new layer": answer, **MOVES})))
    assert found.title.endswith(f" in 2 of 5 actions. A new layer {answer}; and 1 more.")
    assert found.advice.startswith("start as the built-in layer does: running_mean and bias at 0, running_var and weig")
    assert "; keep state in register_buffer" in found.advice


def test_other_names_alone_are_a_convention_and_nothing_wrong_is_nothing() -> None:
    names = "load_state_dict of the built-in layer"
    assert only(bn409_layer_contract.check_cell(with_moves({names: "adds count"}))).kind == "convention"
    assert not list(bn409_layer_contract.check_cell(with_moves({"eval": "ok", ".cuda()": "unavailable: no CUDA"})))
    assert not list(bn409_layer_contract.check_cell(cell(FB, {"cell": {"custom": {"bn": {"moves": 3}}}})))
    assert not list(bn409_layer_contract.check_cell(cell(FB)))


def test_how_many_times_slower() -> None:
    time = {"own_seconds": 3e-4, "builtin_seconds": 1e-4, "ratio": 3.0, "repeats": 101}
    found = only(bn409_layer_contract.check_cell(with_moves({}, time=time)))
    assert found.kind == "convention"
    assert "3 times as long as the built-in layer for a training step: 300 against 100 µs" in found.title


# --- existing files


def with_file(facts: dict[str, Any], ops: tuple[str, ...] = ("forward", "eval_forward"), **arrays: Any) -> CellView:
    view = cell(list(ops), {"cell": {"file": {"opset": 15, "dtype": "float32", **facts}}}, **arrays)
    network = replace(view.case.network, custom=None, file="/somewhere/model.onnx")
    return replace(view, case=replace(view.case, network=network))


def test_a_file_in_training_mode_is_named_with_how_it_says_so() -> None:
    nodes = [{"name": "a", "training": True}, {"name": "b", "training": False}]
    found = only(bn401_mode_leak.check_cell(with_file({"batch_norms": nodes, "dropouts": []})))
    assert found.kind == "hazard"
    assert found.title.startswith(
        "model.onnx has 1 of 2 BatchNormalization nodes in training mode, by training_mode = 1"
    )
    (older,) = bn401_mode_leak.check_cell(with_file({"opset": 9, "batch_norms": nodes, "dropouts": []}))
    assert "by five outputs" in older.title
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
