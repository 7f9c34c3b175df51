"""``index.html``: one file that reads without network, JavaScript or mouse; the verdict comes first.

It carries its own content-security policy (no scripts, no loads), and what it shows of a run folder is escaped by
the template. Pictures are drawn here, never read back from the folder: a file there could be anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bncheck.convention import FACETS, Convention, Facet
from bncheck.gate.bar import Verdict, read_verdict
from bncheck.life import Life
from bncheck.report import answer_page, overview, plain_text
from bncheck.report.conventions import kept
from bncheck.report.figures import Figures
from bncheck.report.gallery import Gallery
from bncheck.report.judgement import arrange, standings
from bncheck.report.layers import told_of
from bncheck.report.leads import commands_of
from bncheck.report.overview import Theme
from bncheck.report.pages import environment, environment_table
from bncheck.report.places import DECADES, GRAVITY, by_scenario, choices, columns, of_yardstick, places
from bncheck.report.standing import step_of
from bncheck.run_folder.folder import WATCHED
from bncheck.run_folder.results import Results
from bncheck.run_folder.source_lines import read_lines
from bncheck.run_folder.whole import write_whole

NAME = "html"


@dataclass(frozen=True)
class Item:
    """One theme on the page. ``standings`` is what a baseline and waivers made of it, as (standing, words)."""

    anchor: str
    theme: Theme
    figure: str
    figure_at: str  # anchor of the theme that shows the same picture
    commands: tuple[str, ...]
    standings: tuple[tuple[str, str], ...] = ()


def prepare() -> None:
    """Compile the template, or load it compiled."""
    environment().get_template("index.html.j2")


def render(results: Results, run_folder: Path, gallery: Gallery | None = None) -> list[Path]:
    """Write index.html."""
    return [write_whole(run_folder / "index.html", page(results, run_folder, gallery))]


def watched_lives(run_folder: Path) -> Sequence[Life]:
    """Those of the processes that were watched; what checks them takes a tenth of a second to import."""
    if not (run_folder / WATCHED).is_dir():
        return ()
    from bncheck.run_folder.lives import read_lives

    return read_lines(run_folder, read_lives(run_folder))


def page(results: Results, run_folder: Path, gallery: Gallery | None = None) -> str:
    """The whole page."""
    figures = Figures(results, gallery or Gallery(results, run_folder))
    told = told_of(results, run_folder)
    if told is not None:
        return answer_page.page(results, run_folder, told, figures, watched_lives(run_folder))
    verdict = read_verdict(run_folder, results)
    items = list_items(results, run_folder, figures, verdict)
    anchors = {id(finding): item.anchor for item in items for finding in item.theme.findings}
    shown = places(results, run_folder if figures.gallery.limit != 0 else None, anchors)
    asked = [each for each in shown if not each.scenario.probe] or shown
    probes = [each for each in shown if each.scenario.probe and each not in asked]
    return (
        environment()
        .get_template("index.html.j2")
        .render(
            results=results,
            columns=columns(results),
            itself=lambda shown: of_yardstick(shown, results),
            headline=overview.headline(results),
            judgement=arrange(verdict),
            items=[item for item in items if item.theme.first.kind != "rounding"],
            rounding=[item for item in items if item.theme.first.kind == "rounding"],
            asked=asked,
            probes=probes,
            choices=choices(asked),
            groups=[(scenario, members, figures.extras(scenario)) for scenario, members in by_scenario(asked)],
            probe_groups=[(scenario, members, []) for scenario, members in by_scenario(probes)],
            case_figures={each.anchor: figures.take(each.scenario.name, each.case.name, each.anchor) for each in shown},
            place_at={(each.scenario.name, each.case.name): each for each in shown},
            conventions=convention_table(results.conventions),
            kept=kept(results),
            environments=environment_table(results),
            expectations=expectation_rows(results),
            missing=[t for t in results.targets if t.status != "ok"],
            evidence=overview.evidence,
            values_of=overview.values_of,
            unsettled=overview.unsettled,
            numbers=overview.numbers,
            step_of=step_of,
            run_name=run_folder.name,
            undrawn=figures.undrawn(),
            gravities=range(len(GRAVITY)),
            decades=range(DECADES + 1),
        )
    )


def list_items(results: Results, run_folder: Path, figures: Figures, verdict: Verdict) -> list[Item]:
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
        told = tuple(standings(verdict, theme.findings))
        commands = commands_of(results, theme.first, run_folder.name)
        found.append(
            Item(
                anchor=anchor,
                theme=theme,
                figure=figure,
                figure_at="" if figure else seen,
                commands=commands,
                standings=told,
            )
        )
    return found


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
    return (plain_text.scalar(facet.value) if facet.identifiable else "", facet.identifiable, facet.agrees)


def convention_row(name: str, columns: list[Convention]) -> dict[str, Any]:
    facets = [column.facets.get(name) for column in columns]
    reasons = dict.fromkeys(f.reason for f in facets if f is not None and not f.identifiable and f.reason)
    cells = [
        None
        if facet is None
        else {
            "facet": facet,
            "word": column.framework_word.get(name, ""),
            "differs": facet.documented is not None and facet.agrees is False,
        }
        for facet, column in zip(facets, columns, strict=True)
    ]
    return {"facet": name, "says": FACETS.get(name, ""), "reasons": list(reasons)[:3], "cells": cells}


def expectation_rows(results: Results) -> list[dict[str, Any]]:
    return [
        {"scenario": scenario, "expect": expect, "said": overview.expectation_sentence(expect)}
        for scenario in results.scenarios
        for expect in scenario.expectations
    ]
