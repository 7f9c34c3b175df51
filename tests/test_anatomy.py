"""Layers with one planted rule, or none, on random data in float32: what is named is what was planted, and nothing is
named of a healthy layer, however far its data lie from zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rule_views import make_case, own

from bncheck.diagnosis.anatomy import anatomy_of
from bncheck.diagnosis.anatomy.departures import whole_mean
from bncheck.diagnosis.anatomy.groups import Group, numbered, words
from bncheck.diagnosis.anatomy.values import Forward
from bncheck.scenario import Case
from bncheck.trace import EventRecord, Trace

F, N, E = "train_forward", "no_grad_forward", "eval_forward"
OPS = (F, F, F, E, E)
Array = np.ndarray[Any, Any]


class Layer:
    """BatchNorm in float32 over (N, C, P), each rule a method."""

    def __init__(self, rng: np.random.Generator, channels: int) -> None:
        one = np.float32
        self.gamma = (rng.uniform(0.5, 2.0, channels) * rng.choice([-1, 1], channels)).astype(one)
        self.beta, self.mean, self.var = (
            rng.normal(size=channels).astype(one),
            np.zeros(channels, one),
            np.ones(channels, one),
        )
        self.weight, self.eps = one(rng.choice([0.1, 0.3, 0.01])), one(rng.choice([1e-5, 1e-3]))
        self.number = int(rng.integers(2, 4))
        self.other = float(rng.uniform(0.02, 0.9))

    in_training, in_eval = "batch", "running"

    def groups(self, x: Array) -> list[Array]:
        return [x]

    def taken(self, x: Array) -> Array:
        return x

    def inverse(self, var: Array) -> Array:
        return np.asarray(1 / np.sqrt(var + self.eps))

    def behind(self, z: Array) -> Array:
        return z

    def affine(self) -> tuple[Array, Array]:
        return self.gamma, self.beta

    def spread(self, var: Array, count: int) -> Array:
        return var

    def update(self, x: Array) -> None:
        self.mean = self.mean + self.weight * (x.mean((0, 2)) - self.mean)
        self.var = self.var + self.weight * (x.var((0, 2), ddof=1) - self.var)

    def play(self, x: Array, training: bool) -> Array:
        parts = []
        for part in self.groups(x) if training else [x]:
            used = self.taken(part)
            mean, var = self.mean.copy(), self.var.copy()
            if (self.in_training if training else self.in_eval) == "batch":
                mean, var = used.mean((0, 2)), used.var((0, 2))
                var = self.spread(var, used[:, 0].size) if training else var
            if training:
                self.update(used)
            scale, shift = self.affine()
            z = (part - mean[:, None]) * (self.inverse(var) * scale)[:, None] + shift[:, None]
            parts.append(self.behind(z))
        return np.concatenate(parts).astype(np.float32)


class Chunks(Layer):
    def groups(self, x: Array) -> list[Array]:
        return np.array_split(x, range(self.number, len(x), self.number))


class Part(Layer):
    def taken(self, x: Array) -> Array:
        return x[: len(x) - 1]


class Pooled(Layer):
    """Averages the variances of equal chunks for that of the batch."""

    def play(self, x: Array, training: bool) -> Array:
        if not training:
            return super().play(x, training)
        parts = np.split(x, len(x) // self.number) if len(x) % self.number == 0 else np.split(x, 2)
        mean, var = (np.mean([part.__getattribute__(of)((0, 2)) for part in parts], axis=0) for of in ("mean", "var"))
        self.mean, self.var = self.mean + self.weight * (mean - self.mean), self.var + self.weight * (var - self.var)
        z = (x - mean[:, None]) * (self.inverse(var) * self.gamma)[:, None] + self.beta[:, None]
        return np.asarray(z, dtype=np.float32)


class AsksForGradients(Layer):
    """A training forward under no_grad is one of eval to it."""

    def play(self, x: Array, training: bool, graded: bool = True) -> Array:
        return super().play(x, training and graded)


class Outside(Layer):
    def inverse(self, var: Array) -> Array:
        return np.asarray(1 / (np.sqrt(var) + np.float32(0.05)))


class Relu(Layer):
    def behind(self, z: Array) -> Array:
        return np.maximum(z, np.float32(0))


class OnePlusGamma(Layer):
    def affine(self) -> tuple[Array, Array]:
        return 1 + self.gamma, self.beta


class Exchanged(Layer):
    def affine(self) -> tuple[Array, Array]:
        return self.beta, self.gamma


class ShiftFirst(Outside):
    def affine(self) -> tuple[Array, Array]:
        return self.gamma, self.gamma * self.beta


class Softplus(Layer):
    """A way to scale that no rule has."""

    def affine(self) -> tuple[Array, Array]:
        return np.log1p(np.exp(self.gamma)), self.beta


class Cube(Layer):
    def behind(self, z: Array) -> Array:
        return z**3


class Unsteady(Layer):
    """Another factor in every forward: no rule."""

    times = np.float32(1)

    def behind(self, z: Array) -> Array:
        self.times += np.float32(0.01)
        return z * self.times


Kind = Callable[[np.random.Generator, int], Layer]


def lived(kind: Kind, seed: int, ops: tuple[str, ...] = OPS, times: int = 1) -> tuple[Case, Trace]:
    """``times``: so many times as many samples."""
    rng = np.random.default_rng(seed)
    channels, samples, positions = int(rng.integers(1, 5)), 6 * int(rng.integers(1, 4)), int(rng.choice([1, 1, 4, 9]))
    samples *= times
    offset, spread = rng.normal(size=channels) * rng.choice([0, 1, 30, 300]), rng.choice([0.1, 1, 10], channels)
    layer = kind(rng, channels)
    case = make_case(
        ops, channels, (samples, channels, positions), batch_weight=float(layer.weight), eps=float(layer.eps)
    )
    states = [(layer.mean.copy(), layer.var.copy())]
    arrays: dict[str, Array] = {}
    for event, op in enumerate(ops):
        x = rng.normal(size=(samples, channels, positions)) * spread[:, None] + offset[:, None]
        x = x.astype(np.float32)
        more = {"graded": op == F} if isinstance(layer, AsksForGradients) else {}
        arrays[f"given/bn/{event}"], arrays[f"gave/bn/{event}"] = x, layer.play(x, op != E, **more)
        states.append((layer.mean.copy(), layer.var.copy()))
    wide = [arrays[f"given/bn/{event}"].astype(np.float64) for event in range(len(ops))]
    arrays["bn/running_mean"], arrays["bn/running_var"] = (np.stack(rows) for rows in zip(*states, strict=True))
    arrays["bn/gamma"], arrays["bn/beta"] = (np.tile(part, (len(ops) + 1, 1)) for part in (layer.gamma, layer.beta))
    arrays["bn/input_mean"], arrays["bn/input_var"] = (np.stack([f(x) for x in wide]) for f in (mean_of, var_of))
    arrays["bn/n"] = np.full(len(ops), samples * positions)
    return own(case), Trace(tuple(EventRecord(op) for op in ops), arrays)


def mean_of(x: Array) -> Array:
    return np.asarray(x.mean((0, 2)))


def var_of(x: Array) -> Array:
    return np.asarray(x.var((0, 2)))


def named(kind: Kind, seed: int, ops: tuple[str, ...] = OPS) -> set[str] | None:
    """Causes that are named; None where no rule makes the outputs."""
    found = anatomy_of(*lived(kind, seed, ops)).get("bn")
    return None if found is None else {part.cause for part in found.departures}


@pytest.mark.parametrize(
    ("kind", "planted", "at_least"),
    [
        (Layer, set(), 40), (Chunks, {"value-count"}, 30), (Part, {"value-count"}, 30), (Outside, {"eps"}, 25),
        (Relu, {"activation"}, 30), (Pooled, {"value-count", "variance-divisor"}, 20), (OnePlusGamma, {"affine"}, 15),
    ],
)  # fmt: skip
def test_what_is_named_is_what_was_planted(kind: Kind, planted: set[str], at_least: int) -> None:
    found = [named(kind, seed) for seed in range(40)]
    assert [causes for causes in found if causes is not None and not causes <= planted] == []
    assert sum(causes == planted for causes in found) >= at_least


@pytest.mark.parametrize(
    ("group", "shape", "channel", "ids"),
    [
        (Group("batch"), (2, 3, 1), [0, 1, 2], [[0, 1, 2], [0, 1, 2]]),
        (Group("strides", 2), (3, 2, 1), [0, 1, 0, 1], [[0, 1], [2, 3], [0, 1]]),
        (Group("chunks", 2), (3, 2, 1), [0, 1, 0, 1], [[0, 1], [0, 1], [2, 3]]),
        (Group("channels", 2), (2, 4, 1), [0, 1, 0, 1], [[0, 0, 1, 1], [2, 2, 3, 3]]),
        (Group("layer"), (2, 3, 1), [0, 0], [[0, 0, 0], [1, 1, 1]]),
        (Group("everything"), (2, 3, 1), [0], [[0, 0, 0], [0, 0, 0]]),
        (Group("pixel"), (1, 3, 2), [0, 0], [[0, 1, 0, 1, 0, 1]]),
        (Group("position"), (1, 2, 2), [0, 1, 0, 1], [[0, 2, 1, 3]]),
        (Group("sample"), (0, 3, 2), [], []),
    ],
)
def test_groups_of_values_are_numbered(
    group: Group, shape: tuple[int, int, int], channel: list[int], ids: list[list[int]]
) -> None:
    found = numbered(group, shape)
    assert (found[0].tolist(), found[1].reshape(shape[0], -1).tolist() if shape[0] else []) == (channel, ids)


def test_a_set_of_samples_is_no_single_sample() -> None:
    """tf_keras's virtual_batch_size = 4 of 8 samples: 0, 2, 4, 6 share a mean, and 1, 3, 5, 7."""
    assert words(Group("strides", 2), 8, 1) == "each of 2 sets of every second sample on its own"
    assert words(Group("sample"), 8, 1) == "each sample and channel on its own"


@pytest.mark.parametrize(
    ("positions", "width", "says"),
    [(1, 1, "x.mean(0) of a 2-D x"), (20, 20, "x.mean((0, 2)) of a 3-D x"), (64, 8, "x.mean((0, 2, 3)) of a 4-D x")],
)
def test_the_mean_to_take_is_written_for_the_axes_of_the_input(positions: int, width: int, says: str) -> None:
    x, channel = np.zeros((4, 3, positions)), np.zeros(3)
    state = (channel, channel)
    assert whole_mean(Forward(0, True, x, x, channel, channel, state, state, width=width)) == says


class Apart(Layer):
    """A weight for the mean and another one for the variance, which it divides by n."""

    def update(self, x: Array) -> None:
        self.mean = self.mean + np.float32(0.2) * (x.mean((0, 2)) - self.mean)
        self.var = self.var + np.float32(0.05) * (x.var((0, 2)) - self.var)


@pytest.mark.parametrize("times", [1, 60])
def test_two_weights_are_no_deviation_and_the_divisor_is_that_of_a_weight_of_few_digits(times: int) -> None:
    """Far from zero the bounds let a deviation pass; of thousands of values n - 1 makes the steps, too, with a weight
    of 0.04999."""
    found = [anatomy_of(*lived(Apart, seed, times=times)).get("bn") for seed in range(8)]
    said = [part.says.partition(", instead")[0] for each in found if each is not None for part in each.departures]
    weights = "gives the new batch a weight of 0.2 in running_mean and of 0.05 in running_var"
    assert set(said) <= {weights, "averages the variance that is divided by n"}
    assert said.count(weights) >= 5


@pytest.mark.parametrize(("kind", "planted"), [(Layer, set()), (AsksForGradients, {"normaliser-source"})])
def test_a_training_forward_without_gradients_is_one(kind: Kind, planted: set[str]) -> None:
    found = [named(kind, seed, (F, F, N, E, N)) for seed in range(20)]
    assert [causes for causes in found if causes is not None and causes != planted] == []
    assert sum(causes == planted for causes in found) >= 15


@pytest.mark.parametrize("kind", [Cube, Unsteady, Softplus])
def test_what_follows_no_rule_is_given_no_name(kind: Kind) -> None:
    assert [causes for seed in range(40) if (causes := named(kind, seed))] == []


# --------------------------------------------------------------------------------------------- two thousand of them


class Sample(Layer):
    """Divides by the sample deviation; what it averages is right."""

    def spread(self, var: Array, count: int) -> Array:
        return np.asarray(var * np.float32(count / (count - 1)))


class BatchInEval(Layer):
    in_eval = "batch"


class RunningInTraining(Layer):
    in_training = "running"


class DivisorN(Layer):
    def update(self, x: Array) -> None:
        self.mean = self.mean + self.weight * (x.mean((0, 2)) - self.mean)
        self.var = self.var + self.weight * (x.var((0, 2)) - self.var)


class Deviation(Layer):
    def update(self, x: Array) -> None:
        self.mean = self.mean + self.weight * (x.mean((0, 2)) - self.mean)
        self.var = self.var + self.weight * (np.sqrt(x.var((0, 2), ddof=1)) - self.var)


class Weight(Layer):
    """Of another size than the one that was asked for."""

    def update(self, x: Array) -> None:
        weight = np.float32(self.other)
        self.mean = self.mean + weight * (x.mean((0, 2)) - self.mean)
        self.var = self.var + weight * (x.var((0, 2), ddof=1) - self.var)


class Twice(Layer):
    def update(self, x: Array) -> None:
        for _ in range(self.number):
            super().update(x)


class FirstReplaces(Layer):
    count = 0

    def update(self, x: Array) -> None:
        asked, self.count = self.weight, self.count + 1
        self.weight = np.float32(1) if self.count == 1 else asked
        super().update(x)
        self.weight = asked


class NoEps(Layer):
    def inverse(self, var: Array) -> Array:
        return np.asarray(1 / np.sqrt(var))


class OtherEps(Layer):
    def inverse(self, var: Array) -> Array:
        return np.asarray(1 / np.sqrt(var + np.float32(self.other)))


class Leaky(Layer):
    def behind(self, z: Array) -> Array:
        return np.where(z > 0, z, np.float32(0.1) * z)


class Tanh(Layer):
    def behind(self, z: Array) -> Array:
        return np.tanh(z)


PLANTED = {
    Layer: set[str](), Chunks: {"value-count"}, Part: {"value-count"}, Outside: {"eps"}, NoEps: {"eps"},
    OtherEps: {"eps"}, Relu: {"activation"}, Leaky: {"activation"}, Tanh: {"activation"},
    Sample: {"normaliser-divisor"}, BatchInEval: {"normaliser-source"}, RunningInTraining: {"normaliser-source"},
    DivisorN: {"variance-divisor"}, Deviation: {"wrong-statistic"}, Weight: {"batch-weight", "update-count"},
    Twice: {"update-count"}, FirstReplaces: {"averaging"}, Cube: set(), Unsteady: set(), Softplus: set(),
    OnePlusGamma: {"affine"}, Exchanged: {"affine"}, ShiftFirst: {"affine", "eps"},
}  # fmt: skip
# Behind a tanh, outputs at 1 and −1 say nothing of what went in.
# Gammas of one or two channels do not tell one way of scaling from another.
LEAST = {Tanh: 0.5, OnePlusGamma: 0.4, Exchanged: 0.4, ShiftFirst: 0.4}
CLEAR = 0.01  # of an output's or a state's own size: no rounding of these data is as large


def clear(kind: type[Layer], seed: int) -> bool:
    """Whether the planted rule makes an output or a state another one than BatchNorm's on the same data, by far."""
    one, two = lived(kind, seed)[1].arrays, lived(Layer, seed)[1].arrays
    names = ["bn/running_mean", "bn/running_var", *(f"gave/bn/{event}" for event in range(len(OPS)))]
    pairs = [(np.asarray(one[name], np.float64), np.asarray(two[name], np.float64)) for name in names]
    return any(float(np.abs(a - b).max()) > CLEAR * float(np.abs(b).max()) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLANTED, ids=lambda kind: kind.__name__)
def test_in_two_thousand_traces_of_own_layers_no_name_is_false_and_what_is_clear_is_named(kind: type[Layer]) -> None:
    found = [(named(kind, 1000 + seed), clear(kind, 1000 + seed)) for seed in range(106)]
    assert [causes for causes, _ in found if causes and not causes <= PLANTED[kind]] == []
    telling = [causes for causes, is_clear in found if is_clear]
    share = LEAST.get(kind, 0.8) if PLANTED[kind] else 0.0
    assert sum(bool(causes) for causes in telling) >= share * len(telling), len(telling)


@pytest.mark.parametrize(
    ("kind", "causes", "quantity"),
    [(Outside, ["eps"], "output"), (Pooled, ["value-count", "variance-divisor"], "running_var")],
)
def test_the_shares_of_all_departures_are_the_whole_difference(kind: Kind, causes: list[str], quantity: str) -> None:
    """Undone one after the other, in whatever order, they leave nothing of it: 1, and no tenth more."""
    whole = [found["bn"].departures for seed in range(8) if "bn" in (found := anatomy_of(*lived(kind, seed)))]
    full = [parts for parts in whole if sorted(part.cause for part in parts) == causes]
    assert len(full) >= 3
    for parts in full:
        assert sum(part.shares[quantity] for part in parts) == pytest.approx(1.0, abs=0.02)


def test_two_weights_that_only_rounding_tells_apart_are_one() -> None:
    """Three updates of weight 0.01, which make 0.0297 in either statistic."""
    assert (named(Twice, 1064) or set()) <= {"update-count"}
