"""Workers survive every kind of fault: real misbehaving backends in real processes, one marked cell each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from left_by_cells import arrays_of, cells_of, worker_processes
from patience import patience

from bncheck.playing.job import Job, Limits
from bncheck.playing.progress import Progress
from bncheck.playing.workers import play
from bncheck.run_folder.cell import record_or_crash
from bncheck.scenario import describe_ops
from bncheck.worker.archive import write_npz

FAULTY = Path(__file__).parent / "faulty_backend.py"
GIB = 2**30


def make_job(run: Path, faults: list[str], variant: str = "", isolate: bool = False, **limits: float | int) -> Job:
    """A job whose cells are called like the faults of their layers, on three ones per channel."""
    (run / "inputs").mkdir()
    write_npz(str(run / "inputs" / "ones.npz"), {"x/main": np.ones((1, 3, 3), dtype=np.float32)})
    lines = []
    for number, fault in enumerate(faults):
        event = {"op": "train_forward", "input": "main", "batch": 0}
        network = {"layers": [{"name": fault, "type": "batch_norm", "channels": 3}]}
        task = {
            "cell": f"{number}-{fault}",
            "protocol": 1,
            "inputs": "ones.npz",
            "dtype": "float32",
            "network": network,
            "events": [event],
            "ops": describe_ops(["train_forward"]),
        }
        lines.append(json.dumps(task) + "\n")
    (run / "cases.jsonl").write_text("".join(lines))
    cells = tuple(f"{number}-{fault}" for number, fault in enumerate(faults))
    bounds = Limits(**{"cell_seconds": patience(60.0), "import_seconds": patience(120.0), **limits})  # type: ignore[arg-type]
    return Job("faulty", run / "cells" / "faulty", Path(sys.executable), FAULTY, variant, "cpu", cells, bounds, isolate)


def outcomes(job: Job) -> dict[str, str]:
    found = {}
    for cell in job.cells:
        result = record_or_crash(job.folder / cell)
        found[cell.split("-", 1)[1]] = "none" if result is None else result.outcome
    return found


def run_job(job: Job) -> dict[str, str]:
    seen: list[Progress] = []
    play([job], 1, seen.append)
    return outcomes(job)


def test_a_cell_that_dies_takes_only_itself(tmp_path: Path) -> None:
    job = make_job(tmp_path, ["fine", "abort", "segfault", "exit", "raise", "good"])
    assert run_job(job) == {
        "fine": "ok", "abort": "crashed", "segfault": "crashed", "exit": "crashed", "raise": "raised", "good": "ok",
    }  # fmt: skip


def test_the_reason_of_a_crash_names_the_signal_and_the_python_line(tmp_path: Path) -> None:
    job = make_job(tmp_path, ["segfault"])
    run_job(job)
    result = record_or_crash(job.folder / job.cells[0])
    assert result is not None
    assert result.error_type == "SIGSEGV"
    assert "was killed by SIGSEGV" in result.error
    assert "faulty_backend.py" in result.error


def test_an_endless_loop_is_a_timeout_with_its_stack(tmp_path: Path) -> None:
    job = make_job(tmp_path, ["loop", "good"], cell_seconds=patience(1.0))
    assert run_job(job) == {"loop": "timeout", "good": "ok"}
    result = record_or_crash(job.folder / job.cells[0])
    assert result is not None
    assert f"longer than {patience(1.0):g} s" in result.error
    assert "in forward" in result.error


def test_endless_allocation_ends_at_the_limit(tmp_path: Path) -> None:
    job = make_job(tmp_path, ["allocate", "good"], memory=2 * GIB)
    assert run_job(job) == {"allocate": "raised", "good": "ok"}
    result = record_or_crash(job.folder / job.cells[0])
    assert result is not None
    assert "Memory" in result.error_type


def test_noise_and_a_closed_stdout_are_no_data(tmp_path: Path) -> None:
    job = make_job(tmp_path, ["noise", "close-stdout", "good"])
    assert run_job(job) == {"noise": "ok", "close-stdout": "ok", "good": "ok"}
    kept = job.folder / job.cells[0] / "stderr.txt"
    assert kept.stat().st_size == 64 * 1024
    assert (job.folder / "stderr.txt").stat().st_size == 0


def test_a_process_that_hangs_at_its_end_keeps_what_it_did(tmp_path: Path) -> None:
    job = make_job(tmp_path, ["fine", "hang-at-exit"], cell_seconds=patience(3.0))
    assert run_job(job) == {"fine": "ok", "hang-at-exit": "ok"}


def test_half_a_result_and_a_wrong_protocol_are_crashes_with_a_sentence(tmp_path: Path) -> None:
    job = make_job(tmp_path, ["half-result", "wrong-protocol"], isolate=True)
    assert run_job(job) == {"half-result": "crashed", "wrong-protocol": "crashed"}
    half, wrong = (record_or_crash(job.folder / cell) for cell in job.cells)
    assert half is not None
    assert "cannot be read" in half.error
    assert wrong is not None
    assert "protocol 99; this bncheck speaks 1" in wrong.error


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("missing", "no such device here"),
        ("import-error", "libfault.so.1"),
        ("import-abort", "was killed by SIGABRT while importing it"),
    ],
)
def test_a_target_that_cannot_start_is_unavailable_with_the_reason(tmp_path: Path, variant: str, reason: str) -> None:
    job = make_job(tmp_path, ["good"], variant=variant)
    reasons = play([job], 1, lambda progress: None)
    assert reason in reasons["faulty"]
    assert outcomes(job) == {"good": "none"}


def test_a_python_without_numpy_says_so(tmp_path: Path) -> None:
    """It is imported before anything else, and what Python says of that must not be lost."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    job = replace(make_job(tmp_path, ["good"]), python=tmp_path / "bare" / "bin" / "python")
    reasons = play([job], 1, lambda progress: None)
    assert "No module named 'numpy'" in reasons["faulty"]


def test_a_python_that_the_system_does_not_start_costs_its_target(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("no program")
    (tmp_path / "other").mkdir()
    other = replace(make_job(tmp_path / "other", ["good"]), target="other")
    job = replace(make_job(tmp_path, ["good"]), python=tmp_path / "python")
    reasons = play([job, other], 1, lambda progress: None)
    assert reasons == {"faulty": f"{tmp_path / 'python'} cannot be started: Permission denied"}
    assert outcomes(other) == {"good": "ok"}


def test_an_import_that_hangs_is_given_up(tmp_path: Path) -> None:
    job = make_job(tmp_path, ["good"], variant="import-hang", import_seconds=1.0)
    assert "longer than 1 s" in play([job], 1, lambda progress: None)["faulty"]


def test_finished_cells_are_not_played_again(tmp_path: Path) -> None:
    job = make_job(tmp_path, ["fine", "abort", "good"])
    run_job(job)
    tar, crash = job.folder / "cells.tar", job.folder / job.cells[1] / "result.json"
    before, stamp = tar.read_bytes(), crash.stat().st_mtime_ns
    os.truncate(tar, len(before) - 700)  # the last result is cut in its middle
    assert run_job(job)["good"] == "ok"
    assert cells_of(job.folder) == ["0-fine", "2-good", "1-abort"]
    assert tar.read_bytes()[: len(before) // 2] == before[: len(before) // 2]
    assert crash.stat().st_mtime_ns == stamp


def test_isolated_cells_each_have_their_own_process(tmp_path: Path) -> None:
    job = make_job(tmp_path, ["fine", "exit", "good"], isolate=True)
    seen: list[Progress] = []
    play([job], 1, seen.append)
    assert [progress.kind for progress in seen].count("importing") == 3
    assert outcomes(job) == {"fine": "ok", "exit": "crashed", "good": "ok"}


def test_an_interrupt_kills_the_worker_and_keeps_what_is_finished(tmp_path: Path) -> None:
    job = make_job(tmp_path, ["fine", "loop"])

    def interrupt(progress: Progress) -> None:
        if progress.kind == "started" and progress.cell == "1-loop":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play([job], 1, interrupt)
    assert outcomes(job) == {"fine": "ok", "loop": "none"}
    assert not worker_processes(job.folder)


def test_two_targets_run_at_the_same_time(tmp_path: Path) -> None:
    jobs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        jobs.append(make_job(tmp_path / name, ["nap"]))
    seen: list[Progress] = []
    play(jobs, 2, seen.append)
    assert [progress.kind for progress in seen[:2]] == ["importing", "importing"]
    assert [progress.kind for progress in seen].index("finished") > 1


def test_a_cell_whose_trace_cannot_be_written_is_marked_and_the_next_one_is_whole(tmp_path: Path) -> None:
    job = make_job(tmp_path, ["no-room", "room-again"])
    assert run_job(job) == {"no-room": "crashed", "room-again": "ok"}
    result = record_or_crash(job.folder / job.cells[0])
    assert result is not None
    assert "its trace could not be written" in result.error
    assert set(arrays_of(job.folder / job.cells[1])) >= {"room-again/running_mean"}


def test_half_an_entry_is_cut_off_before_the_next_process_appends(tmp_path: Path) -> None:
    job = make_job(tmp_path, ["fine", "half-entry", "good"])
    assert run_job(job) == {"fine": "ok", "half-entry": "crashed", "good": "ok"}
    assert set(arrays_of(job.folder / job.cells[2])) >= {"good/running_mean"}


def test_threads_do_not_matter_to_the_watcher(tmp_path: Path) -> None:
    """play() may run beside other threads of the host (reports import pandas meanwhile)."""
    job = make_job(tmp_path, ["fine"])
    done = threading.Thread(target=time.sleep, args=(0.1,))
    done.start()
    assert run_job(job) == {"fine": "ok"}
    done.join()
