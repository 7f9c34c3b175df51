"""`bncheck report` as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import at_the_prompt
import literal_run
import pytest
from at_the_prompt import here

from bncheck.report.overview import headline, rows, themes


def bncheck(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return here(*arguments, cwd=cwd, NO_COLOR="1", COLUMNS="120")


def test_the_newest_run_is_rendered_whole(tmp_path: Path) -> None:
    literal_run.write_run(tmp_path / "reports" / "one")
    (tmp_path / "reports" / "latest").symlink_to("one")
    done = bncheck("report", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    shown = " ".join(done.stdout.split())
    assert "0.90099" in shown and "0.20569" in shown and "3 of 6 cells differ from reference" in shown
    found = {path.name for path in (tmp_path / "reports" / "one").rglob("*") if path.is_file()}
    assert found >= {"index.html", "drifts.csv", "findings.csv", "all-ones--forward.svg"}
    assert bncheck("report", "--format", "png", cwd=tmp_path).returncode == 0
    assert (tmp_path / "reports" / "one" / "plots" / "all-ones--forward.png").exists()


def test_a_run_below_reports_is_found_by_its_name(tmp_path: Path) -> None:
    literal_run.write_run(tmp_path / "reports" / "one")
    done = bncheck("report", "one", "--format", "csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert " kit      bncheck repro one BN301" in done.stdout
    literal_run.write_run(tmp_path / "elsewhere" / "two")
    done = bncheck("report", "elsewhere/two", "--format", "csv", cwd=tmp_path)
    assert " kit      bncheck repro elsewhere/two BN301" in done.stdout


def test_one_format_writes_nothing_else(tmp_path: Path) -> None:
    literal_run.write_run(tmp_path / "run")
    done = bncheck("report", "run/run.json", "--format", "csv", "-q", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"run.json", "cells", "drifts.csv", "findings.csv"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("report",), "There is no run folder"),
        (("report", "nowhere"), "There is no run folder nowhere"),
        (("report", "run", "--format", "pdf"), "There is no report format 'pdf'"),
        (("report", "empty"), "it has no run.json"),
        (("report", "project"), "project is not a run folder: it has no run.json"),
        (("report", "interrupted"), "go on with: bncheck run --resume interrupted"),
    ],
)
def test_errors_are_sentences(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    literal_run.write_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "python").symlink_to("/usr/bin/python3")  # such a link was said to be the fault
    (tmp_path / "interrupted").mkdir()
    (tmp_path / "interrupted" / "plan.json").write_text("{}")
    done = bncheck(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


# Root may write everywhere until it gives its capabilities up.
AS_ANYBODY = """
import ctypes, os
class Head(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("process", ctypes.c_int)]
if os.geteuid() == 0:
    ctypes.CDLL(None).capset(ctypes.byref(Head(0x20080522, 0)), ctypes.create_string_buffer(24))
"""


@pytest.mark.skipif(sys.platform != "linux" and os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_run_that_nobody_may_write_into_is_read_all_the_same(tmp_path: Path) -> None:
    """An artifact on a read-only disk: the table is what was asked for; that the pages are not written is said."""
    literal_run.write_run(tmp_path / "run")
    folders = [tmp_path / "run", *(path for path in (tmp_path / "run").rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        done = at_the_prompt.bncheck("report", "run", cwd=tmp_path, first=AS_ANYBODY, NO_COLOR="1", COLUMNS="120")
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert done.returncode == 3
    assert "3 of 6 cells differ from reference" in " ".join(done.stdout.split())
    assert done.stderr.startswith(f"bncheck: the system refused {Path('run')}") and "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr and "--resume" not in done.stderr and "finished cells" not in done.stderr
    assert not list((tmp_path / "run").glob("*.csv"))


def test_a_damaged_recording_is_a_sentence(tmp_path: Path) -> None:
    literal_run.write_run(tmp_path / "run")
    (tmp_path / "run" / "cells" / "torch" / "all-ones--forward" / "trace.npz").write_bytes(b"PK")
    done = bncheck("report", "run", cwd=tmp_path)
    assert done.returncode == 2 and "trace.npz is damaged" in done.stderr and "Traceback" not in done.stderr


def test_probes_are_counted_apart_from_what_was_asked() -> None:
    base = literal_run.results()
    probe = replace(base.scenarios[1], probe=True)
    run = replace(base, scenarios=(base.scenarios[0], probe))
    assert [scenario.name for scenario, _ in rows(run, probes=False)] == ["all-ones", "all-ones"]
    assert headline(run) == "1 of 4 cells differs from reference: 1 convention. Beside these cases: 1 defect."
    # A defect that only the probe showed comes after what was asked for.
    assert [theme.first.kind for theme in themes(run)] == ["convention", "defect"]
    alone = replace(base, scenarios=(replace(base.scenarios[0], probe=True), probe))
    assert len(rows(alone, probes=False)) == 3
