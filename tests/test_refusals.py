"""Whose error it is decides what is said of it, and the exit code."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from literal_run import results
from rule_views import make_case, make_cell, make_pair, make_trace

from bncheck.diagnosis.rules import load_rules
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.gate.bar import Bar, hold
from bncheck.gate.charge import charges
from bncheck.report.overview import headline
from bncheck.report.standing import standing
from bncheck.report.verdict_text import error_lines
from bncheck.run_folder.results import CaseResult, CellResult, Expectation, ScenarioResult
from bncheck.trace import Trace
from bncheck.worker import blame

F = "train_forward"


def raised(trace: Trace, origin: str, error: str = "no") -> Trace:
    events = list(trace.events)
    status = "raised" if origin in blame.TELLING else "failed"
    events[0] = replace(events[0], status=status, error_type="ValueError", error=error, origin=origin)
    return replace(trace, events=tuple(events))


def refusals(a: CellView, b: CellView) -> list[Finding]:
    rule = next(each for each in load_rules() if each.cause == "refusal")
    assert rule.check_pair is not None
    assert rule.check_cell is not None
    return [*rule.check_pair(make_pair(a, b)), *rule.check_cell(a), *rule.check_cell(b)]


def cells_with(origin: str, target: str, other: str, **network: str) -> tuple[CellView, CellView]:
    case = make_case((F,))
    case = replace(case, network=replace(case.network, **network))
    half = raised(make_trace((F,), running_mean=[0, 1], running_var=[1, 1]), origin)
    fine = make_trace((F,), running_mean=[0, 1], running_var=[1, 2])
    return make_cell(case, target, half, "raised", origin=origin), make_cell(case, other, fine)


def test_a_framework_is_named_for_its_own_layer_alone() -> None:
    titles = [item.title for item in refusals(*cells_with("framework", "torch", "mlx"))]
    assert titles == [
        "torch refuses train_forward with ValueError; mlx carries it out.",
        "torch raises ValueError in train_forward, but has moved running_mean of bn by then.",
    ]
    for origin in ("bncheck", "backend", "import"):
        assert refusals(*cells_with(origin, "torch", "mlx")) == []


@pytest.mark.parametrize(
    ("target", "network", "layer", "code"),
    [
        ("torch", {}, "", ""),
        ("torch", {"custom": "/a/mine.py:MyNorm"}, "MyNorm", "MyNorm"),
        ("torch[builtin]", {"custom": "/a/mine.py:MyNorm"}, "", ""),
        ("torch[builtin_x]", {"custom": "/a/mine.py:MyNorm"}, "MyNorm", "MyNorm"),
        ("reference", {"custom": "/a/mine.py:MyNorm"}, "", ""),
        ("torch[builtin]", {"model": "mine.py:make"}, "", "make"),
    ],
)
def test_whose_code_stands_in_a_cell(target: str, network: dict[str, str], layer: str, code: str) -> None:
    _, cell = cells_with("", "other", target, **network)
    assert (cell.own_layer, cell.own_code) == (layer, code)


def test_a_layer_of_the_users_is_named_by_its_class() -> None:
    (item,) = refusals(*cells_with("subject", "torch", "torch[builtin]", custom="/a/mine.py:MyNorm"))
    assert (item.title, item.kind) == (
        "MyNorm (your layer) raises ValueError in train_forward; torch[builtin] carries it out.",
        "hazard",
    )
    assert dict(item.evidence) == {"error": "no", "moved by then": "running_mean of bn"}


def test_the_same_network_on_two_targets_is_a_difference() -> None:
    (item,) = refusals(*cells_with("subject", "torch==1.13.1", "torch==2.13.0", model="/a/mine.py:build"))
    assert item.title == (
        "build (your network) raises ValueError in train_forward on torch 1.13.1; it runs on torch 2.13.0."
    )
    assert item.departs == ""


def failing(origin: str, kind: str = "ValueError") -> Any:
    cells = (
        CellResult("all-ones", "forward", "reference", "reference", "ok"),
        CellResult("all-ones", "forward", "torch", "torch", "raised", 0, kind, "no", origin=origin),
    )
    return results(cells=cells, findings=(), drifts=())


@pytest.mark.parametrize(
    ("origin", "code", "sentence"),
    [
        ("framework", 0, ""),
        ("subject", 2, "your code raises ValueError: no"),
        ("backend", 2, "your backend file raises ValueError: no"),
        ("import", 3, "your code raises ValueError: no"),
        ("bncheck", 3, "bncheck itself went wrong, not torch: ValueError: no"),
    ],
)
def test_whose_it_is_decides_the_exit_code(origin: str, code: int, sentence: str) -> None:
    run = failing(origin)
    judged = hold(run, Bar(), date(2026, 5, 1))
    assert judged.exit_code == code
    assert [charge.sentence for charge in charges(run)] == ([sentence] if sentence else [])
    lines = error_lines(judged)
    assert len(lines) == (2 if sentence else 0)
    if sentence:
        assert lines[0] == f"bncheck: all-ones · forward on torch: {sentence}"
        assert standing(run, "all-ones", "forward", "torch").word == "failed"
        assert headline(run) == "1 cell could not be played; there is nothing to compare."


def test_a_sentence_about_a_file_is_said_as_it_is() -> None:
    assert [charge.sentence for charge in charges(failing("subject", "CustomLayerError"))] == ["no"]


def test_a_refusal_that_the_scenario_is_there_to_show_is_none_to_fail_for() -> None:
    run = failing("subject")
    scenario = ScenarioResult(
        "all-ones", cases=(CaseResult("forward", matrix={"n": 1}),),
        expectations=(Expectation(("reference", "torch"), ("refusal",), when={"n": 1}, met=True),),
    )  # fmt: skip
    assert hold(replace(run, scenarios=(scenario,)), Bar(), date(2026, 5, 1)).exit_code == 0
    other = replace(scenario, expectations=(replace(scenario.expectations[0], when={"n": 2}),))
    assert hold(replace(run, scenarios=(other,)), Bar(), date(2026, 5, 1)).exit_code == 2
