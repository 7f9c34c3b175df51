"""A watched command that puts links, pipes and folders into the run folder, where bncheck reads and writes next."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from at_the_prompt import command, environment

SCRIPT = Path(__file__).parent / "evil_watched.py"
PLACES = (
    "watched", "watched/marks", "watched/marks/failed", "watched/marks/unseen", "watched/lines.json", "watched/7-7",
    "OWN", "OWN/about.json", "OWN/state.json", "OWN/log.jsonl", "OWN/first-0-000000.npz", "run.json", "run.json.part",
    "answer.json", "gate.json", "index.html", "findings.csv", "junit.xml", "summary.md", "plots",
)  # fmt: skip
WHATS = ("fifo", "folder", "zero", "file outside", "folder outside", "itself", "garbage", "socket", "nothing")
# Each where it did harm once, together in one command: a pipe was read for ever, a device without end, a result was
# written through a link or not at all.
TOGETHER = (
    "watched/marks/failed=fifo", "watched/marks/stopped=zero", "watched/marks/unseen=file outside",
    "watched/lines.json=file outside", "OWN/log.jsonl=file outside", "OWN/first-0-000000.npz=fifo",
    "run.json=folder", "answer.json=fifo", "gate.json=file outside", "findings.csv=folder", "junit.xml.part=fifo",
    "index.html=file outside", "plots=folder outside",
)  # fmt: skip


def watch(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command under attack; nothing of ``outside`` is read or written."""
    (folder / "outside").mkdir()
    (folder / "outside" / "secret").write_text("never to be read\n")
    run = folder / "run"
    asked = command("watch", "--out", str(run), "--", sys.executable, str(SCRIPT), *words)
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=100, env=environment())
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    assert "never to be read" not in done.stdout + done.stderr
    assert [path.name for path in (folder / "outside").iterdir()] == ["secret"]
    assert (folder / "outside" / "secret").read_text() == "never to be read\n"
    if not run.is_symlink():
        told = [path.read_text(errors="replace") for path in run.rglob("*") if path.is_file()]
        assert not [text for text in told if "never to be read" in text]
    return done


def test_what_the_command_puts_in_our_place_is_taken_away(tmp_path: Path) -> None:
    done = watch(tmp_path, *TOGETHER)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    assert not [path for path in run.rglob("*") if path.is_symlink() or not (path.is_file() or path.is_dir())]
    for name in ("run.json", "answer.json", "gate.json", "findings.csv", "junit.xml", "index.html"):
        assert (run / name).is_file(), name


def test_a_folder_that_the_command_takes_away_is_said(tmp_path: Path) -> None:
    done = watch(tmp_path, "=folder outside")
    assert done.returncode == 2
    assert "run was taken away while it was written" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_attack_by_itself_costs_at_most_the_recording(tmp_path: Path) -> None:
    attacks = [("", "nothing"), ("", "fifo"), *((place, what) for place in PLACES for what in WHATS)]
    for number, (place, what) in enumerate(attacks):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert watch(folder, f"{place}={what}").returncode in (0, 2, 3), (place, what)
