"""Where a project says something to bncheck: found here, read and checked by :mod:`bncheck.gate.config`."""

from __future__ import annotations

from pathlib import Path

from bncheck.bounded import is_regular, read_bounded
from bncheck.gate.configuration import Configuration

MOST_BYTES = 1_000_000


def find_configuration(start: Path) -> Configuration:
    """What the nearest pyproject.toml at or above ``start`` says; the defaults when there is none."""
    for folder in (start.resolve(), *start.resolve().parents):
        path = folder / "pyproject.toml"
        if is_regular(path):
            return said_in(path)
    return Configuration()


def said_in(path: Path) -> Configuration:
    """A project that does not name bncheck says nothing to it: what checks the file need not be imported."""
    try:
        if b"bncheck" not in read_bounded(path, MOST_BYTES):
            return Configuration(path=path)
    except OSError:
        pass  # the reader says why
    from bncheck.gate.config import read_configuration

    return read_configuration(path)
