"""What stands on the screen, and what a run folder cannot make it do."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import literal_run
import pytest
from literal_run import TARGETS
from rich.console import Console

from bncheck.commands.progress import Log
from bncheck.evidence import Drift
from bncheck.finding import Finding
from bncheck.playing.progress import Progress
from bncheck.report import overview
from bncheck.report.overview import by_value, headline, themes, values_of
from bncheck.report.standing import MARKS, first_to_tell, standing
from bncheck.report.terminal import COLOURS, render_terminal, text
from bncheck.run_folder.results import CellResult, Results

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
    nan = literal_run.drift("forward", "mxnet", "output", first_event=50, relation="nonfinite")
    assert first_to_tell([late, early]) is early
    assert first_to_tell([late, early, nan]) is nan
    assert first_to_tell([literal_run.drift("forward", "mxnet", "gamma")]) is None


def test_what_is_said_of_some_cases_names_them() -> None:
    def noted(*cases: str) -> str:
        cells = tuple(
            replace(cell, remarks=("Its layers are innocent.",)) if cell.case in cases else cell
            for cell in literal_run.results().cells
        )
        shown = text(literal_run.results(cells=cells), RUN, 140)
        return next((line.strip() for line in shown.splitlines() if "innocent" in line), "")

    assert noted() == ""
    assert noted("forward") == "note: forward: Its layers are innocent."
    assert noted("forward", "forward-backward", "base") == "note: Its layers are innocent."


def test_one_cause_in_many_cases_is_told_once() -> None:
    many = tuple(literal_run.finding(case=f"c{number}") for number in range(50))
    assert [len(theme.findings) for theme in themes(literal_run.results(findings=many))] == [50]
    assert text(literal_run.results(findings=many), RUN).count("BN103") == 3  # heading, explain, kit


def test_rounding_between_other_groups_of_targets_is_one_line() -> None:
    """Which of many targets agree up to rounding differs from case to case."""
    facts = {"code": "BN901", "cause": "rounding", "kind": "rounding", "explained": None, "quantity": "output"}
    sizes = (("a", "b", 2.0), ("a", "c", 30.0), ("b", "c", 4.0))
    found = tuple(
        literal_run.finding(**facts, title=f"{one} and {two} differ by rounding of at most {size:g} ULP.",
                            targets=(one, two), sides=((one,), (two,)), evidence={"max_ulp": size})
        for one, two, size in sizes
    )  # fmt: skip
    (theme,) = themes(replace(literal_run.results(), findings=found))
    assert (theme.first.title, theme.groups) == ("a and c differ by rounding of at most 30 ULP.", 3)


def test_rounding_is_counted_in_ulp_only_while_that_can_be_pictured() -> None:
    """2e-7 beside an output of 1e-14 is 9 million ULP, and says nothing."""
    facts = {"code": "BN901", "cause": "rounding", "kind": "rounding", "explained": None, "quantity": "output"}
    near_zero, usual = (
        literal_run.finding(**facts, evidence={"max_abs": 2e-7, "max_ulp": ulp}) for ulp in (9.12e6, 12.0)
    )
    assert overview.evidence(near_zero) == [("max abs", "2e-07")]
    assert overview.evidence(usual) == [("max abs", "2e-07"), ("max ulp", "12")]


def test_rounding_in_several_cases_is_one_sentence_to_read() -> None:
    facts = {"code": "BN901", "cause": "rounding", "kind": "rounding", "explained": None, "title": "a and b differ so."}
    found = tuple(literal_run.finding(**facts, case=case) for case in ("one", "two"))
    shown = " ".join(text(literal_run.results(findings=found), RUN).split())
    assert "BN901 rounding in 2 cases, which is no fault. The largest: a and b differ so." in shown


def test_a_defect_is_told_before_a_convention() -> None:
    assert [theme.first.kind for theme in themes(literal_run.results())] == ["defect", "convention"]


def test_headline() -> None:
    assert headline(literal_run.results()) == "3 of 6 cells differ from reference: 1 defect, 1 convention."
    same = tuple(replace(drift, relation="agrees") for drift in literal_run.results().drifts)
    cells = tuple(replace(cell, outcome="ok") for cell in literal_run.results().cells if cell.target != "torch@cuda")
    agreeing = literal_run.results(drifts=same, findings=(), cells=cells)
    assert headline(agreeing) == "All 6 compared cells agree with reference."
    of_target = literal_run.finding(scenario="", case="", kind="defect", code="BN205", cause="layout", sides=())
    beside = replace(agreeing, findings=(of_target,))
    assert headline(beside) == "All 6 compared cells agree with reference. Beside these cases: 1 defect."
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


# ------------------------------------------------------------------------------- whose cell carries the mark

POISON = {
    "code": "BN301", "cause": "poisoned-state", "kind": "hazard", "sides": (), "explained": None,
    "title": "One batch with 1 bad value spoils it.", "evidence": {"takes the value": "NaN"},
}  # fmt: skip


def poisoned(*targets: str, **more: object) -> Finding:
    return literal_run.finding(**{**POISON, "targets": targets, **more})


def nan_drift(target: str, bad_reference: int, bad_target: int, relation: str, **more: object) -> Drift:
    facts = {"nonfinite_a": bad_reference, "nonfinite_b": bad_target, "relation": relation, **more}
    return literal_run.drift("forward", target, "running_mean", 0.0, **facts)


def cell_of(target: str, *findings: Finding, drifts: tuple[Drift, ...]) -> tuple[str, str]:
    """(mark and text of the cell, what it counts as) of all-ones · forward."""
    found = standing(literal_run.results(drifts=drifts, findings=findings), "all-ones", "forward", target)
    return f"{found.mark} {found.text}", found.against


def test_nan_that_is_shared_marks_the_cell_that_agrees() -> None:
    shared = (nan_drift("torch", 7, 7, "agrees"),)
    both = poisoned("reference", "torch")
    assert cell_of("torch", both, drifts=shared) == ("! NaN in running_mean since step 1, as in reference", "agrees")
    assert cell_of("reference", both, drifts=shared) == ("! NaN in running_mean since step 1", "")


@pytest.mark.parametrize(
    ("quantity", "evidence", "says"),
    [
        ("running_var", {"lowest": -0.5, "gives NaN in": "eval"}, "variance below zero, NaN in eval"),
        ("running_var", {"lowest": -1.0}, "variance below zero"),
        ("gamma", {"takes the value": "NaN"}, "NaN in gamma"),
        ("running_var", {"gain": 316.0}, "a variance of zero"),
        ("output", {}, "poisoned-state"),
    ],
)
def test_a_poisoned_state_is_said_in_words_that_need_no_rule(
    quantity: str, evidence: dict[str, object], says: str
) -> None:
    """By what the rule wrote down; how its sentence reads is no matter."""
    agreeing = (literal_run.drift("forward", "torch", "running_mean"),)
    title = "Not the word: becomes Inf, below zero, NaN in training."
    shared = poisoned("reference", "torch", title=title, quantity=quantity, evidence=evidence)
    assert cell_of("torch", shared, drifts=agreeing) == (f"! {says}, as in reference", "agrees")
    assert cell_of("reference", shared, drifts=agreeing) == (f"! {says}", "")


def test_nan_on_one_side_marks_that_side_and_the_other_stays_finite() -> None:
    theirs = (nan_drift("mxnet", 7, 0, "nonfinite", first_event=0),)
    found = poisoned("reference", "torch")
    assert cell_of("mxnet", found, drifts=theirs) == ("≠ stays finite; reference is NaN since step 1", "differs")
    assert COLOURS["finite"] == "yellow"
    ours = (nan_drift("mxnet", 0, 7, "nonfinite", first_event=0),)
    assert cell_of("mxnet", poisoned("mxnet"), drifts=ours) == ("✗ NaN in running_mean since step 1", "differs")
    assert cell_of("reference", poisoned("mxnet"), drifts=ours) == ("● ran", "")


def test_nan_in_other_places_on_both_sides() -> None:
    apart = (nan_drift("mxnet", 8, 7, "nonfinite", first_event=0),)
    every = poisoned("reference", "torch", "mxnet")
    assert cell_of("mxnet", every, drifts=apart) == (
        "! NaN in running_mean, as in reference, but not in the same places", "differs",
    )  # fmt: skip


def test_since_when_is_said_only_where_it_is_known() -> None:
    """Off by 0.5 before it was NaN: the first event outside of tolerance is not the first NaN."""
    late = (nan_drift("mxnet", 0, 7, "nonfinite", first_event=0, max_abs=0.5),)
    assert cell_of("mxnet", drifts=late) == ("✗ NaN or Inf in running_mean", "differs")
    known = (nan_drift("mxnet", 0, 7, "nonfinite", first_event=0, max_abs=0.0),)
    assert cell_of("mxnet", drifts=known) == ("✗ NaN or Inf in running_mean since step 1", "differs")


def test_another_hazard_marks_a_cell_that_agrees() -> None:
    agreeing = (literal_run.drift("forward", "torch", "running_mean"),)
    alone = literal_run.finding(cause="graph-retention", code="BN404", kind="hazard", targets=("torch",), sides=())
    assert cell_of("torch", alone, drifts=agreeing) == ("! agrees; graph-retention", "agrees")
    shared = replace(alone, targets=("reference", "torch"))
    assert cell_of("torch", shared, drifts=agreeing) == ("! graph-retention, as in reference", "agrees")


def test_the_table_says_what_is_wrong_with_the_target_that_has_no_column() -> None:
    run = literal_run.results(drifts=(nan_drift("torch", 7, 7, "agrees"),), findings=(poisoned("reference", "torch"),))
    assert "reference itself: ! NaN in running_mean since step 1 in all-ones · forward" in text(run, RUN, 140)


# ---------------------------------------------------------------------------------------- what the headline counts


def refusing(drifts: tuple[Drift, ...], event: int = 0) -> Results:
    """torch and the reference refuse one-value; nothing else was played."""
    cells = tuple(
        CellResult("one-value", "base", target, target, "raised", at, "ValueError", "one value")
        for target, at in (("reference", 0), ("torch", event))
    )
    return literal_run.results(cells=cells, findings=(), drifts=drifts)


def one_value(target: str, quantity: str, mean: float = 0.0) -> Drift:
    return replace(literal_run.drift("base", target, quantity, mean), scenario="one-value")


def test_refusing_alike_is_agreement() -> None:
    run = refusing((one_value("torch", "running_mean"),))
    found = standing(run, "one-value", "base", "torch")
    assert (found.mark, found.text, found.good) == ("⊘", "refused, as reference does (ValueError: one value)", True)
    assert headline(run) == "The one compared cell agrees with reference."


def test_a_counter_that_differs_is_said_and_counted_apart() -> None:
    run = refusing((one_value("torch", "counter", 0.5),))
    assert standing(run, "one-value", "base", "torch").text == "refused, as reference does; counter differs"
    assert headline(run) == "The one compared cell differs from reference in a counter only; no cause was named."


def test_refusing_alike_and_remembering_something_else_differs() -> None:
    run = refusing((one_value("torch", "running_mean", 0.5),))
    found = standing(run, "one-value", "base", "torch")
    assert found.text.startswith("refused, as reference does; running_mean off by 0.50000")
    assert headline(run) == "The one compared cell differs from reference; no cause was named."


def test_the_headline_looks_at_every_cell_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(overview, "standing", lambda run, *cell: asked.append(cell) or standing(run, *cell))
    headline(literal_run.results())
    assert len(asked) == len(set(asked)) > 0


def test_refusing_something_else_differs() -> None:
    assert headline(refusing((), event=2)) == "The one compared cell differs from reference; no cause was named."


def test_the_yardstick_is_not_counted_also_where_it_refuses() -> None:
    """Two cells: torch, which refuses alike, and mxnet, which goes on."""
    went_on = CellResult("one-value", "base", "mxnet", "mxnet", "ok")
    run = refusing((one_value("torch", "running_mean"), one_value("mxnet", "running_mean", 0.5)))
    assert headline(replace(run, cells=(*run.cells, went_on))) == (
        "1 of 2 cells differs from reference; no cause was named."
    )


@pytest.mark.parametrize(
    ("available", "said"),
    [
        ((), "No target ran; there is nothing to compare."),
        (("torch",), "Only torch ran; there is nothing to compare."),
    ],
)
def test_how_many_targets_ran(available: tuple[str, ...], said: str) -> None:
    """ "Only one target ran" is said only where one did."""
    targets = tuple(replace(each, status="ok" if each.name in available else "unavailable") for each in TARGETS)
    cells = tuple(
        CellResult("all-ones", "forward", each.name, each.slug, "ok" if each.status == "ok" else "unavailable")
        for each in targets
    )
    assert headline(literal_run.results(targets=targets, cells=cells, drifts=(), findings=())) == said


def test_the_yardstick_is_one_that_played() -> None:
    """The reference cannot play a whole model: then torch is what the others are compared with."""
    cells = [
        CellResult("all-ones", "forward", name, name, outcome)
        for name, outcome in (("reference", "unsupported"), ("torch", "ok"), ("mxnet", "ok"))
    ]
    drifts = (literal_run.drift("forward", "mxnet", "running_mean", a="torch"),)
    run = literal_run.results(cells=tuple(cells), drifts=drifts, findings=())
    assert run.yardstick == "torch"
    assert headline(run) == "The one compared cell agrees with torch."


def test_what_is_unexplained_is_not_said_twice() -> None:
    run = literal_run.results(findings=(literal_run.finding(code="BN902", cause="unexplained", kind="unexplained"),))
    assert "BN902 unexplained: mxnet moves" in text(run, RUN)


# ------------------------------------------------------------------------------------------------- many targets


def many(*titles: tuple[str, tuple[str, ...]]) -> Results:
    """Findings about NaN, each with a title and the targets that it is about."""
    found = tuple(poisoned(*targets, title=title) for title, targets in titles)
    return literal_run.results(findings=found)


def test_what_is_said_of_other_targets_is_said_once() -> None:
    run = many(
        ("running_mean of bn in reference and torch 2.13.0 becomes NaN.", ("reference", "torch")),
        ("running_mean of bn in reference and 2 others becomes NaN.", ("reference", "torch", "mxnet")),
        ("running_mean of bn in mxnet 1.9.1 become NaN.", ("mxnet",)),
    )
    assert [len(theme.findings) for theme in themes(run)] == [3]
    other = many(
        ("running_mean of bn in torch 2.13.0 becomes NaN.", ("torch",)),
        ("running_mean of bn in torch 2.13.0 is NaN before any event.", ("torch",)),
    )
    assert [len(theme.findings) for theme in themes(other)] == [1, 1]


def test_a_targets_own_words_do_not_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Log().cell(Progress(target="odd", kind="unavailable", text="no \x1b[31m device\nhere"))
    assert capsys.readouterr().err == "bncheck: odd is unavailable: no \N{REPLACEMENT CHARACTER}[31m device here\n"


def test_targets_that_the_speaking_finding_leaves_out_are_named() -> None:
    found = [literal_run.finding(code="BN116", cause="call-mode", targets=pair, sides=((pair[0],), (pair[1],)))
             for pair in (("torch", "mxnet"), ("reference", "mxnet"))]  # fmt: skip
    shown = " ".join(text(literal_run.results(findings=tuple(found)), RUN).split())
    assert "the same between reference and mxnet 1.9.1" in shown
    assert "the same in mxnet 1.9.1" in " ".join(
        text(many(("NaN in *.", ("torch",)), ("NaN in *.", ("mxnet",))), RUN).split()
    )


def test_what_no_rule_explains_is_not_put_together() -> None:
    apart = {"code": "BN902", "cause": "unexplained", "kind": "unexplained"}
    found = [literal_run.finding(**apart, targets=pair, sides=((pair[0],), (pair[1],)))
             for pair in (("mxnet", "reference"), ("mxnet", "torch"))]  # fmt: skip
    assert len(themes(literal_run.results(findings=tuple(found)))) == 2


def test_values_are_counted_over_all_cases() -> None:
    """A rule's finding names the value of one target on each side; those beside it follow the same."""
    first = literal_run.finding(
        targets=("mxnet", "reference", "torch"), sides=(("mxnet",), ("reference", "torch")),
        evidence={"update_on of mxnet": "backward", "update_on of reference": "forward", "points": 3},
    )  # fmt: skip
    run = literal_run.results(findings=(first,))
    assert by_value(themes(run)[0]) == ("update on", {"backward": ("mxnet",), "forward": ("reference", "torch")})
    assert values_of(themes(run)[0], run) == "update on backward in mxnet, forward in reference and torch"
    both = replace(first, case="forward-backward", evidence={"update_on of mxnet": "forward"})
    two = literal_run.results(findings=(first, both))
    assert by_value(themes(two)[0])[1] == {"backward or forward": ("mxnet",), "forward": ("reference", "torch")}
    assert by_value(themes(literal_run.results())[0]) == ("", {})
