"""The table of events: a row is all that a stage knows of an event, and a new one needs nothing else of the host."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
from readme_tables import DOCS
from rule_views import make_case, make_cell, make_trace
from test_firm_lines import nodes

import bncheck
from bncheck import scenario
from bncheck.diagnosis.drifts import drifts_between
from bncheck.evidence import Drift
from bncheck.scenario import OPS, Op, describe_ops, op_of
from bncheck.trace import Trace

HOST = Path(bncheck.__file__).parent
NEW = Op(name="reset_statistics", says="start the statistics anew", counts=True, changes=("state",))


def lacking(trace: Trace, event: int) -> Trace:
    """The trace of a target that does not support the event."""
    records = list(trace.events)
    records[event] = dataclasses.replace(records[event], status="unsupported")
    return dataclasses.replace(trace, events=tuple(records))


def drifts_behind(op: str) -> list[Drift]:
    """Of two targets that agree up to event 1, which the second does not have, and differ from there on."""
    ops = ("train_forward", op, "eval_forward")
    a, b = (make_trace(ops, running_mean=[0, 1, 1 + far, 1 + far], output__2=[2 + far]) for far in (0.0, 0.5))
    case = make_case(ops)
    found = drifts_between(case, make_cell(case, "a", a), make_cell(case, "b", lacking(b, 1)))
    return [drift for drift in found if drift.relation != "agrees"]


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_nothing_is_compared_behind_an_event_that_counts_and_that_one_side_lacks(op: Op) -> None:
    assert (drifts_behind(op.name) == []) == op.counts


def test_a_new_row_alone_is_compared_rightly(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drifts_behind(NEW.name) != []  # a word that nobody knows makes no other program
    monkeypatch.setitem(scenario._OP_OF, NEW.name, NEW)
    assert drifts_behind(NEW.name) == []


class Resetting(planted.Target):
    """The oracle with one event more: a method of its name."""

    def build(self, *arguments: Any) -> Any:
        model = super().build(*arguments)

        def reset_statistics() -> None:
            for norm in model.norms.values():
                norm.mean = np.zeros_like(norm.mean)

        model.reset_statistics = reset_statistics
        return model


@pytest.mark.parametrize("target", [Resetting, planted.Target])
def test_a_new_row_is_played_by_a_backend_that_has_its_method(
    monkeypatch: pytest.MonkeyPatch, target: type[planted.Target]
) -> None:
    monkeypatch.setitem(scenario._OP_OF, NEW.name, NEW)
    monkeypatch.setattr(planted, "Target", target)
    case = planted.case_of("F E", (4, 3))
    case = dataclasses.replace(case, events=(case.events[0], scenario.Event(NEW.name), case.events[1]))
    batches = np.ones((2, 4, 3))
    _, trace, _ = planted.play(case, planted.arrays_of(case, {"main": batches}), {})
    mean = trace.get("bn", "running_mean")
    assert mean is not None
    assert trace.events[1].status == ("ok" if target is Resetting else "unsupported")
    assert (mean[1] > 0).all()
    assert bool((mean[2] == 0).all()) is (target is Resetting)


def test_every_event_has_its_row_in_the_docs() -> None:
    """The table there is made of the rows here (``test_readme``); each says what it does."""
    text = (DOCS / "scenarios.md").read_text(encoding="utf-8")
    assert [op.name for op in OPS if f"\n| `{op.name}` | " not in text or not op.says] == []


def test_a_word_from_elsewhere_is_no_forward_and_counts_for_nothing() -> None:
    op = op_of("teleport")
    assert (op.name, op.forward, op.counts, op.records, op.reads, op.arguments) == (
        "teleport",
        False,
        False,
        False,
        "",
        (),
    )


def test_the_worker_is_told_what_the_rows_say() -> None:
    assert describe_ops(["no_grad_forward", "reload", "reload"]) == {
        "no_grad_forward": {"runs": "network", "reads": "next", "call": "no_grad", "records": False, "folder": False},
        "reload": {"runs": "", "reads": "", "call": "", "records": False, "folder": True},
    }


def lists_of_events(path: Path) -> list[str]:
    """Places where a file lists three or more events by name: a property of theirs, told beside the table. Forward,
    backward and flush alone are phases, which are words of conventions too."""
    names = {op.name for op in OPS}
    found = []
    for node in nodes(path):
        if isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict):
            words = names & {word.value for word in listed(node) if isinstance(word, ast.Constant)}
            if len(words) > 2 and any("_" in word for word in words):
                found.append(f"{path.relative_to(HOST)}:{node.lineno}")
    return found


def listed(node: ast.Tuple | ast.List | ast.Set | ast.Dict) -> list[ast.expr]:
    return [key for key in node.keys if key is not None] if isinstance(node, ast.Dict) else node.elts


def test_no_file_but_the_table_lists_events() -> None:
    backends = HOST / "worker" / "backends"
    files = [path for path in HOST.rglob("*.py") if path != HOST / "scenario.py" and backends not in path.parents]
    assert len(files) > 150
    assert [place for path in files for place in lists_of_events(path)] == []
