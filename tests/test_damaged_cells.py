"""A cell whose result was damaged costs that cell, and ``--resume`` plays it again; and what a full disk left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from at_the_prompt import bncheck, here
from left_by_cells import cells_of, entries_of

from bncheck.run_folder.results import read_results

PASSING = ("seconds", "created", "command", "import_seconds")


def lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: lasting(item) for key, item in value.items() if key not in PASSING}
    return [lasting(item) for item in value] if isinstance(value, list) else value


def said(run: Path) -> Any:
    return lasting(json.loads((run / "run.json").read_text()))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("sound") / "run"
    done = here("run", "events", "-t", "reference", "-t", "reference[batch_weight=0.9]", "--no-probe", "--no-report",
                "-q", "--out", str(run))  # fmt: skip
    assert len(read_results(run).cells) == 8, done.stderr
    return run


@pytest.fixture
def run(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "run"))


def flip(path: Path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


def tar_of(run: Path) -> Path:
    return run / "cells" / "reference" / "cells.tar"


def flip_a_trace(run: Path) -> None:
    entries = entries_of(tar_of(run))
    flip(tar_of(run), entries["events--ffb/trace.npz"] + 5000)


def flip_a_result(run: Path) -> None:
    flip(tar_of(run), entries_of(tar_of(run))["events--fbb/result.json"])


def flip_a_header(run: Path) -> None:
    flip(tar_of(run), entries_of(tar_of(run))["events--ffb/trace.npz"] - 300)


def flip_an_input(run: Path) -> None:
    """The cells that were played from it are there; one that is played again must get the same numbers as they did."""
    for path in (run / "inputs").iterdir():
        flip(path, path.stat().st_size // 2)
    flip_a_trace(run)


def lose_the_environment(run: Path) -> None:
    (run / "cells" / "reference" / "environment.json").write_text("[")


def lose_a_tar(run: Path) -> None:
    tar_of(run).unlink()
    tar_of(run).mkdir()


@pytest.mark.parametrize(
    "damage", [flip_a_trace, flip_a_result, flip_a_header, flip_an_input, lose_the_environment, lose_a_tar]
)
def test_what_is_damaged_is_played_again(damage: Any, run: Path, sound: Path) -> None:
    damage(run)
    done = here("run", "--resume", str(run), "--no-report", "-q")
    assert "Traceback" not in done.stderr
    assert said(run) == said(sound)


def test_a_report_of_a_damaged_cell_shows_the_others(run: Path) -> None:
    flip_a_trace(run)
    done = here("report", str(run), "-q", "--format", "html", "--format", "csv")
    assert done.returncode in (0, 2) and "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="needs a disk of its own")
def test_what_a_full_disk_left_is_played_when_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this machine mounts nothing")
    try:
        words = ("-t", "reference", "--no-reference", "--no-probe", "--no-report", "-q")
        done = bncheck("run", "events", *words, "--out", str(disk / "run"))
        assert done.returncode == 3
        assert "go on with" in done.stderr or "bncheck run --resume" in done.stderr
        subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
        done = bncheck("run", "--resume", str(disk / "run"), "--no-report", "-q")
        assert "Traceback" not in done.stderr
        assert {cell.outcome for cell in read_results(disk / "run").cells} == {"ok"}
        assert len(cells_of(disk / "run" / "cells" / "reference")) == 4
    finally:
        subprocess.run(["umount", str(disk)], check=True)
