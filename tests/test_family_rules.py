"""What the scenario families taught the rules, on literal traces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rule_views import make_case, make_cell, make_pair, make_trace

from bncheck.diagnosis.drifts import compare, same_program
from bncheck.diagnosis.replay.conduct import ORDERS, in_order
from bncheck.diagnosis.rules import bn104_update_count, bn105_counter_skew, bn201_cancellation
from bncheck.scenario_files.inputs import make_inputs

FF = ("train_forward", "train_forward")


def test_cumulative_averages_that_follow_their_own_counters() -> None:
    """Batches of mean 4 and 8 after one of mean 4: the third weighs 1/3, or 1/4 where one more had been counted."""
    case = make_case(FF, averaging="cumulative")
    common = {"input_mean": [4.0, 8.0], "running_var": [1.0, 1.0, 1.0]}
    right = make_trace(FF, running_mean=[4.0, 4.0, 4.0 + 4.0 / 3], counter=[1.0, 2.0, 3.0], **common)
    right.arrays["bn/running_mean"][1] = 4.0 + 1e-6  # it moved, if only by rounding
    skewed = make_trace(FF, running_mean=[4.0, 4.0 + 1e-6, 5.0], counter=[2.0, 3.0, 4.0], **common)
    pair = make_pair(make_cell(case, "reference", right), make_cell(case, "torch", skewed))
    (found,) = bn105_counter_skew.divided_by(pair)
    assert (found.kind, found.explained, found.quantity) == ("hazard", 1.0, "running_mean")


def test_an_average_that_does_not_follow_its_counter_is_not_said_to() -> None:
    case = make_case(FF, averaging="cumulative")
    trace = make_trace(FF, running_mean=[0.0, 4.0, 7.0], counter=[0.0, 1.0, 2.0], input_mean=[4.0, 8.0])
    assert not bn105_counter_skew.follows_counter(make_cell(case, "torch", trace), "bn")


def test_a_batch_that_is_taken_in_again_by_backward() -> None:
    """Weight 1/2, batch 4: forward gives 2, recomputation in backward 3."""
    ops = ("checkpointed_forward", "backward")
    case = make_case(ops)
    trace = make_trace(ops, running_mean=[0.0, 2.0, 3.0], input_mean=[4.0, float("nan")])
    assert bn104_update_count.takes_batches_again(make_cell(case, "torch", trace), "bn")
    other = make_trace(ops, running_mean=[0.0, 2.0, 2.5], input_mean=[4.0, float("nan")])
    assert not bn104_update_count.takes_batches_again(make_cell(case, "torch", other), "bn")


def test_the_orders_in_which_a_backward_meets_four_forwards() -> None:
    met = [in_order((3, 2, 1, 0), order) for order in ORDERS]
    assert met == [(3, 2, 1, 0), (0, 1, 2, 3), (0, 3, 2, 1)]


def test_after_an_event_that_one_side_lacks_nothing_is_compared() -> None:
    case = make_case(FF)
    played = make_trace(FF, running_mean=[0.0, 1.0, 2.0])
    lacks = make_trace(FF, running_mean=[0.0, 1.0, 1.0])
    lacks = replace(lacks, events=(lacks.events[0], replace(lacks.events[1], status="unsupported")))
    assert same_program(played, lacks) == 1
    cells = make_cell(case, "torch", played), make_cell(case, "mxnet", lacks, "unsupported")
    drifts = {drift.quantity: drift for drift in compare(case, *cells)}
    assert (drifts["running_mean"].verdict, drifts["running_mean"].points) == ("agrees", 2)


@pytest.mark.parametrize(("computed", "causes"), [(9.54e-6, ["cancellation"]), (-2.86e-6, ["cancellation"]), (0.0, [])])
def test_a_channel_that_never_varies_shows_its_variance_in_dx(computed: float, causes: list[str]) -> None:
    """dx = (dy - mean(dy))/sqrt(var + eps): y is beta whatever the variance was. Measured on flax: 9.54e-6."""
    ops = ("train_forward", "backward")
    case = make_case(ops, shape=(6, 1), eps=1e-5)
    dy = make_inputs(case)["dy/main"][0].astype(np.float64)
    dx = (dy - dy.mean(axis=0)) / np.sqrt(computed + 1e-5)
    facts = {"input_mean": [1000.0, np.nan], "input_var": [0.0, np.nan], "n": [6, -1], "gamma": [1.0, 1.0, 1.0]}
    states = {"running_mean": [0.0, 500.0, 500.0], "running_var": [1.0, 0.5, 0.5]}
    cell = make_cell(case, "flax", make_trace(ops, **facts, **states, grad_input__1=dx))
    found = [item for item in (bn201_cancellation.in_gradient(cell, "bn"),) if item is not None]
    assert [bn201_cancellation.CAUSE for _ in found] == causes
    assert all(abs(item.computed - computed) < 1e-8 for item in found)
