"""Conventions as an earlier run has fitted them to the probes that are kept (``kept.py``), in a file beside those.

They hold for these very cells and this very code: ``sealed`` is a digest of both. The code is told by size and time of
change of its files, as Python tells whether what it has compiled still holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from bncheck.bounded import read_bounded
from bncheck.convention import Convention, Facet
from bncheck.playing.kept import PACKAGE, Shelf, digest
from bncheck.run_folder.whole import write_whole

LARGEST = 4 * 1024 * 1024  # bytes; those of the shipped probes have 0.1 MB
# What decides what a convention is, cells given.
SOURCES = ("diagnosis", "run_folder", "scenario_files", "convention.py", "evidence.py", "scenario.py", "trace.py")

Fitted = dict[str, Convention]  # layer path → convention


def read_fitted(shelf: Shelf, cells: str, target: str) -> Fitted | None:
    """What was fitted to kept cells with this digest. None where that is not there, damaged, or of other code."""
    try:
        said, _, text = read_bounded(place(shelf), LARGEST).partition(b"\n")
        return parse(json.loads(text)) if said.decode() == sealed(cells, target, text) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def keep_fitted(shelf: Shelf, cells: str, target: str, fitted: Mapping[str, Convention]) -> None:
    """Only what comes back as it was; a cache that cannot be written is no reason to fail."""
    text = json.dumps({path: asdict(found) for path, found in fitted.items()})
    if repr(parse(json.loads(text))) != repr(dict(fitted)):
        return
    try:
        write_whole(place(shelf), f"{sealed(cells, target, text.encode())}\n{text}")
    except OSError:
        pass


def place(shelf: Shelf) -> Path:
    return shelf.path.with_suffix(".json")


def sealed(cells: str, target: str, text: bytes) -> str:
    return digest(json.dumps([cells, target, code(), digest(text)]).encode())


@cache
def code() -> str:
    paths = [PACKAGE / name for name in SOURCES]
    files = [file for path in paths for file in ([path] if path.suffix else sorted(path.rglob("*.py")))]
    found = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return digest(json.dumps(found).encode())


def parse(said: Mapping[str, Any]) -> Fitted:
    return {path: convention_of(found) for path, found in said.items()}


def convention_of(said: Mapping[str, Any]) -> Convention:
    facets = {name: Facet(**{**facet, "standing": tuple(facet["standing"])}) for name, facet in said["facets"].items()}
    return Convention(**{**said, "facets": facets})
