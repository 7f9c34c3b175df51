"""What is said of somebody's own thing (check, diff, watch), in every report: the answer first, then what matters."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import pytest
from at_the_prompt import here
from literal_life import ANSWER, LEAK, many, results, write_answered

from bncheck.gate.bar import Bar, hold, write_verdict
from bncheck.report import formats, render
from bncheck.report.layers import arrange, rest, where
from bncheck.report.overview import themes
from bncheck.report.terminal import text
from bncheck.run_folder.answer import Row, read_answer, write_answer

EVERY = replace(LEAK, layer="stem.bn", title=LEAK.title.replace("layer1.bn1", "stem.bn"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_answered(tmp_path)
    return tmp_path


def test_the_answer_stands_first_and_the_fix_beside_its_cause(run: Path) -> None:
    assert text(results(), run, 100).splitlines() == [
        " train.py: 1 of 3 BatchNorm layers stopped learning its statistics at step 40.",
        "",
        "   layer       mode                n     moved       gap",
        " ! layer1.bn1  eval since step 40  2048  40 of 100   3.00",
        "   stem.bn     training            2048  100 of 100  0.00",
        "   head.bn     training            2048  100 of 100  0.00",
        "",
        " ! BN401 mode-leak (hazard): evaluate() at engine.py:88 set layer1.bn1 to eval and nobody set",
        "   train() again: 60 steps with frozen statistics",
        "   → Call model.train() after evaluate().",
        "",
        " note: 2 processes never ran a normalising layer.",
        "",
        " why      bncheck explain BN401",
    ]


def test_of_many_layers_those_that_matter_are_shown(run: Path) -> None:
    write_answered(run, many(51))
    shown = text(results(many(51)), run, 130)
    assert "layer1.bn1" in shown and "stem.bn" not in shown
    assert " 50 more layers: nothing to say" in shown.splitlines()


def test_verbose_shows_every_layer_and_the_figures(run: Path) -> None:
    write_answered(run, many(51))
    shown = text(results(many(51)), run, 130, verbose=True)
    assert "layer50.bn" in shown and "steps in eval 60; set by engine.py:88" in shown and "more layers" not in shown


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_it_fits_the_screen(run: Path, width: int) -> None:
    write_answered(run, many(51))
    for verbose in (False, True):
        assert max(map(len, text(results(many(51)), run, width, verbose).splitlines())) <= width


@pytest.mark.parametrize(
    ("width", "first"),
    [
        (110, [" ! stage2.stage2.0.skip.skip.1.BatchNormalization  eval since step 40  2048  40 of 100   3.00"]),
        (92, [
            " ! stage2.stage2.0.skip.skip.1.BatchNormaliza  eval since step 40  2048  40 of 100   3.00",
            "   tion",
        ]),
    ],
)  # fmt: skip
def test_a_long_name_stands_behind_its_mark(run: Path, width: int, first: list[str]) -> None:
    rows = tuple(
        replace(row, layer="stage2.stage2.0.skip.skip.1.BatchNormalization") if row.mark == "hazard" else row
        for row in ANSWER.rows
    )
    write_answered(run, replace(ANSWER, rows=rows))
    assert [line.rstrip() for line in text(results(), run, width).splitlines()][3 : 3 + len(first)] == first


def test_no_kit_is_offered_where_nothing_was_played_and_no_matrix_is_drawn(run: Path) -> None:
    shown = text(results(), run)
    assert "repro" not in shown and "compared" not in shown and "nothing to compare" not in shown


def test_a_cell_that_could_not_be_played_says_why(run: Path) -> None:
    found = results()
    cells = (replace(found.cells[0], outcome="raised", error="model.py:12: there is no build()"),)
    assert "– torch: model.py:12: there is no build()" in text(replace(found, cells=cells), run)


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        (["", ""], "2 more layers: nothing to say"),
        (["agrees"], "1 more layer agrees"),
        (["agrees", "agrees", "rounding", ""],
         "2 more layers agree; 1 more layer agrees up to rounding; 1 more layer: nothing to say"),
        ([], ""),
    ],
)  # fmt: skip
def test_what_is_left_is_said_in_words_that_are_true_of_it(marks: list[str], said: str) -> None:
    assert rest([Row(f"l{k}", (), mark) for k, mark in enumerate(marks)], 1) == said


def test_rows_that_are_no_layers_are_called_what_they_are(run: Path) -> None:
    rows = tuple(Row(word, ("0", "agrees"), "agrees") for word in "abcdefghijk")
    answer = replace(ANSWER, columns=("difference", "verdict"), rows=rows, each="quantity")
    write_answered(run, answer, ())
    assert read_answer(run) == answer
    assert " 11 quantities agree" in text(results(answer, ()), run).splitlines()
    render(run, ("html",))
    assert '<h2 id="h-layers">Quantities</h2>' in (run / "index.html").read_text()
    assert rest(rows[:1], 1, "quantity") == "1 more quantity agrees"


def test_where_nothing_was_shown_nothing_is_more() -> None:
    assert rest([Row("a", ()), Row("b", ())], 0) == "2 layers: nothing to say"


def test_a_title_that_names_its_layers_is_not_followed_by_them() -> None:
    def told(title: str, *layers: str) -> str:
        (theme,) = themes(results(findings=(replace(LEAK, title=title, layer=", ".join(layers)),)))
        return where(theme, replace(ANSWER, rows=tuple(Row(layer, ("",) * 4) for layer in layers)))

    assert told("The statistics of 1 and bn.2 stand still.", "1", "bn.2") == ""
    assert told("The statistics stand still for 117 steps.", "1") == "in 1"
    assert told("NaN in bn.22", "bn.2") == "in bn.2"


def test_one_cause_in_many_layers_is_said_once(run: Path) -> None:
    layers = [f"block{k}.bn" for k in range(53)]
    findings = tuple(
        replace(LEAK, layer=layer, title=LEAK.title.replace("layer1.bn1", layer)) for layer in layers
    )  # fmt: skip
    (theme,) = themes(results(findings=findings))
    of_blocks = replace(ANSWER, rows=tuple(Row(layer, ("",) * 4) for layer in layers))
    assert where(theme, ANSWER) == ""  # no layers of the user's
    processes = replace(ANSWER, rows=tuple(Row(f"{layer} @1", ("",) * 4) for layer in layers))
    assert where(theme, processes) == where(theme, of_blocks)
    assert where(theme, of_blocks) == "in block0.bn, block1.bn, block2.bn and 50 more layers"
    assert text(results(findings=findings), run).count("BN401") == 2  # the finding, and where to read on


def test_a_finding_marks_its_layer_whatever_the_answer_says() -> None:
    quiet = replace(ANSWER, rows=tuple(replace(row, mark="agrees") for row in ANSWER.rows))
    told = arrange(results(quiet), quiet)
    assert [row.layer for row in told.telling] == ["layer1.bn1"]
    assert [row.layer for row in told.quiet] == ["stem.bn", "head.bn"]


def test_gravest_layers_come_first() -> None:
    defect = replace(EVERY, kind="defect", code="BN301", cause="poisoned-state", layer="head.bn")
    told = arrange(results(findings=(LEAK, defect)), ANSWER)
    assert [(row.layer, row.mark) for row in told.telling] == [("head.bn", "defect"), ("layer1.bn1", "hazard")]


def test_shares_of_one_difference_are_those_of_one_case() -> None:
    """90 % and 10 % of a case, not 90 % of one beside 40 % of another."""
    shares = (("BN120", "one", 0.9), ("BN120", "two", 0.6), ("BN102", "two", 0.4), ("BN102", "one", 0.1))
    found = tuple(replace(LEAK, code=code, case=case, explained=share) for code, case, share in shares)
    told = arrange(results(findings=found), ANSWER)
    assert {theme.first.code: (theme.first.case, theme.first.explained) for theme in told.themes} == {
        "BN120": ("one", 0.9), "BN102": ("one", 0.1)
    }  # fmt: skip


def test_a_mark_that_nobody_knows_says_nothing() -> None:
    odd = replace(ANSWER, rows=(Row("stem.bn", ("", "", "", ""), "splendid"),))
    told = arrange(results(odd, ()), odd)
    assert told.telling == () and rest(told.quiet, 0) == "1 layer: nothing to say"


def test_every_format_is_written_and_names_the_cause(run: Path) -> None:
    render(run, tuple(formats()))
    for name in ("index.html", "report.md", "summary.md", "junit.xml", "findings.csv"):
        said = (run / name).read_text()
        assert "mode-leak" in said and "layer1.bn1" in said, name
    assert not (run / "plots").exists()
    for name in ("report.md", "summary.md"):
        said = (run / name).read_text()
        assert said.index("stopped learning") < said.index("Call model.train")


def test_junit_has_a_case_per_layer_that_fails_where_the_run_fails(run: Path) -> None:
    write_verdict(hold(results(), Bar(fail_on="hazard"), date(2026, 1, 1)), run)
    render(run, ("junit",))
    suite = ElementTree.parse(run / "junit.xml").getroot()[0]
    assert suite.get("name") == "bncheck.watch" and suite.get("failures") == "1"
    assert [(case.get("name"), [each.tag for each in case]) for case in suite] == [
        ("layer1.bn1", ["failure"]), ("stem.bn", []), ("head.bn", [])
    ]  # fmt: skip


def test_report_renders_it_anywhere(run: Path) -> None:
    done = here("report", str(run), "--format", "html", "--format", "markdown")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(" train.py: 1 of 3 BatchNorm layers stopped learning")
    assert "report   " in done.stdout and (run / "report.md").exists()


def test_a_kit_that_there_cannot_be_is_refused_in_a_sentence(run: Path) -> None:
    done = here("repro", str(run), "BN401", "--no-run")
    assert done.returncode == 2, done.stderr
    assert "a kit plays cases of bncheck run once more, and this answer has none" in done.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": [{"layer": "a", "cells": ["1"], "mark": ""}]}, "a row whose length is not that of its columns"),
        ({"headline": 5}, "headline"),
        ({"rows": 7}, "rows"),
    ],
)
def test_an_answer_that_was_edited_is_a_sentence(run: Path, change: dict[str, object], said: str) -> None:
    path = run / "answer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    done = here("report", str(run))
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_an_answer_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_answer(ANSWER, tmp_path)
    assert read_answer(tmp_path) == ANSWER
    assert read_answer(tmp_path / "elsewhere") is None
