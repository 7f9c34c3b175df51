"""One cell in a run folder: its place, the record that its worker left, its trace, its replay.

Nobody vouches for any of it: a path is composed from checked names, links out of the folder are refused, files have a
size that is known before they are read.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from bncheck.bounded import clear, own_folder, read_within
from bncheck.errors import RunFolderError
from bncheck.evidence import BROKEN_RESULT, BROKEN_TRACE, DAMAGED, LOST_RESULT
from bncheck.run_folder.arrays import MAX_ARCHIVE, Archive, open_archive
from bncheck.run_folder.cell_files import TAR, has_cell_file, read_cell_file
from bncheck.run_folder.folder import LARGEST_JSON, check_slug, parse_json
from bncheck.run_folder.results import CellResult
from bncheck.run_folder.whole import write_whole
from bncheck.trace import Array, EventRecord, Trace
from bncheck.worker.archive import digest, pack_npz, seal, seal_of, unsealed

PROTOCOL = 1
FINISHED = ("ok", "raised", "unsupported")  # outcomes that leave a trace
OUTCOMES = (*FINISHED, "crashed", "timeout")
REPLAY = "replay.npz"
CHANGED = "is not what was written there: it was changed, or put there by something that ran beside it"


@dataclass(frozen=True)
class CellRecord:
    """``result.json`` of a cell, checked: what its worker (or the host, of a dead one) left of it."""

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
    trace: str | None = None  # digest of its trace ("": it has none); None: nobody has said
    seal: str = ""

    @property
    def damaged(self) -> bool:
        """Whether what it left says nothing about its target."""
        return self.error_type in DAMAGED


def lost(why: str) -> CellRecord:
    """The record of a cell whose result was spoilt or taken away by something that was played."""
    return CellRecord("crashed", error_type=LOST_RESULT, error=why)


def cell_folder(run: Path, target: str, cell: str) -> Path:
    """``<run>/cells/<target's slug>/<scenario>--<case>``; RunFolderError for names and links that could leave it."""
    for name in (target, cell, *cell.rpartition("--")[::2]):
        check_slug(name)
    cells, of_target, tar = places(run, target)
    folder = of_target / cell
    # A link inside an unpacked archive can point anywhere.
    looked_at = (cells, of_target, folder, tar)
    if any(map(os.path.islink, looked_at)) and not all(
        path.resolve().is_relative_to(run.resolve()) for path in looked_at
    ):
        raise RunFolderError(f"{folder} is a link that leaves the run folder", "do not open this folder")
    return folder


@lru_cache(maxsize=64)
def places(run: Path, target: str) -> tuple[Path, Path, Path]:
    """The folder of all cells, a target's, and its tar: to put paths together takes as long as to read a small file."""
    cells = run / "cells"
    return cells, cells / target, cells / target / TAR


def folder_of(run: Path, cell: CellResult) -> Path:
    return cell_folder(run, cell.slug, f"{cell.scenario}--{cell.case}")


def read_file(folder: Path, name: str, most: int) -> bytes | None:
    """A cell's file, loose or from its target's tar; None when there is none."""
    try:
        return read_cell_file(folder, name, most)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise RunFolderError(f"{folder / name} is larger than {most >> 20} MiB, more than bncheck reads") from error
        raise RunFolderError(f"{folder / name} cannot be read: {error.strerror or error}") from error


# ------------------------------------------------------------------------------------------------------- the record


def read_record(folder: Path, sealed: bool = False) -> CellRecord | None:
    """What a cell left; None when it has no result yet. RunFolderError for a result that makes no sense or is not the
    one that was written there; with ``sealed`` also for one of which nobody can say that (an older bncheck's)."""
    path, raw = folder / "result.json", read_file(folder, "result.json", LARGEST_JSON)
    if raw is None:
        return None
    data = parse_json(path, raw)
    if not isinstance(data, dict):
        raise RunFolderError(f"{path} holds no object.")
    if data.get("protocol") != PROTOCOL:
        raise RunFolderError(
            f"The worker answered in protocol {data.get('protocol')!r}; this bncheck speaks {PROTOCOL}."
        )
    record = replace(parse_record(data), seal=seal_of(raw))
    if (record.seal or sealed) and unsealed(folder.parent.name, folder.name, raw) is None:
        raise RunFolderError(f"{path} {CHANGED}.", "Play it again: bncheck run --resume RUN")
    return record


def record_or_crash(folder: Path, sealed: bool = False) -> CellRecord | None:
    """What a cell left, for those who play and judge it: a result that makes no sense is *crashed*, with why."""
    try:
        return read_record(folder, sealed)
    except RunFolderError as error:
        return CellRecord("crashed", error_type=BROKEN_RESULT, error=error.message)


def sound_record(folder: Path) -> CellRecord | None:
    """What a cell left, where it can be used, its trace included; None for a cell that is to be played (again)."""
    try:
        record = read_record(folder, sealed=True)
        if record is not None and record.outcome in FINISHED:
            trace = read_trace(folder, (), record)
            dict(trace.arrays if trace is not None else {})
    except RunFolderError:
        return None
    return None if record is not None and record.damaged else record


def seal_at(folder: Path) -> str:
    """The seal of the result that lies there now; "" where none can be read."""
    try:
        return str(seal_of(read_file(folder, "result.json", LARGEST_JSON) or b""))
    except RunFolderError:
        return ""


def has_result(folder: Path) -> bool:
    """Whether there is anything that says how the cell went; cheap, for all cells of a target."""
    return has_cell_file(folder, "result.json")


def discard(folder: Path) -> None:
    """Take away what a cell left beside its target's tar; of several entries in there the last one counts."""
    for name in ("result.json", "trace.npz", "result.json.part"):
        clear(own_folder(folder) / name)


def parse_record(data: Mapping[str, Any]) -> CellRecord:
    try:
        if data["outcome"] not in OUTCOMES:
            raise RunFolderError(f"The outcome {data['outcome']!r} is none of {', '.join(OUTCOMES)}.")
        error = data.get("error") or {}
        event = data.get("event")
        return CellRecord(
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
            trace=None if data.get("trace") is None else str(data["trace"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RunFolderError(f"A result.json has a wrong shape: {str(error)[:200]!r}.") from error


def write_record(folder: Path, record: CellRecord) -> None:
    """Record of a cell whose worker could not write one itself (crashed, timeout)."""
    discard(folder)
    said = {
        "protocol": PROTOCOL,
        "outcome": record.outcome,
        "event": record.event,
        "error": {"type": record.error_type, "message": record.error},
        "failed": [dict(item) for item in record.failed],
        "seconds": record.seconds,
    }
    text = json.dumps(said, allow_nan=False).encode()
    write_whole(folder / "result.json", seal(folder.parent.name, folder.name, text))


# ------------------------------------------------------------------------------------------------------- the trace


def trace_of(run: Path, cell: CellResult, ops: tuple[str, ...] = ()) -> Trace | None:
    """The cell's trace, or None when it recorded none; arrays are read when they are asked for.

    ``ops`` are the case's event names; how each went comes from the cell's own ``result.json``.
    """
    return None if cell.error_type in DAMAGED else read_trace(folder_of(run, cell), ops)


def read_trace(folder: Path, ops: tuple[str, ...], record: CellRecord | None = None) -> Trace | None:
    """The trace in a cell's folder; ``record`` is what the cell left, where that was read already."""
    raw = read_file(folder, "trace.npz", MAX_ARCHIVE)
    if raw is None:
        return None
    record = record or read_record(folder)
    if record is not None and record.trace is not None and record.trace != digest(raw):
        raise RunFolderError(f"{folder / 'trace.npz'} {CHANGED}.", "Play it again: bncheck run --resume RUN")
    return Trace(
        events=event_records(ops, () if record is None else record.failed),
        arrays=Archive(folder / "trace.npz", raw),
        dtypes={} if record is None else record.dtypes,
    )


def trace_or_crash(folder: Path, ops: tuple[str, ...], record: CellRecord) -> tuple[CellRecord, Trace | None]:
    """The trace of a cell that came to its end, its arrays in memory; where they are damaged the cell is *crashed*."""
    try:
        trace = read_trace(folder, ops, record) if record.outcome in FINISHED else None
        return record, None if trace is None else replace(trace, arrays=dict(trace.arrays))
    except RunFolderError as error:
        return CellRecord("crashed", error_type=BROKEN_TRACE, error=error.message, seconds=record.seconds), None


def event_records(ops: tuple[str, ...], failed: tuple[Mapping[str, Any], ...]) -> tuple[EventRecord, ...]:
    records = [EventRecord(op) for op in ops]
    for item in failed:
        index = item.get("event")
        if isinstance(index, int) and 0 <= index < len(records):
            status, kind, error, origin = (
                str(item.get(key, "")) for key in ("status", "error_type", "error", "origin")
            )
            records[index] = EventRecord(
                op=records[index].op, status=status, error_type=kind, error=error, origin=origin
            )
    return tuple(records)


# ------------------------------------------------------------------------------------------------------- the replay


def replay_of(run: Path, cell: CellResult) -> Mapping[str, Array]:
    """Curves replayed in float64 from the target's measured convention; empty when none was measured."""
    return open_archive(folder_of(run, cell) / REPLAY) or {}


def write_replay(folder: Path, curves: Mapping[str, Mapping[str, Array]]) -> None:
    """Replayed curves (layer → quantity → array) beside the cell's trace, for pictures."""
    own_folder(folder)
    named = {f"{layer}/{name}": array for layer, found in curves.items() for name, array in found.items()}
    content = pack_npz(named)
    try:
        if read_within(folder, REPLAY, most=len(content)) == content:
            return  # judged again; a rename over a file that is there took a tenth of that
    except OSError:
        clear(folder / REPLAY)
    write_whole(folder / REPLAY, content)
