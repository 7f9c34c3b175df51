"""The answer about a user's thing in the formats of issues and CI: Markdown, a job's summary, JUnit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bncheck.gate.bar import Judged, Verdict
from bncheck.report.layers import Told, heads, layers_shown, mark_of, rest, where
from bncheck.report.markdown_text import code, link, table, text
from bncheck.report.overview import Theme, evidence
from bncheck.report.plain_text import kinded, plural, share
from bncheck.run_folder.answer import Answer, Row

MOST_ROWS = 200  # GitHub cuts an issue's text at 65,536 characters
MOST_LAYERS = 24


def markdown(told: Told) -> Iterator[str]:
    """The body of ``report.md``, below its title."""
    yield from findings(told)
    yield from layer_table(told, text, MOST_ROWS)
    for note in told.answer.notes:
        yield f"- {text(note)}"


def findings(told: Told) -> Iterator[str]:
    if told.themes:
        yield from ["## Findings", ""]
    for theme in told.themes:
        yield from finding(theme, told.answer)
    for theme in told.rounding:
        yield from [f"Rounding: {text(theme.first.title)}", ""]


def finding(theme: Theme, answer: Answer) -> Iterator[str]:
    """What is wrong, where, and the fix; then the numbers."""
    first = theme.first
    yield from [
        f"### {code(first.code)} {text(first.cause)} {text(kinded(first).strip())}".rstrip(),
        "",
        text(first.sentence),
        "",
    ]
    layers = layers_shown(theme, answer)
    if layers:
        more = f" and {len(layers) - MOST_LAYERS} more" if len(layers) > MOST_LAYERS else ""
        yield f"- {plural(len(layers), 'layer')}: {', '.join(map(code, layers[:MOST_LAYERS]))}{more}"
    if first.advice:
        yield f"- fix: {text(first.advice)}"
    if first.explained is not None and not first.proof:
        yield f"- accounts for {share(first.explained)} of the difference"
    if first.evidence:
        yield f"- {', '.join(f'{text(key)} {text(value)}' for key, value in evidence(first))}"
    if first.link:
        yield f"- {link('documentation', first.link)}"
    yield ""


def layer_table(told: Told, write: Callable[[str], str], most: int) -> Iterator[str]:
    """Rows that a finding is about, then the others, as far as they fit."""
    rows = told.rows[:most]
    if not rows or not told.answer.columns:
        return
    yield from ["## Layers"]
    yield from table(
        (*map(write, heads(told.answer)), "says"),
        [[write(row.layer), *map(write, row.cells), f"{mark_of(row)} {write(row.mark)}".strip()] for row in rows],
    )
    left = told.rows[most:]
    if left:
        yield from [f"And {plural(len(left), 'more layer')}.", ""]


def summary(told: Told, write: Callable[[str], str]) -> Iterator[str]:
    """Of a job's summary: the layers that matter, and how many do not."""
    for theme in told.themes:
        said, at = theme.first, where(theme, told.answer)
        fix = f" → {write(said.advice)}" if said.advice else ""
        yield (
            f"- {write(said.code)} **{write(said.cause)}** {write(kinded(said).strip())}: {write(said.sentence)}"
            + (f" ({write(at)})" if at else "")
            + fix
        )
    if told.themes:
        yield ""
    rows = told.telling[:MOST_ROWS]
    if rows and told.answer.columns:
        yield from table(tuple(map(write, heads(told.answer))), [line_of(row, write) for row in rows])
    quiet = rest(told.quiet, len(told.telling), told.answer.each)
    if quiet:
        yield from [write(quiet), ""]


def line_of(row: Row, write: Callable[[str], str]) -> Sequence[str]:
    return [f"{mark_of(row)} {write(row.layer)}", *map(write, row.cells)]


def by_layer(told: Told, verdict: Verdict) -> Iterator[tuple[str, tuple[Judged, ...]]]:
    """For JUnit: each layer with what was judged about it, gravest findings first; then what is about none of them."""
    here: dict[str, list[Judged]] = {}
    for item in verdict.judged:
        here.setdefault(item.charge.layer, []).append(item)
    for row in told.rows:
        yield row.layer, tuple(here.pop(row.layer, ()))
    for layer, items in here.items():
        if layer:
            yield layer, tuple(items)
    if here.get("") or not told.rows:
        yield told.answer.subject, tuple(here.get("", ()))
