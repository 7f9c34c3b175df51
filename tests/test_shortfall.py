"""What was asked for and did not come, from results made of literal cells."""

from __future__ import annotations

from dataclasses import replace

import pytest
from literal_run import drift

from bncheck.finding import Finding
from bncheck.gate.shortfall import Asked, shortfalls
from bncheck.report.overview import headline
from bncheck.run_folder.results import CaseResult, CellResult, Results, ScenarioResult, TargetResult

PROBE = ScenarioResult("probe", cases=(CaseResult("base"),), probe=True)


def run(*cells: CellResult, ops: tuple[str, ...] = ("train_forward",), missing: tuple[str, ...] = ()) -> Results:
    """Cells of the scenario "s" on the targets that they name; ``missing`` are unavailable."""
    names = dict.fromkeys([cell.target for cell in cells])
    targets = [TargetResult(name, name, name) for name in names if name not in missing]
    targets += [
        TargetResult(name, name, name, status="unavailable", reason="no GPU", remedy="get one") for name in missing
    ]
    cases = tuple(CaseResult(case, ops=ops) for case in dict.fromkeys(cell.case for cell in cells))
    return Results("0", "", "", tuple(targets), (ScenarioResult("s", cases=cases), PROBE), cells)


def cell(target: str, outcome: str = "ok", case: str = "base", event: int | None = None, **more: str) -> CellResult:
    return CellResult("s", case, target, target, outcome, event, **more)


def said(results: Results, *required: str, **more: bool) -> list[str]:
    return [item.sentence for item in shortfalls(results, Asked(required, **more))]


def test_two_targets_that_played_the_same_case_are_enough() -> None:
    assert said(run(cell("torch"), cell("reference")), "torch", "reference") == []


def test_a_target_that_was_asked_for_and_is_unavailable() -> None:
    found = run(cell("torch"), cell("reference"), missing=("torch@cuda",))
    (item,) = shortfalls(found, Asked(("torch", "torch@cuda")))
    assert item.sentence == "torch@cuda was asked for and is unavailable: no GPU"
    assert item.remedy == "get one; where it may be missing: --optional torch@cuda"
    assert item.short == "torch@cuda did not run"
    assert said(found, "torch") == []


def test_layers_of_a_whole_model_that_were_judged_by_themselves_need_no_second_target() -> None:
    judged = CellResult("s", "base", "torch", "torch", "ok", judged=2)
    found = run(judged)
    assert said(found, "torch", whole=True) == []
    assert headline(found) == "Only torch ran; 2 normalising layers in it were judged one by one."
    assert said(run(cell("torch")), "torch", whole=True) == [
        "Nothing was compared: torch is the only target that ran, and the reference cannot play a whole model"
    ]
    lone = replace(cell("torch"), unjudged=("bn (FrozenBN): its name says so", "norm (Odd): it did not run"))
    (item,) = shortfalls(run(lone), Asked(("torch",), whole=True))
    assert item.sentence == (
        "Nothing was compared: torch is the only target that ran, and the reference cannot play a whole model; nothing "
        "in it was judged by itself: bn (FrozenBN): its name says so; norm (Odd): it did not run"
    )
    assert item.remedy.startswith(
        "hold a layer of yours against the built-in one by itself: bncheck check FILE.py:CLASS"
    )
    # NaN that reaches a layer is an answer, too.
    born = Finding("BN301", "poisoned-state", "hazard", "What reaches bn is not finite", ("torch",), "s", "base")
    assert said(replace(run(cell("torch")), findings=(born,)), "torch", whole=True) == []
    # Where two are asked, that one of them is right by itself is no comparison.
    refused = cell("torch[jit]", "raised", event=-1, error="no")
    assert said(run(judged, refused), "torch", whole=True)


@pytest.mark.parametrize(
    "other",
    [
        cell("torch", "unsupported", error="no such event"),
        cell("torch", "raised", event=-1, error="no such event"),
        cell("torch", "raised", event=0, error_type="CustomLayerError", error="no such event"),
    ],
)
def test_a_target_that_was_asked_for_and_played_nothing(other: CellResult) -> None:
    word = "refused" if other.outcome == "raised" else "unsupported"
    found = run(other, cell("reference"), cell("mxnet"))
    assert said(found, "torch") == [f"torch was asked for and did not play the case: {word} (no such event)"]
    assert said(found) == []
    assert said(found, "torch", part=True) == []  # another part of this run may have a case for it


def test_what_lacks_an_event_and_was_compared_in_the_rest_took_part() -> None:
    """onnxruntime has no backward: what it does in forward is compared."""
    cells = (cell("onnxruntime", "unsupported", event=1, error="no backward"), cell("torch"))
    seen = drift("base", "torch", "running_mean", scenario="s", a="onnxruntime", points=2)
    assert said(replace(run(*cells), drifts=(seen,)), "onnxruntime", "torch") == []
    initial = replace(seen, points=1)  # the state before anything was played
    assert len(said(replace(run(*cells), drifts=(initial,)), "onnxruntime", "torch")) == 2


def test_what_is_held_after_each_of_the_forwards_that_nobody_could_play_is_nothing_played() -> None:
    """A file of two inputs: its weights are there after each event, and stand still."""
    cells = (cell("onnxruntime", "unsupported", event=0, error="two inputs"), cell("torch", "unsupported", event=0))
    held = drift("base", "torch", "running_mean", scenario="s", a="onnxruntime", points=3)
    results = replace(run(*cells, ops=("eval_forward", "eval_forward")), drifts=(held,))
    assert said(results, "onnxruntime") == [
        "onnxruntime was asked for and did not play the case: unsupported (two inputs)",
        "Nothing was compared: no case was played by two targets (torch: unsupported; "
        "onnxruntime: unsupported (two inputs))",
    ]
    second = replace(held, layer="", quantity="output", points=1)  # the second forward was played after all
    assert said(replace(results, drifts=(held, second)), "onnxruntime") == []


def test_a_refusal_of_an_event_is_an_answer_and_a_crash_is_charged_elsewhere() -> None:
    assert said(run(cell("torch", "raised", event=0), cell("reference", "raised", event=0)), "torch") == []
    assert said(run(cell("torch", "crashed"), cell("reference"), cell("mxnet")), "torch") == []


@pytest.mark.parametrize(
    ("results", "sentence"),
    [
        (run(missing=("torch",)), "Nothing was compared: no target could run (torch: no GPU)"),
        (run(cell("torch")), "Nothing was compared: torch is the only target that ran"),
        (
            run(cell("torch", "unsupported", error="no eval"), cell("mxnet")),
            "Nothing was compared: no case was played by two targets (torch: unsupported (no eval))",
        ),
        (
            run(cell("torch", case="a"), cell("mxnet", case="b"), cell("mxnet", "unsupported", case="a")),
            "Nothing was compared: no case was played by two targets (mxnet: unsupported)",
        ),
    ],
)
def test_nothing_compared(results: Results, sentence: str) -> None:
    assert said(results) == [sentence]


def test_what_a_single_target_may_do() -> None:
    single = run(cell("torch"))
    assert said(single, alone=True) == []
    assert said(single, repeated=True) == []
    assert said(run(cell("torch"), ops=("eval_in_batches",))) == []
    assert said(single, part=True) == []
    assert said(single, whole=True) == [
        "Nothing was compared: torch is the only target that ran, and the reference cannot play a whole model"
    ]
    # To stand alone is not to be missing, and not to be one of two of which one is missing.
    assert said(run(missing=("torch",)), alone=True) == ["Nothing was compared: no target could run (torch: no GPU)"]
    assert said(run(cell("torch"), missing=("mxnet",)), alone=True) == [
        "Nothing was compared: torch is the only target that ran"
    ]


def test_measuring_conventions_compares_nothing_and_that_is_fine() -> None:
    played = CellResult("probe", "base", "torch", "torch", "ok")
    torch = TargetResult("torch", "torch", "torch")
    assert said(Results("0", "", "", (torch,), (PROBE,), (played,)), "torch") == []
    lost = TargetResult("torch", "torch", "torch", status="unavailable", reason="no GPU")
    assert said(Results("0", "", "", (lost,), (PROBE,), ())) == [
        "Nothing was measured: no target could run (torch: no GPU)"
    ]


@pytest.mark.parametrize(("origin", "idle"), [("framework", False), ("subject", True), ("bncheck", True)])
def test_a_cell_that_the_users_own_code_stopped_has_played_nothing(origin: str, idle: bool) -> None:
    """Its framework refused nothing, and there is nothing to compare it with."""
    stopped = cell("torch", "raised", event=0, error_type="ValueError", error="no", origin=origin)
    assert bool(said(run(stopped, cell("reference")))) is idle
