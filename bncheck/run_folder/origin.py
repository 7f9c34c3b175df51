"""Where a target's probe cells come from, when an earlier run played them: the day, and which bytes they are.

``cells/<target>/origin.json`` stands beside the target's ``cells.tar``, whose first ``size`` bytes are those cells.
Where they are not the same bytes any more (damaged, played again), it says nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from bncheck.bounded import open_within
from bncheck.errors import RunFolderError
from bncheck.run_folder.cell_files import TAR
from bncheck.run_folder.folder import read_json, write_json

NAME = "origin.json"
MOST = 1000  # bytes
LARGEST = 64 * 1024 * 1024  # bytes of cells


@dataclass(frozen=True)
class Origin:
    """``measured``: the day in UTC, as 2026-11-28."""

    measured: str
    size: int
    sha256: str


def write_origin(folder: Path, origin: Origin) -> None:
    write_json(folder / NAME, asdict(origin))


def is_day(text: object) -> bool:
    """Whether it is a day of the calendar, written 2026-11-28."""
    try:
        return isinstance(text, str) and date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def measured_on(folder: Path) -> str:
    """The day on which the probe cells of a target's folder were played, where another run did; else ""."""
    try:
        found = read_json(folder / NAME, MOST)
        origin = Origin(measured=found["measured"], size=found["size"], sha256=found["sha256"])
        if not is_day(origin.measured) or not 0 < origin.size <= LARGEST:
            return ""
        with open_within(folder.parent, folder.name, TAR) as handle:
            content = handle.read(origin.size)
    except (RunFolderError, KeyError, TypeError, OSError):
        return ""  # there is none, which is the usual case, or something wrote over it
    return origin.measured if hashlib.sha256(content).hexdigest() == origin.sha256 else ""
