"""What a page says of a verdict, and what it says beside each finding."""

from __future__ import annotations

from datetime import date

import literal_run
import pytest

from bncheck.gate.bar import Bar, hold
from bncheck.gate.baseline import record
from bncheck.gate.charge import charges
from bncheck.gate.waiver import Waiver
from bncheck.report.judgement import arrange, said, standings

TODAY = date(2026, 1, 1)


@pytest.mark.parametrize(
    ("standing", "note", "count", "of", "text"),
    [
        ("known", "in the baseline", 6, 6, "known from the baseline"),
        ("known", "in the baseline", 4, 6, "known from the baseline in 4 of 6 cases"),
        ("fails", "new", 1, 1, "new"),
        ("fails", "worse: was a hazard", 1, 2, "worse: was a hazard in 1 of 2 cases"),
        ("fails", "", 1, 1, "fails"),
        ("waived", "until 2027-01-31: archived", 2, 6, "waived in 2 of 6 cases until 2027-01-31: archived"),
    ],
)
def test_words(standing: str, note: str, count: int, of: int, text: str) -> None:
    assert said(standing, note, count, of) == text


def test_groups_without_charges_are_left_out() -> None:
    results = literal_run.results()
    found = arrange(hold(results, Bar("defect"), TODAY))
    assert (found.word, found.exit_code, [group.word for group in found.groups]) == ("fails", 1, ["fails", "below"])
    known = arrange(hold(results, Bar("convention", record(charges(results))), TODAY))
    assert (known.word, [group.word for group in known.groups], known.rot) == ("passes", ["known"], 0)


def test_what_is_below_the_level_says_nothing_beside_its_finding() -> None:
    results = literal_run.results()
    verdict = hold(results, Bar("defect"), TODAY)
    assert standings(verdict, results.findings[:1]) == []
    assert standings(verdict, results.findings[1:]) == [("fails", "fails")]


def test_a_waiver_that_rots_is_counted() -> None:
    late = Waiver("update-phase", "why", date(2025, 1, 1))
    found = arrange(hold(literal_run.results(), Bar("never", None, (late,)), TODAY))
    assert (found.rot, found.expired) == (1, (late,))
