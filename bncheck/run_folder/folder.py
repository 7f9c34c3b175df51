"""The folder of a run: where everything lies, the names that are safe in it, and its JSON files.

``reports/<UTC time>-<id>/`` holds ``plan.json`` (what was asked), ``scenarios/`` (the files as they were),
``cases.jsonl`` and ``inputs/<content key>.npz`` (what workers play), and ``cells/<target>/`` as
``bncheck/worker/run.py`` describes.
Everything is written under a temporary name first. Reading treats the folder as untrusted.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from pathlib import Path
from typing import Any

from bncheck.bounded import clear, is_folder, is_regular, is_there, own_folder, read_bounded, read_within
from bncheck.errors import RunFolderError
from bncheck.run_folder.whole import whole_characters, write_whole

# A JSON file of a cell is a few kB; one of hundreds of MB is not ours.
LARGEST_JSON = 64 * 1024 * 1024
DEEPEST = 64  # levels of a JSON file; whoever walks through it takes a few frames of Python's 1,000 for each
WRITTEN = (
    "run.json",
    "answer.json",
    "gate.json",
    "drifts.csv",
    "findings.csv",
    "conventions.csv",
    "junit.xml",
    "summary.md",
    "report.md",
    "bncheck.sarif",
    "index.html",
)
PICTURES = "plots"
WATCHED = "watched"  # recordings of the processes of a watched command (lives.py)
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
SLUG = re.compile(r"[A-Za-z0-9_+=,@\[\]-][A-Za-z0-9._+=,@\[\]-]{0,199}")


def create_run_folder(out: Path | None, parent: Path = Path("reports")) -> Path:
    """Make the folder of a new run and point ``latest`` beside it at it; a given ``out`` must be new or empty. Where it
    is a link, the folder is what it leads to now: a link that stands there later is somebody else's."""
    folder = out or parent / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(2)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            begun = (folder / "plan.json").is_file()  # else nothing in it can be continued
            raise RunFolderError(
                f"{folder} is not empty, and a run is never written over something else.",
                "Name a new folder" + (f", or continue that run with: bncheck run --resume {folder}" if begun else ""),
            )
    except OSError as error:
        raise RunFolderError(
            f"The run folder {folder} cannot be made: {error.strerror}.", "Name another one with --out."
        ) from error
    if out is None:
        point_latest(parent, folder)
    return folder.resolve() if folder.is_symlink() else folder


def point_latest(parent: Path, folder: Path) -> None:
    """``latest`` is a symbolic link; where links are not allowed, a file that holds the name."""
    latest, part = parent / "latest", parent / f".latest-{os.getpid()}"
    try:
        part.symlink_to(folder.name)
    except OSError:
        part.write_text(folder.name + "\n", encoding="utf-8")
    part.replace(latest)


SHOWN = 5  # runs that a sentence names


def find_run(text: str | Path, parent: Path = Path("reports")) -> Path:
    """The run folder a user means: a path, ``latest``, or the name of one below reports/. RunFolderError when there
    is none, or when there are links in it."""
    path = Path(text)
    if str(text) == "latest" or (path.name == str(text) and not is_there(path) and is_folder(parent / path)):
        path = parent / path
    if is_regular(path) and path.name == "latest":
        path = path.parent / check_slug(read_bounded(path, 1000).decode(errors="replace").strip())
    if path.name == "run.json":
        path = path.parent
    if not is_folder(path):
        known = known_runs(parent)
        there = f" There are: {', '.join(known[:SHOWN])}{', …' if len(known) > SHOWN else ''}." if known else ""
        raise RunFolderError(f"There is no run folder {text}.{there}", "Make one with: bncheck run")
    folder = path.resolve() if path.is_symlink() else path
    if not any((folder / name).is_symlink() or is_there(folder / name) for name in ("run.json", "plan.json")):
        return folder  # none, as whoever reads it says: a project's own links are no fault of it
    refuse_links(folder)
    return folder


def known_runs(parent: Path = Path("reports")) -> list[str]:
    """Names of the runs below reports/, the newest first: they begin with the time."""
    found = parent.glob("*/run.json") if parent.is_dir() else ()
    return sorted((path.parent.name for path in found if not path.parent.is_symlink()), reverse=True)


def refuse_links(folder: Path) -> None:
    """A link in an unpacked archive can point anywhere, and what is read, written, cut or appended to would be a file
    that is somewhere else; bncheck makes none inside a run folder."""
    for place, folders, files in os.walk(folder, followlinks=False):
        for name in (*folders, *files):
            if (Path(place) / name).is_symlink():
                raise RunFolderError(
                    f"{Path(place) / name} is a link; a run folder has none.", "Do not use this folder."
                )


def make_way(run: Path) -> None:
    """Take away what something that played may have put into the folder to be read or written in the place of the
    run's own files: links, pipes, devices, and folders where its files come next.

    RunFolderError where the folder itself is gone, or a link stands in its place.
    """
    if run.is_symlink() or not run.is_dir():
        raise RunFolderError(
            f"{run} was taken away while it was written: what was played has removed or replaced it.",
            "Look at what it does with folders, then run it again.",
        )
    for place, folders, files in os.walk(run):
        for path in (Path(place) / name for name in (*folders, *files)):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                clear(path)
    for name in WRITTEN:
        for path in (run / name, run / f"{name}.part"):
            if path.is_dir():
                clear(path)
    if os.path.lexists(run / PICTURES):
        own_folder(run / PICTURES)


def check_slug(text: str) -> str:
    """The text itself when it is safe as one name in a run folder; with a separator or a dot before it, it is not."""
    if not SLUG.fullmatch(text):
        raise RunFolderError(
            f"{text[:60]!r} is not a name that bncheck gives to anything in a run folder.",
            "Use letters, digits and . _ + = , @ [ ] - only, or do not open this folder: it was edited.",
        )
    return text


def write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, allow_nan=False))


def read_json(path: Path, most: int = LARGEST_JSON) -> Any:
    """Parse a JSON file of bounded size; RunFolderError in a sentence for anything else, a link too."""
    try:
        raw = read_within(path.parent, path.name, most=most)
    except FileNotFoundError:
        raise RunFolderError(f"{path} is missing.", "The run folder is incomplete.") from None
    except OSError as error:
        why = f"{path} cannot be read: {error.strerror or error}."
        raise RunFolderError(why, "The file was cut off or edited.") from error
    return parse_json(path, raw)


def parse_json(path: Path, raw: bytes) -> Any:
    """What the JSON says, in whole characters and at most ``DEEPEST`` levels deep."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}.", "The file was cut off or edited.") from error
    if raw.count(b"[") + raw.count(b"{") > DEEPEST and depth(found) > DEEPEST:
        raise RunFolderError(f"{path} is nested more than {DEEPEST} levels deep.", "The file was edited.")
    return printable(found) if SURROGATE.search(raw) else found


def depth(value: Any) -> int:
    """How many lists and objects lie in one another; level by level, for it may be 900."""
    level, found = [value], 0
    while level := [item for item in level if isinstance(item, list | dict)]:
        found += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return found


def printable(value: Any) -> Any:
    """The same with U+FFFD for every lone surrogate: JSON can say one (an exception that names a file whose name is not
    UTF-8), and no file, terminal or report can hold it."""
    if isinstance(value, str):
        return whole_characters(value)
    if isinstance(value, dict):
        return {whole_characters(key): printable(item) for key, item in value.items()}
    return [printable(item) for item in value] if isinstance(value, list) else value


def again_folder(run: Path) -> Path:
    """Where the second playing of a run lies, laid out like the run itself."""
    return run / "again"
