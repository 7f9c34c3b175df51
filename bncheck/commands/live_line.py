"""A line on the terminal while a watched command runs: ``step 120 · 53 layers · 1 hazard``.

The terminal is the command's. So the line stands at the right end of the row below the cursor, which goes back to where
it was: what the command has written stays whole, half a line too, and what it writes next goes over the line.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TextIO

from bncheck.errors import BncheckError

AGAIN_SECONDS = 1.0
JUDGED_SECONDS, SHARE = 10.0, 0.02  # findings are looked for no oftener, and take no more of the time
NARROWEST = 60  # columns, below which the line would lie in the command's own words
# Make sure that there is a row below, remember the place, go to that row, empty it; and back.
BELOW, BACK = "\x1bD\x1bM\x1b7\x1bD\r\x1b[2K", "\x1b8"


class LiveLine:
    """Call it again and again while the command runs; nothing but a terminal that we are in the foreground of hears."""

    def __init__(self, run: Path, stream: TextIO | None = None) -> None:
        self.run, self.stream = run, sys.stderr if stream is None else stream
        self.shown, self.looked, self.judged, self.pause = "", 0.0, "", 0.0
        self.judged_at = -JUDGED_SECONDS

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self.looked < AGAIN_SECONDS or not ours(self.stream):
            return
        self.looked = now
        text = self.words(now)
        if text and text != self.shown:
            self.write(text)

    def words(self, now: float) -> str:
        from bncheck.run_folder.lives import steps_so_far

        steps = steps_so_far(self.run)
        if steps is None:
            return ""
        if now - self.judged_at >= self.pause:
            began = time.process_time()
            self.judged = found_so_far(self.run) or self.judged
            self.pause = max(JUDGED_SECONDS, (time.process_time() - began) / SHARE)
            self.judged_at = time.monotonic()
        return f"step {steps:,}{self.judged}"

    def write(self, text: str) -> None:
        columns = shutil.get_terminal_size().columns
        if columns >= NARROWEST:
            self.shown = text
            self.raw(f"{BELOW}\x1b[{columns - len(text)}G{text}{BACK}")

    def clear(self) -> None:
        """The command has ended: the row below is empty again."""
        if self.shown and ours(self.stream):
            self.raw(f"{BELOW}{BACK}")
        self.shown = ""

    def raw(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def wanted(quiet: bool) -> bool:
    """Whether somebody is there to see it."""
    return not quiet and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def ours(stream: TextIO) -> bool:
    """Whether we are in the foreground: a shell may have another program there by now."""
    try:
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    except OSError:  # it was closed
        return False


def found_so_far(run: Path) -> str:
    """`` · 53 layers · 1 hazard``; "" where the recording cannot be read just now: its files change."""
    from bncheck.run_folder.lives import read_lives
    from bncheck.subjects.watched import so_far

    try:
        return so_far(read_lives(run))
    except (BncheckError, OSError):  # a file went away between its name and its content: the next look is in time
        return ""
