"""A worker process that imports its framework before it is known what it will play, or where."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bncheck.playing.nursery import ENDING, end_group
from bncheck.playing.twin import Twin

RUNNER = Path(__file__).parent.parent / "worker" / "run.py"


class Readied:
    """One process of ``worker/run.py --later``. Whoever takes it has it; closing ends one that nobody took."""

    def __init__(
        self, python: Path, backend: Path, variant: str, device: str, environment: Mapping[str, str], twin: bool = False
    ) -> None:
        """With ``twin`` it is a fork of this process."""
        self.belongs = (python, backend, variant, device, dict(environment))
        words = ["--later", str(os.getpid()), str(backend), variant, device]
        self.process: subprocess.Popen[bytes] | Twin | None = None
        if twin:
            self.process = Twin(RUNNER, words, environment)
            return
        self.process = subprocess.Popen(
            [str(python), "-I", str(RUNNER), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
            start_new_session=True,
        )

    def take(self, folder: Path) -> subprocess.Popen[bytes] | Twin | None:
        """Tell it its folder. None where it has ended, or was taken before."""
        process, self.process = self.process, None
        if process is None:
            return None
        assert process.stdin is not None
        try:
            process.stdin.write(os.fsencode(folder) + b"\n")
            process.stdin.close()
        except OSError:  # it could not import its framework, which another one says better
            self.process = process
            self.close()
            return None
        return process

    def close(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        for sign, grace in (*ENDING, (signal.SIGKILL, 10.0)):
            end_group(process.pid, sign)
            try:
                process.wait(grace)
                break
            except subprocess.TimeoutExpired:
                continue
        if process.stdin is not None:
            try:
                process.stdin.close()
            except OSError:
                pass  # what was written is not read any more


def find_ready_one(ready: Sequence[Readied], *belongs: object) -> Readied | None:
    """The one of that Python, backend file, variant, device and environment, if nobody has it yet."""
    return next((each for each in ready if each.process is not None and each.belongs == belongs), None)
