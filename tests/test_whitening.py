"""The whitening oracle: a covariance that is plain on sight, and gradients against differences."""

from __future__ import annotations

import numpy as np
import pytest

from bncheck.worker.reference_side.whitening import Whitening

LAYER = {"name": "bn", "affine": False, "averaging": "exponential", "channels": 4, "batch_weight": 0.5, "eps": 0.0}
RULES = {"averaging": None, "variance_divisor": "n", "default_batch_weight": 0.1, "default_eps": 1e-5}


def layer(**more: object) -> Whitening:
    return Whitening({**LAYER, **more}, 2, {}, RULES)


def test_four_points_that_need_only_scaling() -> None:
    """Real part ±2, imaginary part ±1, uncorrelated: whitening divides by 2 and by 1."""
    real, imaginary = np.array([2.0, 2.0, -2.0, -2.0]), np.array([1.0, -1.0, 1.0, -1.0])
    x = np.stack([real, real, imaginary, imaginary], axis=1)
    norm = layer()
    out, _ = norm.forward(x, "train")
    np.testing.assert_allclose(out, x / [2, 2, 1, 1])
    state = norm.state()
    np.testing.assert_allclose(state["running_var"], [2.5, 2.5, 1.0, 1.0], err_msg="half of 1, half of 4 and of 1")
    np.testing.assert_allclose(state["running_covar"], [2.5, 2.5, 0, 0, 1, 1])


def test_correlated_parts_come_out_uncorrelated() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(50, 4, 3)) @ random.normal(size=(3, 3)) + 7
    x[:, 2:] += 2 * x[:, :2]
    out, _ = layer().forward(x, "train")
    for channel in range(2):
        pair = np.moveaxis(out, 1, 0)[[channel, channel + 2]].reshape(2, -1)
        np.testing.assert_allclose(np.cov(pair, bias=True), np.eye(2), atol=1e-10)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_gradients_are_those_of_differences(mode: str) -> None:
    random = np.random.default_rng(1)
    x, dy = random.normal(size=(2, 6, 4))
    norm = layer(eps=1e-3, batch_weight=0.0)
    norm.covar = np.array([[[2.0, 0.5], [0.5, 1.0]], [[1.0, -0.3], [-0.3, 3.0]]])
    _, context = norm.forward(x, mode)
    grad, _ = norm.backward(context, dy)
    for place in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[place] = 1e-6
        up, down = (float((norm.forward(x + sign * step, mode)[0] * dy).sum()) for sign in (1, -1))
        assert grad[place] == pytest.approx((up - down) / 2e-6, abs=1e-6)


def test_what_it_does_not_do_is_said() -> None:
    with pytest.raises(NotImplementedError, match="affine = false"):
        layer(affine=True)
    with pytest.raises(ValueError, match="5 channels are no 2 parts"):
        layer(channels=5)
    with pytest.raises(ValueError, match="1 values per channel"):
        layer().forward(np.ones((1, 4)), "train")
