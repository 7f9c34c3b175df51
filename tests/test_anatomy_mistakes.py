"""Layers with a mistake in eval alone, or in what they average, on random data: it is named, and nothing else is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_anatomy import Kind, Layer, named

from bncheck.diagnosis.anatomy.averages import said_of_schedule

Array = np.ndarray[Any, Any]


class InEval(Layer):
    """``evaluated``: mean and variance of eval."""

    def evaluated(self) -> tuple[Array, Array]:
        return self.mean, self.var

    def play(self, x: Array, training: bool) -> Array:
        if training:
            return super().play(x, training)
        mean, var = self.evaluated()
        with np.errstate(invalid="ignore"):
            z = (x - mean[:, None]) * (self.inverse(var) * self.gamma)[:, None] + self.beta[:, None]
        return np.asarray(z, dtype=np.float32)


class ExchangedInEval(InEval):
    """The root of a mean below zero is NaN."""

    def evaluated(self) -> tuple[Array, Array]:
        return self.var, self.mean


class MinusMean(InEval):
    def evaluated(self) -> tuple[Array, Array]:
        return -self.mean, self.var


class NotCentred(InEval):
    def evaluated(self) -> tuple[Array, Array]:
        return 0 * self.mean, self.var


class NotScaled(InEval):
    def evaluated(self) -> tuple[Array, Array]:
        return self.mean, np.ones_like(self.var) - self.eps


class Began(InEval):
    def evaluated(self) -> tuple[Array, Array]:
        return np.zeros_like(self.mean), np.ones_like(self.var)


class Reversed(InEval):
    def play(self, x: Array, training: bool) -> Array:
        y = super().play(x, training)
        return y if training else np.asarray(2 * self.beta[:, None] - y, dtype=np.float32)


class EpsInEval(InEval):
    def play(self, x: Array, training: bool) -> Array:
        asked, self.eps = self.eps, self.eps if training else np.float32(self.other)
        y = super().play(x, training)
        self.eps = asked
        return y


class Put(Layer):
    """``put``: what is averaged in the place of the variance."""

    count = 0

    def put(self, x: Array) -> Array:
        return np.asarray(x.var((0, 2), ddof=1))

    def now(self) -> np.float32:
        return self.weight  # type: ignore[no-any-return]

    def update(self, x: Array) -> None:
        self.count += 1
        self.mean = self.mean + self.now() * (x.mean((0, 2)) - self.mean)
        self.var = self.var + self.now() * (self.put(x) - self.var)


class AroundRunning(Put):
    def put(self, x: Array) -> Array:
        return np.asarray(((x - self.mean[:, None]) ** 2).mean((0, 2)))


class Logarithm(Put):
    def update(self, x: Array) -> None:
        before = self.var
        super().update(x)
        self.var = np.exp((1 - self.weight) * np.log(before) + self.weight * np.log(self.put(x))).astype(np.float32)


class PlusEps(Put):
    def put(self, x: Array) -> Array:
        return np.asarray(x.var((0, 2), ddof=1) + self.eps)


class Added(Put):
    def update(self, x: Array) -> None:
        self.mean, self.var = self.mean + self.weight * x.mean((0, 2)), self.var + self.weight * self.put(x)


class Scheduled(Put):
    def now(self) -> np.float32:
        return np.float32(1 / (self.count + 1))


@pytest.mark.parametrize(
    ("kind", "planted", "at_least"),
    [
        (ExchangedInEval, {"normaliser-source"}, 15), (MinusMean, {"normaliser-source"}, 20),
        (NotCentred, {"normaliser-source"}, 20), (NotScaled, {"normaliser-source"}, 20),
        (Began, {"normaliser-source"}, 20), (Reversed, {"normaliser-source"}, 30), (EpsInEval, {"eps"}, 20),
        (AroundRunning, {"wrong-statistic", "variance-divisor"}, 15), (Logarithm, {"wrong-statistic"}, 20),
        (PlusEps, {"eps"}, 5), (Added, {"averaging"}, 25), (Scheduled, {"averaging"}, 25),
    ],
)  # fmt: skip
def test_a_mistake_in_eval_alone_or_in_an_average_is_named_and_no_other(
    kind: Kind, planted: set[str], at_least: int
) -> None:
    found = [named(kind, seed) for seed in range(40)]
    assert [causes for causes in found if causes is not None and not causes <= planted] == []
    assert sum(causes == planted for causes in found) >= at_least


def test_weights_that_change_are_said_by_the_formula_that_makes_them() -> None:
    assert said_of_schedule((1.0, 1.0, 1 / 2, 1 / 3), 0.1).startswith("gives batch k a weight of 1/(k - 1), as if ")
    assert said_of_schedule((1.0, 1 / 2, 0.4, 0.4), 0.4) == (
        "gives batch k a weight of 1/k, but no less than 0.4 (1, 0.5, 0.4, 0.4), instead of 0.4"
    )
    assert said_of_schedule((0.9, 9 / 11, 0.75), 0.1).startswith("gives batch k a weight of 1 - k/(9 + k), but no less")
    assert said_of_schedule((0.2, 0.1), 0.4) == "gives each batch another weight (0.2, 0.1), instead of 0.4"
