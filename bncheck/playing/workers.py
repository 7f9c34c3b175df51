"""Worker processes: start them, watch them, and turn whatever happens to one into the outcome of one cell.

One process per target plays its cells in order. When it dies or hangs, the cell it was at is *crashed* or
*timeout* and a new process goes on with the next cell; nothing that was finished is lost.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bncheck.run_folder.cell import CellRecord, record_or_crash, write_record
from bncheck.run_folder.cell_files import mend
from bncheck.run_folder.folder import read_json, write_json

RUNNER = Path(__file__).parent.parent / "worker" / "run.py"
POLL_SECONDS = 0.02
ABORT_GRACE_SECONDS = 5.0  # for faulthandler to print the stack
MOST_NOISE = 256 * 1024 * 1024  # bytes one cell may print
KEPT_NOISE = 64 * 1024


@dataclass(frozen=True)
class Limits:
    """Bounds of a worker: seconds per cell, seconds for the import, bytes of address space (None: none)."""

    cell_seconds: float = 120.0
    import_seconds: float = 300.0
    memory: int | None = None


@dataclass(frozen=True)
class Job:
    """All cells of one target: where they lie, what runs them."""

    target: str
    folder: Path  # <run>/cells/<target slug>
    python: Path
    backend: Path
    variant: str
    device: str
    cells: tuple[str, ...]
    limits: Limits = Limits()
    isolate: bool = False  # a process per cell
    environment: dict[str, str] = field(default_factory=dict)
    inputs: str = "../../inputs"  # folder of the input archives, seen from ``folder``
    cases: str = "../../cases.jsonl"  # what the cells play, likewise


@dataclass(frozen=True)
class Progress:
    """Something happened: a cell started or finished, or a target turned out unavailable."""

    target: str
    kind: str  # importing (text: the command), started, finished, unavailable (text: the reason), ended (all cells)
    cell: str = ""
    outcome: str = ""
    text: str = ""


class Worker:
    """One target's process(es); ``poll`` never blocks."""

    def __init__(self, job: Job) -> None:
        self.job = job
        mend(job.folder)  # a host that was killed may have left half an entry
        self.waiting = [cell for cell in job.cells if record_or_crash(job.folder / cell) is None]
        self.batch: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.current = ""
        self.since = 0.0
        self.read = 0  # bytes of progress.txt seen
        self.ready = False
        self.unavailable = ""
        self.restarts_without_progress = 0

    @property
    def done(self) -> bool:
        return self.process is None and not self.waiting

    # -- starting ---------------------------------------------------------------------------------------------

    def start(self, hold: bool = False) -> Progress:
        """Start a process. With ``hold`` it only imports its framework until ``release`` tells it the cells."""
        job = self.job
        job.folder.mkdir(parents=True, exist_ok=True)
        self.batch = self.waiting[:1] if job.isolate else list(self.waiting)
        for name in ("cells.json", "progress.txt", "stderr.txt", "environment.json"):
            if not (name == "environment.json" and self.ready):
                (job.folder / name).unlink(missing_ok=True)
        self.current, self.read = "", 0
        write_json(job.folder / "job.json", self.describe())
        if not hold:
            self.release()
        command = [str(job.python), "-I", str(RUNNER), str(job.folder)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **job.environment},
            start_new_session=True,
        )
        self.since = time.monotonic()
        return Progress(job.target, "importing", text=shlex.join(command))

    def release(self) -> None:
        """Name the cells to play; their inputs and jobs lie ready. Time spent on those is not the framework's."""
        self.since = time.monotonic()
        write_json(self.job.folder / "cells.json", self.batch)

    def describe(self) -> dict[str, Any]:
        job = self.job
        return {
            "protocol": 1,
            "backend": str(job.backend),
            "variant": job.variant,
            "device": job.device,
            "inputs": job.inputs,
            "cases": job.cases,
            "memory_limit": job.limits.memory,
        }

    # -- watching ---------------------------------------------------------------------------------------------

    def poll(self) -> Iterator[Progress]:
        if self.process is None:
            if self.waiting:
                yield self.start()
            return
        code = self.process.poll()
        yield from self.advance()
        if code is not None:
            yield from self.settle(code)
        else:
            yield from self.enforce()

    def advance(self) -> Iterator[Progress]:
        """Read which cells started since the last look; each start finishes the one before it."""
        path = self.job.folder / "progress.txt"
        if not path.exists():
            return
        with path.open("rb") as handle:
            handle.seek(self.read)
            fresh = handle.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self.read += len(whole)
        for line in whole.decode("utf-8", "replace").splitlines():
            self.ready, self.restarts_without_progress = True, 0
            yield from self.finish()
            self.current, self.since = line, time.monotonic()
            yield Progress(self.job.target, "started", line)

    def finish(self) -> Iterator[Progress]:
        """Count the current cell as finished when it has a result."""
        if self.current and self.current in self.waiting:
            record = record_or_crash(self.job.folder / self.current)
            if record is not None:
                self.waiting.remove(self.current)
                yield Progress(target=self.job.target, kind="finished", cell=self.current, outcome=record.outcome)

    def enforce(self) -> Iterator[Progress]:
        """Kill a process that takes too long or prints without end; its cell keeps the reason."""
        limits, passed = self.job.limits, time.monotonic() - self.since
        if not self.current:
            if passed > limits.import_seconds:
                self.kill()
                yield from self.give_up(f"importing it took longer than {limits.import_seconds:g} s")
            return
        if passed > limits.cell_seconds:
            self.kill()
            yield from self.finish()  # a process that hangs at its end has its results
            if self.current in self.waiting:
                yield from self.fail("timeout", "Timeout", f"it ran longer than {limits.cell_seconds:g} s (--timeout)")
        elif self.noise() > MOST_NOISE:
            self.kill()
            yield from self.fail("crashed", "Noise", f"it printed more than {MOST_NOISE >> 20} MB and was stopped")

    def noise(self) -> int:
        path = self.job.folder / "stderr.txt"
        return path.stat().st_size if path.exists() else 0

    def settle(self, code: int) -> Iterator[Progress]:
        """The process ended: everything done, or unavailable, or dead at some cell."""
        self.process = None
        mend(self.job.folder)
        yield from self.finish()
        reason = self.stated_reason()
        if reason:
            yield from self.give_up(reason)
        elif not self.ready:
            yield from self.give_up(f"the process {death(code)} while importing it: {last_line(self.job.folder)}")
        elif any(cell in self.waiting for cell in self.batch):
            yield from self.blame(code)

    def blame(self, code: int) -> Iterator[Progress]:
        """The cell that was running is marked crashed; when none was, the next one does after a second try."""
        if self.current not in self.waiting:
            self.restarts_without_progress += 1
            if self.restarts_without_progress < 2:
                return
            self.current = self.waiting[0]
        self.restarts_without_progress = 0
        yield from self.fail("crashed", death_name(code), f"the process {death(code)}")

    def fail(self, outcome: str, error_type: str, text: str) -> Iterator[Progress]:
        folder = self.job.folder / self.current
        tail = self.take_output(folder)
        stack = f"\n{tail}" if tail else ""
        write_record(
            folder,
            CellRecord(outcome, error_type=error_type, error=text + stack, seconds=time.monotonic() - self.since),
        )
        self.waiting.remove(self.current)
        yield Progress(target=self.job.target, kind="finished", cell=self.current, outcome=outcome, text=text)

    def take_output(self, folder: Path) -> str:
        """Keep the last of what the dead process printed as the cell's stderr.txt; return its last lines."""
        tail = tail_of(self.job.folder / "stderr.txt")
        if tail:
            folder.mkdir(exist_ok=True)
            (folder / "stderr.txt").write_bytes(tail)
        return "\n".join(tail.decode("utf-8", "replace").strip().splitlines()[-12:])

    def stated_reason(self) -> str:
        path = self.job.folder / "environment.json"
        if not path.exists():
            return ""
        return str(read_json(path).get("unavailable", ""))

    def give_up(self, reason: str) -> Iterator[Progress]:
        self.unavailable, self.waiting = reason, []
        yield Progress(self.job.target, "unavailable", text=reason)

    def kill(self) -> None:
        """SIGABRT first, so that faulthandler prints the stack; then the whole process group."""
        if self.process is None:
            return
        for sign, grace in ((signal.SIGABRT, ABORT_GRACE_SECONDS), (signal.SIGKILL, 10.0)):
            try:
                os.killpg(self.process.pid, sign)
            except ProcessLookupError:
                pass  # it ended by itself in between
            try:
                self.process.wait(grace)
                break
            except subprocess.TimeoutExpired:
                continue
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # children that outlived it
        except (ProcessLookupError, PermissionError):
            pass  # there were none
        self.process = None
        mend(self.job.folder)


def tail_of(path: Path) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - KEPT_NOISE))
        return handle.read()


def last_line(folder: Path) -> str:
    lines = [line for line in tail_of(folder / "stderr.txt").decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it printed nothing"


def death_name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit {code}"


def death(code: int) -> str:
    return f"was killed by {death_name(code)}" if code < 0 else f"ended with exit code {code}"


def play(
    jobs: Sequence[Job],
    at_once: int,
    tell: Callable[[Progress], None],
    write: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Play all jobs, ``at_once`` processes at a time; returns the reasons of targets that turned out unavailable.

    ``write`` lays out the cells' inputs and jobs; it is called while the first processes import their frameworks.
    An exception (KeyboardInterrupt too) kills the running processes and is raised again: what finished is on disk.
    """
    queue = [Worker(job) for job in jobs]
    active, queue = queue[:at_once], queue[at_once:]
    reasons = {}
    try:
        early = [worker for worker in active if worker.waiting]
        for worker in early:
            tell(worker.start(hold=True))
        write()
        for worker in early:
            worker.release()
        while queue or active:
            while queue and len(active) < at_once:
                active.append(queue.pop(0))
            for worker in active:
                for progress in worker.poll():
                    tell(progress)
                if worker.unavailable:
                    reasons[worker.job.target] = worker.unavailable
                if worker.done:
                    tell(Progress(worker.job.target, "ended", text=worker.unavailable))
            active = [worker for worker in active if not worker.done]
            time.sleep(POLL_SECONDS)
    finally:
        for worker in active:
            worker.kill()
    return reasons
