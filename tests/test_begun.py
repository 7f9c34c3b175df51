"""Imports that begin before there is a plan: what they are used for, and that nothing hangs on them."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from patience import patience
from test_workers import FAULTY, make_job, run_job

from bncheck.commands.run import sure
from bncheck.environments.backend_file import find_backends
from bncheck.environments.fork import CAN_FORK
from bncheck.environments.interpreters import ask
from bncheck.playing.begun import begin, begun
from bncheck.playing.nursery import Nursery
from bncheck.playing.readied import Readied
from bncheck.subjects.interpreter import find_python, likely_python

TORCH = find_backends(())["torch"]
RUN = {
    "resume": None, "executor": None, "isolate": "target", "backend_files": (), "memory": None, "scenarios": (),
    "targets": (), "optional": (), "overrides": (),
}  # fmt: skip


def readied(variables: Mapping[str, str] | None = None, backend: Path = FAULTY) -> Readied:
    return Readied(Path(sys.executable), backend, "", "cpu", variables or {})


def ended(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_process_that_was_there_before_the_job_plays_it(tmp_path: Path) -> None:
    early = readied()
    assert early.process is not None
    job = make_job(tmp_path, ["fine", "segfault", "good"])
    assert run_job(replace(job, ready=(early,))) == {"fine": "ok", "segfault": "crashed", "good": "ok"}
    assert early.process is None, "it was taken; after the crash another one went on"


def test_one_of_another_target_is_left_alone(tmp_path: Path) -> None:
    early = readied({"OMP_NUM_THREADS": "7"})
    assert early.process is not None
    assert run_job(replace(make_job(tmp_path, ["good"]), ready=(early,))) == {"good": "ok"}
    number = early.process.pid
    early.close()
    assert ended(number)


def test_one_that_cannot_import_is_not_waited_for(tmp_path: Path) -> None:
    """By itself the target says why it is not available."""
    broken = tmp_path / "broken.py"
    broken.write_text(
        FAULTY.read_text().replace("def describe(", "def describe(variant, device): broken()\n\n\ndef of(")
    )
    early = readied(backend=broken)
    assert early.process is not None
    early.process.wait(patience(60.0))
    job = replace(make_job(tmp_path, ["good"]), backend=broken, ready=(early,))
    assert run_job(job) == {"good": "none"}
    assert "broken" in (job.folder / "environment.json").read_text()


@pytest.mark.skipif(not CAN_FORK, reason="forks are for Linux alone")
def test_a_nursery_that_died_is_not_waited_for(tmp_path: Path) -> None:
    with Nursery(Path(sys.executable), "numpy") as nursery:
        os.kill(nursery.process.pid, signal.SIGKILL)
        nursery.process.wait()
        assert run_job(replace(make_job(tmp_path, ["fine", "good"]), nursery=nursery)) == {"fine": "ok", "good": "ok"}


FORKING = """
import os, sys, tempfile
from dataclasses import replace
from pathlib import Path
from test_begun import FAULTY, Readied, begin, ended
from test_workers import make_job, run_job
from bncheck.playing.twin import Twin

if __name__ == "__main__":
    found = begin(("reference",), (), 2)
    process = found.ready[0].process
    number = process.pid
    print(type(process).__name__, "OMP_NUM_THREADS" in os.environ, os.getpgid(number) == number)
    found.close()
    print(ended(number))
    early = Readied(Path(sys.executable), FAULTY, "", "cpu", {}, twin=True)
    job = replace(make_job(Path(tempfile.mkdtemp(dir=".")), ["fine", "segfault", "good"]), ready=(early,))
    print(isinstance(early.process, Twin), run_job(job))
"""


@pytest.mark.skipif(not CAN_FORK, reason="forks are for Linux alone")
def test_a_worker_that_needs_numpy_alone_may_be_a_fork(tmp_path: Path) -> None:
    """In a process of one thread: it plays its cells, dies of what they do, and ends when nobody takes it."""
    environment = {name: text for name, text in os.environ.items() if not name.endswith("_NUM_THREADS")}
    paths = os.pathsep.join((str(Path(__file__).parent), str(Path(__file__).parent.parent)))
    done = subprocess.run(
        [sys.executable, "-c", FORKING],
        env={**environment, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=patience(120.0),
        check=False,
    )
    assert done.stdout.splitlines() == [
        "Twin False True",
        "True",
        "True {'fine': 'ok', 'segfault': 'crashed', 'good': 'ok'}",
    ], done.stderr


def test_what_nobody_takes_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bncheck.playing.begun.may_become", lambda python: False)
    with begun(("reference", "no such target", "reference[mxnet]", "reference[cudnn]"), (), 2) as found:
        processes = [each.process for each in found.ready]
        assert [each.belongs[2] for each in found.ready] == ["", "mxnet"], "as many as play at once"
    assert all(process is not None and ended(process.pid) for process in processes)
    assert begin((), (), 2) == begin(("torch==0.0.1",), (), 2)


def test_targets_that_are_sure() -> None:
    """A scenario may name its own targets, and what is played elsewhere imports there."""
    assert sure(RUN) == ("reference", "torch", "mxnet")
    assert sure({**RUN, "scenarios": ("all-ones",)}) == ()
    assert sure({**RUN, "overrides": ("program.repeat=3",)}) == ()  # of no scenario: the command line is refused
    assert sure({**RUN, "scenarios": ("all-ones",), "targets": ("torch",)}) == ("torch",)
    assert sure({**RUN, "targets": ("reference",), "optional": ("torch",)}) == ("reference", "torch")
    for name, value in {"resume": Path("run"), "executor": "dask", "isolate": "cell", "memory": 1.0}.items():
        assert sure({**RUN, "targets": ("torch",), name: value}) == ()


def test_the_python_that_is_likely_is_the_one_that_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "lib" / "python3.11" / "site-packages" / "torch").mkdir(parents=True)
    for given in (str(tmp_path), f"torch={tmp_path}/bin/python"):
        assert likely_python(given, "torch", "torch") == tmp_path / "bin" / "python"
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    assert likely_python(None, "torch", "torch") == find_python(None, TORCH).path == tmp_path / "bin" / "python"


def test_an_interpreter_is_asked_once_while_its_file_stays(tmp_path: Path) -> None:
    path, log = tmp_path / "python", tmp_path / "log"
    path.write_text(f'#!/bin/sh\necho asked >> {log}\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    assert ask(path) == ask(path) != None  # noqa: E711 - the two are the same, and an answer
    assert log.read_text() == "asked\n"
    path.write_text("#!/bin/sh\nexit 1\n")
    assert ask(path) is None


def test_a_worker_names_its_platform_as_python_does(tmp_path: Path) -> None:
    job = make_job(tmp_path, ["good"])
    assert run_job(job) == {"good": "ok"}
    assert json.loads((job.folder / "environment.json").read_text())["platform"] == platform.platform()
