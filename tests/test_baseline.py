"""Baselines: the file, and the rule by which a charge is new, known or worse."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncheck.errors import BaselineError
from bncheck.gate.baseline import Entry, dump, gone, parse, record, standing_of
from bncheck.gate.blamed import EXITS
from bncheck.gate.charge import Charge

CHARGE = Charge(
    "convention", "BN103", "update-phase", "all-ones", "forward", (("reference", "torch"), ("mxnet",)),
    ("reference", "torch", "mxnet"), "mxnet moves in backward", "bn", "running_mean", 0.9, 1.0,
)  # fmt: skip
KNOWN = record([CHARGE])


def test_the_file_has_a_line_per_entry_and_reads_back() -> None:
    text = dump(KNOWN)
    assert text == (
        '{\n "format": 1,\n "known": [\n'
        '  {"scenario": "all-ones", "case": "forward", "cause": "update-phase", "kind": "convention", '
        '"targets": [["mxnet"], ["reference", "torch"]], "layer": "bn", "quantity": "running_mean", '
        '"size": 0.9, "explained": 1.0}\n ]\n}\n'
    )
    assert parse(text, "b.json") == KNOWN
    assert parse(dump(()), "b.json") == ()


def test_the_file_is_sorted_and_does_not_change_in_the_last_digits() -> None:
    other = replace(CHARGE, scenario="all-zeros")
    assert dump(record([CHARGE, other])) == dump(record([other, CHARGE]))
    assert dump(record([replace(CHARGE, size=0.9000001)])) == dump(KNOWN)


def test_what_was_recorded_is_known() -> None:
    assert standing_of(CHARGE, KNOWN) == "known"


@pytest.mark.parametrize(
    "change",
    [
        {"scenario": "all-zeros"},
        {"case": "other"},
        {"cause": "eps"},
        {"layer": "bn2"},
        {"sides": (("reference", "torch"), ("mxnet", "keras"))},
        {"sides": (("reference",), ("torch",))},
    ],
)
def test_another_place_cause_or_target_is_new(change: dict[str, object]) -> None:
    assert standing_of(replace(CHARGE, **change), KNOWN) == "new"


def test_a_finding_may_speak_of_another_quantity_of_the_same_cause() -> None:
    assert standing_of(replace(CHARGE, quantity="running_var", size=5.0), KNOWN) == "known"
    assert gone(KNOWN, [replace(CHARGE, quantity="running_var")], {("all-ones", "forward"): set(CHARGE.names)}) == []


def test_a_drift_without_a_finding_is_its_quantity() -> None:
    drift = replace(CHARGE, kind="drift", cause="drift", explained=None)
    assert standing_of(drift, record([drift])) == "known"
    assert standing_of(replace(drift, quantity="output"), record([drift])) == "new"


def test_what_names_no_target_is_new() -> None:
    assert standing_of(replace(CHARGE, sides=((),)), KNOWN) == "new"


def test_a_target_that_is_not_there_this_time_makes_nothing_new() -> None:
    assert standing_of(replace(CHARGE, sides=(("torch",), ("mxnet",))), KNOWN) == "known"
    assert standing_of(replace(CHARGE, sides=(("mxnet",), ("torch",))), KNOWN) == "known"


def test_grown_to_twice_is_known_and_to_more_is_worse() -> None:
    assert standing_of(replace(CHARGE, size=1.8), KNOWN) == "known"
    assert standing_of(replace(CHARGE, size=1.9), KNOWN) == "worse: off by 1.9, was 0.9"


def test_growth_within_the_tolerance_is_known_however_many_times_it_is() -> None:
    tiny = record([replace(CHARGE, size=1e-9)])
    assert standing_of(replace(CHARGE, size=9e-6), tiny, atol=1e-5) == "known"
    assert standing_of(replace(CHARGE, size=2e-5), tiny, atol=1e-5).startswith("worse")


def test_no_longer_finite_is_worse_and_still_not_finite_is_known() -> None:
    broken = replace(CHARGE, size=math.nan)
    assert standing_of(broken, KNOWN) == "worse: off by NaN or Inf, was 0.9"
    kept = parse(dump(record([broken])), "b.json")
    assert standing_of(broken, kept) == "known"
    assert standing_of(CHARGE, kept) == "known"


def test_a_graver_kind_is_worse_and_a_milder_one_is_not() -> None:
    assert standing_of(replace(CHARGE, kind="defect"), KNOWN) == "worse: was a convention"
    assert standing_of(replace(CHARGE, kind="convention"), record([replace(CHARGE, kind="defect")])) == "known"


@pytest.mark.parametrize("kind", EXITS)
def test_a_cell_that_was_not_carried_out_is_graver_than_any_finding(kind: str) -> None:
    """A refusal that is known does not hide that bncheck itself went wrong in that place."""
    refusal = replace(CHARGE, cause="refusal", kind="hazard", sides=(("torch",),), layer="", quantity="")
    for known in ("hazard", "defect"):
        entries = record([replace(refusal, kind=known)])
        assert standing_of(replace(refusal, kind=kind), entries) == f"worse: was a {known}"


def test_a_cause_that_explains_less_than_before_is_worse() -> None:
    assert standing_of(replace(CHARGE, explained=0.95), KNOWN) == "known"
    assert standing_of(replace(CHARGE, explained=0.5), KNOWN) == "worse: explains 50.0 % of it, was 100.0 %"


def test_gone_is_what_was_played_and_not_charged() -> None:
    everyone = {"reference", "torch", "mxnet"}
    assert gone(KNOWN, [], {("all-ones", "forward"): everyone}) == list(KNOWN)
    assert gone(KNOWN, [CHARGE], {("all-ones", "forward"): everyone}) == []
    assert gone(KNOWN, [], {("all-ones", "forward"): {"reference", "torch"}}) == []
    assert gone(KNOWN, [], {("all-zeros", "base"): everyone}) == []


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_worse_is_exactly_more_than_twice_and_more_than_the_tolerance(old: float, new: float) -> None:
    entry = Entry("s", "c", "eps", "convention", (("a",), ("b",)), size=old)
    charge = Charge("convention", "", "eps", "s", "c", (("a",), ("b",)), ("a", "b"), "", size=new)
    assert (standing_of(charge, [entry], atol=0.5) == "known") == (new <= 2 * old or new <= old + 0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "is no baseline"),
        ('{"format": 2, "known": []}', "is no baseline"),
        ('{"format": 1, "known": [{}]}', "entry 1 has a wrong shape"),
        ('{"format": 1, "known": [7]}', "entry 1 has a wrong shape"),
        (
            '{"format": 1, "known": [{"scenario": "s", "cause": "c", "targets": [["a"]], "size": "big"}]}',
            "not a number",
        ),
        ('{"format": 1, "known": [{"scenario": "s", "cause": "c", "targets": []}]}', "missing"),
        ("[" * 100000, "is not JSON"),
    ],
)
def test_a_file_that_is_no_baseline_is_a_sentence(text: str, said: str) -> None:
    with pytest.raises(BaselineError, match=said) as caught:
        parse(text, "b.json")
    assert "bncheck baseline update" in caught.value.remedy
