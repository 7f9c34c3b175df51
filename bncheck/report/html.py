"""``index.html``: one file that reads without network, JavaScript or mouse; the verdict comes first.

It carries its own content-security policy (no scripts, no loads), and what it shows of a run folder is escaped by
the template. Pictures are drawn here, never read back from the folder: a file there could be anything.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from bncheck.convention import FACETS, Convention, Facet
from bncheck.evidence import Drift
from bncheck.finding import Finding
from bncheck.report import overview, wording
from bncheck.report.gallery import Gallery
from bncheck.report.overview import Standing, Theme
from bncheck.report.svg import themed
from bncheck.results import CaseResult, CellResult, Results, ScenarioResult

NAME = "html"
# Differing quantities of one case that the page lists; all of them are in drifts.csv.
LISTED = 12


@dataclass(frozen=True)
class Place:
    """One case on the page: its anchor, its cells, and its picture unless a finding shows it."""

    anchor: str
    scenario: ScenarioResult
    case: CaseResult
    cells: tuple[tuple[str, Standing, CellResult | None], ...]  # (target, standing, cell)
    drifts: tuple[Drift, ...]
    more: int
    findings: tuple[tuple[str, Finding], ...]  # (anchor of its theme, finding)
    figure: str


@dataclass(frozen=True)
class Item:
    """One theme on the page."""

    anchor: str
    theme: Theme
    figure: str
    figure_at: str  # anchor of the theme that shows the same picture
    command: str


def render(results: Results, run_folder: Path, gallery: Gallery | None = None) -> list[Path]:
    """Write index.html under a temporary name, then rename it."""
    path = run_folder / "index.html"
    part = path.with_name("index.html.part")
    part.write_text(page(results, run_folder, gallery), encoding="utf-8")
    return [part.replace(path)]


def page(results: Results, run_folder: Path, gallery: Gallery | None = None) -> str:
    """The whole page."""
    figures = Figures(results, gallery or Gallery(results, run_folder))
    items = list_items(results, run_folder, figures)
    anchors = {id(finding): item.anchor for item in items for finding in item.theme.findings}
    places = [place(results, number, row, anchors, figures) for number, row in enumerate(overview.rows(results), 1)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {
        "number": wording.number, "share": wording.share, "scalar": wording.scalar, "words": wording.words,
        "one_line": wording.one_line, "clean": wording.clean, "plural": wording.plural, "link": safe_link,
    }  # fmt: skip
    return environment.get_template("index.html.j2").render(
        results=results, verdict=overview.verdict(results), items=items, places=places,
        place_at={(each.scenario.name, each.case.name): each for each in places},
        conventions=convention_table(results.conventions), environments=environment_table(results),
        expectations=expectation_rows(results), missing=[t for t in results.targets if t.status != "ok"],
        evidence=overview.evidence,
        unsettled=overview.unsettled, numbers=overview.numbers, step_of=overview.step_of, run_name=run_folder.name,
        undrawn=figures.undrawn(), marks=overview.MARKS,
    )  # fmt: skip


def safe_link(text: str) -> str:
    """The address when it is a web page's, else nothing: a run folder may hold ``javascript:``."""
    return text if text.startswith(("https://", "http://")) else ""


class Figures:
    """Inline pictures, each shown once; ids get a number per picture so that no two are alike on the page."""

    def __init__(self, results: Results, gallery: Gallery) -> None:
        self.gallery = gallery
        self.allowed = {(scenario.name, case.name): (scenario, case) for scenario, case in gallery.chosen()}
        self.results = results
        self.shown_at: dict[tuple[str, str], str] = {}

    def take(self, scenario: str, case: str, anchor: str) -> str:
        """The SVG of a case, "" when it has none, was shown before or is beyond the limit."""
        key = (scenario, case)
        if key in self.shown_at or key not in self.allowed:
            return ""
        picture = self.gallery.picture(*self.allowed[key])
        if picture is None:
            return ""
        from bncheck.report.panel import COLOURS

        self.shown_at[key] = anchor
        svg = themed(picture.svg, COLOURS, str(escape(picture.caption)))
        return Markup(svg.replace('"p-', f'"f{len(self.shown_at)}-').replace("#p-", f"#f{len(self.shown_at)}-"))

    def undrawn(self) -> int:
        return len(overview.rows(self.results)) - len(self.allowed)


def list_items(results: Results, run_folder: Path, figures: Figures) -> list[Item]:
    found = []
    for number, theme in enumerate(overview.themes(results), 1):
        anchor = f"finding-{number}"
        figure, seen = "", ""
        for scenario, case in theme.cases:
            # Rounding is too small to see, and would take the picture from a finding that explains it.
            figure = "" if theme.first.kind == "rounding" else figures.take(scenario, case, anchor)
            seen = seen or figures.shown_at.get((scenario, case), "")
            if figure:
                break
        found.append(Item(anchor, theme, figure, "" if figure else seen, command_of(results, theme.first)))
    return found


def command_of(results: Results, finding: Finding) -> str:
    """The command that shows this finding alone."""
    wanted = dict.fromkeys((*finding.targets, results.base))
    targets = " ".join(f"-t {shlex.quote(wording.clean(name))}" for name in wanted if name)
    return f"bncheck run {shlex.quote(wording.clean(finding.scenario))} {targets}".strip()


def place(
    results: Results, number: int, row: tuple[ScenarioResult, CaseResult], anchors: dict[int, str], figures: Figures
) -> Place:
    scenario, case = row
    cells = tuple(
        (target.name, overview.standing(results, scenario.name, case.name, target.name),
         results.cell_at.get((scenario.name, case.name, target.name)))
        for target in results.targets
    )  # fmt: skip
    differing = [
        drift
        for target in results.targets
        for drift in results.drifts_at.get((scenario.name, case.name, results.base, target.name), ())
        if drift.verdict != "agrees"
    ]
    differing.sort(key=lambda drift: -drift.mean_abs if drift.mean_abs == drift.mean_abs else float("-inf"))
    here = tuple((anchors[id(f)], f) for f in results.findings_at.get((scenario.name, case.name), ()))
    anchor = f"case-{number}"
    figure = figures.take(scenario.name, case.name, anchor)
    more = max(0, len(differing) - LISTED)
    return Place(anchor, scenario, case, cells, tuple(differing[:LISTED]), more, here, figure)


def convention_table(conventions: Iterable[Convention]) -> dict[str, Any]:
    """Facets as rows; one column per target, or several where its layer paths follow different rules."""
    columns: dict[Any, tuple[Convention, list[str]]] = {}
    for found in conventions:
        same = (found.target, tuple((name, shown(facet)) for name, facet in sorted(found.facets.items())))
        columns.setdefault(same, (found, []))[1].append(found.path)
    heads = [(found.target, ", ".join(path for path in paths if path)) for found, paths in columns.values()]
    measured = [found for found, _ in columns.values()]
    names = [name for name in FACETS if any(name in found.facets for found in measured)]
    others = dict.fromkeys(name for found in measured for name in found.facets if name not in FACETS)
    return {"heads": heads, "rows": [convention_row(name, measured) for name in (*names, *others)]}


def shown(facet: Facet) -> tuple[str, bool, bool | None]:
    """What of a facet a reader sees in the table."""
    return (wording.scalar(facet.value) if facet.identifiable else "", facet.identifiable, facet.agrees)


def convention_row(name: str, columns: list[Convention]) -> dict[str, Any]:
    facets = [column.facets.get(name) for column in columns]
    reasons = dict.fromkeys(f.reason for f in facets if f is not None and not f.identifiable and f.reason)
    cells = [
        None if facet is None else {
            "facet": facet, "word": column.framework_word.get(name, ""),
            "differs": facet.documented is not None and facet.agrees is False,
        }
        for facet, column in zip(facets, columns, strict=True)
    ]  # fmt: skip
    return {"facet": name, "says": FACETS.get(name, ""), "reasons": list(reasons)[:3], "cells": cells}


def environment_table(results: Results) -> dict[str, Any]:
    """Keys as rows, targets as columns: differences between environments meet the eye."""
    given = {target.name: {"version": target.version, "device": target.device, "python": target.python,
                           **target.environment} for target in results.targets}  # fmt: skip
    keys = list(dict.fromkeys(key for found in given.values() for key in found))
    return {"keys": keys, "given": given}


def expectation_rows(results: Results) -> list[dict[str, Any]]:
    return [
        {"scenario": scenario, "expect": expect, "said": expectation_sentence(expect)}
        for scenario in results.scenarios
        for expect in scenario.expectations
    ]


def expectation_sentence(expect: Any) -> str:
    a, b = expect.between
    what = "agree" if expect.agree else f"differ by {', '.join(expect.causes) or 'a named cause'}"
    when = f" when {wording.scalar(expect.when)}" if expect.when else ""
    return wording.clean(f"{a} and {b} {what}{when}")
