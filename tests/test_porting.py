"""Porting advice from literal conventions."""

from __future__ import annotations

from bncheck.convention import Convention, Facet
from bncheck.diagnosis.porting import advise, spelled

KERAS = Convention(
    "keras", "2-D",
    {
        "batch_weight": Facet(0.3), "default_batch_weight": Facet(0.01), "default_eps": Facet(1e-3),
        "variance_divisor": Facet("n"), "update_on": Facet("forward"), "single_value": Facet("zero"),
    },
    {"batch_weight": "momentum=0.7"},
)  # fmt: skip
TORCH = Convention(
    "torch", "2-D",
    {
        "batch_weight": Facet(0.3), "default_batch_weight": Facet(0.1), "default_eps": Facet(1e-5),
        "variance_divisor": Facet("n-1"), "update_on": Facet("forward"), "single_value": Facet("refuses"),
    },
    {"batch_weight": "momentum=0.3"},
)  # fmt: skip


def test_a_weight_is_spelled_in_the_framework_s_own_sense() -> None:
    assert spelled(KERAS, 0.01) == "momentum=0.99"
    assert spelled(TORCH, 0.01) == "momentum=0.01"


def test_from_keras_to_torch() -> None:
    lines = advise(KERAS, TORCH)
    assert lines[0] == (
        "momentum: momentum=0.99 in keras (weight of the new batch 0.01) is momentum=0.01 in torch; "
        "its default is momentum=0.1."
    )
    assert lines[1] == "eps: 0.001 has to be set in torch too: its default is 1e-05."
    assert "multiply it by n/(n − 1)" in lines[2]
    assert lines[3].startswith("single_value: keras zero, torch refuses")


def test_the_other_way_round_divides() -> None:
    assert "multiply it by (n − 1)/n" in advise(TORCH, KERAS)[2]


def test_nothing_to_change_between_equals_but_what_was_not_measured() -> None:
    lines = advise(TORCH, TORCH)
    assert lines[1] == "eps: 1e-05 is the default of both."
    assert lines[2] == "running_var: copy it as it is, both average the variance with divisor n-1."
    assert lines[3].startswith("not measured on both sides")
    assert len(lines) == 4


def test_unknown_conventions_give_no_guess() -> None:
    assert advise(Convention("a"), Convention("b"))[0].startswith("not measured on both sides")
