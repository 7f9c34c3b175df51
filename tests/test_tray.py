"""Results of quick cells that are alike are written a few at a time, and nothing of what a run promises changes."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from left_by_cells import arrays_of, cells_of, result_of, worker_processes

from bncheck.playing.workers import AT_ONCE, Job, Progress, Worker, play
from bncheck.scenario import describe_ops
from bncheck.worker import cell, run
from bncheck.worker.archive import write_npz
from bncheck.worker.backends import reference

ALIKE, OTHER = b'{"cell": "a", "dtype": "float32"}', b'{"cell": "a", "dtype": "float64"}'
LAYER = {"name": "bn", "type": "batch_norm", "channels": 3, "axis": 1, "batch_weight": 0.1, "eps": 1e-5,
         "averaging": "exponential", "affine": True, "track_running_stats": True, "native": {},
         "options": {}}  # fmt: skip
TASK: dict[str, Any] = {
    "protocol": 1, "inputs": "some.npz", "dtype": "float64", "network": {"layers": [LAYER]},
    "events": [{"op": "train_forward", "input": "main", "batch": 0}], "ops": describe_ops(["train_forward"]),
}  # fmt: skip
TARGET = {"backend": reference.__file__, "variant": "", "device": "cpu"}
INPUT = np.arange(12.0).reshape(1, 4, 3)


def played(seconds: float = 0.001, target: dict[str, str] = TARGET, task: dict[str, Any] = TASK) -> cell.Played:
    found = cell.play_cell("", task, {"x/main": INPUT}, reference, target)
    found.seconds = seconds
    return found


@pytest.fixture
def tray(tmp_path: Path) -> run.tray.Tray:
    found = run.tray.Tray(str(tmp_path / "cells.tar"))
    found.make_room(ALIKE)
    return found


def test_quick_cells_that_are_alike_are_written_together_when_another_kind_comes(
    tmp_path: Path, tray: run.tray.Tray
) -> None:
    for name in ("a", "b", "c"):
        tray.make_room(ALIKE)
        tray.put(name, played())
    assert cells_of(tmp_path) == []
    tray.make_room(OTHER)
    assert cells_of(tmp_path) == ["a", "b", "c"]
    assert arrays_of(tmp_path / "b")["bn/input_mean"].tolist() == [[4.5, 5.5, 6.5]]


def test_no_more_wait_than_the_host_reckons_with(tmp_path: Path, tray: run.tray.Tray) -> None:
    assert tray.MOST == AT_ONCE == 32
    for number in range(33):
        tray.put(str(number), played())
    assert len(cells_of(tmp_path)) == 32


def test_of_large_inputs_fewer_wait(tmp_path: Path, tray: run.tray.Tray) -> None:
    for name in ("a", "b", "c"):
        each = played()
        assert each.weight == 12 * 8  # one event, twelve numbers
        each.weight = 2**21
        tray.put(name, each)
    assert cells_of(tmp_path) == ["a", "b", "c"]
    tray.put("d", played())
    assert cells_of(tmp_path) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "told",
    [
        played(seconds=0.1),
        played(target={**TARGET, "backend": "/home/somebody/backend.py"}),
        played(task={**TASK, "network": {"layers": [], "model": "/home/somebody/model.py:build"}}),
        played(task={**TASK, "network": {"layers": [{**LAYER, "type": "unheard of"}]}}),
    ],
    ids=["slow", "backend file", "own model", "not built"],
)
def test_what_may_take_long_or_end_the_process_is_on_disk_at_once(
    tmp_path: Path, tray: run.tray.Tray, told: cell.Played
) -> None:
    tray.put("quick", played())
    tray.put("other", told)
    assert cells_of(tmp_path) == ["quick", "other"]


def test_a_trace_that_cannot_be_written_is_the_fault_of_its_own_cell_alone(tmp_path: Path, tray: run.tray.Tray) -> None:
    odd = played()
    odd.cell.recorder.loose["x"] = np.array([None])
    for name in ("a", "b"):
        tray.put(name, played())
    tray.put("odd", odd)
    tray.put("c", played())
    tray.write()
    assert [result_of(tmp_path / name)["outcome"] for name in ("a", "b", "odd", "c")] == ["ok", "ok", "crashed", "ok"]
    assert "array of Python objects" in result_of(tmp_path / "odd")["error"]["message"]


def test_after_a_kill_the_cells_that_waited_are_played_again_and_one_at_most_is_blamed(tmp_path: Path) -> None:
    names = tuple(f"seed-{number}" for number in range(3000))
    (tmp_path / "inputs").mkdir()
    write_npz(str(tmp_path / "inputs" / "some.npz"), {"x/main": INPUT})
    lines = (json.dumps({"cell": name, **TASK}) + "\n" for name in names)
    (tmp_path / "cases.jsonl").write_text("".join(lines))
    job = Job("reference", tmp_path / "cells" / "reference", Path(sys.executable), Path(reference.__file__), "",
              "cpu", names)  # fmt: skip
    seen: list[Progress] = []

    def tell(progress: Progress) -> None:
        seen.append(progress)
        if len([each for each in seen if each.kind == "finished"]) == 1:
            for process in worker_processes(job.folder):
                os.kill(process, signal.SIGKILL)

    play([job], 1, tell)
    finished = [each for each in seen if each.kind == "finished"]
    assert Counter(each.cell for each in finished) == Counter(names)
    assert [each.outcome for each in finished].count("crashed") <= 1  # none, where it died between two cells
    assert sorted(cells_of(job.folder)) == sorted(names)
    whole = {name: arrays_of(job.folder / name) for name in names[:3]}
    assert all(found["bn/running_mean"].shape == (2, 3) for found in whole.values() if found)


def test_half_of_what_is_being_written_is_not_taken_for_damage(tmp_path: Path, tray: run.tray.Tray) -> None:
    for name in ("a", "b", "c"):
        tray.put(name, played())
    tray.write()
    whole = (tmp_path / "cells.tar").read_bytes()
    job = Job(tmp_path.name, tmp_path, Path(sys.executable), Path(reference.__file__), "", "cpu", ("a", "b", "c"))
    (tmp_path / "cells.tar").unlink()
    worker = Worker(job)
    worker.begun = ["a", "b", "c"]
    told = []
    for end in (1000, len(whole) // 2, len(whole) - 1, len(whole)):
        (tmp_path / "cells.tar").write_bytes(whole[:end])
        told.append([(each.cell, each.outcome) for each in worker.finish()])
    assert told == [[], [("a", "ok")], [("b", "ok")], []]
    assert [(each.cell, each.outcome) for each in worker.finish(ended=True)] == [("c", "ok")]


def test_a_job_is_the_same_whether_its_cells_are_alike_or_not(tmp_path: Path) -> None:
    one, two = (run.tray.Tray(str(tmp_path / name / "cells.tar")) for name in ("one", "two"))
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
    for number in range(3):
        for tray, line in ((one, ALIKE), (two, ALIKE + bytes([number]))):
            tray.make_room(line)
            tray.put(str(number), played())
    one.write()
    two.write()
    for name in "012":
        left, right = arrays_of(tmp_path / "one" / name), arrays_of(tmp_path / "two" / name)
        assert left.keys() == right.keys()
        assert all(left[key].tobytes() == right[key].tobytes() for key in left if key != "event_seconds")
