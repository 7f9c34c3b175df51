"""How like two held arrays are: where rounding ends, how bfloat16 rounds, and what a layer need not store."""

from __future__ import annotations

import numpy as np

from bncheck.diagnosis.held.likeness import alike, compared, rounded
from bncheck.life import Held


def test_four_roundings_are_a_copy_and_eight_are_none() -> None:
    step = 2.0**-23  # of float32 above 1
    one = np.array([1.0, 2.0], np.float32)
    assert alike(one, np.array([1 + 4 * step, 2.0], np.float32)).word == "rounding"
    assert alike(one, np.array([1 + 8 * step, 2.0], np.float32)).word == "differs"


def test_bfloat16_rounds_half_way_to_the_even_one() -> None:
    step = 2.0**-7  # of bfloat16 above 1
    assert rounded(np.array([1 + step / 2, 1 + 3 * step / 2]), "bfloat16").tolist() == [1.0, 1 + 2 * step]


def test_a_gamma_of_one_and_a_beta_of_zero_need_not_be_stored() -> None:
    whole = Held("bn", gamma=np.ones(2, np.float32), beta=np.zeros(2, np.float32))
    found = compared(whole, Held("bn")).quantities
    assert {what: each.word for what, each in found.items()} == {"gamma": "equal", "beta": "equal"}
    swapped = compared(Held("bn"), Held("bn", gamma=whole.beta, beta=whole.gamma)).quantities
    assert {what: (each.word, each.detail) for what, each in swapped.items()} == {
        "gamma": ("missing", "a"), "beta": ("missing", "a"),
    }  # fmt: skip
