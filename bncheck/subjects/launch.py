"""Run somebody's command with the recorder on its way in; everything else is as they would have run it.

The same arguments, working folder, stdin, stdout and stderr; of the environment only PYTHONPATH (a folder of ours in
front) and BNCHECK_WATCH are changed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bncheck.worker
from bncheck.bounded import open_within
from bncheck.errors import UsageError
from bncheck.run_folder.folder import WATCHED

ATTACH = Path(bncheck.worker.__file__).parent / "watching" / "attach"
MARKS = "marks"
MOST_MARKS, LONGEST_MARK = 100, 2000  # files, bytes
PAUSE_SECONDS = 0.5
PYTHONS = ("python", "python3")


@dataclass(frozen=True)
class Ended:
    """How the command ended: its process id, its exit code (128 + n for signal n) and how far the recorder came:
    ``python`` was reached, a framework was imported; ``failed`` is why attaching did not work, ``stopped`` why
    recording ended before the program did, where the recording itself could not say so; ``unseen`` what ran where
    nothing can be seen of it."""

    pid: int
    code: int
    signal: int = 0
    reached: tuple[str, ...] = ()
    failed: str = ""
    stopped: str = ""
    unseen: str = ""


def with_python(command: Sequence[str], python: Path | None) -> list[str]:
    """The command with ``--python`` in the place of its interpreter; a script alone gets one.

    UsageError where nothing like it can be run."""
    words = list(command)
    given = str(python) if python else ""
    if words[0].endswith(".py") and not os.access(words[0], os.X_OK):
        words = [given or own_python(), *words]
    elif python and words[0] in PYTHONS:
        words[0] = given
    if python and shutil.which(given) is None:
        raise UsageError(f"--python {given}: there is no such program.", "Give the path of a python.")
    if shutil.which(words[0]) is None and not (python and (python.parent / words[0]).is_file()):
        raise UsageError(
            f"There is no program {words[0]!r} to watch.",
            "Write the command as you would run it, behind two dashes: bncheck watch -- python train.py",
        )
    return words


def own_python() -> str:
    """The interpreter of the active environment, else what ``python`` means here."""
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        folder = os.environ.get(variable)
        if folder and (found := Path(folder) / "bin" / "python").is_file():
            return str(found)
    found_name = next((name for name in PYTHONS if shutil.which(name)), "")
    if not found_name:
        raise UsageError("There is no python on the PATH.", "Name one: --python /path/of/python")
    return found_name


def environment(run: Path, keep: str, steps: int | None, python: Path | None) -> dict[str, str]:
    """What the command gets beside what is there. ``--python`` also decides what torchrun and pytest mean."""
    found = dict(os.environ)
    known = found.get("PYTHONPATH")
    found["PYTHONPATH"] = os.pathsep.join([str(ATTACH), *([known] if known else [])])
    found["BNCHECK_WATCH"] = f"{keep} {steps or 0} {run.absolute() / WATCHED}"
    if python is not None:
        found["PATH"] = os.pathsep.join([str(python.absolute().parent), found.get("PATH", os.defpath)])
    return found


def launch(
    command: Sequence[str],
    run: Path,
    keep: str,
    steps: int | None,
    python: Path | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> Ended:
    """Run the command to its end, and ``meanwhile`` some times a second. UsageError where the system cannot start
    it."""
    (run / WATCHED).mkdir(parents=True, exist_ok=True)
    variables = environment(run, keep, steps, python)
    program = shutil.which(command[0], path=variables.get("PATH")) or command[0]
    try:
        process = subprocess.Popen([program, *command[1:]], env=variables)
    except OSError as error:
        raise UsageError(
            f"{command[0]!r} cannot be started: {error.strerror or error}.", "Is it the program you mean?"
        ) from error
    with handing_on(process):
        code = waited(process, meanwhile)
    marks = read_marks(run)
    if marks:
        shutil.rmtree(run / WATCHED / MARKS, ignore_errors=True)
    killed = -code if code < 0 else 0
    return Ended(
        pid=process.pid,
        code=128 + killed if killed else code,
        signal=killed,
        reached=tuple(marks),
        failed=marks.get("failed", ""),
        stopped=marks.get("stopped", ""),
        unseen=marks.get("unseen", ""),
    )


def waited(process: subprocess.Popen[bytes], meanwhile: Callable[[], None] | None) -> int:
    while meanwhile is not None:
        try:
            return process.wait(timeout=PAUSE_SECONDS)
        except subprocess.TimeoutExpired:
            meanwhile()
    return process.wait()


def read_marks(run: Path) -> dict[str, str]:
    """Name → text of what the recorder left for us. What is no file of ours says nothing: the command can write there,
    and a pipe or a device in its place would never end."""
    found = {}
    for name in names_in(run / WATCHED / MARKS):
        try:
            with open_within(run, WATCHED, MARKS, name) as handle:
                found[name] = handle.read(LONGEST_MARK).decode("utf-8", "replace")
        except OSError:
            continue
    return found


def names_in(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())[:MOST_MARKS]
    except OSError:  # there is none: no Python was reached
        return []


@contextmanager
def handing_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Signals that would end us go to the command, which decides. Ctrl-C at a terminal has reached it already."""

    def hand_on(number: int, frame: Any) -> None:
        if number != signal.SIGINT or not at_a_terminal():
            process.send_signal(number)

    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
    before: Mapping[int, Any] = {kind: signal.signal(kind, hand_on) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def at_a_terminal() -> bool:
    """Whether we are in the foreground of a terminal: it sends Ctrl-C to the command as well as to us."""
    try:
        descriptor = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(descriptor)
