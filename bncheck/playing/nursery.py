"""The host's side of ``worker/nursery.py``: one import of a framework, and a forked process for each job."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType

FILE = Path(__file__).parent.parent / "worker" / "nursery.py"
ENDS_WITHIN = 2.0  # seconds
# How a process of worker/ is ended, with the seconds that each may take: its guard is asked, then the system.
ENDING = ((signal.SIGUSR1, 10.0), (signal.SIGKILL, 10.0))
REPLY = re.compile(rb'\{"pid": (\d{1,10})(?:, "code": (-?\d{1,3}))?\}')
LONGEST_REPLY = 100  # bytes


class Forked:
    """A process of a nursery, as far as it is used like ``subprocess.Popen``. ``pid`` is 0 until it has begun."""

    def __init__(self, nursery: Nursery) -> None:
        self.nursery, self.pid = nursery, 0
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, once it has ended. Its number is nobody else's until the nursery is closed."""
        if self.returncode is None:
            self.nursery.hear(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(self.nursery.process.args, timeout or 0)
            self.nursery.hear(left)
        return self.returncode

    def end(self) -> None:
        """End it, and what it has started."""
        for sign, grace in ENDING:
            end_group(self.nursery.process.pid, signal.SIGCONT)  # one that was stopped could not say that it ended
            end_group(self.group(), sign)
            try:
                self.wait(grace)
                return
            except subprocess.TimeoutExpired:
                continue

    def group(self) -> int:
        """The process group to end: the nursery's while this one has not begun."""
        return self.pid or self.nursery.process.pid


class Nursery:
    """A process that imports ``module``, with these variables, and forks. Closing it ends it and what it has forked."""

    def __init__(self, python: Path, module: str, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        self.python, self.module = python, module
        requests, self.requests = os.pipe()
        self.replies, replies = os.pipe()
        self.forked: list[Forked] = []  # in the order of the requests, which is that of the replies
        self.heard, self.closed = b"", False
        try:
            self.process = subprocess.Popen(
                [str(python), "-I", str(FILE), str(requests), str(replies), module],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(requests, replies),
                env={**os.environ, **environment},
                start_new_session=True,
            )
        except BaseException:
            os.close(self.requests)
            os.close(self.replies)
            raise
        finally:
            os.close(requests)
            os.close(replies)

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def fork(self, entry: str, folder: Path, environment: Mapping[str, str], output: Path | None = None) -> Forked:
        """A process that runs a file of ``worker`` on a folder, as soon as the framework is imported."""
        words = {"entry": entry, "folder": str(folder), "environment": dict(environment), "output": str(output or "")}
        self.forked.append(Forked(self))
        try:
            os.write(self.requests, json.dumps(words).encode() + b"\n")
        except BrokenPipeError:
            pass  # it has died, which ``hear`` finds out
        return self.forked[-1]

    def hear(self, seconds: float | None) -> None:
        """Take in what it says, waiting for it so long (None: as long as it takes)."""
        if not select.select([self.replies], [], [], seconds)[0]:
            return
        found = os.read(self.replies, 65536)
        if not found:  # it is dead, and what it has forked with it
            code = self.process.wait()
            for forked in self.forked:
                forked.returncode = code if forked.returncode is None else forked.returncode
            return
        *lines, self.heard = (self.heard + found).split(b"\n")
        if len(self.heard) > LONGEST_REPLY or not all(map(self.take, lines)):
            self.disown()

    def take(self, line: bytes) -> bool:
        """Note one reply. False for what the nursery does not say: something that it has forked wrote into its pipe."""
        found = REPLY.fullmatch(line)
        if found is None:
            return False
        pid, code = int(found[1]), found[2]
        of = next((each for each in self.forked if each.pid == (pid if code else 0) and each.returncode is None), None)
        if of is None:
            return False
        if code:
            of.returncode = int(code)
        else:
            of.pid = pid
        return True

    def disown(self) -> None:
        """End it, and what it has forked: nothing that it says can be believed any more."""
        end_group(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for forked in self.forked:
            forked.returncode = -signal.SIGKILL if forked.returncode is None else forked.returncode

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for forked in self.forked:
            if forked.pid and forked.poll() is None:
                forked.end()
        os.close(self.requests)
        try:
            self.process.wait(ENDS_WITHIN if any(forked.pid for forked in self.forked) else 0)
        except subprocess.TimeoutExpired:
            pass  # in the middle of its import
        finally:
            end_group(self.process.pid, signal.SIGKILL)
            self.process.wait()
            os.close(self.replies)


def end_group(group: int, sign: signal.Signals) -> None:
    try:
        os.killpg(group, sign)
    except (ProcessLookupError, PermissionError):
        pass  # it ended by itself in between, or there were no children
