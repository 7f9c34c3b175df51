"""Workers that are forked from one process: the framework is imported once, and nothing else is shared."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from patience import patience
from test_workers import make_job, run_job

from bncheck.environments.fork import CAN_FORK
from bncheck.playing.nursery import Nursery
from bncheck.run_folder.cell import record_or_crash
from bncheck.run_folder.folder import write_json

EVIL = Path(__file__).parent / "evil_backend.py"
pytestmark = pytest.mark.skipif(not CAN_FORK, reason="forks are for Linux alone")


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    with Nursery(Path(sys.executable), "numpy") as found:
        yield found


def test_a_cell_that_dies_takes_only_itself(tmp_path: Path, nursery: Nursery) -> None:
    job = make_job(tmp_path, ["fine", "abort", "segfault", "exit", "raise", "noise", "good"])
    assert run_job(replace(job, nursery=nursery)) == {
        "fine": "ok", "abort": "crashed", "segfault": "crashed", "exit": "crashed", "raise": "raised", "noise": "ok",
        "good": "ok",
    }  # fmt: skip
    result = record_or_crash(job.folder / job.cells[2])
    assert result is not None
    assert (result.error_type, "faulty_backend.py" in result.error) == ("SIGSEGV", True)


def test_an_endless_loop_is_a_timeout_with_its_stack(tmp_path: Path, nursery: Nursery) -> None:
    job = make_job(tmp_path, ["loop", "good"], cell_seconds=patience(1.0))
    assert run_job(replace(job, nursery=nursery)) == {"loop": "timeout", "good": "ok"}
    result = record_or_crash(job.folder / job.cells[0])
    assert result is not None and "in forward" in result.error


def test_what_a_process_does_to_itself_the_next_one_does_not_see(tmp_path: Path, nursery: Nursery) -> None:
    """Variables, its group and its number are its own."""
    first = make_job(tmp_path / own(tmp_path, "a"), ["good"])
    second = make_job(tmp_path / own(tmp_path, "b"), ["noise", "good"])
    run_job(replace(first, nursery=nursery, environment={"OMP_NUM_THREADS": "1"}))
    assert run_job(replace(second, nursery=nursery)) == {"noise": "ok", "good": "ok"}
    pids = [each.pid for each in nursery.forked]
    assert len(set(pids)) == len(pids) == 2 and nursery.process.pid not in pids


@pytest.mark.parametrize("kind", ["garbage", "ghost", "endless"])
def test_what_is_written_into_its_pipe_ends_it_and_not_the_host(tmp_path: Path, kind: str) -> None:
    """Something that it forked writes there as if it were the nursery: two cells are done, and what was played so far
    stays."""
    with Nursery(Path(sys.executable), "numpy") as nursery:
        job = make_job(tmp_path, ["one", "two", "three"])
        job = replace(job, backend=EVIL, variant=f"replies {kind}", nursery=nursery)
        found = run_job(job)
    assert list(found.values())[:2] == ["ok", "ok"]


def own(folder: Path, name: str) -> str:
    (folder / name).mkdir()
    return name


def test_it_ends_with_all_that_it_forked(tmp_path: Path) -> None:
    (tmp_path / "thing").mkdir()
    sleeper = tmp_path / "sleeper.py"
    sleeper.write_text("import time\ntime.sleep(1000)\n")
    thing = {"module": str(sleeper), "name": "x", "with": {}, "as": "", "inputs": [], "python": ""}
    with Nursery(Path(sys.executable), "numpy") as nursery:
        write_json(tmp_path / "thing" / "job.json", {**thing, "host": nursery.process.pid})
        forked = nursery.fork("subject/run.py", tmp_path / "thing", {}, tmp_path / "output.txt")
        with pytest.raises(subprocess.TimeoutExpired):
            forked.wait(0.0)
        os.kill(nursery.process.pid, signal.SIGKILL)
        assert forked.wait(patience(30.0)) == -signal.SIGKILL, "nobody waits for what is gone"
        later = nursery.fork("run.py", tmp_path, {})
        assert later.wait(patience(30.0)) == -signal.SIGKILL
