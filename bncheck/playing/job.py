"""What one target plays, where, and within which bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bncheck.playing.nursery import Nursery
from bncheck.playing.readied import Readied


@dataclass(frozen=True)
class Limits:
    """Bounds of a worker: seconds per cell, seconds for the import, bytes of address space (None: none)."""

    cell_seconds: float = 120.0
    import_seconds: float = 300.0
    memory: int | None = None


@dataclass(frozen=True)
class Job:
    """All cells of one target: where they lie, what runs them."""

    target: str
    folder: Path  # <run>/cells/<target slug>
    python: Path
    backend: Path
    variant: str
    device: str
    cells: tuple[str, ...]
    limits: Limits = Limits()
    isolate: bool = False  # a process per cell
    environment: dict[str, str] = field(default_factory=dict)
    nursery: Nursery | None = None  # that has imported the framework already
    ready: tuple[Readied, ...] = ()  # processes that have, maybe one for this job among them
    inputs: str = "../../inputs"  # folder of the input archives, seen from ``folder``
    cases: str = "../../cases.jsonl"  # what the cells play, likewise
