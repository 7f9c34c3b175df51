"""The answer about a user's thing, at a prompt: the answer, the layers that matter, the causes with their fix."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bncheck.report.layers import FEW, Told, heads, mark_of, rest, several, stopped, was_played, where
from bncheck.report.overview import Theme, evidence
from bncheck.report.plain_text import clean, kinded, one_line, share
from bncheck.report.standing import MARKS
from bncheck.run_folder.answer import Answer, Row
from bncheck.run_folder.results import Results

# Rows that fit a screen beside the findings; -v and the page show all.
MOST_ROWS = 12
# Letters of one column before the next may begin; what is longer is folded.
WIDEST = 44
KIND_COLOURS = {
    "defect": "bold red",
    "hazard": "yellow",
    "unexplained": "magenta",
    "convention": "yellow",
    "rounding": "green",
    "agrees": "green",
}


def parts(
    told: Told, results: Results, run_folder: Path, width: int, verbose: bool, seconds: float | None
) -> Iterator[RenderableType]:
    yield Padding(Text(one_line(told.answer.headline, 500), style="bold"), (0, 0, 0, 1))
    yield from layer_parts(told, width, verbose)
    for theme in told.themes:
        yield Text()
        yield cause(theme, told.answer, verbose)
    if told.rounding:
        yield Text()
        yield from (quiet_cause(theme) for theme in told.rounding)
    said = [*told.answer.notes, *dict.fromkeys(text for cell in results.cells for text in cell.remarks)]
    if said:
        yield Text()
        yield from (Padding(Text(f"note: {one_line(note, 400)}", style="dim"), (0, 0, 0, 1)) for note in said)
    yield from errors(results)
    yield from ending(told, results, run_folder, seconds)


def layer_parts(told: Told, width: int, verbose: bool) -> Iterator[RenderableType]:
    """The table of the layers that matter; of a small model, of all."""
    rows = told.rows if verbose or len(told.rows) <= FEW else told.telling[:MOST_ROWS]
    more = len(told.telling) - len(rows)
    left = () if len(rows) == len(told.rows) else told.quiet
    if not told.answer.columns:
        rows, more, left = (), 0, ()  # a name alone says nothing that the findings do not
    if rows:
        yield Text()
        yield table(told, rows, width)
    each = clean(told.answer.each)
    if more > 0:
        yield Text(
            f" {more} more {each if more == 1 else several(each)} with a finding: bncheck report -v", style="dim"
        )
    told_rest = rest(left, len(told.telling), each)
    if told_rest:
        yield Text(f" {told_rest}", style="dim")


def table(told: Told, rows: Sequence[Row], width: int) -> RenderableType:
    """Side by side where it fits, else a layer under the other."""
    names = heads(told.answer)
    lines = [(f"{mark_of(row)} {clean(row.layer)}", *map(clean, row.cells)) for row in rows]
    wide = [max(cell_len(line[place]) for line in (names, *lines)) for place in range(len(names))]
    most = max(wide) if sum(wide) + 2 * len(wide) < width else WIDEST
    if sum(min(each, most) + 2 for each in wide) + 1 > width:
        return Group(*(stacked(row, names, line) for row, line in zip(rows, lines, strict=True)))
    shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", show_edge=False)
    for place, name in enumerate(names):
        shown.add_column(Text(f"  {name}" if not place else name), max_width=most, overflow="fold")
    for row, line in zip(rows, lines, strict=True):
        first, *others = line
        shown.add_row(Text(folded(first, most), style=KIND_COLOURS.get(row.mark, "")), *map(Text, others))
    return Padding(shown, (0, 0, 0, 1))


def folded(marked: str, most: int) -> str:
    """A mark and a long name in lines of ``most`` letters, the name below itself and not below its mark."""
    mark, name = marked[:2], marked[2:]
    room = most - len(mark)
    return mark + "\n  ".join(name[start : start + room] for start in range(0, max(len(name), 1), room))


def stacked(row: Row, names: Sequence[str], line: Sequence[str]) -> RenderableType:
    facts = [f"{name} {value}" for name, value in zip(names[1:], line[1:], strict=True) if value]
    return Group(
        Text(f" {line[0]}", style=KIND_COLOURS.get(row.mark, ""), overflow="fold"),
        Padding(Text(" · ".join(facts)), (0, 0, 0, 3)),
    )


def cause(theme: Theme, answer: Answer, verbose: bool) -> RenderableType:
    """One finding: what is wrong, where, and the fix; with ``verbose`` its figures."""
    first = theme.first
    head = Text.assemble(
        (clean(first.code), "bold"),
        " ",
        (clean(first.cause), "bold"),
        f"{kinded(first)}: ",
        clean(first.sentence),
    )
    lines = [where(theme, answer)]
    if verbose:
        explained = f"explains {share(first.explained)} of the difference" if first.explained is not None else ""
        lines += [explained, one_line("; ".join(f"{key} {value}" for key, value in evidence(first)), 600)]
    lines.append(f"→ {one_line(first.advice, 400)}" if first.advice else "")
    said = Group(head, *(Text(line) for line in lines if line))
    return hanging(Text(MARKS[first.kind], style=KIND_COLOURS.get(first.kind, "")), said)


def hanging(sign: Text, said: RenderableType) -> RenderableType:
    """What is said stands behind its sign, whatever its number of lines."""
    shown = Table.grid(padding=(0, 1, 0, 0))
    shown.add_column(width=1)
    shown.add_column(overflow="fold")
    shown.add_row(sign, said)
    return Padding(shown, (0, 0, 0, 1))


def quiet_cause(theme: Theme) -> RenderableType:
    first = theme.first
    return hanging(Text(MARKS["rounding"]), Text(f"{clean(first.code)} {clean(first.cause)}: {clean(first.title)}"))


def errors(results: Results) -> Iterator[RenderableType]:
    """What stopped it, where it was stopped: the question was then not answered, or not whole."""
    for cell in stopped(results):
        yield Text()
        yield hanging(Text("–"), Text(f"{clean(cell.target)}: {one_line(cell.error, 500)}"))
    for target in results.targets:
        if target.status != "ok":
            yield Text(f" – {clean(target.label)} is unavailable: {one_line(target.reason, 300)}")
            if target.remedy:
                yield Text(f"   → {one_line(target.remedy, 300)}")


def ending(told: Told, results: Results, run_folder: Path, seconds: float | None) -> Iterator[RenderableType]:
    """Where to look next. A kit only where something was played that it could play again."""
    yield Text()
    if seconds is not None:
        yield Text(f" took     {seconds:.1f} s")
    codes = list(dict.fromkeys(clean(theme.first.code) for theme in told.themes))
    if codes:
        more = f" (or {', '.join(codes[1:4])})" if len(codes) > 1 else ""
        yield Text(f" why      bncheck explain {codes[0]}{more}")
    page = run_folder / "index.html"
    if page.exists():
        yield Text(f" report   {page}", no_wrap=True, overflow="fold")
    if codes and was_played(results, run_folder):
        named = run_folder.name if run_folder.parent.name == "reports" else str(run_folder)
        yield Text(f" kit      bncheck repro {shlex.quote(named)} {codes[0]}", overflow="fold")
