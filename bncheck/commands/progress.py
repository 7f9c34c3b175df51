"""Progress of long work: a live line on a terminal, plain lines in a log, nothing when quiet."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bncheck.report.plain_text import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from bncheck.playing.progress import Progress

LOG_EVERY_SECONDS = 5.0
BAR, LEAST = 24, 8  # columns of the bar, where there is room; letters of a name that are left of it
REASON = 300  # characters of a target's own words, which must not drive the terminal


def console(stderr: bool = False) -> Console:
    """A console that honours NO_COLOR and FORCE_COLOR, and keeps to 100 columns where there is no terminal to ask."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 100
    return Console(stderr=stderr, highlight=False, width=width, soft_wrap=False)


def open_progress(quiet: bool, verbose: bool = False) -> Quiet:
    """``verbose`` shows each worker's command and each cell, as lines also on a terminal."""
    if quiet:
        return Quiet()
    if verbose:
        return Verbose()
    return Live() if sys.stderr.isatty() else Log()


class Quiet:
    """Says nothing."""

    def __enter__(self) -> Quiet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def expect(self, total: int) -> None:
        """How many cells there will be."""

    def say(self, text: str) -> None:
        """What is being done now, in words."""

    def cell(self, progress: Progress) -> None:
        """A cell started or finished."""


class Log(Quiet):
    """Plain lines, at most one each few seconds for cells, every one for words that matter."""

    def __init__(self) -> None:
        self.total = self.count = 0
        self.last = time.monotonic()

    def expect(self, total: int) -> None:
        self.total, self.count = total, 0

    def say(self, text: str) -> None:
        if not text.startswith(("comparing", "rendering", "writing")):
            self.line(text)

    def line(self, text: str) -> None:
        print(f"bncheck: {text}", file=sys.stderr, flush=True)

    def cell(self, progress: Progress) -> None:
        if progress.kind == "unavailable":
            self.line(f"{progress.target} is unavailable: {one_line(progress.text, REASON)}")
        elif progress.kind == "finished":
            self.count += 1
            if progress.outcome in ("crashed", "timeout"):
                self.line(f"{self.count}/{self.total} {progress.target} {progress.cell}: {progress.outcome}")
            elif time.monotonic() - self.last > LOG_EVERY_SECONDS or self.count == self.total:
                self.last = time.monotonic()
                self.line(f"{self.count}/{self.total} cells, now {progress.target} {progress.cell}")


class Verbose(Log):
    """Everything: what each worker is started with (to start it by hand, in a debugger), and every cell's outcome."""

    def say(self, text: str) -> None:
        self.line(text)

    def cell(self, progress: Progress) -> None:
        if progress.kind == "importing":
            self.line(f"{progress.target}: {progress.text}")
        elif progress.kind == "finished":
            self.count += 1
            self.line(f"{self.count}/{self.total} {progress.target} {progress.cell}: {progress.outcome}")
        else:
            super().cell(progress)


class Live(Quiet):
    """One line at the foot of a terminal: n/total and what is running."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars
        from rich.table import Column

        self.console = console(stderr=True)
        self.bar = min(BAR, max(self.console.width // 8, 1))
        self.bars = Bars(
            TextColumn("bncheck"),
            BarColumn(bar_width=self.bar),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),  # on a narrow terminal rich cuts what may be wrapped
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.description}", markup=False),  # torch[compile] is a name
            console=self.console,
            transient=True,
        )
        self.task: Any = None
        self.total = 0
        self.now: dict[str, str] = {}  # target → what it does

    def __enter__(self) -> Live:
        self.bars.start()
        self.task = self.bars.add_task("starting", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def expect(self, total: int) -> None:
        self.total = total
        self.bars.update(self.task, total=total, completed=0)

    @property
    def room(self) -> int:
        """Columns that are left for words, beside "bncheck", the bar, the count and the time, with a space after
        each."""
        return self.console.width - len("bncheck ") - self.bar - 1 - 2 * len(f"{self.total}/") - len("0:00:00 ")

    def say(self, text: str) -> None:
        self.show([text])

    def show(self, doings: Sequence[str]) -> None:
        self.bars.update(self.task, description=fitted(doings, self.room))

    def cell(self, progress: Progress) -> None:
        if progress.kind == "finished":
            self.bars.advance(self.task)
        if progress.kind == "unavailable":
            why = one_line(progress.text, REASON)
            self.bars.console.print(f"{progress.target} is unavailable: {why}", style="yellow", markup=False)
        if progress.kind in ("ended", "unavailable"):
            self.now.pop(progress.target, None)
        else:
            self.now[progress.target] = "importing" if progress.kind == "importing" else progress.cell
        self.show([f"{target} {cell}" for target, cell in self.now.items()])


def fitted(doings: Sequence[str], room: int) -> str:
    """What is being done, in so many columns: as many of them as fit whole, and how many more there are; the first one
    with its end left out at a word or a hyphen, where it does not fit itself."""
    for count in range(len(doings), 0, -1):
        more = f" and {len(doings) - count} more" if count < len(doings) else ""
        said = " · ".join(doings[:count]) + more
        if len(said) <= room:
            return said
    first = doings[0] if doings else ""
    more = f" and {len(doings) - 1} more" if len(doings) > 1 else ""
    more = more if len(more) + LEAST <= room else ""
    kept = first[: max(room - len(more) - 1, 0)]
    ends = [place for place, letter in enumerate(kept) if letter in " -·" and place >= LEAST]
    return f"{kept[: ends[-1]].rstrip(' -·') if ends else kept}…{more}" if room > 0 and first else ""
