"""Expectations against literal findings."""

from __future__ import annotations

from dataclasses import replace

import pytest
from literal_run import drift

from bncheck.diagnosis.expectations import check_expectations, needing_conventions
from bncheck.finding import Finding
from bncheck.run_folder.results import TargetResult
from bncheck.scenario import Case, Event, Expect, InputSpec, Layer, Network, Scenario

CASES = tuple(
    Case(
        "s",
        name,
        name,
        {"program.events": name},
        Network((Layer("bn", "batch_norm"),)),
        {"main": InputSpec((2, 3))},
        (Event("train_forward"),),
    )
    for name in ("f", "fb")
)
TARGETS = [TargetResult(name, name, name) for name in ("reference", "torch", "mxnet")]
PHASE = Finding(
    "BN103", "update-phase", "convention", "", ("reference", "torch", "mxnet"), "s", "f",
    sides=(("reference", "torch"), ("mxnet",)),
)  # fmt: skip


def met(expect: Expect, findings: list[Finding], targets: list[TargetResult] = TARGETS) -> bool | None:
    scenario = Scenario("s", "", "", CASES, (expect,))
    return check_expectations(scenario, targets, findings)[0].met


def test_an_expected_cause_between_two_sides_is_met() -> None:
    assert met(Expect(("mxnet", "torch"), ("update-phase",), when={"program.events": "f"}), [PHASE]) is True


def test_it_is_not_met_where_a_case_lacks_it() -> None:
    assert met(Expect(("mxnet", "torch"), ("update-phase",)), [PHASE]) is False


def test_members_of_one_side_agree() -> None:
    assert met(Expect(("reference", "torch"), agree=True), [PHASE]) is True
    assert met(Expect(("mxnet", "torch"), agree=True), [PHASE]) is False


def test_rounding_is_agreement() -> None:
    rounding = replace(PHASE, cause="rounding", kind="rounding")
    assert met(Expect(("mxnet", "torch"), agree=True), [rounding]) is True


def test_a_hazard_of_one_target_can_be_expected_and_is_no_disagreement() -> None:
    hazard = replace(PHASE, cause="poisoned-state", kind="hazard", targets=("torch",), sides=(("torch",),))
    assert met(Expect(("torch", "mxnet"), ("poisoned-state",), when={"program.events": "f"}), [hazard]) is True
    assert met(Expect(("torch", "mxnet"), agree=True), [hazard]) is True


def test_a_defect_of_one_of_the_two_that_shows_between_them_is_a_disagreement() -> None:
    """Beta is held and not applied: that is said of one target alone, and its output differs all the same."""
    wrong = replace(
        PHASE, code="BN113", cause="affine", kind="defect", layer="", quantity="output", targets=("mxnet",),
        sides=(("mxnet",),),
    )  # fmt: skip
    off = replace(drift("f", "mxnet", "output", 1.28), scenario="s", layer="")
    scenario = Scenario("s", "", "", CASES[:1], (Expect(("mxnet", "reference"), agree=True),))
    (found,) = check_expectations(scenario, TARGETS, [wrong], drifts=[off])
    assert (found.met, found.found) == (False, ("affine",))
    (found,) = check_expectations(scenario, TARGETS, [replace(wrong, kind="hazard")], drifts=[off])
    assert found.met is True
    (found,) = check_expectations(scenario, TARGETS, [wrong])
    assert found.met is True, "nothing differs between the two"


@pytest.mark.parametrize("word", ["keras", "torch[functional]"])
def test_an_absent_target_makes_it_not_applicable(word: str) -> None:
    assert met(Expect((word, "torch"), agree=True), []) is None


def test_an_unavailable_target_is_absent() -> None:
    targets = [TARGETS[1], replace(TARGETS[2], status="unavailable")]
    assert met(Expect(("mxnet", "torch"), agree=True), [], targets) is None


def test_a_backend_s_name_means_all_its_plain_versions() -> None:
    targets = [TARGETS[1], TargetResult("mxnet==1.7.0", "m", "mxnet"), TargetResult("mxnet[raw]", "r", "mxnet", "raw")]
    finding = replace(PHASE, sides=(("torch",), ("mxnet[raw]",)))
    assert met(Expect(("mxnet", "torch"), agree=True), [finding], targets) is True


def checked(expect: Expect, findings: list[Finding]) -> tuple[bool | None, str]:
    """What becomes of it in a run that measured no conventions."""
    (found,) = check_expectations(Scenario("s", "", "", CASES[:1], (expect,)), TARGETS, findings, measured=False)
    return found.met, found.reason


NOT_MEASURED = "no conventions were measured (--no-probe), and only they can name "


@pytest.mark.parametrize(
    ("causes", "met", "reason"),
    [
        (("update-phase",), True, ""),  # a trace can show it
        (("batch-weight",), None, f"{NOT_MEASURED}batch-weight"),
        (("update-phase", "batch-weight", "eps"), None, f"{NOT_MEASURED}batch-weight, eps"),
        (("poisoned-state",), False, ""),  # needs none, and is not there
        (("batch-weight", "poisoned-state"), False, ""),
    ],
)
def test_without_conventions_a_cause_that_only_they_can_name_is_not_checked(
    causes: tuple[str, ...], met: bool | None, reason: str
) -> None:
    assert checked(Expect(("mxnet", "torch"), causes), [PHASE]) == (met, reason)


def test_without_conventions_agreement_is_checked_all_the_same() -> None:
    assert checked(Expect(("reference", "torch"), agree=True), [PHASE]) == (True, "")
    assert checked(Expect(("mxnet", "torch"), agree=True), [PHASE]) == (False, "")


def test_causes_that_rest_on_conventions() -> None:
    assert needing_conventions() == {
        "initial-state", "variance-divisor", "update-phase", "update-count", "counter-skew", "batch-weight",
        "averaging", "wrong-statistic", "single-value", "empty-batch", "normaliser-source", "eps",
        "cancellation", "layout",
    }  # fmt: skip


def test_another_spelling_of_a_target_is_that_target() -> None:
    assert met(Expect(("mxnet@cpu", "torch"), ("update-phase",), when={"program.events": "f"}), [PHASE]) is True
    assert met(Expect(("mxnet@cuda", "torch"), ("update-phase",)), [PHASE]) is None
