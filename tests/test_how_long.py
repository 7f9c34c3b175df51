"""A layer whose momentum warms up keeps one kind of average at first and another later: no answer says "100 %" beside
"no rule explains it" of all that was tried."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bncheck.finding import Finding
from bncheck.subjects.how_long import as_long_as_it_holds, training_forwards
from bncheck.subjects.layer import REPEAT, Looked, cases_of

FORWARDS = {"usual-loop": 8, "two-forwards-per-backward": 25, "large-batch": 6}


def finding(cause: str, case: str, **more: Any) -> Finding:
    given: dict[str, Any] = {
        "code": "BN107", "kind": "defect", "title": "Mine keeps a cumulative average, PyTorch's an exponential one.",
        "targets": ("a", "b"), "scenario": "mine", "layer": "bn", "quantity": "running_mean",
    }  # fmt: skip
    return Finding(cause=cause, case=case, **{**given, **more})


RULE = finding("averaging", "usual-loop", proof="This accounts for all of the difference in running_mean (100 %).")
OPEN = finding(
    "unexplained", "two-forwards-per-backward", code="BN902",
    title="Mine differs from PyTorch's in running_mean by up to 1.454, and no rule explains it. Also off: running_var.",
)  # fmt: skip


def test_the_programs_of_a_check_have_so_many_forwards_of_training() -> None:
    assert training_forwards(cases_of(Looked("Mine", (8, 4), 4, (), {}, {}, True)), REPEAT) == FORWARDS


def test_a_rule_that_does_not_fit_a_longer_program_says_over_how_many_forwards_it_holds() -> None:
    rule, other = as_long_as_it_holds([RULE, OPEN], FORWARDS)
    assert rule.title == (
        "Over 8 training forwards Mine keeps a cumulative average, PyTorch's an exponential one; over 25 that does not "
        "fit."
    )
    assert rule.proof == "Over the 8, this accounts for all of the difference in running_mean (100 %)."
    assert other.title == (
        "Mine differs from PyTorch's in running_mean by up to 1.454 over 25 training forwards, and no rule explains "
        "it: what fits over 8 does not fit over these. Also off: running_var."
    )


def test_findings_that_do_not_contradict_each_other_stay_as_they_are() -> None:
    everywhere = [RULE, replace(RULE, case="two-forwards-per-backward")]
    assert as_long_as_it_holds([*everywhere, OPEN], FORWARDS) == (*everywhere, OPEN), "it holds in the longest, too"
    shorter = replace(OPEN, case="large-batch")
    assert as_long_as_it_holds([RULE, shorter], FORWARDS) == (RULE, shorter), "fewer forwards may not show it"
    output = replace(OPEN, quantity="output")
    assert as_long_as_it_holds([RULE, output], FORWARDS) == (RULE, output)
    assert as_long_as_it_holds([OPEN], FORWARDS) == (OPEN,)
