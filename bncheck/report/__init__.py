"""Everything rendered from a run folder. Nothing here judges: a report shows what ``run.json`` says.

A format is a module of this folder with ``NAME`` and ``render(results, run_folder, gallery) -> list[Path]``; it is
found by being there. ``gallery`` draws a case's picture once for all formats.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from bncheck.errors import UsageError
from bncheck.report.gallery import SHOWN, Gallery
from bncheck.run_folder.results import Results, read_results

# The order matters to a reader who interrupts: numbers first, then pictures, then the page that holds both.
FIRST = ("csv", "plots", "html")


def formats() -> dict[str, str]:
    """Format → module, found by reading (not importing) the modules of this folder."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("NAME = "):
                found[line.split('"')[1]] = path.stem
    return dict(sorted(found.items(), key=lambda item: FIRST.index(item[0]) if item[0] in FIRST else len(FIRST)))


def prepare(wanted: Sequence[str]) -> None:
    """Import the modules of these formats, and what each says takes long before its first page."""
    for name, module in formats().items():
        if name in wanted:
            ready = getattr(importlib.import_module(f"bncheck.report.{module}"), "prepare", None)
            if ready is not None:
                ready()


def render(
    run_folder: Path,
    wanted: Sequence[str] = FIRST,
    tell: Callable[[str], None] = lambda text: None,
    pictures: int | None = SHOWN,
    results: Results | None = None,
) -> list[Path]:
    """Write the wanted formats into the run folder; returns what was written. ``pictures`` None draws every case."""
    known = formats()
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise UsageError(f"There is no report format {unknown[0]!r}.", f"Formats: {', '.join(known)}, all")
    results = read_results(run_folder) if results is None else results
    gallery = Gallery(results, run_folder, pictures, png="png" in wanted, page="html" in wanted)
    written: list[Path] = []
    for name in known:
        if name in wanted:
            tell(f"writing {name}")
            written += importlib.import_module(f"bncheck.report.{known[name]}").render(results, run_folder, gallery)
    return written
