"""What holds for every rule: its code, its words, how it is found."""

from __future__ import annotations

from typing import Any

import pytest

from bncheck.commands.explain import explain
from bncheck.diagnosis.rules import CHECKS, load_rules
from bncheck.diagnosis.rules.departure import same
from bncheck.errors import UsageError
from bncheck.finding import CAUSES


def test_codes_and_causes_are_unique_and_known():
    rules = load_rules()
    assert len({item.code for item in rules}) == len({item.cause for item in rules}) == len(rules)
    assert {item.cause for item in rules} <= set(CAUSES)


@pytest.mark.parametrize("item", load_rules(), ids=lambda item: item.cause)
def test_every_rule_has_a_title_a_signature_and_advice(item: Any):
    assert item.title.endswith(".") and len(item.title) < 120
    assert "Signature:" in item.explanation and "What to do:" in item.explanation
    assert any(getattr(item, check) for check in CHECKS)


def test_explain_takes_codes_causes_and_any_spelling():
    assert explain("BN103") is explain("bn103") is explain("update-phase") is explain("Update_Phase")


def test_explain_offers_the_nearest_spelling():
    with pytest.raises(UsageError, match="Did you mean BN103 update-phase"):
        explain("update-phas")


def test_nan_as_a_word_equals_itself() -> None:
    """ "nan" names what n = 1 does to the statistics; read as a number it would differ from itself."""
    assert same("nan", "nan")
    assert not same("nan", "unchanged")
    assert same(0.1, 0.1000001)
