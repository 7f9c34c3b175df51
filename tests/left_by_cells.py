"""What cells left in a run folder, as tests read it."""

from __future__ import annotations

import json
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from bncheck.run_folder.arrays import Archive
from bncheck.run_folder.cell_files import TAR, Tar, read_cell_file

MOST = 2**30


def arrays_of(cell: Path) -> dict[str, np.ndarray]:
    """The arrays of a cell's trace; empty when it left none."""
    raw = read_cell_file(cell, "trace.npz", MOST)
    return {} if raw is None else dict(Archive(cell / "trace.npz", raw))


def result_of(cell: Path) -> dict[str, Any]:
    raw = read_cell_file(cell, "result.json", MOST)
    assert raw is not None, f"{cell} left no result"
    found: dict[str, Any] = json.loads(raw)
    return found


def write_loose(cell: Path) -> None:
    """The files of a cell beside its target's tar; they count before it."""
    cell.mkdir(exist_ok=True)
    for name in ("trace.npz", "result.json"):
        raw = read_cell_file(cell, name, MOST)
        if raw is not None:
            (cell / name).write_bytes(raw)


def entries_of(path: Path) -> dict[str, int]:
    """Name → where its content begins, of a tar's whole entries, as another program reads them."""
    tar = Tar(path)
    tar.look()
    if not tar.end:
        return {}
    with tarfile.open(fileobj=BytesIO(path.read_bytes()[: tar.end])) as theirs:
        return {member.name: member.offset_data for member in theirs}


def cells_of(target: Path) -> list[str]:
    """Names of the cells that have a result: those in the tar in their order, then those beside it."""
    packed = [name[: -len("/result.json")] for name in entries_of(target / TAR) if name.endswith("/result.json")]
    return list(dict.fromkeys([*packed, *(path.parent.name for path in target.glob("*/result.json"))]))


def worker_processes(folder: Path) -> list[int]:
    """The processes that play into this folder."""
    return processes(str(folder))


def processes(words_in_it: str) -> list[int]:
    """Those whose command line, its words parted by NUL, holds this."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if words_in_it.encode() in words:
                found.append(int(entry.name))
    return found
