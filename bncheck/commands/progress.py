"""Progress of long work: a live line on a terminal, plain lines in a log, nothing when quiet."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bncheck.report.plain_text import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from bncheck.playing.progress import Progress

LOG_EVERY_SECONDS = 5.0
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

        self.bars = Bars(
            TextColumn("bncheck"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console(stderr=True),
            transient=True,
        )
        self.task: Any = None
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
        self.bars.update(self.task, total=total, completed=0)

    def say(self, text: str) -> None:
        self.bars.update(self.task, description=text[:60])

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
        self.say(" · ".join(f"{target} {cell}" for target, cell in self.now.items()))
