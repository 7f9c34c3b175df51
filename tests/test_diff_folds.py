"""Folds that were done by hand, layer against weights: the eps and what was forgotten, where one thing makes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_diff import f32, held, holding

from bncheck.checkpoints.recognise import Checkpoint
from bncheck.checkpoints.tensor import in_memory
from bncheck.diagnosis.held.folding import along_inputs, fold_of
from bncheck.diagnosis.held.likeness import compared
from bncheck.diagnosis.held.reading import Sides
from bncheck.life import Held
from bncheck.subjects.folded import Weights, with_eps
from bncheck.subjects.refolded import axis_of
from bncheck.subjects.two_files import other_modes
from bncheck.trace import Array


def folded(weight: Array, bias: Array, norm: Held, eps: float) -> tuple[Array, Array]:
    gain = norm.gamma / np.sqrt(norm.running_var + eps)  # type: ignore[operator]
    return (
        (weight * gain[:, None]).astype(np.float32),
        ((bias - norm.running_mean) * gain + norm.beta).astype(np.float32),
    )


WEIGHT, BIAS = np.arange(12, dtype=np.float32).reshape(3, 4) - 5, f32(0.5, -1, 2)


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_the_eps_of_a_fold_is_measured(eps: float) -> None:
    norm = held(running_var=[0.01, 0.02, 0.05])
    fold = fold_of(WEIGHT, BIAS, norm, *folded(WEIGHT, BIAS, norm, eps))
    assert fold is not None and (fold.word, fold.eps) == ("folded", eps)
    assert fold.fits[0] < eps < fold.fits[1]


@pytest.mark.parametrize(
    ("var", "eps", "words"),
    [
        ([1.0, 2.0, 0.5], 0.0, "without eps, or with one below 2e-06,"),  # 1e-6 is no digit of float32 there
        ([1e-3, 2.0, 0.5], 0.0, "without eps, or with one below"),
        ([1.0, 2.0, 0.5], 1e-3, "with eps 0.001"),
        ([1.0, 2.0, 0.5], 0.0123, "with eps 0.0123"),
        ([1.0, 2.0, 0.5], 2e-5, "with an eps of"),  # float32 leaves 1.9e-5 to 2.1e-5 and more
    ],
)
def test_an_eps_is_named_where_one_alone_makes_the_weights(var: list[float], eps: float, words: str) -> None:
    norm = held(running_var=var)
    fold = fold_of(WEIGHT, BIAS, norm, *folded(WEIGHT, BIAS, norm, eps))
    assert fold is not None and fold.word == "folded"
    assert with_eps(fold.fits, [fold.eps]).startswith(words)


def test_layers_that_no_one_eps_explains() -> None:
    assert with_eps((2e-3, 1e-3), [1e-3, 2e-3]) == "with an eps of its own in each layer (0.001 to 0.002)"


def test_what_is_no_fold() -> None:
    norm = held()
    weight, bias = folded(WEIGHT, BIAS, norm, 1e-5)
    assert fold_of(WEIGHT, BIAS, norm, weight + np.float32(0.01) * WEIGHT**2, bias) is None
    assert fold_of(WEIGHT, BIAS, norm, 3 * weight, bias) is None
    bare, other = fold_of(WEIGHT, BIAS, norm, WEIGHT, BIAS), fold_of(WEIGHT, BIAS, norm, weight, bias + 1)
    assert bare is not None and bare.word == "bare"
    assert other is not None and other.word == "weights"
    start = held(running_mean=[0.0] * 3, running_var=[1.0] * 3)
    fresh = fold_of(WEIGHT, BIAS, norm, *folded(WEIGHT, BIAS, start, 1e-5))
    assert fresh is not None and fresh.word == "start"


def test_what_was_forgotten_in_a_folded_bias_is_said_where_one_thing_makes_it() -> None:
    norm = held()
    weight, bias = folded(WEIGHT, BIAS, norm, 1e-5)
    gain = norm.gamma / np.sqrt(norm.running_var + 1e-5)  # type: ignore[operator]
    unscaled = BIAS + norm.beta - norm.running_mean * gain  # type: ignore[operator]
    no_mean = BIAS * gain + norm.beta

    def lacks(other: Array) -> str:
        fold = fold_of(WEIGHT, BIAS, norm, weight, other.astype(np.float32))
        assert fold is not None and fold.word == "weights"
        return fold.lacks

    assert lacks(unscaled) == "the convolution's own bias was not scaled by gamma/sqrt(var + eps)"
    assert lacks(no_mean) == "the running mean was left out"
    assert lacks(bias + 1) == ""


def test_what_was_forgotten_in_folded_weights_is_said_where_one_thing_makes_them() -> None:
    norm = held(running_var=[0.25, 4.0, 0.5], gamma=[2.0, 0.5, 1.5], eps=0.0)
    _, bias = folded(WEIGHT, BIAS, norm, 0.0)

    def lacks(factor: list[float]) -> str:
        fold = fold_of(WEIGHT, BIAS, norm, WEIGHT * np.float32([[each] for each in factor]), bias)
        assert fold is None or fold.word == "gain"
        return "" if fold is None else fold.lacks

    assert lacks([2.0, 0.5, 0.5**-0.5]) == "gamma was left out of the weights"
    assert lacks([2.0, 0.5, 1.5]) == "the weights are not divided by sqrt(var + eps)"
    assert lacks([8.0, 0.125, 3.0]) == "the weights are divided by var + eps, and not by its root"
    assert lacks([1.0, 1.0, 1.5 * 0.5**0.5]) == "the weights are multiplied by sqrt(var + eps), and not divided"
    assert lacks([2.0, 0.5, 0.7]) == "", "two of three channels are no proof"


@pytest.mark.parametrize("channels", [1, 3])
def test_a_factor_that_is_the_same_in_every_channel_proves_nothing(channels: int) -> None:
    """A half is one over the root of 4: with gamma 3 it may be that gamma was left out, or any other number."""
    norm = held(
        running_mean=[0.1] * channels, running_var=[4.0] * channels, gamma=[3.0] * channels, beta=[0.0] * channels,
        eps=0.0,
    )  # fmt: skip
    weight = WEIGHT[:channels]
    assert fold_of(weight, None, norm, weight * np.float32(0.5), np.full(channels, 3.0, np.float32)) is None


def test_a_fold_along_the_input_channels_is_told_where_the_axes_are_known() -> None:
    """Both axes have three channels. Of a plain file nobody knows whether the convolution is a transposed one."""
    rng = np.random.default_rng(5)
    norm, weight = held(), rng.normal(size=(3, 3, 2, 2)).astype(np.float32)
    gain = norm.gamma / np.sqrt(norm.running_var + 1e-5)  # type: ignore[operator]
    other = (weight * gain.reshape(1, 3, 1, 1)).astype(np.float32)
    bias = (norm.beta - norm.running_mean * gain).astype(np.float32)  # type: ignore[operator]

    def rows(array: Array) -> tuple[Array, Array]:
        return array.reshape(3, -1), array.swapaxes(0, 1).reshape(3, -1)

    plain, crossed = (fold_of(a, None, norm, b, bias) for a, b in zip(rows(weight), rows(other), strict=True))
    assert plain is None and crossed is not None and crossed.word == "folded"
    wrong = along_inputs(crossed)
    assert wrong is not None and wrong.word == "gain" and "along the input channels" in wrong.lacks
    assert along_inputs(None) is None and along_inputs(replace(crossed, word="bare")) is None


def test_what_was_forgotten_beside_a_convolution_without_a_bias() -> None:
    norm = held()
    weight, _ = folded(WEIGHT, f32(0, 0, 0), norm, 1e-5)
    assert norm.beta is not None
    fold = fold_of(WEIGHT, None, norm, weight, norm.beta)
    assert fold is not None and (fold.word, fold.lacks) == ("weights", "the running mean was left out")


def test_the_axis_of_output_channels_is_the_one_that_is_known_or_that_the_weights_show() -> None:
    weight = np.arange(1, 5, dtype=np.float32).reshape(2, 2, 1, 1)
    first, second = weight * f32(2, 3).reshape(2, 1, 1, 1), weight * f32(2, 3).reshape(1, 2, 1, 1)
    assert [axis_of(weight, other, 2, None) for other in (first, second, weight)] == [0, 1, 0]
    assert [axis_of(weight, first, 2, known) for known in (0, 1)] == [0, 1]
    assert axis_of(weight, first, 3, None) is None
    tensors = {"up.weight": in_memory(weight)}
    for axes, rows in (({}, 2), ({"up.weight": 1}, 1)):
        assert (
            len(Weights(Checkpoint(holding=holding(held()), tensors=tensors, axes=axes)).rows("up.weight", 2)) == rows
        )


def test_a_mean_near_0_rounds_as_the_numbers_that_it_is_of() -> None:
    one = held(running_mean=[1e-3, 2, -3], running_var=[1.0, 2.0, 0.5])
    assert (
        compared(one, held(running_mean=[1e-3 + 1e-7, 2, -3], running_var=[1.0, 2.0, 0.5]))
        .quantities["running_mean"]
        .word
        == "rounding"
    )
    assert "running_mean" in compared(one, held(running_mean=[1e-3 + 1e-5, 2, -3])).differing()
    small = held(running_mean=[1e-3, 2, -3], running_var=[1e-8, 2.0, 0.5])
    assert "running_mean" in compared(small, held(running_mean=[1e-3 + 1e-7, 2, -3])).differing()


def test_a_layer_that_was_left_in_training_is_said_where_only_eval_is_played() -> None:
    """Outputs in eval are equal then, and a conversion or an export of the one is not."""
    a, b = held("bn1", training=False), held("bn1", training=True)
    assert other_modes([compared(a, b)], Sides(a="A", b="B")) == [
        "bn1 is in training mode in B as it was built, and in eval mode in A. Outputs were compared in eval."
    ]
    two = [
        compared(replace(b, layer="1"), replace(a, layer="1")),
        compared(replace(b, layer="4"), replace(a, layer="4")),
    ]
    assert other_modes(two, Sides(a="A", b="B")) == [
        "Layers 1 and 4 are in training mode in A as it was built, and in eval mode in B. Outputs were compared in "
        "eval."
    ]
    assert other_modes([compared(a, a), compared(b, held("bn1"))], Sides(a="A", b="B")) == []
