"""The host's side of ``worker/subject``: have one thing made in the user's interpreter, and hear what it is."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from bncheck.bounded import open_within
from bncheck.errors import BncheckError, EnvironmentFailure, UsageError
from bncheck.playing.nursery import ENDING, Forked, Nursery, end_group
from bncheck.run_folder.folder import read_json, write_json

MAKER = Path(__file__).parent.parent / "worker" / "subject" / "run.py"
KEPT = 20_000  # bytes of what a process that died said last; a stack is long
MOST_SAID = 1000
# What an answer of each kind holds at least (worker/subject, worker/keras_side).
KINDS = {
    "layer": {"class", "shape", "channels", "left_out", "defaults", "held", "affine", "single"},
    "model": {"class", "input"},
    "error": {"error", "remedy", "origin"},
}


class SubjectFailure(BncheckError):
    """What the user named could not be made or played."""


class Making:
    """A process that makes and plays the thing; start it early, import what judging needs, then ``wait``."""

    def __init__(self, python: Path, job: Mapping[str, Any], folder: Path, nursery: Nursery | None = None) -> None:
        self.folder, self.python = folder, python
        folder.mkdir(parents=True, exist_ok=True)
        host = os.getpid() if nursery is None else nursery.process.pid
        write_json(folder / "job.json", {**job, "python": str(python), "host": host})
        self.log = folder / "output.txt"
        self.process: subprocess.Popen[bytes] | Forked
        if nursery is not None:
            self.process = nursery.fork("subject/run.py", folder, {}, self.log)
            return
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(python), "-I", str(MAKER), str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, seconds: float) -> dict[str, Any]:
        """What it is and lived through; an error of the user's thing is raised as a sentence."""
        try:
            self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.stop()
            raise EnvironmentFailure(
                f"it did not end within {seconds:g} s", "give it more time: --timeout SECONDS"
            ) from None
        except BaseException:
            self.stop()
            raise
        answer = self.folder / "subject.json"
        if not answer.is_file():
            code = self.process.returncode
            assert code is not None
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            if isinstance(self.process, Forked) and not self.process.pid:
                module, python = self.process.nursery.module, self.process.nursery.python
                raise EnvironmentFailure(
                    f"importing {module} ended the process ({how})", f"see it by itself: {python} -c 'import {module}'"
                )
            raise EnvironmentFailure(
                f"the process that made it died ({how}): {self.said()}",
                "call it without bncheck, and see whether it ends that process too",
            )
        found = read_json(answer)
        if not isinstance(found, dict) or not found.keys() >= KINDS.get(str(found.get("kind")), {"kind of ours"}):
            raise EnvironmentFailure(
                "the process that made it gave no answer of ours: something in it wrote over that",
                "look at what it does with files when it is imported and made",
            )
        if found["kind"] == "error":
            raise failure(found)
        return found

    def said(self) -> str:
        try:
            with open_within(self.folder, self.log.name) as log:
                size = os.fstat(log.fileno()).st_size
                told = os.pread(log.fileno(), KEPT, max(0, size - KEPT)).decode("utf-8", "replace")
        except OSError:  # it took its own output away
            told = ""
        lines = told.strip().splitlines()
        stacks = [after for line, after in pairwise(lines) if line.endswith("(most recent call first):")]
        return (stacks or lines or ["it said nothing"])[-1].strip()[:MOST_SAID]

    def stop(self) -> None:
        """End it, and what it has started."""
        if isinstance(self.process, Forked):
            self.process.end()
            return
        for sign, grace in ENDING:
            end_group(self.process.pid, sign)
            try:
                self.process.wait(grace)
                return
            except subprocess.TimeoutExpired:
                continue


def failure(found: Mapping[str, Any]) -> BncheckError:
    text, remedy = str(found.get("error", "")), str(found.get("remedy", ""))
    if found.get("origin") == "usage":
        return UsageError(text, remedy)
    if found.get("origin") == "bncheck":
        return EnvironmentFailure(f"bncheck failed on it: {text}", "report it, with what the thing is made of")
    return SubjectFailure(text, remedy)
