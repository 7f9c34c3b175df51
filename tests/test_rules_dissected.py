"""What a layer of the user's does value by value, on literal arrays: BN120 value-count, BN121 activation, and what is
said behind them. Eight values of one channel, eps 0, weight 0.5."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from rule_views import make_case, make_cell, make_pair, make_trace, only, own, rule

from bncheck.diagnosis.anatomy import anatomy_of, seen_through
from bncheck.diagnosis.judge import in_parts
from bncheck.evidence import CellView, PairView

F = "train_forward"
# Mean 1 and deviation 1, then mean 12 and deviation 2; the whole of it: mean 6.5, variance 30.25 + 2.5.
X = [0, 2, 0, 2, 10, 14, 10, 14]
WHOLE = (np.array(X) - 6.5) / 32.75**0.5
HALVES = [-1, 1, -1, 1, -1, 1, -1, 1]


def played(y: Sequence[float] | np.ndarray, mean: float, var: float, who: str = "torch") -> CellView:
    """One training forward of X; the running statistics go from (0, 1) to (mean, var)."""
    case = make_case((F,), shape=(8, 1))
    trace = make_trace(
        (F,), n=[8], input_mean=[6.5], input_var=[32.75], used_mean=[6.5], used_invstd=[32.75**-0.5],
        used_residual=[0.0], running_mean=[0, mean], running_var=[1, var], gamma=[1, 1], beta=[0, 0],
        given__bn__0=np.array(X, dtype=np.float32)[:, None], gave__bn__0=np.array(y, dtype=np.float32)[:, None],
        output__0=np.array(y, dtype=np.float32)[:, None],
    )  # fmt: skip
    if who != "torch":
        return make_cell(case, who, trace)
    anatomy = anatomy_of(case, trace)
    return make_cell(own(case), who, seen_through(trace, anatomy), anatomy=anatomy)


USUAL = played(WHOLE, 3.25, 0.5 + 0.5 * 32.75 * 8 / 7, "torch[builtin]")


def beside_the_usual(cell: CellView) -> PairView:
    return make_pair(cell, USUAL)


def test_halves_that_are_normalised_apart() -> None:
    """Each half moves the statistics: mean 0.5·(0.5·0 + 0.5·1) + 0.5·12, variance 0.5·(0.5 + 0.5·4/3) + 0.5·16/3."""
    cell = played(HALVES, 6.25, 0.25 + 1 / 3 + 8 / 3)
    found = only(rule("value-count").check_pair(beside_the_usual(cell)))
    assert found.title == (
        "Own in torch@cpu normalises each half of the batch on its own, and updates its running statistics once for "
        "each; torch[builtin]@cpu does not. This accounts for 100.0 % of its difference from BatchNorm in y, "
        "running_mean and running_var."
    ).replace("torch@cpu", "torch").replace("torch[builtin]@cpu", "torch[builtin]")
    assert (found.explained, found.accounts) == (1.0, (("bn", "running_mean"), ("bn", "running_var")))
    assert (found.evidence["values per channel"], found.evidence["values that share one mean"]) == (8, 4)


def test_virtual_batches_of_a_frameworks_own_layer() -> None:
    """The same of a layer whose own keywords ask for it; an eps of its own, or a weight, is no matter of these."""
    cell = played(HALVES, 6.25, 0.25 + 1 / 3 + 8 / 3)
    case = make_case((F,), shape=(8, 1))
    cell = make_cell(case, "tf_keras", cell.trace, anatomy=in_parts(cell.anatomy))
    other = make_cell(case, "reference", USUAL.trace)
    found = only(rule("value-count").check_pair(make_pair(cell, other)))
    assert found.title.startswith("tf_keras normalises each half of the batch on its own, and updates its running")
    assert found.advice.startswith("leave out the keywords (native) that ask the layer for it")
    relu = played(np.maximum(WHOLE, 0), 3.25, 0.5 + 0.5 * 32.75 * 8 / 7).anatomy
    assert [part.cause for part in relu["bn"].departures] == ["activation"] and in_parts(relu) == {}


def test_values_that_are_left_out() -> None:
    """The first four alone: mean 1, variance 1 (4/3 with n - 1)."""
    cell = played([-1, 1, -1, 1, 9, 13, 9, 13], 0.5, 0.5 + 2 / 3)
    found = only(rule("value-count").check_pair(beside_the_usual(cell)))
    assert "takes mean and variance of the first 4 of 8 samples; " in found.title
    assert found.evidence["values that share one mean"] == 4


def test_values_that_nothing_tells_apart_are_not_named() -> None:
    """The first two and the first four have the same moments, and nothing is averaged: neither is said."""
    pair = beside_the_usual(played([-1, 1, -1, 1, 9, 13, 9, 13], 0, 1))
    assert not list(rule("value-count").check_pair(pair))


def test_statistics_that_follow_no_rule_are_accounted_for_by_none() -> None:
    """Halves again, but nothing moves the running mean to 0.7."""
    cell = played(HALVES, 0.7, 0.25 + 1 / 3 + 8 / 3)
    found = only(rule("value-count").check_pair(beside_the_usual(cell)))
    assert found.accounts == ()


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (np.maximum(WHOLE, 0), "puts a ReLU behind the normalisation"),
        (np.where(WHOLE > 0, WHOLE, 0.1 * WHOLE), "puts a leaky ReLU of slope 0.1 behind the normalisation"),
        (WHOLE / (1 + np.exp(-WHOLE)), "puts a SiLU behind the normalisation"),
        (np.tanh(WHOLE), "puts a tanh behind the normalisation"),
    ],
)
def test_an_activation_behind_it(y: np.ndarray, says: str) -> None:
    cell = played(y, 3.25, 0.5 + 0.5 * 32.75 * 8 / 7)
    found = only(rule("activation").check_pair(beside_the_usual(cell)))
    assert says in found.title
    assert cell.trace is not None
    # What it was normalised with shows behind the activation.
    used = [float(cell.trace.arrays[f"bn/{name}"][0, 0]) for name in ("used_mean", "used_invstd")]
    assert used == pytest.approx([6.5, 32.75**-0.5], rel=1e-4)


def test_eps_is_judged_behind_an_activation() -> None:
    """1/(sqrt(32.75) + 0.5) and a ReLU."""
    cell = played(np.maximum((np.array(X) - 6.5) / (32.75**0.5 + 0.5), 0), 3.25, 0.5 + 0.5 * 32.75 * 8 / 7)
    pair = beside_the_usual(cell)
    assert "puts a ReLU" in only(rule("activation").check_pair(pair)).title
    assert rule("eps").check_pair(pair)


@pytest.mark.parametrize("y", [WHOLE, WHOLE * 1.001, np.where(np.arange(8) == 3, 0, WHOLE), WHOLE**3])
def test_nothing_is_said_of_what_no_rule_makes(y: np.ndarray) -> None:
    """The usual output; one that is 0.1 % off; one of a single wrong value; a cube."""
    pair = beside_the_usual(played(y, 3.25, 0.5 + 0.5 * 32.75 * 8 / 7))
    assert not [item for cause in ("value-count", "activation") for item in rule(cause).check_pair(pair)]
