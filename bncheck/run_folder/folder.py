"""The folder of a run: where everything lies, how it is written, and what a finished cell left in it.

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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bncheck.bounded import read_bounded
from bncheck.errors import RunFolderError
from bncheck.run_folder.cell_files import read_cell_file
from bncheck.run_folder.whole import write_whole

PROTOCOL = 1
# A JSON file of a cell is a few kB; one of hundreds of MB is not ours.
LARGEST_JSON = 64 * 1024 * 1024
SLUG = re.compile(r"[A-Za-z0-9._+=,\[\]@-]{1,200}\Z")


@dataclass(frozen=True)
class CellResult:
    """result.json of one cell, checked; ``outcome`` is one of the words of the design."""

    outcome: str
    event: int | None = None
    error_type: str = ""
    error: str = ""
    origin: str = ""  # whose error it is (worker/blame.py)
    failed: tuple[Mapping[str, Any], ...] = ()
    dtypes: Mapping[str, str] = field(default_factory=dict)
    artifacts: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def create_run_folder(out: Path | None, parent: Path = Path("reports")) -> Path:
    """Make the folder of a new run and point ``latest`` beside it at it; a given ``out`` must be new or empty."""
    folder = out or parent / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(2)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise RunFolderError(
                f"{folder} is not empty, and a run is never written over something else.",
                f"Name a new folder, or continue that run with: bncheck run --resume {folder}",
            )
    except OSError as error:
        raise RunFolderError(
            f"The run folder {folder} cannot be made: {error.strerror}.", "Name another one with --out."
        ) from error
    if out is None:
        point_latest(parent, folder)
    return folder


def point_latest(parent: Path, folder: Path) -> None:
    """``latest`` is a symbolic link; where links are not allowed, a file that holds the name."""
    latest, part = parent / "latest", parent / f".latest-{os.getpid()}"
    try:
        part.symlink_to(folder.name)
    except OSError:
        part.write_text(folder.name + "\n", encoding="utf-8")
    part.replace(latest)


def find_run(text: str | Path, parent: Path = Path("reports")) -> Path:
    """The run folder a user means: a path, ``latest``, or the name of one below reports/. RunFolderError when there
    is none, or when there are links in it."""
    path = Path(text)
    if str(text) == "latest" or (path.name == str(text) and not path.exists() and (parent / path).is_dir()):
        path = parent / path
    if path.is_file() and path.name == "latest":
        path = path.parent / check_slug(read_bounded(path, 1000).decode(errors="replace").strip())
    if path.name == "run.json":
        path = path.parent
    if not path.is_dir():
        raise RunFolderError(f"There is no run folder {text}.", "Make one with: bncheck run")
    folder = path.resolve() if path.is_symlink() else path
    refuse_links(folder)
    return folder


def refuse_links(folder: Path) -> None:
    """A link in an unpacked archive can point anywhere, and what is read, written, cut or appended to would be a file
    that is somewhere else; bncheck makes none inside a run folder."""
    for place, folders, files in os.walk(folder, followlinks=False):
        for name in (*folders, *files):
            if (Path(place) / name).is_symlink():
                raise RunFolderError(
                    f"{Path(place) / name} is a link; a run folder has none.", "Do not use this folder."
                )


def check_slug(text: str) -> str:
    """The text itself when it is safe as one folder name; names with separators or dots alone are not."""
    if not SLUG.match(text) or text.strip(".") == "":
        raise RunFolderError(
            f"{text!r} cannot be the name of a folder in a run.", "The run folder was edited or damaged."
        )
    return text


def cell_folder(run: Path, target_slug: str, case_id: str) -> Path:
    return run / "cells" / check_slug(target_slug) / check_slug(case_id)


def write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, allow_nan=False))


def read_json(path: Path) -> Any:
    """Parse a JSON file of bounded size; RunFolderError in a sentence for anything else."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise RunFolderError(f"{path} is {path.stat().st_size} bytes large: bncheck writes no such file.")
        raw = read_bounded(path, LARGEST_JSON)
    except FileNotFoundError:
        raise RunFolderError(f"{path} is missing.", "The run folder is incomplete.") from None
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error}.", "The file was cut off or edited.") from error
    return parse_json(path, raw)


def parse_json(path: Path, raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}.", "The file was cut off or edited.") from error


def read_result(folder: Path) -> CellResult | None:
    """What a cell left behind; None when it has no result yet. A result that makes no sense is *crashed*, with why."""
    path = folder / "result.json"
    try:
        raw = read_cell_file(folder, "result.json", LARGEST_JSON)
        if raw is None:
            return None
        data = parse_json(path, raw)
        if not isinstance(data, dict):
            raise RunFolderError(f"{path} holds no object.")
        if data.get("protocol") != PROTOCOL:
            raise RunFolderError(
                f"The worker answered in protocol {data.get('protocol')!r}; this bncheck speaks {PROTOCOL}."
            )
        return parse_result(data)
    except RunFolderError as error:
        return CellResult("crashed", error_type="BrokenResult", error=error.message)
    except OSError as error:
        return CellResult("crashed", error_type="BrokenResult", error=f"{path} cannot be read: {error}.")


def parse_result(data: Mapping[str, Any]) -> CellResult:
    outcomes = ("ok", "raised", "unsupported", "crashed", "timeout")
    try:
        if data["outcome"] not in outcomes:
            raise RunFolderError(f"The outcome {data['outcome']!r} is none of {', '.join(outcomes)}.")
        error = data.get("error") or {}
        event = data.get("event")
        return CellResult(
            outcome=data["outcome"],
            event=None if event is None else int(event),
            error_type=str(error.get("type", "")),
            error=str(error.get("message", "")),
            origin=str(error.get("origin", "")),
            failed=tuple(dict(item) for item in data.get("failed", ())),
            dtypes={str(k): str(v) for k, v in data.get("dtypes", {}).items()},
            artifacts=tuple(str(item) for item in data.get("artifacts", ())),
            notes=dict(data.get("notes", {})),
            seconds=float(data.get("seconds", 0.0)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(f"A result.json has a wrong shape: {error!r}.") from error


def write_result(folder: Path, result: CellResult) -> None:
    """Result of a cell whose worker could not write one itself (crashed, timeout)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "result.json",
        {
            "protocol": PROTOCOL,
            "outcome": result.outcome,
            "event": result.event,
            "error": {"type": result.error_type, "message": result.error},
            "failed": [dict(item) for item in result.failed],
            "seconds": result.seconds,
        },
    )


def again_folder(run: Path) -> Path:
    """Where the second playing of a run lies, laid out like the run itself."""
    return run / "again"
