"""Waivers: what they match, until when, and when they are due to go."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
from test_baseline import CHARGE

from bncheck.gate.waiver import Waiver, concerned, expired, matches, unneeded, waive

TODAY = date(2026, 5, 1)
WAIVER = Waiver("update-phase", "we flush ourselves", date(2026, 12, 31), where="pyproject.toml:9")
PLAYED = {("all-ones", "forward"): {"reference", "torch", "mxnet==1.9.1"}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"cause": "BN103"}, True),
        ({"cause": "bn103"}, True),
        ({"cause": "update-*"}, True),
        ({"cause": "eps"}, False),
        ({"scenario": "all-*"}, True),
        ({"scenario": "all-zeros"}, False),
        ({"case": "forward"}, True),
        ({"case": "backward"}, False),
        ({"targets": ("mxnet",)}, True),
        ({"targets": ("mxnet*", "torch")}, True),
        ({"targets": ("mxnet", "keras")}, False),
    ],
)
def test_everything_it_names_has_to_match(change: dict[str, object], expected: bool) -> None:
    assert matches(replace(WAIVER, **change), CHARGE) is expected


def test_a_target_is_named_with_or_without_its_version_and_brackets_are_plain() -> None:
    charge = replace(CHARGE, names=("reference", "keras[jax]==3.0"))
    assert matches(replace(WAIVER, targets=("keras[jax]",)), charge)
    assert matches(replace(WAIVER, targets=("keras[jax]==3.0",)), charge)
    assert not matches(replace(WAIVER, targets=("kerasj",)), charge)


def test_it_holds_through_the_day_it_names() -> None:
    assert waive(CHARGE, [WAIVER], date(2026, 12, 31)) is WAIVER
    assert waive(CHARGE, [WAIVER], date(2027, 1, 1)) is None


def test_it_is_expired_after_that_day_if_it_concerns_what_was_run() -> None:
    assert expired([WAIVER], PLAYED, date(2027, 1, 1)) == [WAIVER]
    assert expired([WAIVER], PLAYED, TODAY) == []
    assert expired([replace(WAIVER, scenario="all-zeros")], PLAYED, date(2027, 1, 1)) == []


def test_it_is_not_needed_if_what_it_names_ran_and_nothing_is_charged() -> None:
    assert unneeded([WAIVER], [], PLAYED, TODAY) == [WAIVER]
    assert unneeded([WAIVER], [CHARGE], PLAYED, TODAY) == []
    assert unneeded([replace(WAIVER, targets=("keras",))], [], PLAYED, TODAY) == []


def test_what_it_concerns() -> None:
    assert concerned(replace(WAIVER, targets=("mxnet",)), PLAYED)
    assert not concerned(replace(WAIVER, targets=("keras",)), PLAYED)
