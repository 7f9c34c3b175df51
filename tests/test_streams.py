"""Streams as cron, daemons and old terminals leave them: the output degrades, the exit code stays."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from at_the_prompt import bncheck, command, environment, here

WORDS = (
    "run",
    "all-ones",
    "-t",
    "reference",
    "--no-reference",
    "--no-probe",
    "--no-report",
    "--set",
    "program.repeat=2",
)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_no_exit_code(closed: str, tmp_path: Path) -> None:
    words = command(*WORDS, "--out", str(tmp_path / "run"))
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *words], capture_output=True, text=True, check=False, env=environment()
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["format"] == 1


@pytest.mark.parametrize("charset", ["ascii", "cp1252"])
def test_what_a_charset_lacks_is_written_plainly(charset: str, tmp_path: Path) -> None:
    done = subprocess.run(
        command(*WORDS, "--out", str(tmp_path / "run")),
        capture_output=True,
        check=False,
        env=environment(PYTHONIOENCODING=charset),
    )
    assert done.returncode == 0, done.stderr
    assert "* ran" in done.stdout.decode(charset)


def test_json_stays_json_in_ascii(tmp_path: Path) -> None:
    out = tmp_path / "r\u00fcn"
    done = bncheck(*WORDS, "--json", "--out", str(out), PYTHONIOENCODING="ascii")
    assert done.stdout.isascii()
    assert json.loads(done.stdout) == json.loads((out / "run.json").read_text())


def test_a_folder_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    out = os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff\xfe")
    done = bncheck(*WORDS, "-q", "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert "bad\ufffd\ufffd" in json.loads(Path(out, "run.json").read_text())["command"]


@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1", "1e300", "x"])
@pytest.mark.parametrize("option", ["--timeout", "--memory"])
def test_options_that_are_no_amounts_are_refused(option: str, value: str) -> None:
    done = here("run", "all-ones", option, value)
    assert (done.returncode, "above 0" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
