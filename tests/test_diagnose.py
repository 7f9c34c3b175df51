"""diagnose(): what is said, what is left out, in which order, for how many targets."""

import numpy as np
from rule_views import attribute, make_case, make_cell, make_pair, make_trace

from bncheck.diagnose import diagnose

ONES = ("train_forward",) * 3
FACTS = {"input_mean": [1.0, 1.0, 1.0], "input_var": [0.0, 0.0, 0.0]}
MOVED = {"running_mean": [0, 0.5, 0.75, 0.875], "running_var": [1, 0.5, 0.25, 0.125]}
STILL = {"running_mean": [0, 0, 0, 0], "running_var": [1, 1, 1, 1]}


def all_ones(targets):
    """Cells of the all-ones case; targets named mxnet stand still, the others move."""
    case = make_case(ONES, shape=(4, 1))
    return [make_cell(case, t, make_trace(ONES, **FACTS, **(STILL if "mxnet" in t else MOVED))) for t in targets]


def pairs_of(cells):
    found = []
    for i, a in enumerate(cells):
        for b in cells[i + 1 :]:
            drift = not np.array_equal(a.trace.arrays["bn/running_mean"], b.trace.arrays["bn/running_mean"])
            values = tuple("backward" if "mxnet" in c.target else "forward" for c in (a, b))
            given = [attribute("update_on", values, quantity=q) for q in ("running_mean", "running_var")]
            found.append(make_pair(a, b, given if drift else ()))
    return found


def test_all_ones_is_update_phase_and_says_what_it_cannot_tell():
    cells = all_ones(["torch==2.13.0@cpu", "mxnet==1.9.1@cpu"])
    (finding,) = diagnose(cells, pairs_of(cells), [])
    assert (finding.cause, finding.kind, finding.explained) == ("update-phase", "convention", 1.0)
    assert finding.title == (
        "mxnet 1.9.1@cpu moves its running statistics in backward, torch 2.13.0@cpu in forward. "
        "Giving mxnet torch's rule removes 100.0 % of the running_mean drift."
    )
    assert set(finding.not_identifiable) == {"variance_divisor", "statistic"}
    assert all("bncheck run probe" in why for why in finding.not_identifiable.values())


def test_twenty_targets_give_one_sentence_for_two_groups():
    cells = all_ones([f"torch==2.{k}.0" for k in range(10)] + [f"mxnet==1.{k}.0" for k in range(10)])
    (finding,) = diagnose(cells, pairs_of(cells), [])
    assert len(finding.targets) == 20
    assert "mxnet 1.0.0@cpu, mxnet 1.1.0@cpu" in finding.title
    assert "move their running statistics in backward" in finding.title


def test_equal_traces_are_silent():
    cells = all_ones(["torch", "flax"])
    assert diagnose(cells, pairs_of(cells), []) == []


def test_a_difference_without_a_cause_is_unexplained_once():
    case = make_case(ONES)
    other = {"running_mean": [0, 0.5, 0.7, 0.9], "running_var": [1, 0.5, 0.25, 0.125]}
    cells = [make_cell(case, t, make_trace(ONES, **FACTS, **s)) for t, s in (("torch", MOVED), ("flax", other))]
    findings = diagnose(cells, pairs_of_unmeasured(cells), [])
    assert [(f.cause, f.quantity) for f in findings] == [("unexplained", "running_mean")]


def pairs_of_unmeasured(cells):
    return [make_pair(cells[0], cells[1])]


def test_one_float32_step_apart_is_rounding():
    case = make_case(ONES)
    near = {**MOVED, "running_mean": [0, 0.5, 0.75, np.nextafter(np.float32(0.875), np.float32(1))]}
    cells = [make_cell(case, t, make_trace(ONES, **FACTS, **s)) for t, s in (("torch", MOVED), ("flax", near))]
    (finding,) = diagnose(cells, pairs_of_unmeasured(cells), [])
    assert (finding.cause, finding.kind, finding.evidence["max_ulp"]) == ("rounding", "rounding", 1.0)
