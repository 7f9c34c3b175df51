"""``report.md``: the whole run as Markdown, to paste into an issue, a wiki or a pull request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bncheck.report import answer_text
from bncheck.report.gallery import Gallery
from bncheck.report.layers import Told, told_of
from bncheck.report.machine import environment_text, portable
from bncheck.report.markdown_text import code, link, table, text
from bncheck.report.overview import Theme, evidence, expectation_sentence, heading, headline, make_matrix, themes
from bncheck.report.plain_text import kinded, plural, share, words
from bncheck.run_folder.results import Results
from bncheck.run_folder.whole import write_whole

NAME = "markdown"
# GitHub cuts an issue's text at 65,536 characters; the table is what grows, so it is cut, and says so.
MOST_ROWS = 200
MOST_CASES = 12


def render(results: Results, run_folder: Path, gallery: Gallery | None = None) -> list[Path]:
    """Write report.md into the run folder."""
    path = run_folder / "report.md"
    told = told_of(results, run_folder)
    write_whole(path, "\n".join(lines_of(results) if told is None else answer_lines(results, told)).rstrip() + "\n")
    return [path]


def lines_of(results: Results) -> Iterator[str]:
    yield from ["# bncheck", "", f"**{text(headline(results))}**", ""]
    yield f"{text(results.created)}, bncheck {text(results.version)}, {code(portable(results.command))}"
    yield from ["", "## Findings", ""]
    found = [theme for theme in themes(results) if theme.first.kind != "rounding"]
    for theme in found:
        yield from finding_lines(theme)
    quiet = sum(theme.groups for theme in themes(results) if theme.first.kind == "rounding")
    if quiet:
        yield from [f"And {plural(quiet, 'difference')} of the size that rounding explains.", ""]
    if not found and not quiet:
        yield from ["None.", ""]
    yield from ["## Cases", *matrix(results), *expectations(results), *conventions(results)]
    unavailable = [target for target in results.targets if target.status != "ok"]
    if unavailable:
        yield "## Unavailable"
        yield from table(
            ("target", "why", "what helps"), [[code(t.name), text(t.reason), code(t.remedy)] for t in unavailable]
        )
    yield environment_text([target for target in results.targets if target.status == "ok"]).replace("# ", "## ", 1)


def answer_lines(results: Results, told: Told) -> Iterator[str]:
    """The answer about a user's thing: its layers stand where a run has its cases."""
    yield from [f"# bncheck {text(told.answer.verb)}", "", f"**{text(told.answer.headline)}**", ""]
    yield f"{text(results.created)}, bncheck {text(results.version)}, {code(portable(results.command))}"
    yield ""
    yield from answer_text.markdown(told)
    yield ""
    yield environment_text([target for target in results.targets if target.status == "ok"]).replace("# ", "## ", 1)


def finding_lines(theme: Theme) -> Iterator[str]:
    """One finding: the sentence, the numbers, the cases, the advice."""
    first = theme.first
    kind = f" ({text(first.kind)})" if kinded(first) else ""
    yield from [f"### {code(first.code)} {text(first.cause)}{kind}", "", text(first.sentence), ""]
    if first.departs:
        yield f"- at fault: {code(first.departs)}, against {text(first.departs_from or 'the others')}"
    if first.explained is not None and not first.proof:
        yield f"- accounts for {share(first.explained)} of the difference in {text(words(first.quantity or 'output'))}"
    names = [code(f"{scenario}--{case}") for scenario, case in theme.cases]
    more = f" and {len(names) - MOST_CASES} more" if len(names) > MOST_CASES else ""
    yield f"- in {plural(len(names), 'case')}: {', '.join(names[:MOST_CASES])}{more}"
    if first.advice:
        yield f"- fix: {text(first.advice)}"
    if first.link:
        yield f"- {link('documentation', first.link)}"
    yield f"- {'kit' if first.reportable else 'note'}: {code(f'bncheck repro latest {first.code}')}"
    if first.evidence:
        yield ""
        said = ", ".join(f"{text(key)} {text(value)}" for key, value in evidence(first))
        yield f"<details><summary>The numbers behind it</summary>{said}</details>"
    yield ""


def matrix(results: Results) -> list[str]:
    """Scenario × target, every cell a mark and a sentence."""
    shown = make_matrix(results, probes=False, most=MOST_ROWS)
    head = ["case", *(heading(shown, target, code) for target in shown.targets)]
    lines = table(
        head,
        [
            [
                code(f"{row.scenario.name}--{row.case.name}"),
                *(f"{stand.mark} {text(stand.text)}" for stand in row.stands.values()),
            ]
            for row in shown.rows
        ],
    )
    return (
        [*lines, f"And {plural(shown.more, 'case')} more, in index.html and drifts.csv.", ""] if shown.more else lines
    )


def expectations(results: Results) -> Iterator[str]:
    """What the scenarios expected, between targets that were there, and what became of it."""
    found = []
    for scenario in results.scenarios:
        for item in scenario.expectations:
            if item.met is None and not item.reason:
                continue
            word = f"not checked: {item.reason}" if item.met is None else ("yes" if item.met else "no")
            found.append(
                [code(scenario.name), text(expectation_sentence(item)), text(word), text(", ".join(item.found))]
            )
    if found:
        yield "## Expectations"
        yield from table(("scenario", "expected", "came true", "causes found"), found)


def conventions(results: Results) -> Iterator[str]:
    """The measured rules, target by target; a path is named where there is more than one."""
    measured = [item for item in results.conventions if item.facets]
    if not measured:
        return
    facets = list(dict.fromkeys(name for item in measured for name in item.facets))
    yield "## Measured conventions"
    head = ["rule", *(f"{code(item.target)} {text(item.path)}".strip() for item in measured)]
    body = []
    for name in facets:
        values = []
        for item in measured:
            facet = item.facets.get(name)
            values.append("-" if facet is None else text(facet.value) if facet.identifiable else "not identifiable")
        body.append([text(words(name)), *values])
    yield from table(head, body)
