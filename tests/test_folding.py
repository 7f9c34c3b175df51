"""What folded weights leave open, and what they do not: the eps they were folded with, and a bias made wrongly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from beside_torch import run

from bncheck.checkpoints.recognise import Checkpoint, Contents, checkpoint
from bncheck.checkpoints.tensor import in_memory
from bncheck.checkpoints.tree import State
from bncheck.diagnosis.held.folding import Fold, ahead_of, eps_of, fold_of, mistake
from bncheck.diagnosis.held.likeness import SPACING, rounded
from bncheck.life import Held
from bncheck.subjects.folded import FoldedLayer, in_groups, readings
from bncheck.subjects.two_files import side_by_side
from bncheck.trace import Array

ONE = np.ones(1)


def test_weights_that_no_eps_makes_are_no_fold() -> None:
    assert eps_of(2 * ONE, ONE, ONE, 1e-6) is None  # 1/sqrt(1 + eps) is never 2
    assert eps_of(-ONE, ONE, ONE - 1e-5, 1e-6) is None  # nor below zero
    assert eps_of(ONE, -ONE, ONE - 1e-5, 1e-6) is None
    low, high = eps_of(ONE, ONE, ONE - 1e-5, 1e-7) or (0.0, 0.0)
    assert low < 1e-5 < high


def test_a_bias_that_two_mistakes_make_names_neither() -> None:
    nothing, two = np.zeros(2), np.array([2.0, 3.0])
    one = np.ones(2)
    assert mistake(nothing, (nothing, nothing, two, one), 1e-6) == ""  # beta left out, or no bias at all
    assert mistake(-two, (nothing, two, one, one), 1e-6) == "beta was left out"
    assert mistake(one, (nothing, two, one, one), 1e-6) == "the running mean was left out"


# Three channels of one weight each: K = 1, so that the factor of a channel is what stands in the weight.
BEFORE, BIAS = np.array([[1.0], [2.0], [4.0]], np.float32), np.array([0.5, -1.0, 2.0], np.float32)
GAMMA, BETA = np.array([1.0, -2.0, 3.0]), np.array([0.25, 0.5, -0.75])
MEAN, VAR = np.array([1.0, 2.0, -3.0]), np.array([4.0, 0.25, 1.0])


def folded(gain: Array, bias: Array, var: Array = VAR, own: float | None = None) -> tuple[str, str, float] | None:
    norm = Held(layer="bn", eps=own, running_mean=MEAN, running_var=var, gamma=GAMMA, beta=BETA)
    weight = (BEFORE * gain[:, None]).astype(np.float32)
    found = fold_of(BEFORE, BIAS, norm, weight, bias.astype(np.float32))
    return None if found is None else (found.word, found.lacks, found.eps)


@pytest.mark.parametrize("eps", [1e-3, 1e-5])  # as an eps within the root one of 1e-5 fits nearly
def test_an_eps_outside_the_root_is_one_of_the_weights_and_not_of_the_bias(eps: float) -> None:
    gain = GAMMA / (np.sqrt(VAR) + eps)
    said = f"the weights are divided by sqrt(var) + {eps:g}, and not by sqrt(var + eps)"
    assert folded(gain, (BIAS - MEAN) * gain + BETA) == ("gain", said, eps)
    assert folded(gain, (BIAS - MEAN) * gain + BETA, own=1e-5) == ("gain", said, eps)


def test_a_sign_that_was_lost_and_a_scale_of_one_plus_gamma() -> None:
    for gamma, said in ((abs(GAMMA), "gamma was taken without its sign"), (1 + GAMMA, "1 + gamma was taken for gamma")):
        gain = gamma / np.sqrt(VAR + 1e-5)
        assert folded(gain, (BIAS - MEAN) * gain + BETA) == ("gain", said, 1e-5)


def test_a_sign_in_the_bias() -> None:
    gain = GAMMA / np.sqrt(VAR + 1e-5)
    plus, minus = (BIAS + MEAN) * gain + BETA, (BIAS - MEAN) * gain - BETA
    assert folded(gain, plus) == ("weights", "the running mean was added, and not subtracted", 1e-5)
    assert folded(gain, minus) == ("weights", "beta was subtracted, and not added", 1e-5)


def test_a_new_layers_statistics_are_no_eps_of_nearly_one() -> None:
    """Where variances are tiny 1/sqrt(1 + 1e-5) is also one over the root of each of them and 1."""
    gain = GAMMA / np.sqrt(1 + 1e-5)
    assert folded(gain, BIAS * gain + BETA, np.array([1e-6, 1e-7, 0.0])) == ("start", "", 1e-5)


def test_another_eps_beside_another_bias_is_said_as_well() -> None:
    norm = Held(layer="bn", running_mean=MEAN, running_var=VAR)
    fold = Fold("weights", 1e-3, (0.99e-3, 1.01e-3), "it is beta alone")
    each = FoldedLayer(layer=norm, fold=fold, keys=("0.weight", "0.weight"), in_b=True)
    assert [(said.cause, said.title) for said in readings([each], "b.pt", "a.pt")] == [
        ("folding", "b.pt folds bn with another bias than what a.pt holds makes. It is beta alone."),
        (
            "eps",
            "b.pt was folded with eps 0.001 in bn; a.pt does not say its eps; PyTorch's default is 1e-5, that of Keras "
            "1e-3.",
        ),
    ]


HALF, WIDE = np.float16, np.arange(1.0, 9.0)[:, None] * np.array([1.0, -0.5, 0.25])


def half(factor: Array) -> Fold | None:
    """A fold in float16, whose weights are off by that factor."""
    norm = Held(layer="bn", eps=1e-3, running_mean=np.zeros(8, HALF), running_var=np.full(8, 3.0, HALF))
    weight = WIDE.astype(HALF)
    return fold_of(weight, None, norm, (WIDE * factor[:, None] / np.sqrt(3.001)).astype(HALF), None)


def test_what_float16_rounds_is_a_fold_and_what_is_off_by_a_hundredth_is_none() -> None:
    fold = half(np.ones(8))
    assert fold is not None and (fold.word, fold.eps) == ("folded", 1e-3)
    each = FoldedLayer(layer=Held(layer="bn", eps=1e-3), fold=fold, keys=("0.weight", "0.weight"), in_b=True)
    (said,) = readings([each], "b.pt", "a.pt")
    assert said.title == (
        "b.pt is a.pt with 1 BatchNorm layer folded into a convolution, equal up to rounding, which is up to 0.3906 % "
        "in such short numbers (bn)."
    )
    assert half(np.array([0.99, 1.01] * 4)) is None
    assert half(np.full(8, 1.01)) is None


def bfloat16(values: Array) -> Array:
    return rounded(values, "bfloat16").astype(np.float32)


def test_what_bfloat16_rounds_is_a_fold_and_a_mean_that_was_left_out_is_none() -> None:
    """Such numbers are read as float32: their arrays do not say how short they were."""
    norm = Held(layer="bn", eps=1e-5, running_mean=MEAN, running_var=VAR, gamma=GAMMA, beta=BETA)
    gain = GAMMA / np.sqrt(VAR + 1e-5)
    weight = bfloat16(BEFORE * 1.3 * gain[:, None])
    right, wrong = (bfloat16((BIAS - mean) * gain + BETA) for mean in (MEAN, 0 * MEAN))
    before = bfloat16(BEFORE * 1.3)
    assert fold_of(before, BIAS, norm, weight, right) is None
    fold, other = (fold_of(before, BIAS, norm, weight, bias, SPACING["bfloat16"]) for bias in (right, wrong))
    assert fold is not None and (fold.word, fold.within) == ("folded", 2.0**-5)
    assert other is not None and (other.word, other.lacks) == ("weights", "the running mean was left out")


def test_wrong_weights_do_not_hide_a_wrong_bias() -> None:
    gain, right = 1 / np.sqrt(VAR + 1e-5), GAMMA / np.sqrt(VAR + 1e-5)
    alone = "gamma was left out of the weights"
    assert (
        folded(gain, (BIAS - MEAN) * gain + BETA) == folded(gain, (BIAS - MEAN) * right + BETA) == ("gain", alone, 1e-5)
    )
    also = f"{alone}, and the bias is wrong as well"
    assert folded(gain, BIAS * right + BETA) == ("gain", f"{also}: the running mean was left out", 1e-5)
    assert folded(gain, BIAS * right + BETA + 7) == ("gain", also, 1e-5)


def test_a_transposed_convolution_in_groups() -> None:
    """(I, O / groups, width): the first half of the inputs goes to outputs 0 to 2, the second to 3 to 5."""
    weight = np.arange(4 * 3 * 2.0).reshape(4, 3, 2)
    (rows,) = in_groups(weight, 6)
    assert rows.tolist() == [
        [0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11],
        [12, 13, 18, 19], [14, 15, 20, 21], [16, 17, 22, 23],
    ]  # fmt: skip
    assert in_groups(weight, 5) == in_groups(weight, 3) == in_groups(weight[:3], 6) == []


AXES = """
import torch
from torch import nn
from bncheck.worker.subject.inputs import candidates
from bncheck.worker.subject.outputs import axes
net = nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, 6), nn.Embedding(6, 6))
print(axes(net))
print(candidates(torch, net)[0][1][1])
"""


def test_a_model_says_which_axis_is_that_of_outputs_and_how_many_channels_it_takes(tmp_path: Path) -> None:
    assert run(AXES, tmp_path).stdout.splitlines() == ["{'0.weight': 1, '3.weight': 0}", "4"]


def test_a_layer_that_is_folded_into_the_convolution_behind_it() -> None:
    """(O, C, 1, 1) behind a layer of C: each input channel by its factor, and the shift through the weights into the
    bias."""
    dice = np.random.default_rng(3)
    norm = Held(layer="bn", eps=1e-5, running_mean=MEAN, running_var=VAR, gamma=GAMMA, beta=BETA)
    gain = GAMMA / np.sqrt(VAR + 1e-5)
    for outputs in (5, 3):
        weight = dice.normal(size=(outputs, 3, 1, 1)).astype(np.float32)
        bias = dice.normal(size=outputs).astype(np.float32)
        other = (weight * gain.reshape(1, 3, 1, 1)).astype(np.float32)
        right = (bias + weight[:, :, 0, 0] @ (BETA - MEAN * gain)).astype(np.float32)
        fold = ahead_of(weight, bias, norm, other, right)
        assert fold is not None and (fold.word, fold.eps) == ("ahead", 1e-5)
        assert ahead_of(weight, bias, norm, weight, bias) is None
        wrong = ahead_of(weight, bias, norm, other, bias)
        assert (None if wrong is None else wrong.word) == (None if outputs == 3 else "ahead, other bias")
        a = {f"bn.{key}": getattr(norm, key) for key in ("running_mean", "running_var")}
        a |= {"bn.weight": GAMMA, "bn.bias": BETA, "conv.weight": weight, "conv.bias": bias}
        assert told(a, {"conv.weight": other, "conv.bias": right}) == (
            "folding",
            "rounding",
            "B folds bn into the convolution behind, up to rounding: right only where that one does not pad.",
        )


def told(a: dict[str, Array], b: dict[str, Array]) -> tuple[str, str, str]:
    def side(name: str, arrays: dict[str, Array]) -> Checkpoint:
        tensors = {key: in_memory(array) for key, array in arrays.items()}
        return checkpoint(Path(name), Contents({}, "PyTorch", "torch"), State("", tensors))

    _, (finding,), _ = side_by_side(side("A", a), side("B", b), ("A", "B"))
    return finding.cause, finding.kind, finding.title
