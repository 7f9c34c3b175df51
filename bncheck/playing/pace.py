"""How long targets took the last time on this machine, kept in the cache folder: the longest starts first.

With 20 targets on two cores one that needs 20 s and starts last is waited for alone. Only the order of starting comes
from it; a target that is not known yet may be long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from bncheck.environments.folder import cache_folder
from bncheck.errors import RunFolderError
from bncheck.playing.job import Job
from bncheck.playing.progress import Progress
from bncheck.run_folder.folder import read_json, write_json

MOST_TARGETS = 500  # that are remembered
MOST_BYTES = 1024 * 1024
SHORT = 1.0  # seconds: nobody waits for such a target at the start, and at the end it would keep a core from another


@dataclass(frozen=True)
class Pace:
    """Seconds until a target's first cell started, and seconds per cell after that."""

    start: float
    cell: float

    def seconds(self, cells: int) -> float:
        return self.start + cells * self.cell


def pace_file() -> Path:
    return cache_folder() / "paces.json"


def read_paces() -> dict[str, Pace]:
    """Target → its pace; empty where nothing sound is remembered."""
    try:
        said = read_json(pace_file(), MOST_BYTES)
        found = {str(name): Pace(float(start), float(cell)) for name, (start, cell) in said.items()}
    except (RunFolderError, AttributeError, TypeError, ValueError, OverflowError):
        return {}
    return {name: pace for name, pace in found.items() if isfinite(pace.start) and isfinite(pace.cell)}


def longest_first(jobs: Sequence[Job], paces: Mapping[str, Pace]) -> list[Job]:
    """The short ones, then unknown targets as they were named, then the known ones, the longest first."""

    def place(job: Job) -> tuple[int, float]:
        if job.target not in paces:
            return 1, 0.0
        seconds = paces[job.target].seconds(len(job.cells))
        return (0, 0.0) if seconds <= SHORT else (2, -seconds)

    return sorted(jobs, key=place)


class Stopwatch:
    """Hears what workers do, passes it on, and remembers how long it took them."""

    def __init__(self, tell: Callable[[Progress], None], now: Callable[[], float] = time.monotonic) -> None:
        self.tell, self.now = tell, now
        self.began: dict[str, float] = {}
        self.first: dict[str, float] = {}
        self.finished: dict[str, int] = {}
        self.paces: dict[str, Pace] = {}

    def __call__(self, progress: Progress) -> None:
        name, now = progress.target, self.now()
        if progress.kind == "importing":
            self.began.setdefault(name, now)
        elif progress.kind == "started":
            self.first.setdefault(name, now)
        elif progress.kind == "finished":
            self.finished[name] = self.finished.get(name, 0) + 1
        elif progress.kind == "ended" and self.finished.get(name):
            first = self.first.get(name, now)
            self.paces[name] = Pace(first - self.began[name], (now - first) / self.finished[name])
        self.tell(progress)

    def remember(self) -> None:
        """Write what was learnt beside what was known; a cache that cannot be written is no reason to fail."""
        known = {**read_paces(), **self.paces}
        newest = dict(list(known.items())[-MOST_TARGETS:])
        try:
            pace_file().parent.mkdir(parents=True, exist_ok=True)
            write_json(pace_file(), {name: [pace.start, pace.cell] for name, pace in newest.items()})
        except OSError:
            pass  # the next run starts its targets in the order in which they are named
