"""Carry out a plan: write the jobs, play them in worker processes, say which targets turned out unavailable."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from bncheck.bounded import own_file
from bncheck.environments.devices import threads
from bncheck.errors import RunFolderError
from bncheck.playing.cases_file import write_cases
from bncheck.playing.job import Job, Limits
from bncheck.playing.nursery import Nursery
from bncheck.playing.pace import Stopwatch, longest_first, read_paces
from bncheck.playing.progress import Progress
from bncheck.playing.readied import Readied
from bncheck.playing.said import read_environment
from bncheck.playing.seats import Seat
from bncheck.playing.workers import play
from bncheck.run_folder.folder import write_json
from bncheck.run_folder.origin import measured_on
from bncheck.run_folder.results import TargetResult
from bncheck.scenario_files.plan import Plan


@dataclass(frozen=True)
class Options:
    """How to play: processes at once, bounds, a process per cell; what was begun before: a nursery for those targets
    that it serves, processes that each serve one."""

    at_once: int = 2
    limits: Limits = Limits()
    isolate: bool = False
    nursery: Nursery | None = None
    ready: tuple[Readied, ...] = ()


def run_cells(
    run: Path,
    plan: Plan,
    seats: Sequence[Seat],
    options: Options,
    tell: Callable[[Progress], None],
    meanwhile: Iterator[bool] = iter(()),
) -> list[TargetResult]:
    """Play every cell that has no result yet; returns the targets as they turned out. ``meanwhile`` is work of the
    host's that is done a piece at a time, where it would only wait.

    Finished cells are on disk at any moment, also when this is interrupted.
    """
    ready = [seat for seat in seats if seat.python is not None]
    cells = tuple(case.id for case in plan.cases)
    jobs = longest_first([job_of(run, seat, cells, options) for seat in ready], read_paces())
    watch = Stopwatch(tell)
    for seat in seats:
        if seat.python is None:
            tell(Progress(seat.result.name, "unavailable", text=seat.result.reason))

    def write() -> None:
        write_json(run / "contents.json", write_cases(run, plan.cases))

    with own_file(run / "records.jsonl").open("a", encoding="utf-8") as records:
        reasons = play(jobs, options.at_once, lambda progress: note(records, progress, watch), write, meanwhile)
    watch.remember()
    return [as_it_ran(run, seat.result, reasons) for seat in seats]


def note(records: TextIO, progress: Progress, tell: Callable[[Progress], None]) -> None:
    """One line of records.jsonl per finished cell and unavailable target, on disk before anybody is told."""
    if progress.kind in ("finished", "unavailable"):
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {
            "time": when,
            "target": progress.target,
            "cell": progress.cell,
            "outcome": progress.outcome or "unavailable",
        }
        records.write(json.dumps({**line, "reason": progress.text}) + "\n")
        records.flush()
    tell(progress)


def job_of(run: Path, seat: Seat, cells: tuple[str, ...], options: Options) -> Job:
    target = seat.result
    assert seat.python is not None
    limits = options.limits
    if target.device.partition(":")[0] != "cpu":
        limits = replace(limits, memory=None)  # CUDA reserves far more address space than it uses
    return Job(
        target=target.name,
        folder=run / "cells" / target.slug,
        python=seat.python,
        backend=seat.backend_path,
        variant=target.variant,
        device=target.device,
        cells=cells,
        limits=limits,
        isolate=options.isolate,
        environment={**threads(options.at_once), **seat.environment},
        nursery=options.nursery if options.nursery is not None and serves(options.nursery, seat) else None,
        ready=options.ready,
    )


def serves(nursery: Nursery, seat: Seat) -> bool:
    return (nursery.python, nursery.module) == (seat.python, seat.forks) and not nursery.closed


def as_it_ran(run: Path, target: TargetResult, reasons: Mapping[str, str]) -> TargetResult:
    """The target with what its worker said of itself: version, environment, or why it cannot run."""
    try:
        environment: dict[str, Any] = read_environment(run / "cells" / target.slug) or {}
    except RunFolderError:
        environment = {}  # where the target cannot do without it, its worker has said so
    reason = reasons.get(target.name, "")
    if reason:
        said = environment.get("remedy") if "unavailable" in environment else ""
        remedy = str(said or "") or target.remedy or f"look at it with: bncheck doctor, or leave {target.name} out"
        return replace(target, status="unavailable", reason=reason, remedy=remedy, environment=environment)
    if target.status != "ok":
        return target
    target = replace(target, remedy="", measured_on=measured_on(run / "cells" / target.slug))
    return (
        target
        if not environment
        else replace(
            target,
            version=str(environment.get("version", "")) or target.version,
            python=str(environment.get("python", "")),
            simulated=bool(environment.get("simulated", False)),
            environment=environment,
        )
    )
