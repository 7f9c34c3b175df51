"""The run at a prompt: a table where it fits, a list where it does not; colour repeats what marks say."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bncheck.report import answer_screen
from bncheck.report.conventions import kept
from bncheck.report.layers import told_of
from bncheck.report.overview import (
    Matrix,
    Row,
    Theme,
    elsewhere,
    evidence,
    headline,
    make_matrix,
    themes,
    unsettled,
    values_of,
)
from bncheck.report.plain_text import clean, kinded, one_line, plural
from bncheck.report.standing import MARKS, Standing
from bncheck.run_folder.results import Results, TargetResult

COLOURS = {
    "yardstick": "dim",
    "agrees": "green",
    "rounding": "green",
    "refused alike": "green",
    "convention": "yellow",
    "finite": "yellow",
    "hazard": "yellow",
    "unexplained": "magenta",
    "defect": "bold red",
    "differs": "red",
    "nonfinite": "bold red",
    "refused": "yellow",
    "failed": "yellow",
    "crashed": "bold red",
    "timeout": "bold red",
}
# A column narrower than this breaks its sentences into single words.
COLUMN = 26
# More targets than this, and too wide for columns, are counted: one line per case.
FEW_TARGETS = 4
MARGIN = 16  # of two lines: what stands before them, and what breaking between words loses
MOST_CASES = 16  # lines of cases on a screen beside the findings; -v shows all
ROOM = 24  # letters that the names of targets may take in such a line
TELLING = ("points", "mean abs", "std abs", "replay residual", "rounding bound")


@dataclass(frozen=True)
class Screen:
    """A run as rich shows it, laid out for the width of whatever console prints it."""

    results: Results
    run_folder: Path
    seconds: float | None = None
    verbose: bool = False  # every layer or case, and the figures behind each finding

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        told = told_of(self.results, self.run_folder)
        if told is None:
            yield from parts(self, options.max_width)
        else:
            given = self.results, self.run_folder, options.max_width, self.verbose, self.seconds
            yield from answer_screen.parts(told, *given)


def render_terminal(results: Results, run_folder: Path, seconds: float | None = None, verbose: bool = False) -> Screen:
    """What `bncheck run` and `bncheck report` print. ``seconds`` is how long it all took, if that is of interest."""
    return Screen(results, run_folder, seconds, verbose)


def text(results: Results, run_folder: Path, width: int = 100, verbose: bool = False) -> str:
    """The same as plain text without colour."""
    console = Console(file=io.StringIO(), width=width, no_color=True, force_terminal=False, highlight=False)
    with console.capture() as capture:
        console.print(render_terminal(results, run_folder, verbose=verbose))
    return "\n".join(line.rstrip() for line in capture.get().split("\n"))


def parts(screen: Screen, width: int) -> Iterator[RenderableType]:
    results, found = screen.results, themes(screen.results)
    shown = make_matrix(results, probes=False)
    many = crowded(shown, width) and not screen.verbose
    yield counted(shown, width) if many else matrix(shown, width)
    yield Text()
    for theme in found:
        if theme.first.kind != "rounding":
            yield finding(theme, screen.verbose, many, results, width)
            yield from [] if many else [Text()]
    quiet = [rounding(theme, many, screen.verbose) for theme in found if theme.first.kind == "rounding"]
    yield from [*quiet, Text()] if quiet else [Text()] if many else []
    missing = [target for target in results.targets if target.status != "ok"]
    yield from (unavailable(target) for target in missing)
    if missing:
        yield Text()
    probes = sum(len(scenario.cases) for scenario in results.scenarios) - len(shown.rows)
    if probes and len(missing) < len(results.targets):
        yield line(f"{plural(probes, 'small case')} measured each target's rules (bncheck conventions)", "dim")
    yield from (line(sentence, "dim") for sentence in kept(results))
    for remark in remarks(results, shown):
        yield line(f"note: {one_line(remark, 300)}", "dim")
    yield line(headline(results), "bold")
    yield from footer(screen.run_folder, found, screen)


def remarks(results: Results, shown: Matrix) -> Iterator[str]:
    """What is said of cells, each sentence once; with its cases, where it is not said of all of them."""
    labels = {(row.scenario.name, row.case.name): row.case.label for row in shown.rows}
    said: dict[str, set[tuple[str, str]]] = {}
    for cell in results.cells:
        for text in cell.remarks:
            said.setdefault(text, set()).add((cell.scenario, cell.case))
    for text, places in said.items():
        named = [label for place, label in labels.items() if place in places]
        if not named or len(named) == len(labels):
            yield text
        else:
            yield f"{' and '.join(named)}: {text}" if len(named) < 3 else f"{len(named)} of {len(labels)} cases: {text}"


def line(text: str, style: str = "") -> RenderableType:
    """A sentence; where it is broken, it goes on below its own beginning."""
    return Padding(Text(text, style=style), (0, 0, 0, 1), expand=False)


def crowded(shown: Matrix, width: int) -> bool:
    """Whether the targets are too many for columns, and for one line each under every case."""
    others = columns_of(shown)
    return len(others) > FEW_TARGETS and too_wide(shown, len(others), width)


def columns_of(shown: Matrix) -> list[TargetResult]:
    return [target for target in shown.targets if target.name != shown.yardstick] or list(shown.targets)


def too_wide(shown: Matrix, others: int, width: int) -> bool:
    left = min(max((len(row.scenario.name) for row in shown.rows), default=0), 24)
    left += min(max((len(row.label) for row in shown.rows), default=0), 28) + 4
    return left + (COLUMN + 2) * others > width


def counted(shown: Matrix, width: int) -> RenderableType:
    """A line per case: how many targets agree, and which do not. Cases in which all agree are counted together."""
    others = [target.name for target in columns_of(shown) if target.status == "ok"]
    rows = [row for row in shown.rows if not all(row.stands[name].good for name in others)]
    lines = [
        (
            one_line(f"{row.scenario.name} · {row.label}", 40),
            f"{sum(agrees(row.stands[name]) for name in others)} of {len(others)} agree",
            apart_in(row, others),
        )
        for row in rows[:MOST_CASES]
    ]
    wide = [max((len(line[place]) for line in lines), default=0) for place in (0, 1)]
    table = [Text(f" {case:{wide[0]}}  {agree:>{wide[1]}}  ").append_text(who) for case, agree, who in lines]
    for row_text in table:
        row_text.truncate(width, overflow="ellipsis")
    notes = [line(legend(shown, len(others)), "dim")]
    if len(rows) > MOST_CASES:
        notes.insert(0, line(f"{plural(len(rows) - MOST_CASES, 'more case')} with a difference: bncheck report -v"))
    same = len(shown.rows) - len(rows)
    if same:
        notes.insert(0, line(f"{plural(same, 'more case') if rows else plural(same, 'case')}: all targets agree"))
    own = yardstick_lines(shown) if len(others) < len(shown.targets) else []
    return Group(*table, *notes, *own)


def agrees(stand: Standing) -> bool:
    """What is wrong with a target may be wrong with the one that it is compared with as well."""
    return stand.good or stand.against == "agrees"


def apart_in(row: Row, others: list[str]) -> Text:
    """``≠ mxnet, mxnet[raw]  ! 10 targets``: who does not agree, by mark."""
    marked: dict[str, list[tuple[str, str]]] = {}
    for name in others:
        stand = row.stands[name]
        if not stand.good:
            marked.setdefault(stand.mark, []).append((name, stand.word))
    said = Text()
    for mark, found in marked.items():
        names = ", ".join(clean(name) for name, _ in found)
        few = names if len(found) == 1 or len(names) <= ROOM else plural(len(found), "target")
        said.append(f"{mark} {few}  ", style=COLOURS.get(found[0][1], "dim"))
    return said


def matrix(shown: Matrix, width: int) -> RenderableType:
    """Cases down, targets across, each against the yardstick; cases one under the other where that is too wide."""
    others = columns_of(shown)
    if too_wide(shown, len(others), width):
        return stacked(shown)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", show_edge=False)
    table.add_column(Text("scenario"), max_width=24)
    table.add_column(Text("case"), max_width=28)
    for target in others:
        table.add_column(Text(heading(target)), overflow="fold")
    previous = ""
    for row in shown.rows:
        first = Text("" if row.scenario.name == previous else clean(row.scenario.name))
        table.add_row(first, Text(clean(row.label)), *(mark(row.stands[target.name], True) for target in others))
        previous = row.scenario.name
    notes = [line(legend(shown, len(others)), "dim")]
    notes += yardstick_lines(shown) if len(others) < len(shown.targets) else []
    return Group(Padding(table, (0, 0, 0, 1)), *notes)


def yardstick_lines(shown: Matrix) -> list[RenderableType]:
    """What is wrong with the target that the others are compared with, which has no column of its own."""
    found: dict[str, list[str]] = {}
    for row in shown.rows:
        here = row.stands[shown.yardstick]
        if here.word in ("defect", "hazard"):
            found.setdefault(f"{here.mark} {here.text}", []).append(f"{row.scenario.name} · {row.label}")
    lines = [
        f"{shown.yardstick} itself: {said} in {', '.join(cases[:4])}"
        + (f" and {len(cases) - 4} more" if len(cases) > 4 else "")
        for said, cases in found.items()
    ]
    return [line(clean(said), COLOURS["hazard"]) for said in lines]


def heading(target: TargetResult) -> str:
    """``torch 2.13.0``: the device only where it is part of the name, the build never; both are in the report."""
    version = target.version.partition("+")[0]
    version = "" if not version or version in target.name else f" {version}"
    return clean(f"{target.name}{version}{' (simulated)' if target.simulated else ''}")


def legend(shown: Matrix, others: int) -> str:
    against = f"against {shown.yardstick}: " if others < len(shown.targets) else ""
    idle = any(stand.mark == "–" for row in shown.rows for stand in row.stands.values())
    none = "  – not played" if idle and others > FEW_TARGETS else ""  # where there are few, the cell says why
    return f"{against}≠ convention  ! hazard  ✗ defect or NaN  ? unexplained  ⊘ refused{none}"


def stacked(shown: Matrix) -> RenderableType:
    """One case under the other, for narrow terminals and many targets."""
    parts: list[RenderableType] = []
    for row in shown.rows:
        block = Table.grid(padding=(0, 2, 0, 0))
        block.add_column(max_width=28, overflow="fold")
        block.add_column(overflow="fold")
        for target in shown.targets:
            found = mark(row.stands[target.name])
            if target.name == shown.yardstick and len(shown.targets) > 1:
                found.append(" (all compared with it)")
            block.add_row(Text(clean(target.label)), found)
        heading = Text(clean(f" {row.scenario.name} · {row.label}"), style="bold")
        parts += [heading, Padding(block, (0, 0, 0, 3))]
    return Group(*parts)


def mark(found: Standing, short: bool = False) -> Text:
    """A cell of the table; ``short`` leaves to the legend what the mark means, and to the report the rest."""
    kinds = ("convention", "defect", "hazard", "unexplained", "rounding")
    text = found.text if short or found.word not in kinds else f"{found.word}: {found.text}"
    if short:
        text = "agrees up to rounding" if found.word == "rounding" else re.sub(r" \(\+\d+ more\)$", "", text)
        text = re.sub(r"^(refused.*?) \(([A-Z]\w+): .*\)$", r"\1 (\2)", text).replace(" off by ", " ")
    return Text(f"{found.mark} {clean(text)}", style=COLOURS.get(found.word, "dim"))


def finding(theme: Theme, verbose: bool, short: bool, results: Results, width: int) -> RenderableType:
    """What is wrong, how far it accounts for the difference, and the fix; ``short`` where there are many targets."""
    first = theme.first
    head = Text.assemble((clean(first.code), "bold"), " ", (clean(first.cause), "bold"), kinded(first), ": ")
    sign = Text(MARKS[first.kind], style=COLOURS.get(first.kind, ""))
    if short:
        where = f" (in {plural(len(theme.cases), 'case')})" if len(theme.cases) > 1 else ""
        said = one_line(values_of(theme, results) or first.gist, 2 * width - len(head) - len(where) - MARGIN)
        return answer_screen.hanging(sign, head.append(f"{said}{where}"))
    lines = [Text(line) for line in details(theme, verbose, results)]
    return answer_screen.hanging(sign, Group(head.append(clean(first.sentence)), *lines))


def details(theme: Theme, verbose: bool, results: Results) -> list[str]:
    first, lines = theme.first, []
    if theme.groups > 1:
        lines.append(values_of(theme, results) or elsewhere(theme, results))
    if len(theme.cases) > 1:
        shown = ", ".join(f"{scenario}--{case}" for scenario, case in theme.cases[:3])
        more = f" and {len(theme.cases) - 3} more" if len(theme.cases) > 3 else ""
        lines.append(clean(f"in {plural(len(theme.cases), 'case')}: {shown}{more}"))
    if verbose:
        lines.append(one_line(", ".join(f"{key} {value}" for key, value in telling(evidence(first))), 200))
    if first.advice:
        lines.append(f"→ {one_line(first.advice, 300)}")
    return list(filter(None, lines)) + (unsettled_lines(theme) if verbose else [])


def telling(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The figures that fit a line: those a reader checks an explanation by where they are there, else the first."""
    chosen = [item for item in found if item[0] in TELLING]
    return sorted(chosen, key=lambda item: TELLING.index(item[0])) if chosen else found[:4]


def rounding(theme: Theme, short: bool, verbose: bool) -> RenderableType:
    """Rounding is good news: one line, of the largest."""
    first = theme.first
    where = f" in {plural(len(theme.cases), 'case')}" if len(theme.cases) > 1 else ""
    if short:
        return line(f"{clean(first.code)} {clean(first.cause)}{where}, which is no fault", "dim")
    most = ", which is no fault. The largest" if where or theme.groups > 1 else ""
    figures = f" {one_line(', '.join(f'{key} {value}' for key, value in evidence(first)), 200)}" if verbose else ""
    return line(f"{clean(first.code)} {clean(first.cause)}{where}{most}: {clean(first.title)}{figures}", "dim")


def unsettled_lines(theme: Theme) -> list[str]:
    """What the speaking case's input cannot tell, one line per way to settle it."""
    ways: dict[str, list[str]] = {}
    for facet, _, how in unsettled(theme.first):
        ways.setdefault(how, []).append(facet)
    return [
        f"this input cannot show: {', '.join(facets)}" + (f" ({how} can)" if how else "")
        for how, facets in ways.items()
    ]


def unavailable(target: TargetResult) -> RenderableType:
    lines = [Text(f" – {clean(target.label)} is unavailable: {one_line(target.reason or 'no reason was given', 300)}")]
    if target.remedy:
        lines.append(Text(f"       → {one_line(target.remedy, 300)}"))
    return Group(*lines)


def footer(run_folder: Path, found: list[Theme], screen: Screen) -> list[RenderableType]:
    lines: list[RenderableType] = [Text()]
    if screen.seconds is not None:
        lines.append(Text(f" took     {screen.seconds:.1f} s"))
    found = [theme for theme in found if theme.first.kind != "rounding"]  # nothing to report
    codes = list(dict.fromkeys(clean(theme.first.code) for theme in found))
    if codes:
        more = f" (or {', '.join(codes[1:4])})" if len(codes) > 1 else ""
        lines.append(Text(f" why      bncheck explain {codes[0]}{more}"))
    # A run below reports/ is found by its name alone.
    named = shlex.quote(run_folder.name if run_folder.parent.name == "reports" else str(run_folder))
    if found and not screen.verbose:
        lines.append(Text(f" figures  bncheck report {named} -v", overflow="fold"))
    page = run_folder / "index.html"
    if page.exists():
        lines.append(Text(f" report   {page}", no_wrap=True, overflow="fold"))
    if found:
        told = next((theme.first for theme in found if theme.first.reportable), found[0].first)
        word = "kit " if told.reportable else "note"
        lines.append(Text(f" {word}     bncheck repro {named} {clean(told.code)}", overflow="fold"))
    return lines
