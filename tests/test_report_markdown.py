"""Markdown: foreign text stays text, and report.md says what the run found."""

from __future__ import annotations

import re
from pathlib import Path

import literal_run
import pytest
from hypothesis import given
from hypothesis import strategies as st
from literal_run import finding, results

from bncheck.report.markdown import render
from bncheck.report.markdown_text import code, fenced, link, table, text
from bncheck.repro.issue import portable


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("plain words, 0.90099 ± 0.20569", "plain words, 0.90099 ± 0.20569"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("a|b", r"a\|b"),
        ("`x`", r"\`x\`"),
        ("two\nlines\n# heading", "two lines &#35; heading"),
        ("# heading", "&#35; heading"),
        ("- item", r"\- item"),
        ("1. item", r"1\. item"),
        ("1.9.1", "1.9.1"),
        ("running_mean", r"running\_mean"),
        ("@everyone and mxnet@cpu", "&#64;everyone and mxnet@cpu"),
        ("[here](javascript:x)", r"\[here\](javascript:x)"),
        ("![x](y)", r"\!\[x\](y)"),
        ("a\x1b[31mb", "a\N{REPLACEMENT CHARACTER}\\[31mb"),
        ("&lt;", "&amp;lt;"),
    ],
)
def test_prose(given_text: str, expected: str) -> None:
    assert text(given_text) == expected


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [("x", "`x`"), ("a`b", "``a`b``"), ("`", "`` ` ``"), ("a|b", r"`a\|b`"), ("a\nb", "`a b`"), ("", "`  `")],
)
def test_code_spans(given_text: str, expected: str) -> None:
    assert code(given_text) == expected


def test_a_fence_is_longer_than_what_it_holds() -> None:
    assert fenced("x = '''\n```\n", "python") == ["````python", "x = '''", "```", "````"]


def test_links_lead_to_web_pages_only() -> None:
    assert link("docs", "https://example.org/a_b?c=1#d") == "[docs](<https://example.org/a_b?c=1#d>)"
    assert link("docs", "javascript:alert(1)") == "docs"
    assert link("docs", "https://example.org/a> <b") == "docs"


@given(st.text(max_size=60))
def test_no_text_breaks_a_table(value: str) -> None:
    """A cell stays one cell of one line, without raw HTML."""
    for line in table(("a", "b"), [[text(value), code(value)]])[3:-1]:
        assert "\n" not in line
        assert len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) == 3
    assert "<" not in text(value)


def test_the_command_keeps_no_path_of_the_machine() -> None:
    assert (
        portable("bncheck run -t torch --out /home/me/x --python torch=/opt/py all-ones")
        == "bncheck run -t torch all-ones"
    )
    assert portable("/opt/venv/bin/bncheck run /home/me/mine.toml --out=/tmp/x") == "bncheck run mine.toml"
    assert portable('bncheck run "unclosed') == "bncheck run"


def test_report_md_has_the_verdict_the_findings_and_every_cell(tmp_path: Path) -> None:
    run = literal_run.write_run(tmp_path)
    (path,) = render(run, tmp_path)
    page = path.read_text(encoding="utf-8")
    assert path.name == "report.md"
    assert page.startswith("# bncheck\n\n**")
    assert "### `BN103` update-phase (convention)" in page
    assert "accounts for 100.0 % of the difference in running mean" in page
    assert "0.90099 ± 0.20569" in page
    assert "`all-ones--forward-backward`" in page
    assert "no CUDA device was found" in page
    assert "bncheck repro latest BN301" in page
    assert page.count("\n# ") == 0


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil = "</details><script>x</script>\n# heading\n| cell | `tick` [l](http://x) @you"
    run = results(
        findings=(finding(title=evil, advice=evil, evidence={evil: evil}, cause=evil),), command=evil, created=evil
    )
    page = render(run, tmp_path)[0].read_text(encoding="utf-8")
    assert "\n# heading" not in page
    prose = page.replace(code(portable(evil)), "").replace(code(evil), "")
    assert "<script" not in prose
    assert not re.search(r"(?<!\\)\]\(http", prose)
