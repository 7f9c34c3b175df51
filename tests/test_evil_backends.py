"""Backends that attack their host, all in one run: each loses the cell that it attacked in, or itself, and nothing
else; nothing outside of the run folder is opened, and nothing of theirs lives on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from at_the_prompt import here
from left_by_cells import worker_processes

from bncheck.evidence import DAMAGED
from bncheck.run_folder.results import Results, read_results

EVIL = Path(__file__).parent / "evil_backend.py"
SLEEP = f"77.{os.getpid()}"  # seconds that children of the backends sleep: tells them from anybody else's

OK, CRASHED, RAISED = "ok", "crashed", "raised"
FOUR = (OK, OK, OK, OK)
THIRD = (OK, OK, CRASHED, OK)
GONE = ("unavailable",) * 4
# Attack → what becomes of its four cells. The two on what all targets play from are far apart, and from those that make
# their own cells be played again: who is disturbed three times is given up.
ATTACKS = {
    "cases fifo": THIRD,
    "raises surrogates": (OK, OK, RAISED, OK),
    "says-surrogates": FOUR,
    "says-much": GONE,
    "says-deep": GONE,
    "holds objects": THIRD,
    "holds deep facts": THIRD,
    "progress fifo": FOUR,
    "progress folder": FOUR,
    "progress zero": FOUR,
    "output fifo": THIRD,
    "output folder": THIRD,
    "output outside": THIRD,
    "environment fifo": FOUR,
    "environment list": FOUR,
    "environment garbage": FOUR,
    "environment outside": FOUR,
    "cell garbage": THIRD,
    "cell fifo": THIRD,
    "cell outside": THIRD,
    "names climbing": THIRD,
    "names last": THIRD,
    "link": FOUR,
    "run.json": FOUR,
    "tar folder": None,
    "tar fifo": None,
    "tar outside": None,
    "tar garbage": None,
    "tar grows": FOUR,
    "plots link": FOUR,
    "page fifo": FOUR,
    "kids": FOUR,
    "kids die": THIRD,
    "kids apart": FOUR,
    "kids apart die": THIRD,
    "cases outside": THIRD,
}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results, int, str]:
    folder = tmp_path_factory.mktemp("evil")
    (folder / "outside").write_text("mine")
    (folder / "elsewhere").mkdir()
    words = [word for name in ATTACKS for word in ("-t", f"evil_backend[{name}]")]
    done = here(
        "run", "events", "-t", "reference", *words, "--backend-file", str(EVIL), "--no-probe", "--no-report", "-q",
        "--timeout", "5", "--out", str(folder / "run"), EVIL_SLEEP=SLEEP,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return folder, read_results(folder / "run"), done.returncode, done.stderr


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_costs_its_cell_or_its_target(name: str, attacked: tuple[Path, Results, int, str]) -> None:
    _, results, *_ = attacked
    cells = [cell for cell in results.cells if cell.target == f"evil_backend[{name}]"]
    outcomes, wanted = tuple(cell.outcome for cell in cells), ATTACKS[name]
    assert len(outcomes) == 4
    assert outcomes == wanted if wanted else CRASHED in outcomes, [cell.error for cell in cells]


def test_all_else_is_reported(attacked: tuple[Path, Results, int, str]) -> None:
    folder, results, code, _ = attacked
    assert [cell.outcome for cell in results.cells if cell.target == "reference"] == ["ok"] * 4
    assert code == 3
    assert here("report", str(folder / "run"), "-q", "--format", "html", "--format", "csv").returncode == 0


def test_what_is_lost_is_said(attacked: tuple[Path, Results, int, str]) -> None:
    _, results, *_ = attacked
    said: dict[tuple[str, str], str] = {}
    for cell in results.cells:
        said.setdefault((cell.target[13:-1], cell.outcome), cell.error)
    assert "path \ufffd\ufffd \ufffd gone" in said["raises surrogates", RAISED]
    assert "bytes of itself" in said["says-much", "unavailable"]
    assert "nested more than 64 levels deep" in said["says-deep", "unavailable"]
    assert "is an array of Python objects" in said["holds objects", CRASHED]
    # What comes first is a matter of time: a look at the worker, one at its file, or its own next write.
    lost = said["tar folder", CRASHED]
    ends = ("is damaged: it is no regular file.", "cannot be read: No such file or directory")
    seen = "its result was written and is gone" in lost or lost.endswith(ends)
    assert seen or ("exit code 1" in lost and "a directory: " in lost)
    assert {cell.error_type for cell in results.cells if cell.error.endswith("no regular file.")} <= set(DAMAGED)


def test_nothing_outside_is_touched_and_nothing_lives_on(attacked: tuple[Path, Results, int, str]) -> None:
    folder, *_ = attacked
    assert (folder / "outside").read_text() == "mine"
    assert sorted(path.name for path in folder.iterdir()) == ["elsewhere", "outside", "run"]
    assert not list((folder / "elsewhere").iterdir())
    assert not worker_processes(folder / "run")
    assert not [path for path in (folder / "run").rglob("*") if path.is_symlink()]
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"sleep {SLEEP}" not in listed
