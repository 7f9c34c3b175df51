"""Python that has torch and bncheck, as somebody has who installs one beside the other: the interpreter of bncheck's
own environment for torch, with the packages of the tests behind its own."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from collections.abc import Mapping
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


# Imports what all of them import once; each program is a process of its own all the same, forked from there. An
# optimiser imports torch._dynamo and SymPy, which take as long as torch itself.
MANY = """
import json, os, runpy, sys
import numpy, torch
import torch._dynamo
import bncheck, bncheck.python.asserting, bncheck.python.checking, bncheck.python.recording, bncheck.python.watching
import bncheck.session
codes = {}
for path in json.loads(sys.stdin.read()):
    child = os.fork()
    if not child:
        folder = os.path.dirname(path)
        os.chdir(folder)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(os.path.join(folder, "program." + name), os.O_CREAT | os.O_WRONLY), number)
        sys.path[0], sys.argv, code = folder, [path], 0
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else bool(end.code)
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    codes[path] = os.WEXITSTATUS(os.waitpid(child, 0)[1])
print(json.dumps(codes))
"""


def run_all(programs: Mapping[Path, str]) -> dict[Path, subprocess.CompletedProcess[str]]:
    """Folder → program, each run there by itself, as ``run`` would."""
    paths = {}
    for folder, code in programs.items():
        paths[folder] = folder / "program.py"
        paths[folder].write_text(code, encoding="utf-8")
    words = [str(torch_python()), "-c", prelude() + MANY]
    given = json.dumps([str(path) for path in paths.values()])
    done = subprocess.run(words, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout)
    said = {folder: [(folder / f"program.{name}").read_text() for name in ("stdout", "stderr")] for folder in paths}
    return {
        folder: subprocess.CompletedProcess([str(path)], codes[str(path)], *said[folder])
        for folder, path in paths.items()
    }
