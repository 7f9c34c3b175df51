"""Python that has torch and bncheck, as somebody has who installs one beside the other: the interpreter of bncheck's
own environment for torch, with the packages of the tests behind its own."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from at_the_prompt import ROOT
from watched_lives import torch_python

BEFORE = "import sys; sys.path.insert(0, {root!r}); sys.path.append({packages!r})\n"


def prelude() -> str:
    return BEFORE.format(root=str(ROOT), packages=sysconfig.get_path("purelib"))


def run(code: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program there, in this folder."""
    path = folder / "program.py"
    path.write_text(prelude() + code, encoding="utf-8")
    words = [str(torch_python()), str(path), *arguments]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


def answers(code: str, folder: Path) -> Any:
    """What the program put into ``answers``."""
    done = run(f"answers = {{}}\n{code}\nimport json\nprint('\\n' + json.dumps(answers))", folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
