"""Modes, order, graphs, contracts, refusals, BN4xx and BN5xx: what fires each rule, and a near neighbour."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rule_views import make_case, make_cell, make_pair, make_trace, only, own_cell, raise_at, rule

from bncheck.diagnosis.repeats import compare_again
from bncheck.diagnosis.rules.conventions import bn111_normaliser_source
from bncheck.diagnosis.rules.mode_and_state import (
    bn401_mode_leak,
    bn404_graph_retention,
    bn405_in_place,
    bn409_layer_contract,
)
from bncheck.evidence import CellView, TargetView

F = "train_forward"


# ---------------------------------------------------------------------------------------------- mode-leak, stale-state


def test_mode_leak_by_an_export_and_none_by_a_forward():
    ops = (F, "export_onnx")
    leak = make_trace(ops, training=[0, 0, 1])
    (finding,) = rule("mode-leak").check_cell(make_cell(make_case(ops), "torch", leak))
    assert finding.title == "torch: export_onnx switches bn from eval to training."
    clean = make_trace(ops, training=[0, 1, 1])
    assert not list(rule("mode-leak").check_cell(make_cell(make_case(ops), "torch", clean)))


def test_stale_state_by_a_flush_and_a_reload():
    for op, rows, says in (
        ("flush", [0, 0, 1], "torch: a flush alone changes running_mean of bn: what was read before it was old."),
        ("reload", [0, 1, 0], "torch: running_mean of bn is its initial value again after save and reload."),
    ):
        cell = make_cell(make_case((F, op)), "torch", make_trace((F, op), running_mean=rows, running_var=[1, 1, 1]))
        (finding,) = rule("stale-state").check_cell(cell)
        assert finding.title == says
        same = make_cell(
            make_case((F, op)), "torch", make_trace((F, op), running_mean=[0, 1, 1], running_var=[1, 1, 1])
        )
        assert not list(rule("stale-state").check_cell(same))


# ------------------------------------------------------------------------------------------------ freezing (mode-leak)


FREEZE = (F, "freeze", F, F)


def frozen(after: list[float], used: list[float]) -> CellView:
    """Batches of mean 4, 6 and 8, variance 1; the layer holds mean 2 and variance 1 when it is frozen."""
    nan = float("nan")
    trace = make_trace(
        FREEZE, running_mean=[0, 2, 2, *after], running_var=[1] * 5, training=[1] * 5, input_mean=[4, nan, 6, 8],
        input_var=[1, nan, 1, 1], used_mean=[4, nan, *used], used_invstd=[1, nan, 1, 1], used_residual=[0, nan, 0, 0],
        n=[4, -1, 4, 4], output_bad=[0, -1, 0, 0], input_bad=[0, -1, 0, 0],
    )  # fmt: skip
    return make_cell(make_case(FREEZE), "keras", trace)


def test_freezing_that_puts_a_layer_into_inference() -> None:
    (found,) = bn401_mode_leak.check_cell(frozen([2, 2], used=[2, 2]))
    assert found.title.startswith("bn in keras runs in inference since it was frozen (event 2)")
    assert found.kind == "convention"
    assert list(bn111_normaliser_source.check_cell(frozen([2, 2], used=[2, 2]))) == []


def test_freezing_that_holds_gamma_and_beta_only() -> None:
    (found,) = bn401_mode_leak.check_cell(frozen([4, 6], used=[6, 8]))
    assert "was frozen by requires_grad=False (event 2), which holds gamma and beta only" in found.title
    assert found.kind == "hazard"


def test_a_training_forward_on_running_statistics_is_a_defect_where_nobody_froze() -> None:
    cell = frozen([2, 2], used=[2, 2])
    assert cell.trace is not None
    events = tuple(replace(item, status="unsupported") if item.op == "freeze" else item for item in cell.trace.events)
    cell = replace(cell, trace=replace(cell.trace, events=events), documented={"train_normaliser": "batch"})
    assert [item.kind for item in bn111_normaliser_source.check_cell(cell)] == ["defect"]
    assert list(bn401_mode_leak.check_cell(cell)) == []


# ---------------------------------------------------------------------------------------------------- order-dependence


def test_order_dependence_is_more_than_rounding():
    case = make_case((F,))
    for second, found in ((2.0, ["order-dependence"]), (1.0000001, [])):
        cells = [make_cell(case, "mxnet", make_trace((F,), running_mean=[0, value])) for value in (1.0, second)]
        view = TargetView("mxnet", "mxnet", {}, repeats=[compare_again(*cells)])
        assert [f.cause for f in rule("order-dependence").check_target(view) if f.kind != "rounding"] == found


# ----------------------------------------------------------------------------------------------------- graph-retention


FB = ["train_forward", "backward"] * 3


FREED = "Trying to backward through the graph a second time (or directly access saved tensors …)"


def with_nodes(view: CellView, *nodes: float) -> CellView:
    assert view.trace is not None
    arrays = {**view.trace.arrays, "bn/graph_nodes": np.array(nodes), "bn/graph_bytes": np.array(nodes) * 4}
    return replace(view, trace=replace(view.trace, arrays=arrays))


def test_seven_nodes_more_at_each_step_are_kept_graphs() -> None:
    notes = {"cell": {"custom": {"bn": {"with_graph": {"running_mean": 21}, "deepcopy": "RuntimeError: no"}}}}
    found = only(bn404_graph_retention.check_cell(with_nodes(own_cell(FB, notes), 0, 7, 7, 14, 14, 21, 21)))
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
    assert not list(bn404_graph_retention.check_cell(with_nodes(own_cell(FB), *nodes)))


def test_a_layer_without_node_counts_says_nothing() -> None:
    assert not list(bn404_graph_retention.check_cell(own_cell(FB)))


def test_a_backward_into_a_freed_graph() -> None:
    view = own_cell(FB)
    assert view.trace is not None
    view = with_nodes(replace(view, trace=raise_at(view.trace, 3, "RuntimeError", FREED)), 0, 5, 5, 5, 5, 5, 5)
    found = only(bn404_graph_retention.check_cell(view))
    assert (found.event, found.layer, found.evidence["error"]) == (3, "bn", FREED)


# ------------------------------------------------------------------------------------------------------------ in-place


FFB = ["train_forward", "train_forward", "backward"]


IN_PLACE = "one of the variables needed for gradient computation has been modified by an inplace operation: …"


def test_an_in_place_change_names_the_forwards_before_the_backward() -> None:
    view = own_cell(FFB)
    assert view.trace is not None
    found = only(bn405_in_place.check_cell(replace(view, trace=raise_at(view.trace, 2, "RuntimeError", IN_PLACE))))
    assert (found.code, found.cause, found.event, found.layer) == ("BN405", "in-place", 2, "bn")
    assert found.evidence["forwards before this backward"] == 2


def test_another_error_is_no_in_place_change() -> None:
    view = own_cell(FFB)
    assert view.trace is not None
    assert not list(bn405_in_place.check_cell(replace(view, trace=raise_at(view.trace, 2, "RuntimeError", FREED))))


# ------------------------------------------------------------------------------------------------------ layer-contract


MOVES = {".to(float64)": "ok", ".cuda()": "unavailable: no CUDA", "deepcopy": "raises RuntimeError: no", "eval": "ok"}


def with_moves(moves: dict[str, str], **more: Any) -> CellView:
    return own_cell(FB, {"cell": {"custom": {"bn": {"class": "Own", "moves": moves, **more}}}})


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
    assert not list(bn409_layer_contract.check_cell(own_cell(FB, {"cell": {"custom": {"bn": {"moves": 3}}}})))
    assert not list(bn409_layer_contract.check_cell(own_cell(FB)))


def test_how_many_times_slower() -> None:
    time = {"own_seconds": 3e-4, "builtin_seconds": 1e-4, "ratio": 3.0, "repeats": 101}
    found = only(bn409_layer_contract.check_cell(with_moves({}, time=time)))
    assert found.kind == "convention"
    assert "3 times as long as the built-in layer for a training step: 300 against 100 µs" in found.title


# ------------------------------------------------------------------------------------------------------ refusal, crash


def test_refusal_with_many_values_and_a_half_update():
    case = make_case((F,))
    ran = make_cell(case, "torch", make_trace((F,), running_mean=[0, 1], running_var=[1, 2]))
    clean = make_cell(case, "mlx", raise_at(make_trace((F,), running_mean=[0, 0], running_var=[1, 1]), 0), "raised")
    half = make_cell(case, "mlx", raise_at(make_trace((F,), running_mean=[0, 1], running_var=[1, 1]), 0), "raised")
    (finding,) = rule("refusal").check_pair(make_pair(ran, clean))
    assert finding.title == "mlx refuses train_forward with ValueError; torch carries it out."
    assert not list(rule("refusal").check_cell(clean))
    (finding,) = rule("refusal").check_cell(half)
    assert finding.title == "mlx raises ValueError in train_forward, but has moved running_mean of bn by then."


@pytest.mark.parametrize(
    ("outcome", "says"), [("crashed", "torch dies in train_forward: SIGFPE."), ("timeout", "hangs")]
)
def test_crash(outcome: str, says: str):
    cell = make_cell(make_case((F,)), "torch", None, outcome, error_type="SIGFPE", event=0)
    (finding,) = rule("crash").check_cell(cell)
    assert says in finding.title
    assert not list(rule("crash").check_cell(make_cell(make_case((F,)), "torch", None, "unavailable")))
