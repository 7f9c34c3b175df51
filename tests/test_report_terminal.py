"""What stands on the screen, and what a run folder cannot make it do."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import literal_run
import pytest
from rich.console import Console

from bncheck.report.overview import headline, themes
from bncheck.report.standing import MARKS, first_to_tell, standing
from bncheck.report.terminal import COLOURS, render_terminal, text
from bncheck.results import Results

RUN = Path("reports/20260102T030405Z-abcd")


@pytest.mark.parametrize("width", [60, 100, 140])
def test_screen(width: int, snapshot: object) -> None:
    shown = text(literal_run.results(), RUN, width)
    assert max(map(len, shown.splitlines())) <= width
    assert shown == snapshot


def test_the_figure_of_r0_stands_in_its_cell() -> None:
    found = standing(literal_run.results(), "all-ones", "forward", "mxnet")
    assert found.text == "running_mean off by 0.90099 ± 0.20569 since step 1 (+1 more)"
    assert found.word == "convention"


@pytest.mark.parametrize(
    ("case", "target", "word", "said"),
    [
        (("all-ones", "forward"), "reference", "yardstick", "ran"),
        (("all-ones", "forward"), "torch", "agrees", "agrees"),
        (("all-ones", "forward-backward"), "mxnet", "agrees", "agrees"),
        (("one-value", "base"), "mxnet", "nonfinite", "NaN or Inf in running_var since step 1"),
        (("one-value", "base"), "torch", "refused", "refused at step 1 (ValueError: Expected more than 1 value per"),
        (("all-ones", "forward"), "torch@cuda", "unavailable", "unavailable (no CUDA device was found)"),
        (("all-ones", "forward"), "keras", "not run", "not run"),
    ],
)
def test_standing(case: tuple[str, str], target: str, word: str, said: str) -> None:
    found = standing(literal_run.results(), *case, target)
    assert found.word == word and found.text.startswith(said)


@pytest.mark.parametrize(
    ("outcome", "said"), [("crashed", "crashed at step 3 (SIGSEGV)"), ("timeout", "timed out at step 3 (SIGSEGV)")]
)
def test_a_worker_that_died_is_said_so(outcome: str, said: str) -> None:
    cells = tuple(
        replace(cell, outcome=outcome, event=2, error_type="SIGSEGV", error="") if cell.target == "torch" else cell
        for cell in literal_run.results().cells
    )
    assert standing(literal_run.results(cells=cells), "all-ones", "forward", "torch").text == said


def test_two_that_were_judged_alike_differ_by_rounding_whatever_sets_others_apart() -> None:
    """A gradient just outside the tolerance: mxnet's rule sets it apart from both, and is not about them."""
    drifts = (literal_run.drift("forward", "torch", "grad_gamma", 2e-5),)
    together = literal_run.finding(targets=("mxnet", "reference", "torch"), sides=(("mxnet",), ("reference", "torch")))
    found = standing(literal_run.results(drifts=drifts, findings=(together,)), "all-ones", "forward", "torch")
    assert found.word == "rounding"
    apart = replace(together, sides=(("mxnet", "torch"), ("reference",)))
    found = standing(literal_run.results(drifts=drifts, findings=(apart,)), "all-ones", "forward", "torch")
    assert found.word == "convention"


def test_not_a_number_is_told_before_a_difference_and_an_early_one_before_a_late_one() -> None:
    late = literal_run.drift("forward", "mxnet", "running_mean", 0.5, first_event=9)
    early = literal_run.drift("forward", "mxnet", "running_var", 0.1, first_event=3)
    nan = literal_run.drift("forward", "mxnet", "output", first_event=50, verdict="nonfinite")
    assert first_to_tell([late, early]) is early
    assert first_to_tell([late, early, nan]) is nan
    assert first_to_tell([literal_run.drift("forward", "mxnet", "gamma")]) is None


def test_one_cause_in_many_cases_is_told_once() -> None:
    many = tuple(literal_run.finding(case=f"c{number}") for number in range(50))
    assert [len(theme.findings) for theme in themes(literal_run.results(findings=many))] == [50]
    assert text(literal_run.results(findings=many), RUN).count("BN103") == 3  # heading, explain, kit


def test_a_defect_is_told_before_a_convention() -> None:
    assert [theme.first.kind for theme in themes(literal_run.results())] == ["defect", "convention"]


def test_headline() -> None:
    assert headline(literal_run.results()) == "3 of 6 cells differ from reference: 1 defect, 1 convention."
    same = tuple(replace(drift, verdict="agrees") for drift in literal_run.results().drifts)
    cells = tuple(replace(cell, outcome="ok") for cell in literal_run.results().cells if cell.target != "torch@cuda")
    agreeing = literal_run.results(drifts=same, findings=(), cells=cells)
    assert headline(agreeing) == "All 6 compared cells agree with reference."
    assert headline(Results("0", "", "", (), (), ())) == "Nothing was run."


def test_a_run_folder_cannot_drive_the_terminal() -> None:
    hostile = literal_run.finding(title="\x1b[2J\x1b]0;owned\x07[bold]x[/bold]\u202e", advice="\x9b31m")
    shown = text(literal_run.results(findings=(hostile,)), RUN)
    assert not any(char in shown for char in "\x1b\x07\x9b\u202e")
    assert "[bold]x[/bold]" in shown


def test_colour_repeats_what_a_mark_says() -> None:
    assert set(COLOURS) <= set(MARKS)
    output = io.StringIO()
    Console(file=output, width=100, force_terminal=True, no_color=True).print(
        render_terminal(literal_run.results(), RUN)
    )
    assert "\x1b[3" not in output.getvalue()  # no colour; bold may stay


def test_an_empty_run_has_a_screen() -> None:
    assert "Nothing was run." in text(Results("0.1.0", "bncheck run", "", (), (), ()), RUN)
