"""Which targets are named together: those that played the same, and agree in all of it."""

from __future__ import annotations

from dataclasses import replace

from rule_views import make_case, make_cell, make_pair, make_trace

from bncheck.diagnosis.diagnose import CaseViews, agreeing_groups
from bncheck.evidence import CellView

FF = ("train_forward", "backward", "train_forward")


def cell(name: str, status: tuple[str, str, str], moved: float) -> CellView:
    trace = make_trace(FF, running_mean=[0, moved, moved, moved])
    events = tuple(replace(event, status=word) for event, word in zip(trace.events, status, strict=True))
    return make_cell(make_case(FF), name, replace(trace, events=events), "unsupported")


def grouped(one: CellView, two: CellView) -> int:
    pair = make_pair(one, two)
    return len(agreeing_groups(CaseViews([one, two], {frozenset((one.target, two.target)): pair})))


def test_one_that_refused_the_forward_is_not_named_with_one_that_lacks_backward() -> None:
    """Both cells are unsupported, and up to the first event they agree: torch[channels_last] on 2-D, onnxruntime."""
    lacks_backward = cell("onnxruntime", ("ok", "unsupported", "ok"), 2.0)
    lacks_layout = cell("torch", ("unsupported", "skipped", "unsupported"), 0.0)
    assert grouped(lacks_backward, lacks_layout) == 2


def test_two_that_lack_the_same_are_named_together() -> None:
    status = ("ok", "unsupported", "ok")
    assert grouped(cell("onnxruntime", status, 2.0), cell("tinygrad", status, 2.0)) == 1
