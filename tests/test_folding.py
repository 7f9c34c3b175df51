"""What folded weights leave open, and what they do not: the eps they were folded with, and a bias made wrongly."""

from __future__ import annotations

import numpy as np

from bncheck.diagnosis.held.folding import eps_of, mistake

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
