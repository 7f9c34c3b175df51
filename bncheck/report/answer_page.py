"""``index.html`` of an answer about a user's thing: the answer, the findings, each layer, its time where it was
watched. Like every page it reads without network, script or mouse; foreign text is escaped by the template."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from bncheck.finding import KINDS
from bncheck.gate.bar import read_verdict
from bncheck.life import LayerLife, Life
from bncheck.report.figures import Figures
from bncheck.report.happened import Line, line_of, lines_of, place_of
from bncheck.report.judgement import arrange, standings
from bncheck.report.layers import (
    FEW,
    Told,
    gravest,
    heads,
    layers_of,
    layers_shown,
    mark_of,
    several,
    stopped,
    was_played,
    where,
)
from bncheck.report.leads import explained, kit_of
from bncheck.report.overview import Theme, evidence, numbers
from bncheck.report.pages import environment, environment_table
from bncheck.report.picture import Picture
from bncheck.report.places import by_scenario, places
from bncheck.report.plain_text import clean, one_line, plural
from bncheck.report.standing import step_of
from bncheck.report.svg import COLOURS, themed
from bncheck.report.timeline import Timeline, distance_map, timeline
from bncheck.run_folder.results import Results
from bncheck.run_folder.source_lines import places as line_places

MOST_ROWS = 3000  # of the table; answer.json has them all
MOST_FINE = 16  # rows without a finding that are shown before somebody asks for them
MOST_TIMELINES = 6
MOST_LIVES = 4  # processes that get a map of their own
MOST_LINES = 400  # of what happened
SILENT = "silent"
SAID = {"agrees": "agrees", "rounding": "rounding", SILENT: ""}


@dataclass(frozen=True)
class Item:
    """One theme on the page; ``layers`` are names with the anchor of their timeline, "" where there is none."""

    anchor: str
    theme: Theme
    where: str
    layers: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    quotes: tuple[tuple[str, str], ...]  # (file:line, the line itself) of the user's code that it speaks of
    figure: str
    commands: tuple[str, ...]
    standings: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class LayerRow:
    """One layer of the table; ``word`` is a finding's kind, agrees, or silent."""

    layer: str
    cells: tuple[str, ...]
    word: str
    sign: str
    said: str
    fine: bool
    at: str


@dataclass(frozen=True)
class Time:
    """One layer's timeline on the page."""

    anchor: str
    name: str
    kind: str
    process: str
    facts: tuple[str, ...]
    svg: str
    said: str
    numbered: tuple[Line, ...]


def page(results: Results, run_folder: Path, told: Told, figures: Figures, lives: Sequence[Life] = ()) -> str:
    """The whole page; ``lives`` are those of the processes that were watched."""
    played = was_played(results, run_folder)
    verdict = read_verdict(run_folder, results)
    times = list(timelines(told, lives))
    # The first life that has the layer speaks for it.
    anchors = {each.name: each.anchor for each in reversed(times)}
    rows = [row_of(row, anchors) for row in told.rows[:MOST_ROWS]]
    code = {where.label: where.text for where in line_places(lives) if where.text}
    items = [
        Item(
            anchor=f"finding-{number}",
            theme=theme,
            where=where(theme, told.answer),
            layers=tuple((layer, anchors.get(layer, "")) for layer in layers_shown(theme, told.answer)),
            facts=tuple(evidence(theme.first)),
            quotes=tuple(quotes(theme, code)),
            figure=figures.take(theme.first.scenario, theme.first.case, f"finding-{number}") if played else "",
            commands=commands_of(results, theme, run_folder.name, played),
            standings=tuple(standings(verdict, theme.findings)),
        )
        for number, theme in enumerate(told.themes, 1)
    ]
    cases = (
        places(
            results,
            run_folder,
            {id(f): item.anchor for item in items for f in item.theme.findings}
            | {id(f): "rounding" for theme in told.rounding for f in theme.findings},
        )
        if played
        else []
    )
    asked, probes = ([each for each in cases if each.scenario.probe is probe] for probe in (False, True))
    happened = [line for life in lives for line in lines_of(life, process(life, lives))]
    return (
        environment()
        .get_template("answer.html.j2")
        .render(
            results=results,
            answer=told.answer,
            judgement=arrange(verdict),
            items=items,
            rounding=told.rounding,
            failed=stopped(results),
            missing=[target for target in results.targets if target.status != "ok"],
            rows=rows,
            more_rows=max(len(told.rows) - MOST_ROWS, 0),
            heads=heads(told.answer),
            choices=choices(rows),
            telling=sum(not row.fine for row in rows),
            fold=sum(row.fine for row in rows) > MOST_FINE,
            several=clean(told.answer.each if len(told.rows) == 1 else several(told.answer.each)),
            maps=list(maps(results, lives)),
            more_lives=max(len(lives) - MOST_LIVES, 0),
            timelines=times,
            happened=happened[:MOST_LINES],
            more_happened=max(len(happened) - MOST_LINES, 0),
            groups=[(scenario, members, figures.extras(scenario)) for scenario, members in by_scenario(asked)],
            probe_groups=[(scenario, members, []) for scenario, members in by_scenario(probes)],
            probes=len(probes),
            case_figures={each.anchor: figures.take(each.scenario.name, each.case.name, each.anchor) for each in cases},
            numbers=numbers,
            step_of=step_of,
            environments=environment_table(results),
            run_name=run_folder.name,
        )
    )


def quotes(theme: Theme, code: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Lines that the sentences of a finding name as file:line, where their text is known."""
    said = f"{theme.first.title} {theme.first.advice}"
    for label in dict.fromkeys(re.findall(r"[\w.-]+:\d+", said)):
        if label in code:
            yield label, one_line(code[label], 200)


def commands_of(results: Results, theme: Theme, run: str, played: bool) -> tuple[str, ...]:
    """A kit only where something was played that it could play again."""
    return (*(kit_of(results, theme.first, run) if played else ()), *explained(theme.first))


def row_of(row: Any, anchors: Mapping[str, str]) -> LayerRow:
    word = row.mark if row.mark in KINDS or row.mark == "agrees" else SILENT
    fine = word in SAID
    return LayerRow(
        layer=row.layer,
        cells=row.cells,
        word=word,
        sign=mark_of(row).strip(),
        said=SAID.get(word, word),
        fine=fine,
        # Of several processes a row says whose layer it is: "stem.bn @1".
        at=anchors.get(row.layer, anchors.get(row.layer.rpartition(" @")[0], "")),
    )


def choices(rows: Sequence[LayerRow]) -> list[tuple[str, int]]:
    """(word, number of layers) of every filter that would show something and hide something."""
    if len(rows) <= FEW:
        return []
    counted = [(word, sum(row.word == word for row in rows)) for word in (*KINDS, "agrees", SILENT)]
    return [(word, count) for word, count in counted if 0 < count < len(rows)]


def process(life: Life, lives: Sequence[Life]) -> str:
    """What tells one process of several from the others."""
    if len(lives) < 2:
        return ""
    return clean(f"rank {life.rank} of {life.world}" if life.world > 1 else f"process {life.pid}")


def maps(results: Results, lives: Sequence[Life]) -> Iterable[tuple[str, str, str]]:
    """(caption, SVG, process) of each process's map of all layers."""
    kinds = gravest(results.findings)
    for number, life in enumerate(lives[:MOST_LIVES], 1):
        picture = distance_map(life, kinds, f"layers-{number}")
        if picture is not None:
            yield picture.caption, inline(picture), process(life, lives)


def timelines(told: Told, lives: Sequence[Life]) -> Iterable[Time]:
    for number, (life, layer) in enumerate(concerned(told, lives), 1):
        drawn = timeline(life, layer, f"layer-{number}")
        yield Time(
            anchor=f"layer-{number}",
            name=layer.name,
            kind=layer.kind,
            process=process(life, lives),
            facts=tuple(facts_of(layer)),
            svg=inline(drawn.picture),
            said=drawn.picture.caption,
            numbered=numbered(drawn),
        )


def numbered(drawn: Timeline) -> tuple[Line, ...]:
    return tuple(line_of(each, "") for each in drawn.numbered)


def concerned(told: Told, lives: Sequence[Life]) -> list[tuple[Life, LayerLife]]:
    """Each theme's first layer before the second of any, in every process that has it."""
    by_theme = [layers_of(theme) for theme in told.themes]
    longest = max(map(len, by_theme), default=0)
    names = dict.fromkeys(layers[place] for place in range(longest) for layers in by_theme if place < len(layers))
    known = [{layer.name: layer for layer in life.layers} for life in lives]
    found = [
        (life, layers[name]) for name in names for life, layers in zip(lives, known, strict=True) if name in layers
    ]
    return found[:MOST_TIMELINES]


def facts_of(layer: LayerLife) -> Iterable[str]:
    """What is known of a layer beside its numbers, a few words each."""
    yield plural(layer.channels, "channel")
    yield f"{layer.forwards:,} forward{'' if layer.forwards == 1 else 's'}"
    if len(layer.names) > 1:
        yield f"also reached as {', '.join(clean(name) for name in layer.names if name != layer.name)}"
    if layer.registered is False:
        yield "not reached by the model's own modules()"
    if layer.trainable is False:
        yield "gamma and beta are frozen"
    if layer.made_at is not None:
        yield f"made at {place_of(layer.made_at)}"
    called = list(dict.fromkeys(place_of(span.called_from) for span in layer.spans if span.called_from is not None))
    if called:
        more = f" and {len(called) - 2} more places" if len(called) > 2 else ""
        yield f"called from {', '.join(called[:2])}{more}"


def inline(picture: Picture) -> str:
    """For the page. What the picture says of foreign names is escaped in it."""
    return Markup(themed(picture.svg, COLOURS, str(escape(picture.caption))))
