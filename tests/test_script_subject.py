"""What a kit's script looks at: the rows that the run paired, as far as both sides played alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from planted import arrays_of, case_of, play

from bncheck.diagnosis.drifts import pair_series, same_program
from bncheck.finding import Finding
from bncheck.repro.standalone.frame import header
from bncheck.repro.standalone.steps import annotate
from bncheck.repro.standalone.subject import Played, Subject, make_subject
from bncheck.run_folder.results import TargetResult
from bncheck.trace import STATISTICS, Trace

CASE = case_of("F B E F B", (16, 3))
INPUTS = arrays_of(CASE, {"main": np.random.default_rng(0).normal(size=(5, 16, 3))})
ROUNDING = Finding(
    code="BN901",
    cause="rounding",
    kind="rounding",
    title="rounding",
    advice="",
    targets=("one", "two"),
    scenario="planted",
    case="base",
    layer="bn",
    event=None,
    quantity="running_mean",
    evidence={},
    sides=(("one",), ("two",)),
)


def played(name: str, trace: Trace) -> Played:
    return Played(TargetResult(name, name, name), trace)


def subject_between(one: Trace, two: Trace) -> Subject:
    return make_subject(ROUNDING, CASE, INPUTS, [played("one", one), played("two", two)], "one")


def departed(trace: Trace, event: int) -> Trace:
    """The trace of a target that cannot play that event, and is at another program behind it."""
    record = replace(trace.events[event], status="unsupported")
    arrays = {name: np.array(rows) for name, rows in trace.arrays.items()}
    for name in ("bn/running_mean", "bn/running_var"):
        arrays[name][event + 1 :] += 1.0
    return Trace((*trace.events[:event], record, *trace.events[event + 1 :]), arrays)


def test_rows_are_those_that_the_run_paired() -> None:
    (_, one, _), (_, two, _) = play(CASE, INPUTS, {}), play(CASE, INPUTS, {"batch_weight": 0.9})
    subject = subject_between(one, two)
    series = {(s.layer, s.quantity): s for s in pair_series(CASE, one, two, same_program(one, two))}
    assert {q.name for q in subject.quantities} >= {"running_mean", "running_var"}
    for quantity in subject.quantities:
        run = next(series[layer, quantity.name] for layer in ("bn", "") if (layer, quantity.name) in series)
        assert quantity.events == tuple(run.events)
        assert np.array_equal(quantity.here, run.a) and np.array_equal(quantity.there, run.b)


def test_nothing_is_looked_at_behind_an_event_that_one_side_cannot_play() -> None:
    _, trace, _ = play(CASE, INPUTS, {})
    subject = subject_between(trace, departed(trace, 2))
    assert subject.compared == 2 and subject.problem == "rounding"
    assert {q.name: q.events for q in subject.quantities}["running_mean"] == (-1, 0, 1)
    assert [step.ends for step in annotate(subject)] == [1, 2, 0, 0, 0]
    assert not any(step.watched for step in annotate(subject)[2:])


def test_the_header_has_the_report_s_figure_of_each_quantity() -> None:
    """Off by 0, 1 and 2: 1 on average, with a spread of sqrt(2/3); by 4 at each point: 4, with none."""
    subject = subject_between(play(CASE, INPUTS, {})[1], play(CASE, INPUTS, {"batch_weight": 0.9})[1])
    one, two = (next(each for each in subject.quantities if each.name == name) for name in STATISTICS)
    zero = np.zeros((3, 1))
    shown = (
        replace(one, events=(-1, 0, 1), here=np.array([[0.0], [1.0], [2.0]]), there=zero),
        replace(two, events=(-1, 0, 1), here=np.array([[4.0], [4.0], [4.0]]), there=zero),
    )
    lines = header(replace(subject, problem="differs", quantities=shown))
    assert [line for line in lines if "Reported: " in line] == [
        "# Reported: running_mean off by 1.00000 ± 0.81650 over 3 points.",
        "# Reported: running_var off by 4.00000 ± 0.00000 over 3 points.",
    ]
