"""Which CPythons are here, found by running them.

A ``python3.8`` on PATH may be a dead shim, a wrapper that hangs, or PyPy: only its own answer counts.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bncheck.bounded import expanded

# A cold start of CPython from a network disk was seen to take 1.5 s; a shim that hangs costs this much once.
ANSWER_SECONDS = 5.0
EXECUTABLE = re.compile(r"python(3(\.\d+)?)?(\.exe)?")
# Printed as one JSON line: Python 2 refuses -I and so drops out by itself.
QUESTION = (
    "import json, platform, sys; print(json.dumps([platform.python_implementation(), "
    "'.'.join(map(str, sys.version_info[:3])), getattr(sys, '_base_executable', '') or sys.executable, "
    "sys.base_prefix, getattr(sys, 'abiflags', '')]))"
)


@dataclass(frozen=True)
class Interpreter:
    """A CPython that answered: the path to run and its version, for example 3.11.7."""

    path: Path
    version: str

    @property
    def minor(self) -> tuple[int, int]:
        """(3, 11) for 3.11.7."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)


def find_interpreters() -> tuple[Interpreter, ...]:
    """All CPythons here, the current one first, then newest to oldest; one per installation."""
    return _find(os.environ.get("PATH", ""), os.environ.get("PYENV_ROOT", ""))


@functools.cache
def _find(search_path: str, pyenv_root: str) -> tuple[Interpreter, ...]:
    pyenv = expanded(pyenv_root or "~/.pyenv")
    candidates = [
        *_on_path(search_path, skip=pyenv / "shims"),
        *sorted(pyenv.glob("versions/*/bin/python")),
        *_managed_by_uv(),
    ]
    return distinct([_current_with_prefix(), *ask_all(candidates)])


def ask_all(candidates: Iterable[Path], timeout: float = ANSWER_SECONDS) -> list[tuple[Interpreter, str]]:
    """Run several at once: (interpreter, real prefix) of those that answer as a CPython 3."""
    unique = list({_resolved(path): path for path in candidates}.values())
    if not unique:
        return []
    with ThreadPoolExecutor(max_workers=min(8, len(unique))) as pool:
        answers = pool.map(lambda path: _ask(path, timeout), unique)
        return [answer for answer in answers if answer is not None]


def distinct(answers: Sequence[tuple[Interpreter, str]]) -> tuple[Interpreter, ...]:
    """One interpreter per (prefix, version): the first stays first, the others go from new to old."""
    seen: dict[tuple[str, str], Interpreter] = {}
    for interpreter, prefix in answers:
        seen.setdefault((prefix, interpreter.version), interpreter)
    first, *rest = seen.values()
    return first, *sorted(rest, key=lambda item: [int(part) for part in item.version.split(".")], reverse=True)


def ask(path: Path, timeout: float = ANSWER_SECONDS) -> Interpreter | None:
    """What ``path`` says it is, keeping that very path; None if it is no CPython 3. The same file is run once."""
    try:
        found = expanded(path).absolute().stat()
    except (OSError, ValueError):  # there is none, or it is no name of a file
        return None
    return _ask_once(path, timeout, (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size))


@functools.cache
def _ask_once(path: Path, timeout: float, file: tuple[int, ...]) -> Interpreter | None:
    answer = _ask(path, timeout)
    return Interpreter(expanded(path).absolute(), answer[0].version) if answer else None


def current() -> Interpreter:
    """The interpreter bncheck runs on, known without running it (of a virtual environment: its base)."""
    base = Path(getattr(sys, "_base_executable", "") or sys.executable)
    return Interpreter(base, ".".join(map(str, sys.version_info[:3])))


def _current_with_prefix() -> tuple[Interpreter, str]:
    return current(), os.path.realpath(sys.base_prefix)


def _on_path(search_path: str, skip: Path) -> list[Path]:
    """python, python3, python3.X on PATH; pyenv's shims are skipped: what they lead to is asked directly."""
    found: list[Path] = []
    for entry in dict.fromkeys(search_path.split(os.pathsep)):
        folder = Path(entry)
        if not entry or _resolved(folder) == _resolved(skip):
            continue
        try:
            names = sorted(item.name for item in folder.iterdir() if EXECUTABLE.fullmatch(item.name))
        except OSError:
            continue  # PATH often names folders that do not exist.
        found += [folder / name for name in names if os.access(folder / name, os.X_OK)]
    return found


def _managed_by_uv() -> list[Path]:
    """Interpreters that uv installed; ``uv python list`` runs every shim (0.5 s), so look in its folder."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    folder = expanded(os.environ.get("UV_PYTHON_INSTALL_DIR") or f"{data}/uv/python")
    return sorted(folder.glob("cpython-*/bin/python3")) + sorted(folder.glob("cpython-*/python.exe"))


def _ask(path: Path, timeout: float) -> tuple[Interpreter, str] | None:
    command = [str(expanded(path).absolute()), "-I", "-c", QUESTION]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except (OSError, ValueError):  # there is none, or it is no name of a file
        return None
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _kill(process)
        return None
    try:
        implementation, version, executable, prefix, flags = map(checked_text, json.loads(output))
    except (ValueError, TypeError, RecursionError):
        return None
    if implementation != "CPython" or "t" in flags:  # free-threaded builds need wheels that few frameworks have
        return None
    return Interpreter(Path(executable), version), os.path.realpath(prefix)


def checked_text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise TypeError("not what the question asks for")
    return value


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill it and what it started: a shell shim's child would keep the pipe open."""
    if hasattr(os, "killpg"):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.kill()
    else:
        process.kill()
    process.communicate()


def _resolved(path: Path) -> str:
    return os.path.realpath(expanded(path))
