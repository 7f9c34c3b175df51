"""Worker processes: start them, watch them, and turn whatever happens to one into the outcome of one cell.

One process per target plays its cells in order. When it dies or hangs, the cell it was at is *crashed* or
*timeout* and a new process goes on with the next cell; nothing that was finished is lost.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bncheck.bounded import clear, own_folder
from bncheck.errors import RunFolderError
from bncheck.playing import said
from bncheck.playing.death import death, death_name, died
from bncheck.playing.job import Job
from bncheck.playing.nursery import ENDING, Forked, end_group
from bncheck.playing.output import MOST_REASON, digest_of, last_line, printed, read_from, size_of
from bncheck.playing.progress import Progress
from bncheck.playing.readied import RUNNER, Readied, find_ready_one
from bncheck.playing.twin import Twin
from bncheck.run_folder.cell import (
    CellRecord,
    discard,
    has_result,
    lost,
    record_or_crash,
    seal_at,
    sound_record,
    write_record,
)
from bncheck.run_folder.cell_files import mend
from bncheck.run_folder.folder import write_json
from bncheck.run_folder.whole import write_whole

POLL_SECONDS = (0.003, 0.02)  # between two looks: soon after there was news, and where nothing has happened for long
ABORT_GRACE_SECONDS = 5.0  # for faulthandler to print the stack
MOST_NOISE = 256 * 1024 * 1024  # bytes one cell may print
STACK_LINES = 14  # of what a dead process printed: its own frames and what it ran in
MOST_PROGRESS = 1024 * 1024  # bytes of progress.txt that are read at a time
# Exit codes of a worker that left a cell without its result
DISK_FULL = 113  # because there was no room for it
DISTURBED = 114  # because its folder was taken away, or what it plays from was changed
THROUGH = b"."  # the last line of progress.txt
MOST_DISTURBANCES = 2  # of one target; whoever did it once may be through
AT_ONCE = 32  # cells whose results a worker writes together, at most (worker/run.py)
FILES = ("cells.json", "progress.txt", "stderr.txt", said.NAME)  # of a process; the next one begins with none of them


class Worker:
    """One target's process(es); ``poll`` never blocks."""

    def __init__(self, job: Job, write: Callable[[], None] = lambda: None) -> None:
        self.job, self.write = job, write
        own_folder(own_folder(job.folder.parent) / job.folder.name)
        mend(job.folder)  # a host that was killed may have left half an entry
        self.seals: dict[str, str] = {}  # of the cells that have a result, as it was when it was new
        self.waiting = [cell for cell in job.cells if not self.has_sound(cell)]
        self.described = self.read_environment() if len(self.waiting) < len(job.cells) else None
        self.batch: list[str] = []
        self.place = 0  # in the batch, of the cell that starts next
        self.begun: list[str] = []  # cells that have started and have no result yet, in order
        self.process: subprocess.Popen[bytes] | Forked | Twin | None = None
        self.current = ""
        self.since = 0.0
        self.read = 0  # bytes of progress.txt seen
        self.ready = False
        self.unavailable = ""
        self.restarts_without_progress = 0
        self.disturbances = 0
        self.untried = False  # the process was there before the job, and can have died before that was its own
        self.through = False  # it has said that it is through with its cells
        self.cases = ""  # digest of the file of cases, once that lies there

    def has_sound(self, cell: str) -> bool:
        record = sound_record(self.job.folder / cell)
        if record is not None:
            self.seals[cell] = record.seal
        return record is not None

    @property
    def done(self) -> bool:
        return self.process is None and not self.to_do

    @property
    def to_do(self) -> bool:
        """Cells to play; or all of them are there, but not what the target said of itself."""
        return bool(self.waiting) or (self.described is None and bool(self.job.cells) and not self.unavailable)

    # -- starting ---------------------------------------------------------------------------------------------

    def start(self, hold: bool = False) -> Progress:
        """Start a process. With ``hold`` it only imports its framework until ``release`` tells it the cells."""
        job = self.job
        own_folder(own_folder(job.folder.parent) / job.folder.name)
        self.batch, self.place = self.waiting[:1] if job.isolate else list(self.waiting), 0
        for name in FILES:
            clear(job.folder / name)
        for cell in self.batch:
            if os.path.lexists(job.folder / cell):
                discard(job.folder / cell)  # damaged, or it would not be waiting
        self.current, self.begun, self.read, self.through = "", [], 0, False
        write_json(job.folder / "job.json", self.describe())
        if not hold:
            self.release()
        command = [str(job.python), "-I", str(RUNNER), str(job.folder)]
        self.since = time.monotonic()
        try:
            self.process = self.spawn(command)
        except OSError as error:  # it was asked a moment ago, but an environment can be damaged at any time
            self.unavailable, self.waiting = f"{job.python} cannot be started: {error.strerror or error}", []
        return Progress(job.target, "importing", text=shlex.join([*command, "--alone"]))

    def find_ready(self) -> Readied | None:
        """The process that was begun for this job, if nobody has taken it."""
        job = self.job
        return find_ready_one(job.ready, job.python, job.backend, job.variant, job.device, job.environment)

    def spawn(self, command: Sequence[str]) -> subprocess.Popen[bytes] | Forked | Twin:
        job, early = self.job, self.find_ready()
        process = None if early is None else early.take(job.folder.absolute())
        self.untried = process is not None
        if process is not None:
            return process
        if self.job.nursery is not None:
            return self.job.nursery.fork(RUNNER.name, self.job.folder, self.job.environment)
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self.job.environment},
            start_new_session=True,
        )

    def release(self) -> None:
        """Name the cells to play; their inputs and jobs lie ready. Time spent on those is not the framework's."""
        self.since = time.monotonic()
        self.cases = self.cases or self.digest_of_cases()
        write_json(self.job.folder / "cells.json", {"cells": self.batch, "cases": self.cases})

    def digest_of_cases(self) -> str:
        if not self.batch:
            return ""
        path = self.job.folder / self.job.cases
        try:
            return digest_of(path)
        except OSError:  # something that was played has put something else there
            self.write()
            return digest_of(path)

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
            "host": os.getpid() if job.nursery is None else job.nursery.process.pid,
        }

    # -- watching ---------------------------------------------------------------------------------------------

    def poll(self) -> Iterator[Progress]:
        if self.process is None:
            if self.to_do and not self.unavailable:
                yield self.start()
            if self.unavailable and self.process is None:
                yield from self.give_up(self.unavailable)
            return
        code = self.ended()
        yield from self.advance()
        if code is not None:
            yield from self.conclude(code)
        else:
            yield from self.enforce()

    def ended(self) -> int | None:
        """The exit code, once it has ended; what it has started and left behind ends with it."""
        assert self.process is not None
        if isinstance(self.process, Forked):
            code = self.process.poll()
            if code is not None:
                end_group(self.process.group(), signal.SIGKILL)
            return code
        # Until it is waited for, nobody else can get its number, which is that of its process group.
        if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        end_group(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def advance(self) -> Iterator[Progress]:
        """Read which cells started since the last look; each start finishes the one before it.

        A word that is not the name of the cell whose turn it is says nothing: whatever runs in the process can write
        there, and a name becomes part of a path."""
        before = self.place
        for line in self.fresh_lines():
            self.through = self.through or (line == THROUGH and self.place == len(self.batch))
            if self.place >= len(self.batch) or line != self.batch[self.place].encode():
                continue
            if self.described is None:
                self.described = self.read_environment()
            self.ready, self.restarts_without_progress = True, 0
            self.current, self.since = self.batch[self.place], time.monotonic()
            self.begun.append(self.current)
            self.place += 1
            yield Progress(self.job.target, "started", self.current)
        if self.place != before:
            yield from self.finish()

    def fresh_lines(self) -> list[bytes]:
        """Whole lines of progress.txt that were not read yet; none where something else stands in its place."""
        found = read_from(self.job.folder, "progress.txt", self.read, MOST_PROGRESS)
        whole = found[: found.rfind(b"\n") + 1]
        self.read += len(whole) or (len(found) if len(found) == MOST_PROGRESS else 0)
        return whole.splitlines()

    def finish(self, ended: bool = False) -> Iterator[Progress]:
        """Count the cells that have got a result. A worker writes those of quick ones a few at a time, in order: behind
        one without a result nobody looks for others, unless the process has ``ended``. While it has not, it may be
        writing: the cell that runs has no result yet, and half an entry behind whole ones is no damage."""
        for cell in self.begun[:] if ended else self.begun[:-1]:
            if cell in self.waiting and (ended or has_result(self.job.folder / cell)):
                yield from self.count(cell)
            if cell not in self.waiting:
                self.begun.remove(cell)
            elif not ended and len(self.begun) <= AT_ONCE:
                return

    def count(self, cell: str) -> Iterator[Progress]:
        record = record_or_crash(self.job.folder / cell, sealed=True)
        if record is not None:
            self.waiting.remove(cell)
            if record.damaged:  # so that nobody reads it otherwise later
                write_record(self.job.folder / cell, record)
            self.seals[cell] = seal_at(self.job.folder / cell)
            yield Progress(target=self.job.target, kind="finished", cell=cell, outcome=record.outcome)

    def enforce(self) -> Iterator[Progress]:
        """Kill a process that takes too long or prints without end; its cell keeps the reason."""
        limits, passed = self.job.limits, time.monotonic() - self.since
        if not self.current:
            if passed > limits.import_seconds:
                self.kill()
                if self.ready:  # it has played already: somebody has spoilt what it begins with
                    yield from self.begin_anew()
                    return
                yield from self.give_up(f"importing it took longer than {limits.import_seconds:g} s")
            return
        if passed > limits.cell_seconds:
            self.kill()
            yield from self.finish(ended=True)  # a process that hangs at its end has its results
            if self.current in self.waiting:
                yield from self.fail(
                    died("timeout", "Timeout", f"it ran longer than {limits.cell_seconds:g} s (--timeout)")
                )
        elif self.noise() > MOST_NOISE:
            self.kill()
            yield from self.fail(
                died("crashed", "Noise", f"it printed more than {MOST_NOISE >> 20} MB and was stopped")
            )

    def noise(self) -> int:
        return size_of(self.job.folder, "stderr.txt")

    def conclude(self, code: int) -> Iterator[Progress]:
        """The process ended: everything done, or unavailable, or dead at some cell."""
        unborn, self.process = isinstance(self.process, Forked) and not self.process.pid, None
        if unborn or (self.untried and not self.ready and self.read_environment() is None):
            # It died of an import that began before there was a job: begun anew the target can say why.
            self.job = replace(self.job, nursery=None, ready=())
            return
        robbed = self.is_robbed()
        self.tidy()
        yield from self.finish(ended=True)
        for cell in [cell for cell in self.waiting if has_result(self.job.folder / cell)]:
            self.ready = True  # whatever became of progress.txt
            yield from self.count(cell)
        if code == DISK_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.job.folder))
        if any(cell in self.waiting for cell in self.batch) and (code == DISTURBED or robbed or self.through):
            yield from self.begin_anew()
            return
        played = any(cell not in self.waiting for cell in self.batch)
        reason = "" if played else self.stated_reason()
        if reason:
            yield from self.give_up(reason)
        elif not self.ready and (self.described is None or self.batch):
            yield from self.give_up(f"the process {death(code)} while importing it: {last_line(self.job.folder)}")
        elif any(cell in self.waiting for cell in self.batch):
            yield from self.blame(code)

    def is_robbed(self) -> bool:
        """Whether files that were there are gone, and results with them, maybe."""
        lasting = ("job.json", "progress.txt") if self.ready else ("job.json",)
        return not all(os.path.lexists(self.job.folder / name) for name in lasting)

    def begin_anew(self) -> Iterator[Progress]:
        """Its folder or what it plays from was spoilt, which is not its fault: both are laid out once more."""
        self.disturbances += 1
        if self.disturbances <= MOST_DISTURBANCES:
            self.write()
            return
        text = "what it plays from, or its folder, was changed or taken away three times by something that was played"
        for cell in list(self.waiting):
            self.current = cell
            yield from self.fail(lost(text))

    def tidy(self) -> None:
        """What a process leaves behind becomes a folder that can be read again: no half entry, no link or pipe, and the
        environment as it was before any cell was played."""
        folder = own_folder(self.job.folder)
        mend(folder)
        for place, folders, files in os.walk(folder):
            for path in (Path(place) / name for name in (*folders, *files)):
                if path.is_symlink() or not (path.is_file() or path.is_dir()):
                    clear(path)
        if self.described is not None and self.read_environment() != self.described:
            clear(folder / said.NAME)
            write_json(folder / said.NAME, self.described)

    def verify(self) -> Iterator[Progress]:
        """When nothing plays any more: cells whose result is not the one that was written. A backend file can write
        everywhere; what it spoils is played again by ``--resume``, and is never taken for what a target computed."""
        own_folder(own_folder(self.job.folder.parent) / self.job.folder.name)  # not where a link of somebody's leads
        for cell in self.job.cells if not self.unavailable else ():
            folder = self.job.folder / cell
            if not has_result(folder):
                text = "its result was written and is gone: something that was played removed or changed the file"
            elif seal_at(folder) != self.seals.get(cell, ""):
                text = "its result was changed after it was written, by something that was played"
            else:
                continue
            write_record(folder, lost(text))
            yield Progress(self.job.target, "finished", cell, "crashed", text)

    def blame(self, code: int) -> Iterator[Progress]:
        """The cell that was running is marked crashed; when none was, the next one does after a second try."""
        if self.current not in self.waiting:
            self.restarts_without_progress += 1
            if self.restarts_without_progress < 2:
                return
            self.current = self.waiting[0]
        self.restarts_without_progress = 0
        yield from self.fail(died("crashed", death_name(code), f"the process {death(code)}"))

    def fail(self, record: CellRecord) -> Iterator[Progress]:
        folder = self.job.folder / self.current
        tail = self.take_output(folder)
        stack = f"\n{tail}" if tail else ""
        took = time.monotonic() - self.since
        write_record(folder, replace(record, error=record.error + stack, seconds=took))
        self.seals[self.current] = seal_at(folder)
        self.waiting.remove(self.current)
        yield Progress(
            target=self.job.target, kind="finished", cell=self.current, outcome=record.outcome, text=record.error
        )

    def take_output(self, folder: Path) -> str:
        """Keep the last of what the dead process printed as the cell's stderr.txt; return its last lines."""
        tail = printed(self.job.folder)
        if tail:
            write_whole(own_folder(folder) / "stderr.txt", tail)
        return "\n".join(tail.decode("utf-8", "replace").strip().splitlines()[-STACK_LINES:])

    def stated_reason(self) -> str:
        """Why it cannot run, in its own words, or because its words cannot be used."""
        try:
            self.described = said.read_environment(self.job.folder) or self.described
        except RunFolderError as error:
            return f"what it says of itself cannot be used: {error.message}"
        return str((self.described or {}).get("unavailable", ""))[:MOST_REASON]

    def read_environment(self) -> dict[str, Any] | None:
        try:
            return said.read_environment(self.job.folder)
        except RunFolderError:
            return None

    def give_up(self, reason: str) -> Iterator[Progress]:
        self.unavailable, self.waiting = reason, []
        yield Progress(self.job.target, "unavailable", text=reason)

    def kill(self) -> None:
        """SIGABRT first, so that faulthandler prints the stack; then its guard ends it and all that it has started."""
        if self.process is None:
            return
        group = self.process.group() if isinstance(self.process, Forked) else self.process.pid
        for sign, grace in ((signal.SIGABRT, ABORT_GRACE_SECONDS), *ENDING):
            end_group(group, sign)
            try:
                self.process.wait(grace)
                break
            except subprocess.TimeoutExpired:
                continue
        end_group(group, signal.SIGKILL)  # where no guard is between
        self.process = None
        self.tidy()


def play(
    jobs: Sequence[Job],
    at_once: int,
    tell: Callable[[Progress], None],
    write: Callable[[], None] = lambda: None,
    meanwhile: Iterator[bool] = iter(()),
) -> dict[str, str]:
    """Play all jobs, ``at_once`` processes at a time, and those that were begun before; returns the reasons of targets
    that turned out unavailable.

    ``write`` lays out the cells' inputs and jobs; it is called while the first processes import their frameworks.
    ``meanwhile`` is work of the host, a piece at a time, instead of waiting; it yields False where there is none.
    An exception (KeyboardInterrupt too) kills the running processes and is raised again: what finished is on disk.
    """
    workers = [Worker(job, write) for job in jobs]
    # A process that is there already has the memory that it takes, and may have imported all that it needs.
    active = [worker for worker in workers if worker.find_ready() is not None]
    queue = [worker for worker in workers if worker not in active]
    while queue and len(active) < at_once:
        active.append(queue.pop(0))
    reasons = {}
    try:
        early = [worker for worker in active if worker.to_do]
        for worker in early:
            tell(worker.start(hold=True))
        write()
        for worker in early:
            worker.release()
        idle = 0  # looks without news
        while queue or active:
            idle += 1
            while queue and len(active) < at_once:
                active.append(queue.pop(0))
            for worker in active:
                for progress in worker.poll():
                    tell(progress)
                    idle = 0
                if worker.unavailable:
                    reasons[worker.job.target] = worker.unavailable
                if worker.done:
                    tell(Progress(worker.job.target, "ended", text=worker.unavailable))
            active = [worker for worker in active if not worker.done]
            if not next(meanwhile, False):
                time.sleep(min(POLL_SECONDS[0] * (1 + idle), POLL_SECONDS[1]))
    finally:
        for worker in active:
            worker.kill()
    for worker in workers:
        for progress in worker.verify():
            tell(progress)
    return reasons
