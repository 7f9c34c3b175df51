"""junit.xml: parsed again by a real parser."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

from literal_run import finding, results, write_run

from bncheck.gate.bar import Bar, hold
from bncheck.gate.waiver import Waiver
from bncheck.report.junit import document, render
from bncheck.run_folder.results import CellResult, Results

TODAY = date(2026, 5, 1)


SIDES = (("reference", "torch"), ("mxnet",))
CONVENTION = Bar("convention")


def parsed(run: Results, bar: Bar = CONVENTION) -> ElementTree.Element:
    return ElementTree.fromstring(document(run, hold(run, bar, TODAY)))


def case(root: ElementTree.Element, name: str) -> ElementTree.Element:
    (found,) = [item for item in root.iter("testcase") if item.get("name") == name]
    return found


def test_there_is_a_test_case_per_case_and_pair_of_targets() -> None:
    root = parsed(results(findings=(finding(sides=SIDES),)))
    suites = {suite.get("name"): suite for suite in root}
    assert set(suites) == {"bncheck.all-ones", "bncheck.one-value"}
    # Two cases and one, of four targets: 6 pairs each.
    assert [len(suites[f"bncheck.{name}"]) for name in ("all-ones", "one-value")] == [12, 6]
    assert suites["bncheck.all-ones"].attrib == {
        "name": "bncheck.all-ones", "tests": "12", "failures": "2", "errors": "0", "skipped": "6",
    }  # fmt: skip


def test_a_failure_holds_the_sentences_and_the_drift() -> None:
    root = parsed(results(findings=(finding(sides=SIDES),)))
    (failure,) = case(root, "forward: reference and mxnet")
    assert failure.tag == "failure"
    assert failure.get("type") == "BN103 update-phase"
    assert failure.get("message") == "mxnet moves its running statistics in backward, reference in forward"
    assert failure.text is not None
    assert "explains 100.0 % of the difference" in failure.text
    assert "running_mean off by 0.90099 ± 0.20569 since step 1" in failure.text
    assert [item.tag for item in case(root, "forward: torch and mxnet")] == ["failure"]
    assert list(case(root, "forward: reference and torch")) == []


def test_what_does_not_fail_the_run_is_no_failure() -> None:
    waiver = Waiver("update-phase", "accepted", date(2026, 12, 31), where="w.toml:1")
    for bar in (Bar("defect"), Bar("convention", waivers=(waiver,))):
        (out,) = case(parsed(results(), bar), "forward: reference and mxnet")
        assert out.tag == "system-out"
        assert out.text is not None
        assert "BN103 update-phase" in out.text
    assert "waived: until 2026-12-31: accepted (w.toml:1)" in out.text


def test_a_target_that_is_not_there_is_skipped_with_its_reason() -> None:
    (skipped,) = case(parsed(results()), "forward: reference and torch@cuda")
    assert (skipped.tag, skipped.get("message")) == (
        "skipped",
        "torch@cuda is unavailable here: no CUDA device was found",
    )


def test_a_crash_is_an_error_with_its_stack() -> None:
    cells = tuple(
        replace(cell, outcome="crashed", error="the process was killed by SIGFPE\nFatal Python error")
        if (cell.case, cell.target) == ("forward", "mxnet") else cell
        for cell in results().cells
    )  # fmt: skip
    (error,) = case(parsed(results(cells=cells)), "forward: reference and mxnet")
    assert error.tag == "error"
    assert error.get("message") == "mxnet crashed: the process was killed by SIGFPE"
    assert error.text == "the process was killed by SIGFPE\nFatal Python error"


def test_foreign_text_is_escaped_and_what_xml_cannot_hold_is_replaced() -> None:
    nasty = 'a <failure/> & "b" \x00\x1b[31m\ud800 ]]>'
    root = parsed(results(findings=(finding(title=nasty, sides=SIDES),)))
    (failure,) = case(root, "forward: reference and mxnet")
    assert failure.get("message") == 'a <failure/> & "b" \ufffd\ufffd[31m\ufffd ]]>'
    assert root.find("testsuite").get("failures") == "2"  # type: ignore[union-attr]


def test_unmet_expectations_and_expired_waivers_have_test_cases() -> None:
    run = results()
    first = run.scenarios[0]
    unmet = replace(first, expectations=(replace(first.expectations[0], met=False, found=()), *first.expectations[1:]))
    waiver = Waiver("update-phase", "old", date(2020, 1, 1), where="w.toml:1")
    root = parsed(replace(run, scenarios=(unmet, *run.scenarios[1:])), Bar("convention", waivers=(waiver,)))
    suite = root.find("testsuite[@name='bncheck.gate']")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("2", "2")
    assert "expired on 2020-01-01" in ElementTree.tostring(suite, encoding="unicode")


def test_it_is_written_into_the_run_folder(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    assert render(run, tmp_path) == [tmp_path / "junit.xml"]
    assert ElementTree.parse(tmp_path / "junit.xml").getroot().tag == "testsuites"


def test_a_cell_that_never_ran_is_skipped() -> None:
    cells = tuple(
        cell for cell in results().cells if cell != CellResult("x", "y", "z", "z", "ok") and cell.target != "torch"
    )
    (skipped,) = case(parsed(results(cells=cells)), "forward: reference and torch")
    assert skipped.get("message") == "torch did not run this case"
