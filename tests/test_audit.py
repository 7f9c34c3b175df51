"""The audit of finished runs: green over real ones, red as soon as one finding is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from literal_run import drift, finding
from rule_views import make_case, make_cell, make_pair, make_trace

from bncheck.diagnosis import accounting
from bncheck.diagnosis import diagnose as diagnosis
from bncheck.diagnosis.audit import audit, loud_rounding, silent_drifts
from bncheck.diagnosis.diagnose import diagnose
from bncheck.diagnosis.rules.remainder import bn901_rounding
from bncheck.finding import Finding
from bncheck.run_folder.results import Results, read_results

ONE = drift("forward", "mxnet", "running_mean", 0.9)


def test_the_default_run_leaves_nothing_unsaid(default_run: Path) -> None:
    assert audit(read_results(default_run)) == ()


def test_versions_leave_nothing_unsaid(version_run: Path) -> None:
    assert audit(read_results(version_run)) == ()


def test_without_any_of_its_findings_a_run_is_not_honest(default_run: Path) -> None:
    """Most differences have one cause: where it is not said any more, the audit turns red in that very case."""
    results = read_results(default_run)
    between = [item for item in results.findings if item.of_difference and item.kind != "rounding"]
    red = [item for item in between if cases_left_silent(results, item) == {(item.scenario, item.case)}]
    assert len(between) > 10
    # Two causes of one difference cover for each other; everywhere else the finding that is gone is missed.
    assert len(red) >= 0.6 * len(between)


def cases_left_silent(results: Results, gone: Finding) -> set[tuple[str, str]]:
    rest = tuple(item for item in results.findings if item is not gone)
    return {(fault.scenario, fault.case) for fault in audit(replace(results, findings=rest))}


@pytest.mark.parametrize(
    ("said", "silent"),
    [
        ({"sides": (("mxnet",), ("reference",))}, False),
        ({"sides": (("mxnet",), ("torch", "reference"))}, False),
        ({"sides": (("mxnet",), ("torch",))}, True),  # between others
        ({"sides": (("mxnet", "reference"), ("torch",))}, True),  # both on one side
        ({"sides": (("mxnet",), ("reference",)), "quantity": "running_var"}, True),
        ({"sides": (("mxnet",), ("reference",)), "layer": "bn2"}, True),
        ({"sides": (("mxnet",), ("reference",)), "case": "forward-backward"}, True),
        ({"sides": (("mxnet",), ("reference",)), "quantity": "output", "accounts": (("bn", "running_mean"),)}, False),
        ({"code": "BN409", "cause": "layer-contract", "targets": ("mxnet",), "quantity": ""}, True),
        ({"code": "BN409", "cause": "layer-contract", "accounts": (("bn", "running_mean"),), "quantity": ""}, True),
        ({"code": "BN901", "cause": "rounding", "kind": "rounding", "sides": (("mxnet",), ("reference",))}, False),
        ({"code": "BN901", "cause": "rounding", "kind": "rounding", "targets": ("mxnet", "torch")}, True),
        ({"code": "BN406", "cause": "folding", "kind": "rounding"}, True),  # about each of them, not about both
        ({"code": "BN301", "cause": "poisoned-state", "targets": ("mxnet",)}, False),
        ({"code": "BN301", "cause": "poisoned-state"}, True),  # both have it: it sets neither apart
        ({"code": "BN201", "cause": "cancellation"}, False),  # both lose digits, and not the same ones
    ],
)
def test_a_drift_is_said_only_by_a_finding_about_that_quantity_between_those_two(said: dict, silent: bool) -> None:  # type: ignore[type-arg]
    assert list(silent_drifts([ONE], [finding(**said)])) == ([ONE] if silent else [])


def test_nan_is_never_rounding() -> None:
    lost = replace(ONE, relation="nonfinite")
    sides = (("mxnet",), ("reference",))
    rounding = finding(code="BN901", cause="rounding", kind="rounding", targets=("mxnet", "reference"), sides=sides)
    assert list(silent_drifts([lost], [rounding])) == [lost]


def test_a_bound_that_excuses_everything_turns_the_audit_red(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real bound says 2.4e-7 of a running mean of ones; a rule that calls 0.25 rounding is caught by it."""
    case = make_case(("train_forward",))
    facts = {"input_mean": [1.0], "input_var": [0.0], "running_var": [1.0, 0.5]}
    cells = [
        make_cell(case, name, make_trace(("train_forward",), running_mean=[0.0, held], **facts))
        for name, held in (("one", 0.5), ("two", 0.75))
    ]
    assert [item.kind for item in diagnose(cells, [make_pair(*cells)], [])] == ["unexplained"]
    for module in (accounting, diagnosis, bn901_rounding):
        monkeypatch.setattr(module, "is_rounding", lambda pair, drift: True)
    (called,) = diagnose(cells, [make_pair(*cells)], [])
    assert called.kind == "rounding"
    assert [fault.quantity for fault in loud_rounding([called])] == ["running_mean"]


def test_rounding_above_its_bound_is_a_fault(default_run: Path) -> None:
    results: Results = read_results(default_run)
    place = next(k for k, item in enumerate(results.findings) if item.kind == "rounding")
    loud = replace(results.findings[place], evidence={"share of the rounding bound": 1.5})
    found = (*results.findings[:place], loud, *results.findings[place + 1 :])
    assert [fault.sentence for fault in audit(replace(results, findings=found))] == [
        f"{loud.title} It is 1.5 times the bound."
    ]
    unknown = replace(loud, evidence={"share of the rounding bound": float("nan")})  # no bound was met
    assert [fault.sentence for fault in audit(replace(results, findings=(unknown,))) if "times" in fault.sentence] == [
        f"{loud.title} It is nan times the bound."
    ]
