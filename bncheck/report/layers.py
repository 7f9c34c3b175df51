"""A run that answers a question about a user's thing (check, diff, watch): its layers, arranged for reading.

What matters comes first: the answer in one line, the layers that a finding is about, the findings with their fix.
Nothing is judged here; marks come from the answer and from the run's own findings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bncheck.finding import KINDS, Finding
from bncheck.report.overview import Theme, themes
from bncheck.report.plain_text import clean, one_line, plural
from bncheck.report.standing import MARKS
from bncheck.run_folder.answer import Answer, Row, read_answer
from bncheck.run_folder.cell import folder_of, read_record
from bncheck.run_folder.results import CellResult, Results

# A table of so few layers is shown whole: it says how each layer stands, and fits beside its findings.
FEW = 8
NAMED = 3  # layers that a sentence names


@dataclass(frozen=True)
class Told:
    """``telling`` are the rows that a finding is about, gravest first; ``quiet`` the others, in the model's order."""

    answer: Answer
    themes: tuple[Theme, ...]
    rounding: tuple[Theme, ...]
    telling: tuple[Row, ...]
    quiet: tuple[Row, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        return (*self.telling, *self.quiet)


def told_of(results: Results, run_folder: Path) -> Told | None:
    """None where it is a run of scenarios."""
    answer = read_answer(run_folder)
    return None if answer is None else arrange(results, answer)


def arrange(results: Results, answer: Answer) -> Told:
    grouped = themes(results)
    worst = gravest(results.findings)
    rows = [replace(row, mark=worst.get(row.layer, row.mark)) for row in answer.rows]
    telling = [row for row in rows if tells(row)]
    found = of_one_case([theme for theme in grouped if theme.first.kind != "rounding"])
    # What has a cause in one case is not said to be rounding in another, where it was too small to be told from it.
    caused = {quantity for theme in found for item in theme.findings for _, quantity in item.places}
    return Told(
        answer=answer,
        themes=tuple(found),
        rounding=tuple(
            theme for theme in grouped if theme.first.kind == "rounding" and theme.first.quantity not in caused
        ),
        telling=tuple(sorted(telling, key=lambda row: KINDS.index(row.mark))),
        quiet=tuple(row for row in rows if not tells(row)),
    )


def of_one_case(found: Sequence[Theme]) -> Sequence[Theme]:
    """Themes that speak of the same case where they have it: shares of a difference then add up on one screen."""
    said = (found[0].first.scenario, found[0].first.case) if found else None
    return [
        replace(theme, first=next((item for item in theme.findings if (item.scenario, item.case) == said), theme.first))
        for theme in found
    ]


def tells(row: Row) -> bool:
    """Whether something is to be said about the layer; rounding is good news."""
    return row.mark in KINDS and row.mark != "rounding"


def gravest(findings: Sequence[Finding]) -> Mapping[str, str]:
    """Layer → kind of the gravest finding about it, among the layers that a finding names."""
    found: dict[str, str] = {}
    for finding in sorted(findings, key=lambda item: KINDS.index(item.kind)):
        for layer in layers_of_finding(finding):
            found.setdefault(layer, finding.kind)
    return found


def layers_of_finding(finding: Finding) -> tuple[str, ...]:
    """A finding about several layers names them in one text, or accounts for each."""
    named = (*finding.layer.split(", "), *(place[0] for place in finding.accounts))
    return tuple(dict.fromkeys(layer for layer in named if layer))


def layers_of(theme: Theme) -> tuple[str, ...]:
    """Every layer that a theme's findings are about, in their order."""
    return tuple(dict.fromkeys(layer for finding in theme.findings for layer in layers_of_finding(finding)))


def layers_shown(theme: Theme, answer: Answer) -> tuple[str, ...]:
    """Those that the user knows: the answer has a row of them, perhaps one per process (``stem.bn @1``)."""
    known = {name for row in answer.rows for name in (row.layer, row.layer.rpartition(" @")[0])}
    return tuple(layer for layer in layers_of(theme) if layer in known)


def where(theme: Theme, answer: Answer) -> str:
    """``in layer1.0.bn1, layer1.0.bn2, layer1.1.bn1 and 50 more layers``; "" where the title has said it, or the answer
    is not about layers of the user's."""
    layers = layers_shown(theme, answer)
    if len(layers) <= NAMED and all(said(layer, theme.first.title) for layer in layers):
        return ""
    more = f" and {plural(len(layers) - NAMED, 'more layer')}" if len(layers) > NAMED else ""
    return f"in {', '.join(one_line(layer, 60) for layer in layers[:NAMED])}{more}"


def said(layer: str, title: str) -> bool:
    """Whether a title names a layer: ``1`` is not named by ``117 steps``."""
    return re.search(rf"(?<![\w.]){re.escape(layer)}(?!\w|\.\w)", title) is not None


def mark_of(row: Row) -> str:
    """The sign that says the same without colour; a blank where nothing is said about the layer."""
    return MARKS.get(row.mark, " ")


def rest(rows: Sequence[Row], shown: int, each: str = "layer") -> str:
    """``48 more layers: nothing to say``, in the words that are true of them; "" where none is left."""
    if not rows:
        return ""
    one, many = (f"more {each}", f"more {several(each)}") if shown else (each, several(each))
    agree = sum(row.mark == "agrees" for row in rows)
    near = sum(row.mark == "rounding" for row in rows)
    silent = len(rows) - agree - near
    said = ["1 {one} agrees" if agree == 1 else "{agree} {many} agree"] if agree else []
    said += ["1 {one} agrees up to rounding" if near == 1 else "{near} {many} agree up to rounding"] if near else []
    said += ["1 {one}: nothing to say" if silent == 1 else "{silent} {many}: nothing to say"] if silent else []
    return "; ".join(said).format(one=one, many=many, agree=agree, near=near, silent=silent)


def several(noun: str) -> str:
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"


def stopped(results: Results) -> tuple[CellResult, ...]:
    """Cells that were asked for and not carried out; what probes try out is measured, not asked."""
    probes = {scenario.name for scenario in results.scenarios if scenario.probe}
    return tuple(cell for cell in results.cells if cell.outcome != "ok" and cell.error and cell.scenario not in probes)


def was_played(results: Results, run_folder: Path) -> bool:
    """Whether cells lie behind the answer: they have pictures, numbers and a kit. A life that was watched and a file
    that was read have none."""
    return any(read_record(folder_of(run_folder, cell)) is not None for cell in results.cells)


def heads(answer: Answer) -> tuple[str, ...]:
    return (clean(answer.each), *(clean(column) for column in answer.columns))
