"""What speaks against a run, from results made of literal numbers."""

from __future__ import annotations

import math

from literal_run import SCENARIOS, TARGETS, drift, finding, results

from bncheck.gate.charge import charges, plain_names
from bncheck.run_folder.results import CellResult, Expectation, ScenarioResult, TargetResult

SIDES = (("reference", "torch"), ("mxnet",))


def test_a_finding_becomes_a_charge_with_the_largest_drift_between_its_sides() -> None:
    drifts = (
        drift("forward", "mxnet", "running_mean", 0.25, 0.1),
        drift("forward", "mxnet", "running_mean", 0.75, 0.1, a="torch"),
        drift("forward", "mxnet", "running_var", 9.0, 0.1),
    )
    (charge,) = charges(results(findings=(finding(sides=SIDES),), drifts=drifts))
    assert (charge.kind, charge.cause, charge.scenario, charge.case) == (
        "convention", "update-phase", "all-ones", "forward",
    )  # fmt: skip
    assert charge.sides == SIDES
    assert charge.pairs == (("reference", "mxnet"), ("torch", "mxnet"))
    assert charge.size == 0.75


def test_a_drift_that_is_not_finite_on_one_side_has_the_size_nan() -> None:
    drifts = (drift("forward", "mxnet", "running_mean", 0.25, relation="nonfinite"),)
    (charge,) = charges(results(findings=(finding(sides=SIDES),), drifts=drifts))
    assert charge.size is not None
    assert math.isnan(charge.size)


def test_rounding_is_no_charge() -> None:
    assert charges(results(findings=(finding(kind="rounding", cause="rounding"),), drifts=())) == ()


def test_versions_are_left_out_unless_two_targets_would_have_one_name() -> None:
    assert plain_names(["torch==2.13.0@cuda", "torch"]) == {"torch==2.13.0@cuda": "torch@cuda", "torch": "torch"}
    assert plain_names(["torch==1.1.0", "torch"]) == {"torch==1.1.0": "torch==1.1.0", "torch": "torch"}
    torch = TargetResult("torch==2.13.0", "torch-2.13.0", "torch", version="2.13.0")
    run = results(
        targets=(TARGETS[0], torch), cells=(), drifts=(),
        findings=(finding(sides=(("reference",), ("torch==2.13.0",)), targets=("reference", "torch==2.13.0")),),
    )  # fmt: skip
    (charge,) = charges(run)
    assert charge.sides == (("reference",), ("torch",))
    assert charge.names == ("reference", "torch==2.13.0")


def test_a_crashed_cell_is_charged_once_although_a_rule_says_it_too() -> None:
    cell = CellResult("all-ones", "forward", "mxnet", "mxnet", "crashed", 0, "SIGFPE", "the process was killed\nstack")
    said = finding(cause="crash", code="BN502", kind="defect", targets=("mxnet",), sides=())
    (charge,) = charges(results(cells=(cell,), findings=(said,), drifts=()))
    assert (charge.kind, charge.cause, charge.targets) == ("crashed", "crash", ("mxnet",))
    assert charge.sentence == "mxnet crashed: the process was killed"


def test_an_expectation_that_did_not_come_true_is_a_charge_and_one_without_an_answer_is_none() -> None:
    unmet = Expectation(("mxnet", "torch"), ("update-phase",), met=False, found=("eps",))
    unknown = Expectation(("mxnet", "torch@cuda"), ("update-phase",), met=None)
    scenario = ScenarioResult("all-ones", cases=SCENARIOS[0].cases, expectations=(unmet, unknown))
    (charge,) = charges(results(scenarios=(scenario,), cells=(), findings=(), drifts=()))
    assert charge.kind == "expectation"
    assert charge.sentence == "mxnet and torch were expected to show update-phase; found eps."


def test_a_drift_is_charged_where_no_finding_is_about_its_two_targets() -> None:
    drifts = (
        drift("forward", "mxnet", "running_mean", 0.5),
        drift("forward", "torch", "running_mean", 0.5),
        drift("forward", "torch", "running_var", 0.0),
    )
    about_mxnet = finding(sides=(("reference",), ("mxnet",)), targets=("reference", "mxnet"))
    found = charges(results(findings=(about_mxnet,), drifts=drifts))
    assert [(charge.kind, charge.targets, charge.size) for charge in found[1:]] == [
        ("drift", ("reference", "torch"), 0.5)
    ]
