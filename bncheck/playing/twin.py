"""A worker that begins as a fork of this process: NumPy, which both need, is imported once.

For backends that need nothing but NumPy and this interpreter. On two cores the second import of it costs as much as all
that is played of an ONNX file; where there are more, or a thread of somebody's is at work, a process of its own does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bncheck.environments.fork import CAN_FORK, undisturbed

LOOK_SECONDS = 0.005


class Twin:
    """As far as it is used like ``subprocess.Popen``: its number, what it reads, how it ends."""

    def __init__(self, file: Path, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self.args = (str(file), *words)
        reads, writes = os.pipe()
        told, apart = os.pipe()
        with undisturbed():
            self.pid = os.fork()
            if not self.pid:
                become(file, words, environment, reads)
        os.close(reads)
        os.close(apart)
        os.read(told, 1)  # it closes its own end as soon as it leads a group, which is what is ended
        os.close(told)
        self.stdin = os.fdopen(writes, "wb")
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            pid, status = os.waitpid(self.pid, 0 if until is None else os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif until is not None and time.monotonic() >= until:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            else:
                time.sleep(LOOK_SECONDS)
        return self.returncode


def may_become(python: Path) -> bool:
    """Whether that Python is this process's, and no thread of it is at work."""
    return CAN_FORK and python == Path(sys.executable) and is_alone()


def is_single() -> bool:
    """Import NumPy; whether it is the one that a worker would import, and has started no threads of its own."""
    import numpy as np

    # A worker does without PYTHONPATH and the user's own packages.
    return Path(np.__file__).is_relative_to(sys.prefix) and is_alone()


def is_alone() -> bool:
    """Whether this process has a single thread, those of libraries counted."""
    return len(list(Path("/proc/self/task").iterdir())) == 1


def become(file: Path, words: Sequence[str], environment: Mapping[str, str], reads: int) -> None:
    """The file's process from here on, as if it had been started by itself."""
    try:
        os.setsid()
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for source, target in ((reads, 0), (nowhere, 1), (nowhere, 2)):
            os.dup2(source, target)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        os.environ.update(environment)
        sys.argv = [str(file), *words]
        import runpy

        runpy.run_path(str(file), run_name="__main__")
    finally:
        os._exit(1)  # whoever gets here has not been told where to play
