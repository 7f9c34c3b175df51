"""What rules see of a cell: how it went, what it recorded, and what is known of its target. Reads the run folder.

What a target has played is looked at while others still play, where that is little (``look_ahead``); what lies there by
then is looked at again if anything of it was touched meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bncheck.convention import Convention
from bncheck.diagnosis.documented import Row
from bncheck.diagnosis.judge import explain_cell
from bncheck.diagnosis.rules.applications import unchanged
from bncheck.diagnosis.rules.well_formed import well_formed
from bncheck.evidence import CellView
from bncheck.run_folder.cell import CellRecord, cell_folder, record_or_crash, trace_or_crash
from bncheck.run_folder.cell_files import TAR
from bncheck.run_folder.results import CellResult, TargetResult
from bncheck.scenario import Case
from bncheck.scenario_files.plan import Plan

# All of it is in memory until everything was played; a run of many cases is read case by case.
MOST_AHEAD = 60  # cases
FILES = ("result.json", "trace.npz")  # of a cell
LARGEST_AHEAD = 16 * 1024 * 1024  # bytes of all cells of the targets that are looked at


@dataclass(frozen=True)
class Seen:
    """A cell as it was seen: of what, when its files had this stamp."""

    target: TargetResult
    stamp: tuple[int, ...]
    cell: CellResult | None
    view: CellView | None


Ahead = dict[tuple[str, str], Seen]  # (target, case) → what was seen of it


def read_outcome(run: Path, case: Case, target: TargetResult) -> CellResult | None:
    """How one cell went; None when it never ran."""
    if target.status != "ok":
        return outcome_of(case, target, None)
    folder = cell_folder(run, target.slug, case.id)
    record = record_or_crash(folder)
    return outcome_of(case, target, None if record is None else trace_or_crash(folder, (), record)[0])


def outcome_of(case: Case, target: TargetResult, record: CellRecord | None) -> CellResult | None:
    if target.status != "ok":
        return CellResult(
            scenario=case.scenario,
            case=case.name,
            target=target.name,
            slug=target.slug,
            outcome="unavailable",
            error=target.reason,
        )
    if record is None:
        return None
    return CellResult(
        scenario=case.scenario,
        case=case.name,
        target=target.name,
        slug=target.slug,
        outcome=sys.intern(record.outcome),  # 1,000 cells say alike
        event=record.event,
        error_type=sys.intern(record.error_type),
        error=sys.intern(record.error),
        seconds=record.seconds,
        origin=sys.intern(record.origin),
        remarks=remarks_of(record.notes),
    )


def remarks_of(notes: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentences that the worker left about layers of the user's own."""
    cell = notes.get("cell")
    layers = cell.get("custom") if isinstance(cell, Mapping) else None
    said = [
        item.get("remarks")
        for item in (layers.values() if isinstance(layers, Mapping) else ())
        if isinstance(item, Mapping)
    ]
    texts = (str(text) for found in said if isinstance(found, list) for text in found)
    return tuple(dict.fromkeys(sys.intern(text) for text in texts))


def read_cell(run: Path, case: Case, target: TargetResult) -> tuple[CellResult | None, CellView | None]:
    """How one cell went and what rules see of it; (None, None) when it never ran."""
    if target.status != "ok":
        return outcome_of(case, target, None), None
    folder = cell_folder(run, target.slug, case.id)
    record = record_or_crash(folder)
    if record is None:
        return None, None
    ops = tuple(event.op for event in case.events)
    record, trace = trace_or_crash(folder, ops, record)  # decoded once: rules look at everything many times
    view = CellView(
        case=case,
        target=target.name,
        backend=target.backend,
        outcome=record.outcome,
        trace=trace,
        error_type=record.error_type,
        error=record.error,
        event=record.event,
        origin=record.origin,
        environment=target.environment,
        notes=record.notes,
    )
    result, view = outcome_of(case, target, record), well_formed(view)
    if result is not None and case.functions:
        result = replace(result, remarks=(*result.remarks, *unchanged(view)))
    return result, view


def see_cell(
    run: Path,
    case: Case,
    target: TargetResult,
    conventions: Mapping[str, Convention],
    documented: Sequence[Row],
    ahead: Ahead,
) -> tuple[CellResult | None, CellView | None]:
    """``read_cell``, with what is known of the target in the view; taken from ``ahead`` if it is there."""
    seen = ahead.get((target.name, case.id))
    if seen is not None and seen.target == target and seen.stamp == stamp_of(run, case, target):
        return seen.cell, seen.view
    cell, view = read_cell(run, case, target)
    return cell, None if view is None else explain_cell(view, target, conventions, documented)


def look_ahead(
    run: Path,
    plan: Plan,
    target: TargetResult,
    conventions: Mapping[str, Convention],
    documented: Sequence[Row],
    ahead: Ahead,
) -> Iterator[None]:
    """See the cells of a target that has ended, one at a time, where they are few and small."""
    cases = [case for case in plan.cases if case.scenario not in plan.background]
    held = sum({seen.target.name: seen.stamp[1] for seen in ahead.values()}.values())
    if len(cases) > MOST_AHEAD or target.status != "ok":
        return
    for case in cases:
        stamp = stamp_of(run, case, target)
        if not 0 < stamp[1] <= LARGEST_AHEAD - held:
            return
        cell, view = see_cell(run, case, target, conventions, documented, {})
        ahead[target.name, case.id] = Seen(target=target, stamp=stamp, cell=cell, view=view)
        yield


def stamp_of(run: Path, case: Case, target: TargetResult) -> tuple[int, ...]:
    """Inode, size and time of change of the tar that a target's cells lie in, and of what counts before an entry."""
    folder = cell_folder(run, target.slug, case.id)
    return tuple(number for path in (folder.parent / TAR, *(folder / name for name in FILES)) for number in state(path))


def state(path: Path) -> tuple[int, int, int]:
    try:
        now = path.lstat()
    except OSError:
        return 0, 0, 0
    return now.st_ino, now.st_size, now.st_mtime_ns
