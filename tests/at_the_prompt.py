"""bncheck as it is called: ``bncheck`` starts it as a process, ``here`` calls the same entry point in this one.

Both answer with the exit code (``returncode``), ``stdout`` and ``stderr``. A process costs a second of imports: it is
for tests of what only a process shows (signals, what lies in the environment, the folder that one stands in).
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from nurseries import shared

from bncheck.cli import main

ROOT = Path(__file__).parents[1]
WIDTH = {"COLUMNS": "80"}  # else it is what readline, which pytest loads, has put into the environment of the process


def command(*arguments: str, first: str = "") -> list[str]:
    """The words of the process; ``first`` is Python that runs before bncheck does."""
    if not first:
        return [sys.executable, "-m", "bncheck", *arguments]
    code = f"{first}\nfrom bncheck.__main__ import main\nmain()"
    return [sys.executable, "-c", code, *arguments]


def environment(**variables: str) -> dict[str, str]:
    """In every folder this checkout is what runs."""
    known = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": known, **WIDTH, **variables}


def bncheck(
    *arguments: str, cwd: Path | None = None, first: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    words, known = command(*arguments, first=first), environment(**variables)
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd, env=known)


def here(*arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Anything but an exit is a failure of the test."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, shared(), redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd or Path.cwd())
        for name, value in (WIDTH | variables).items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
    code = ended.value.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
