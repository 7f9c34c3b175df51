"""summary.md and annotations: what GitHub shows of a run."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from literal_run import finding, results, write_run

from bncheck.gate.bar import Bar, Judged, Verdict, hold
from bncheck.gate.charge import Charge
from bncheck.gate.waiver import Waiver
from bncheck.report.annotation import annotate, annotation
from bncheck.report.summary import LIMIT, append, fit, render, ruling, text
from bncheck.run_folder.results import Results

TODAY = date(2026, 5, 1)
SIDES = (("reference", "torch"), ("mxnet",))
WAIVER = Waiver("update-phase", "accepted", date(2026, 12, 31), where="w.toml:1")


def verdict(run: Results, *waivers: Waiver, level: str = "convention") -> Verdict:
    return hold(run, Bar(level, waivers=waivers), TODAY)


def one() -> Results:
    return results(findings=(finding(sides=SIDES),), drifts=())


def test_an_error_that_two_targets_share_is_two_cells() -> None:
    names = ("torch", "mxnet")
    charge = Charge("subject-error", "", "refusal", "all-ones", "forward", (names,), names, "No.")
    assert ruling(Verdict(judged=(Judged(charge, "fails"),))) == "2 cells could not be played"


def test_what_fails_comes_first_and_names_the_cause() -> None:
    lines = text(one(), verdict(one())).splitlines()
    assert lines[0] == "## ❌ bncheck: 1 finding at or above --fail-on convention"
    rows = [line for line in lines if "update-phase" in line]
    assert rows[0] == (
        "| BN103 **update-phase** (convention) | all-ones · forward | mxnet moves its running statistics in backward, "
        "reference in forward | 100.0 % |  |"
    )


def test_nothing_that_fails_is_a_tick() -> None:
    found = text(one(), verdict(one(), level="defect"))
    assert found.startswith("## ✅ bncheck: nothing at or above --fail-on defect\n")
    assert "Below the level that fails (--fail-on defect): 1" in found


def test_waived_findings_are_listed_with_their_reason() -> None:
    found = text(one(), verdict(one(), WAIVER))
    assert "### Waived" in found
    assert "until 2026-12-31: accepted (w.toml:1)" in found


def test_expired_and_unneeded_waivers_are_told() -> None:
    old, idle = replace(WAIVER, expires=date(2020, 1, 1)), replace(WAIVER, cause="eps", where="w.toml:7")
    found = text(one(), verdict(one(), old, idle, level="defect"))
    assert found.startswith("## ❌ bncheck: 1 expired waiver")
    assert "- w.toml:1: the waiver of update-phase expired on 2020-01-01: accepted" in found
    assert "- w.toml:7: nothing needs the waiver of eps any more; remove it" in found


def test_the_matrix_has_a_row_per_case_and_the_unavailable_target_its_reason() -> None:
    found = text(results(), verdict(results()))
    assert "| all-ones · forward | ● ran |" in found
    assert "- torch@cuda is unavailable: no CUDA device was found" in found


def test_foreign_text_is_no_markdown_and_no_html() -> None:
    run = results(findings=(finding(title="<img src=x> | [a](b) `c` *d*\nnext", sides=SIDES),), drifts=())
    (row, *_) = [line for line in text(run, verdict(run)).splitlines() if "img" in line]
    assert r"\<img src=x\> \| \[a\](b) \`c\` \*d\* next" in row


def test_a_summary_that_is_too_long_loses_whole_rows_and_says_so() -> None:
    rows = [f"| {number:03d} | {'x' * 90} |" for number in range(100)]
    found = fit(rows, 5000)
    assert len(found.encode()) <= 5000
    kept = [line for line in found.splitlines() if line.startswith("|")]
    assert kept == rows[: len(kept)]
    assert found.endswith(f"*{100 - len(kept)} more lines did not fit; all of them are in the HTML report.*\n")
    assert fit(rows, 10**6) == "\n".join(rows) + "\n"


def test_ten_thousand_findings_stay_below_the_limit() -> None:
    many = tuple(finding(case=f"case-{number}", sides=SIDES, title="ä" * 200) for number in range(10_000))
    found = text(results(findings=many, drifts=()), verdict(results(findings=many, drifts=())))
    assert 900_000 < len(found.encode()) <= LIMIT < 1024 * 1024


def test_it_is_appended_to_what_other_steps_wrote_within_the_limit(tmp_path: Path) -> None:
    run = write_run(tmp_path, one())
    (path,) = render(run, tmp_path)
    summary = tmp_path / "step.md"
    summary.write_text("before\n")
    told: list[str] = []
    append(summary, tmp_path, told.append)
    assert summary.read_text(encoding="utf-8") == "before\n" + path.read_text(encoding="utf-8")
    assert told == []
    summary.write_text("x" * (LIMIT - 1000))
    append(summary, tmp_path, told.append)
    assert summary.stat().st_size <= LIMIT
    assert len(told) == 1


def test_annotations_name_place_and_cause() -> None:
    assert list(annotate(verdict(one()))) == [
        "::error title=bncheck BN103 update-phase::all-ones · forward: "
        "mxnet moves its running statistics in backward, reference in forward"
    ]


def test_more_annotations_than_github_shows_are_counted_in_the_last() -> None:
    many = tuple(finding(case=f"case-{number}", sides=SIDES) for number in range(25))
    found = list(annotate(verdict(results(findings=many, drifts=()))))
    assert len(found) == 10
    assert found[-1] == "::error title=bncheck::and 16 more; all of them are in the job summary"


@pytest.mark.parametrize(
    ("title", "message", "expected"),
    [
        ("a:b,c", "100 %\nnext::x", "::error title=a%3Ab%2Cc::100 %25%0Anext::x"),
        ("a", "\x1b[31m\r", "::error title=a::\ufffd[31m\ufffd"),
    ],
)
def test_an_annotation_cannot_be_broken_out_of(title: str, message: str, expected: str) -> None:
    assert annotation("error", title, message) == expected


def test_due_waivers_are_annotated() -> None:
    old, idle = replace(WAIVER, expires=date(2020, 1, 1)), replace(WAIVER, cause="eps")
    levels = [line.split(" ")[0] for line in annotate(verdict(one(), old, idle, level="defect"))]
    assert levels == ["::error", "::warning"]


def test_lines_that_did_not_fit_are_counted_without_the_empty_ones() -> None:
    assert "*3 more lines did not fit;" in fit(["x" * 300, "", "y" * 300, "", "z" * 300], 400)
