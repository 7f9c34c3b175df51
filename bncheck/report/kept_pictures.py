"""Pictures as an earlier run has drawn them, in the cache folder.

What is to be seen is laid out as data first (``case_sheet.py``, ``sweep_curves.py``), and a picture is made of that and
nothing else. So one of the same data is the same picture, but for the time of the run that stands on it: of a run whose
frameworks compute what they did the last time nothing is drawn, and matplotlib is not imported.

``pictures/<code>/<name>-<data>.json``: ``code`` is of what draws, and of the targets; ``data`` of what is drawn.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bncheck.environments.folder import cache_folder
from bncheck.errors import RunFolderError
from bncheck.report.case_sheet import CaseSheet
from bncheck.report.picture import Picture
from bncheck.report.sweep_curves import SweepSheet
from bncheck.run_folder.folder import read_json
from bncheck.run_folder.whole import write_whole

PACKAGE = Path(__file__).parent.parent
SOURCES = ("report", "diagnosis/drifts.py", "scenario.py")  # what decides what is drawn of given data
MOST_KEPT = 16  # folders: other targets, other versions
STAMP = "0000-00-00T00:00:00Z"  # stands on a kept picture in the place of the time of its run
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

S = TypeVar("S", CaseSheet, SweepSheet)


def kept_or_drawn(sheet: S, targets: Iterable[str], draw: Callable[[S], Picture]) -> Picture:
    """The picture of a sheet. One on which the run's time cannot be put in the place of another's is always drawn."""
    if not TIME.fullmatch(sheet.created):
        return draw(sheet)
    timeless = replace(sheet, created=STAMP)
    path = folder_of(targets) / f"{sheet.name}-{digest(told(timeless))[:16]}.json"
    svg = read_kept(path)
    if svg is None:
        svg = draw(timeless).svg
        if svg.count(STAMP) != 1:  # a long line was cut there, say
            return draw(sheet)
        keep(path, svg)
    return Picture(name=sheet.name, svg=svg.replace(STAMP, sheet.created), caption=sheet.caption)


def are_likely(scenarios: Iterable[str], targets: Iterable[str]) -> bool:
    """Whether all that was chosen of these scenarios on these targets has been kept once: then nobody need import
    matplotlib while others play. Where something is to be drawn after all it is imported then."""
    return mark_of(scenarios, targets).exists()


def mark(scenarios: Iterable[str], targets: Iterable[str]) -> None:
    path = mark_of(scenarios, targets)
    try:
        path.touch()
        os.utime(path.parent)  # what is used is not old
    except OSError:  # there is no such folder: nothing was drawn, or nothing can be kept
        pass


def mark_of(scenarios: Iterable[str], targets: Iterable[str]) -> Path:
    return folder_of(targets) / f"all-{digest(json.dumps(sorted(scenarios)))[:16]}"


def folder_of(targets: Iterable[str]) -> Path:
    return cache_folder() / "pictures" / digest(json.dumps([code(), sorted(targets)]))[:16]


def read_kept(path: Path) -> str | None:
    """None where there is none, or one that is damaged."""
    try:
        said = read_json(path)
    except (RunFolderError, OSError):
        return None
    svg, check = (said.get("svg"), said.get("digest")) if isinstance(said, dict) else (None, None)
    return svg if isinstance(svg, str) and digest(svg) == check and svg.count(STAMP) == 1 else None


def keep(path: Path, svg: str) -> None:
    """A cache that cannot be written is no reason to fail."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"digest": digest(svg), "svg": svg}))
        folders = sorted(path.parent.parent.iterdir(), key=lambda each: each.stat().st_mtime, reverse=True)
        for folder in folders[MOST_KEPT:]:
            for file in folder.iterdir():
                file.unlink(missing_ok=True)
            folder.rmdir()
    except OSError:
        pass


@cache
def code() -> str:
    """What draws, told by size and time of change of its files, as Python tells whether what it has compiled holds."""
    ours = [file for name in SOURCES for file in sorted((PACKAGE / name).rglob("*.py")) or [PACKAGE / name]]
    drawing = find_spec("matplotlib")
    theirs = [Path(drawing.origin).with_name("_version.py")] if drawing is not None and drawing.origin else []
    return digest(json.dumps([stamps([*ours, *theirs, *settings()]), np.__version__]))


def settings() -> list[Path]:
    """Files in which a user may have changed how matplotlib draws."""
    environ = os.environ
    home = Path(environ.get("MPLCONFIGDIR") or Path(environ.get("XDG_CONFIG_HOME", "~/.config"), "matplotlib"))
    given = Path(environ.get("MATPLOTLIBRC", ""))
    return [Path("matplotlibrc").absolute(), given, given / "matplotlibrc", home / "matplotlibrc"]


def stamps(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    found = []
    for path in paths:
        try:
            now = path.expanduser().stat()
        except (OSError, RuntimeError):  # it is not there; nobody has a home
            continue
        if stat.S_ISREG(now.st_mode):
            found.append((str(path), now.st_size, now.st_mtime_ns))
    return found


def told(value: Any) -> str:
    """Data as text that is the same where they are, to the bit."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype.str}{value.shape}{digest(value.tobytes())}"
    if is_dataclass(value):
        return f"({','.join(told(getattr(value, item.name)) for item in fields(value))})"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{told(key)}:{told(item)}' for key, item in value.items())}}}"
    if isinstance(value, tuple | list):
        return f"[{','.join(map(told, value))}]"
    return repr(value)


def digest(text: str | bytes) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text).hexdigest()
