"""Networks of one's own as they are handed over: what their BatchNorm layers hold is judged without a second target."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from at_the_prompt import here
from rule_views import make_case, make_cell, make_trace

from bncheck.diagnosis.rules import load_rules
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.run_folder.results import Results, read_results
from bncheck.scenario import Network

MODELS = Path(__file__).parent / "handed_over_models.py"
SCENARIO = """
title = "Handed over"
why = "Each has one fault, or none."
targets = ["torch", "torch[no_onednn]"]
[network]
model = "handed_over_models.py:build"
[input]
shape = [4, 3, 6, 6]
mean = -1.0
std = 3.0
[program]
first = ["forward", "eval_forward"]
events = ["train_forward", "backward"]
then = ["eval_forward"]
[matrix]
"network.arguments.spoilt" = ["nothing", "counters", "statistics", "weight", "mode", "variance"]
"""
# What was spoilt → the cause, its layer, words of the sentence.
WANTED = {
    "counters": ("counter-skew", "0", "the counter of 1 of 2 BatchNorm layers (0) is 0 before any event"),
    "statistics": ("never-updated", "0", "normalises 1 of 2 BatchNorm layers (0) with the statistics of a new layer"),
    "weight": ("batch-weight", "0", "momentum of 2 of 2 BatchNorm layers (0, 2) is 0.99. After each step 1 %"),
    "mode": ("mode-leak", "2", "1 of 2 BatchNorm layers (2) is in training mode when it is handed over"),
    "variance": ("poisoned-state", "2", "because running_var is -2 there before any event"),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("handed")
    shutil.copy(MODELS, folder)
    (folder / "handed.toml").write_text(SCENARIO, encoding="utf-8")
    done = here("run", str(folder / "handed.toml"), "--no-report", "-q", "--out", str(folder / "run"))
    assert done.returncode == 0, done.stderr
    return read_results(folder / "run")


def about(results: Results, spoilt: str) -> list[Finding]:
    (name,) = [case.name for scenario in results.scenarios if not scenario.probe for case in scenario.cases
               if case.matrix["network.arguments.spoilt"] == spoilt]  # fmt: skip
    return [item for item in results.findings if item.case == name and item.kind != "rounding"]


def test_a_network_in_order_is_left_alone(results: Results) -> None:
    assert about(results, "nothing") == []


@pytest.mark.parametrize("spoilt", WANTED)
def test_what_is_spoilt_is_named_once_with_its_layer(results: Results, spoilt: str) -> None:
    cause, layer, words = WANTED[spoilt]
    (finding,) = about(results, spoilt)
    assert (finding.cause, finding.layer, finding.kind) == (cause, layer, "hazard")
    assert words in finding.title


F, G, E = "train_forward", "forward", "eval_forward"
USUAL: dict[str, Any] = {"input_mean": [2.0], "input_var": [9.0], "n": [8]}


def network(op: str, model: str | None = "mine.py:build", **arrays: Any) -> CellView:
    held = {name: [value, value] for name, value in arrays.items() if name not in USUAL}
    case = replace(make_case((op,)), network=Network((), model=model))
    return make_cell(case, "torch", make_trace((op,), **{**USUAL, **held}))


def causes(cell: CellView) -> list[str]:
    return [item.cause for rule in load_rules() if rule.check_cell for item in rule.check_cell(cell)]


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        (network(E, running_mean=0, running_var=1), ["never-updated"]),
        (network(E, None, running_mean=0, running_var=1), []),  # a framework's own layer starts so
        (network(F, running_mean=0, running_var=1), []),  # it is trained before it evaluates
        (network(E, running_mean=0.1, running_var=1), []),
        (network(E, running_mean=1.5, running_var=8, counter=0), ["counter-skew"]),
        (network(E, running_mean=1.5, running_var=8, counter=12), []),
        (network(F, running_mean=0, running_var=0, counter=0), []),  # an average that is divided by its own weights
        (network(E, running_mean=1.5, running_var=8, momentum=0.1), []),
        (network(E, running_mean=1.5, running_var=8, momentum=0.9), ["batch-weight"]),
        (network(E, running_mean=1.5, running_var=8, momentum=0), ["batch-weight"]),
        (network(E, running_mean=1.5, running_var=8, momentum=np.nan), []),  # momentum=None
    ],
)
def test_what_one_layer_holds_before_any_event(cell: CellView, found: list[str]) -> None:
    assert causes(cell) == found


def test_a_counter_that_training_leaves_at_0_was_not_lost() -> None:
    """PyTorch's InstanceNorm with running statistics has num_batches_tracked, and never moves it."""
    held = dict(USUAL, running_mean=[1.5, 1.6], running_var=[8, 8.1], momentum=[0.1, 0.1])
    of = replace(make_case((F,)), network=Network((), model="mine.py:build"))
    assert "counter-skew" not in causes(make_cell(of, "torch", make_trace((F,), counter=[0, 0], **held)))
    assert "counter-skew" in causes(make_cell(of, "torch", make_trace((F,), counter=[0, 1], **held)))


@pytest.mark.parametrize(
    ("gamma", "beta", "trained"), [(1.0, 0.0, False), (0.0, 0.0, False), (1.5, 0.0, True), (1.0, 0.2, True)]
)
def test_a_new_network_may_be_looked_at_before_its_first_step(gamma: float, beta: float, trained: bool) -> None:
    trace = make_trace(
        (E, F), running_mean=[0, 0, 0.2], running_var=[1, 1, 1.8], input_mean=[2.0, 2.0], input_var=[9.0, 9.0],
        n=[8, 8], gamma=[gamma] * 3, beta=[beta] * 3,
    )  # fmt: skip
    cell = make_cell(replace(make_case((E, F)), network=Network((), model="mine.py:build")), "torch", trace)
    assert ("never-updated" in causes(cell)) is trained


@pytest.mark.parametrize(
    ("mean", "var", "unlike"), [(0.1, 1.2, False), (0.6, 1.0, True), (0.0, 2.5, True), (0.0, 0.3, True)]
)
def test_data_that_a_new_layer_describes_are_no_reason(mean: float, var: float, unlike: bool) -> None:
    cell = network(E, running_mean=0, running_var=1)
    assert cell.trace is not None
    facts = {"bn/input_mean": np.array([[mean]]), "bn/input_var": np.array([[var]])}
    cell = replace(cell, trace=replace(cell.trace, arrays={**cell.trace.arrays, **facts}))
    assert causes(cell) == ["never-updated"] * unlike


@pytest.mark.parametrize(("one", "two", "mixed"), [(1, 0, True), (1, 1, False), (0, 0, False)])
def test_modes_are_mixed_only_where_layers_differ_before_anything_sets_them(one: int, two: int, mixed: bool) -> None:
    cell = network(G, running_mean=0.1, running_var=1, training=one)
    assert cell.trace is not None
    second = {name.replace("bn/", "bn2/"): rows for name, rows in cell.trace.arrays.items()}
    second["bn2/training"] = np.array([two, two], dtype=np.int8)
    cell = replace(cell, trace=replace(cell.trace, arrays={**cell.trace.arrays, **second}))
    assert causes(cell) == ["mode-leak"] * mixed


def test_all_layers_with_the_statistics_of_a_new_one_are_counted_if_one_of_them_meets_other_data() -> None:
    cell = network(E, running_mean=0, running_var=1)
    assert cell.trace is not None
    second = {name.replace("bn/", "bn2/"): rows for name, rows in cell.trace.arrays.items()}
    second.update({"bn2/input_mean": np.array([[0.1]]), "bn2/input_var": np.array([[1.1]])})
    cell = replace(cell, trace=replace(cell.trace, arrays={**cell.trace.arrays, **second}))
    (found,) = [item for rule in load_rules() if rule.check_cell for item in rule.check_cell(cell)]
    assert "normalises 2 of 2 BatchNorm layers (bn, bn2) with the statistics of a new layer" in found.title
    assert "means up to 2 and variances from 1.1 to 9" in found.title
