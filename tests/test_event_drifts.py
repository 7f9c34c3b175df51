"""A drift taken apart by events: which outputs differ, what differs in time alone, what gradients go back through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rule_views import make_case, make_cell, make_pair, make_trace

from bncheck.diagnosis.accounting import account, open_drifts
from bncheck.diagnosis.event_drifts import differs_in_time_alone, only_where_held, output_drifts
from bncheck.diagnosis.rules.movement import forwards_behind
from bncheck.evidence import PairView
from bncheck.finding import Finding

F, B, E, N = "train_forward", "backward", "eval_forward", "no_grad_forward"
NAN, INF = np.nan, np.inf
FACTS = {"input_mean": [1.0, NAN, 1.0], "input_var": [2.0, NAN, 2.0], "n": [4, -1, 4]}


def pair_of(one: dict[str, Any], two: dict[str, Any], ops: tuple[str, ...] = (F, B, E)) -> PairView:
    case = make_case(ops)
    return make_pair(
        *(make_cell(case, t, make_trace(ops, **{**FACTS, **s})) for t, s in (("torch", one), ("mxnet", two)))
    )


def single(code: str, cause: str, quantity: str = "running_mean", targets: tuple[str, ...] = ("mxnet",)) -> Finding:
    return Finding(code=code, cause=cause, kind="hazard", title="It is so.", targets=targets, scenario="scenario",
                   case="base", layer="bn", quantity=quantity, event=0)  # fmt: skip


def left_by(found: Finding, pair: PairView) -> list[tuple[str, str]]:
    return [item.place for item in account([found], open_drifts([pair]), {"bn": 0})[1]]


SAME = {"running_mean": [0, 1, 1, 1], "running_var": [1, 2, 2, 2]}
OTHER = {"running_mean": [0, 2, 2, 2], "running_var": [1, 2, 2, 2]}
LOST = {"running_mean": [0, NAN, NAN, NAN], "running_var": [1, 2, 2, 2]}
Y = {"output__0": [[-1.0, 1.0]], "output__2": [[0.5, 2.5]]}
EVAL_OFF, TRAIN_OFF = {**Y, "output__2": [[1.5, 3.5]]}, {**Y, "output__0": [[-1.5, 1.5]]}


def test_outputs_are_told_apart_by_event():
    assert list(output_drifts(pair_of({**SAME, **Y}, {**OTHER, **EVAL_OFF}))) == [2]
    assert list(output_drifts(pair_of({**SAME, **Y}, {**OTHER, **TRAIN_OFF}))) == [0]


@pytest.mark.parametrize(
    ("outputs", "held"), [(Y, True), (EVAL_OFF, True), (TRAIN_OFF, False), ({**Y, "output__0": [[NAN, 1.0]]}, True)]
)
def test_held_state_makes_evaluations_and_nan_but_no_other_training_output(outputs: dict[str, Any], held: bool):
    assert only_where_held(pair_of({**SAME, **Y}, {**OTHER, **outputs})) is held


@pytest.mark.parametrize(("code", "cause"), [("BN402", "stale-state"), ("BN117", "never-updated")])
def test_statistics_that_are_wrong_do_not_excuse_a_wrong_training_output(code: str, cause: str):
    assert left_by(single(code, cause), pair_of({**SAME, **Y}, {**OTHER, **EVAL_OFF})) == []
    assert left_by(single(code, cause), pair_of({**SAME, **Y}, {**OTHER, **TRAIN_OFF})) == [("", "output")]


def test_nan_on_one_side_does_not_excuse_numbers_that_differ():
    """running_mean is NaN in one; running_var is 2 here and 3 there, which no NaN makes."""
    poison = single("BN301", "poisoned-state")
    assert left_by(poison, pair_of({**SAME, **Y}, {**LOST, **Y, "output__2": [[NAN, NAN]]})) == []
    worse = {**LOST, **Y, "running_var": [1, 3, 3, 3], "output__2": [[NAN, NAN]]}
    assert left_by(poison, pair_of({**SAME, **Y}, worse)) == [("bn", "running_var")]


def test_nan_on_both_sides_sets_neither_apart():
    poison = single("BN301", "poisoned-state", "running_var", ("torch", "mxnet"))
    both = {**SAME, **Y, "running_var": [1, NAN, NAN, NAN]}
    assert left_by(poison, pair_of(both, {**both, "running_mean": [0, 2, 2, 2]})) == [("bn", "running_mean")]


def test_a_lost_number_that_is_nan_here_and_inf_there_is_lost_for_one_reason():
    poison = single("BN301", "poisoned-state", "running_var", ("torch", "mxnet"))
    sides = [{**SAME, **Y, "running_mean": [0, lost, lost, lost]} for lost in (NAN, INF)]
    assert left_by(poison, pair_of(*sides)) == []


@pytest.mark.parametrize(
    ("other", "alone"),
    [
        ([0, 0, 1, 1], True),  # moved in backward
        ([0, 0, INF, INF], False),
        ([0, 0, 1.5, 1.5], False),
        ([0, 0, 1, 1.2], False),
    ],
)
def test_a_state_that_moves_in_backward_goes_through_the_same_values_later(other: list[float], alone: bool):
    pair = pair_of(SAME, {**SAME, "running_mean": other})
    drift = pair.drift("bn", "running_mean")
    assert drift is not None and differs_in_time_alone(pair, drift) is alone


def test_the_same_inf_at_another_event_differs_in_time_alone():
    pair = pair_of({**SAME, "running_var": [1, INF, INF, INF]}, {**SAME, "running_var": [1, 1, INF, INF]})
    drift = pair.drift("bn", "running_var")
    assert drift is not None and drift.relation == "nonfinite" and differs_in_time_alone(pair, drift)


@pytest.mark.parametrize(
    ("ops", "behind"),
    [
        ((F, B), {1: [0]}),
        ((F, F, B, B), {2: [0, 1], 3: [0, 1]}),
        ((F, E, N, B), {3: [0]}),
        ((F, B, F, E, B), {1: [0], 4: [2]}),
        ((E, B), {1: []}),
    ],
)
def test_a_backward_goes_back_through_the_forwards_that_record_a_graph(
    ops: tuple[str, ...], behind: dict[int, list[int]]
):
    assert forwards_behind(make_trace(ops, running_mean=[0.0] * (len(ops) + 1))) == behind


def test_a_gradient_belongs_to_the_outputs_of_its_own_forward():
    """Only the evaluation's output differs: what explains it says nothing about the gradient of a training output."""
    gradient = {"grad_gamma": [NAN, 2.0, NAN]}
    off = {"grad_gamma": [NAN, 2.5, NAN]}
    stale = single("BN402", "stale-state")
    assert left_by(stale, pair_of({**SAME, **Y, **gradient}, {**OTHER, **EVAL_OFF, **off})) == [("bn", "grad_gamma")]
    source = single("BN111", "normaliser-source", "output")
    train = pair_of({**SAME, **Y, **gradient}, {**SAME, **TRAIN_OFF, **off})
    assert left_by(source, train) == []
