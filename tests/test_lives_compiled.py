"""What is said of layers in compiled functions: their states and modes are known, what went into them is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bncheck.diagnosis.alone import judge_life
from bncheck.life import Happening, LayerLife, Life, Span, Where

FIT = Where("/home/me/train.py", 11)
STEPS = np.arange(8)
MEANS = 0.1 * np.stack([STEPS, STEPS + 1], axis=1).astype(np.float32)  # (8, 2), another after each step


def moments(means: np.ndarray = MEANS, gammas: Sequence[float] = STEPS.tolist()) -> Mapping[str, Any]:
    after = np.append(means[1:], means[-1:] + 1, axis=0)
    ones, zeros = np.ones(8, np.int64), np.zeros(8, np.int64)
    return {
        "index": STEPS, "step": STEPS, "call": STEPS, "training": ones, "gradients": ones, "in_backward": zeros,
        "n": -ones, "samples": -ones, "mean_before": means, "mean_after": after, "var_before": 1 + means**2,
        "var_after": 1 + after**2, "gamma": 1 + 0.01 * np.outer(gammas, [1, 2]), "eps": 1e-3 * ones,
        "momentum": 0.99 * ones,
    }  # fmt: skip


def life(held: Mapping[str, Any], *happenings: Happening, trainable: bool = True, framework: str = "keras") -> Life:
    """Eight steps of training, in two calls of fit()."""
    spans = [Span(first, first + 3, first, first + 3, 4, True, moved=4, called_from=FIT) for first in (0, 4)]
    layer = LayerLife("norm", "BatchNormalization", 2, held, tuple(spans), trainable=trainable)
    return Life("train.py", framework, "3.15", (layer,), happenings, steps=8, forwards=8)


def said(found: Life) -> list[tuple[str, str]]:
    return [(item.cause, str(item.evidence.get("line", ""))) for item in judge_life(found)]


def frozen(value: bool = False) -> Happening:
    return Happening("requires_grad", 4, 4, ("norm",), None, {"value": value})


def test_a_healthy_training_is_left_alone() -> None:
    assert said(life(moments())) == []


def test_a_freeze_behind_compile_has_no_effect() -> None:
    found = life(moments(), frozen(), trainable=False)
    assert said(found) == [("mode-leak", "train.py:11")]
    (item,) = judge_life(found)
    assert item.title.startswith(
        "The freeze of norm has no effect: trainable was set to False behind compile(), and train.py:11 goes on with "
        "the step that was compiled before. The statistics moved for 4 optimiser steps after that."
    )
    assert item.advice == "call model.compile() again after you change trainable"


def test_a_freeze_that_was_undone_and_one_of_another_framework_are_left_alone() -> None:
    assert said(life(moments(), frozen(), frozen(True))) == []
    assert said(life(moments(), frozen(), trainable=False, framework="torch")) == []


def test_nan_in_a_compiled_step_is_said_with_its_step_and_not_with_what_brought_it() -> None:
    means = np.where(STEPS[:, None] > 3, np.nan, MEANS)
    birth = Happening("nonfinite", 3, 3, ("norm",), FIT, {"in": "state", "born": None})
    (item,) = judge_life(life(moments(means), birth))
    assert item.cause == "poisoned-state"
    assert item.title == (
        "The running statistics of norm hold NaN or Inf from step 3 on (train.py:11), and eval is NaN from then on. "
        "That step is compiled: what reached the layers there was not seen."
    )


def trained_from_new(weight: float, batch: float, moved: int = 1) -> Life:
    """A layer as it is built, eight steps of batches of that mean and a variance of 1, an evaluation behind them."""
    left = (1 - weight) ** np.arange(9)
    held = {
        key: np.append(value, value[-1:], axis=0)
        for key, value in moments().items()
        if key in ("gamma", "eps", "n", "samples", "call", "in_backward", "gradients")
    }
    means = np.stack([batch * (1 - left)] * 2, axis=1)
    held.update(
        index=np.arange(9), step=np.arange(9), training=np.array([1] * 8 + [0]), mean_before=means,
        mean_after=np.append(means[1:], means[-1:], axis=0), var_before=np.ones((9, 2)), var_after=np.ones((9, 2)),
        momentum=np.full(9, 1 - weight),
    )  # fmt: skip
    spans = (
        Span(0, 7, 0, 7, 8, True, moved=8 * moved, called_from=FIT),
        Span(8, 8, 8, 8, 1, False, gradients=False, moved=0, called_from=FIT),
    )
    layer = LayerLife("norm", "BatchNormalization", 2, held, spans, trainable=True)
    return Life("train.py", "keras", "3.15", (layer,), (), steps=8, forwards=9)


def test_statistics_that_hold_most_of_their_start_show_it_by_themselves() -> None:
    (item,) = judge_life(trained_from_new(0.01, 3.0))
    assert item.cause == "few-updates"
    assert item.title == (
        "After 8 updates of weight 0.01 the running statistics of norm still hold 92.3 % of what they started from, "
        "mean 0 and variance 1, and eval normalises with that. By what norm took in, its batches lie 2.77 standard "
        "deviations off."
    )


def test_statistics_that_hold_their_start_where_the_data_are_like_it_and_such_that_moved_on_are_left_alone() -> None:
    assert said(trained_from_new(0.01, 0.1)) == []
    assert said(trained_from_new(0.3, 3.0)) == []


def test_a_weight_of_nothing_is_why_compiled_training_moves_nothing() -> None:
    (item,) = judge_life(trained_from_new(0.0, 3.0, moved=0))
    assert item.cause == "never-updated"
    assert item.title.startswith(
        "None of 8 training forwards moved the running statistics of norm, because momentum is 1."
    )


def test_variables_that_were_frozen_one_by_one_are_no_flag_that_came_too_late() -> None:
    by_hand = Happening("requires_grad", 4, 4, ("norm",), None, {"value": False, "flag": True})
    still = life(moments(gammas=[0, 1, 2, 3, 4, 4, 4, 4]), by_hand, trainable=False)
    (item,) = judge_life(still)
    assert item.title.startswith("norm is only half frozen: gamma and beta get no gradients")
    assert item.advice == "set trainable = False on these layers, not on their variables: they then run in inference"
