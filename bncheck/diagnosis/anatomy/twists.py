"""What somebody does by mistake to a mean and a variance on the way to the normalisation: they are exchanged, left out,
multiplied by, or taken with the wrong sign. Of the batch in training, of the running statistics in eval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bncheck.trace import Array

Pair = tuple[Array, Array]


@dataclass(frozen=True)
class Twist:
    """``made``: (mean, variance) that normalise, eps left out again, of those at hand and eps. ``says``: of them in
    training and in eval, behind "normalises". ``sign``: of the whole. ``plain``: whether the variance has its usual
    place, and eps beside it."""

    made: Callable[[Array, Array, float], Pair]
    says: tuple[str, str]
    sign: float = 1.0
    plain: bool = True


TWISTS: Mapping[str, Twist] = {
    "exchanged": Twist(
        lambda mean, var, eps: (var, mean),
        ("with the batch's mean and variance exchanged", "with running_mean and running_var exchanged"),
    ),
    "mean-reversed": Twist(
        lambda mean, var, eps: (-mean, var),
        ("with the sign of the batch's mean reversed", "with the sign of running_mean reversed"),
    ),
    "reversed": Twist(
        lambda mean, var, eps: (mean, var),
        ("with its sign reversed, as (mean - x),", "with its sign reversed, as (running_mean - x),"),
        sign=-1.0,
    ),
    "uncentred": Twist(
        lambda mean, var, eps: (np.zeros_like(mean), var),
        ("without subtracting the batch's mean", "without subtracting running_mean"),
    ),
    "unscaled": Twist(
        lambda mean, var, eps: (mean, np.ones_like(var)),
        ("without dividing by the batch's deviation", "without dividing by the root of running_var"),
        plain=False,
    ),
    "multiplied": Twist(
        lambda mean, var, eps: (mean, 1.0 / (var + eps) - eps),
        (
            "by multiplying with the batch's deviation, instead of dividing by it,",
            "by multiplying with the root of running_var, instead of dividing by it,",
        ),
        plain=False,
    ),
    "squared": Twist(
        lambda mean, var, eps: (mean, (var + eps) ** 2 - eps),
        ("by dividing by the batch's variance, not by its root,", "by dividing by running_var, not by its root,"),
        plain=False,
    ),
}  # fmt: skip
