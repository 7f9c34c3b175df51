"""The command line of CI: [tool.bncheck] behind the options, baseline commands, -v, --quiet, NO_COLOR, completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONFIGURED = """\
[tool.bncheck]
targets = ["reference", "reference[batch_weight=0.9]"]
scenarios = ["all-ones"]
fail-on = "convention"
tolerances = { rtol = 10, atol = 10 }
"""


def bncheck(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
    environment = {**kept, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "bncheck", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(CONFIGURED)
    return tmp_path


def test_the_file_says_what_the_command_line_does_not(repo: Path) -> None:
    (repo / "pyproject.toml").write_text(CONFIGURED.replace("tolerances", "# tolerances"))
    (repo / "inside").mkdir()
    done = bncheck("run", "--no-report", "--out", "a", cwd=repo / "inside")
    assert done.returncode == 1, done.stderr
    found = json.loads((repo / "inside" / "a" / "run.json").read_text())
    assert [target["name"] for target in found["targets"]] == ["reference", "reference[batch_weight=0.9]"]
    assert [scenario["name"] for scenario in found["scenarios"] if not scenario["probe"]] == ["all-ones"]


def test_the_command_line_beats_the_file(repo: Path) -> None:
    done = bncheck("run", "batch-sizes", "-t", "reference", "--fail-on", "never", "--no-report", "--out", "a", cwd=repo)
    assert done.returncode == 0, done.stderr
    found = json.loads((repo / "a" / "run.json").read_text())
    assert [target["name"] for target in found["targets"]] == ["reference"]
    assert [scenario["name"] for scenario in found["scenarios"] if not scenario["probe"]] == ["batch-sizes"]
    assert json.loads((repo / "a" / "gate.json").read_text())["fail_on"] == "never"


def test_the_file_s_tolerance_is_for_scenarios_that_state_none_and_survives_a_resume(repo: Path) -> None:
    assert bncheck("run", "-q", "--no-report", "--no-probe", "--out", "a", cwd=repo).returncode == 0
    found = json.loads((repo / "a" / "run.json").read_text())
    assert [(scenario["rtol"], scenario["atol"]) for scenario in found["scenarios"]] == [(10.0, 10.0)]
    assert {drift["verdict"] for drift in found["drifts"]} == {"agrees"}
    (repo / "pyproject.toml").write_text("")
    assert bncheck("run", "--resume", "a", "-q", "--no-report", cwd=repo).returncode == 0
    assert json.loads((repo / "a" / "run.json").read_text())["scenarios"][0]["rtol"] == 10.0


def test_a_fault_in_the_file_is_a_sentence_and_nothing_is_run(repo: Path) -> None:
    (repo / "pyproject.toml").write_text('[tool.bncheck]\nfail_on = "drift"\n')
    done = bncheck("run", "--out", "a", cwd=repo)
    assert done.returncode == 2
    assert 'pyproject.toml:2: tool.bncheck.fail_on: unknown key "fail_on"' in done.stderr
    assert not (repo / "a").exists()


def test_a_baseline_is_written_shown_and_missed(repo: Path) -> None:
    missing = bncheck("run", "--baseline", "none.json", "--out", "a", cwd=repo)
    assert missing.returncode == 2
    assert "There is no baseline none.json.\n  → make one" in missing.stderr
    assert not (repo / "a").exists()
    (repo / "pyproject.toml").write_text(CONFIGURED.replace("tolerances", "# tolerances"))
    bncheck("run", "-q", "--no-report", "--out", "a", cwd=repo)
    told = bncheck("baseline", "update", "a", "known.json", cwd=repo)
    assert told.stdout == "known.json: 2 known (2 new, 0 gone)\n"
    before = (repo / "known.json").read_bytes()
    assert bncheck("baseline", "update", "a", "known.json", cwd=repo).stdout == "known.json: 2 known (0 new, 0 gone)\n"
    assert (repo / "known.json").read_bytes() == before
    shown = bncheck("baseline", "show", "known.json", cwd=repo).stdout.splitlines()
    assert shown[0] == (
        "all-ones · forward: batch-weight (convention) between reference and reference[batch_weight=0.9]: "
        "bn.running_mean off by 0.08801, 100.0 % explained"
    )
    assert len(shown) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--shard", "3/2"), "--shard 3/2 is not a part of a whole."),
        (("--durations", "a"), "--durations balances the parts of --shard"),
        (("--shard", "1/2", "--durations", "none"), "There is no run folder none."),
        (("--waivers", "none.toml"), "There is no file none.toml."),
    ],
)
def test_what_cannot_be_is_a_sentence(repo: Path, arguments: tuple[str, ...], said: str) -> None:
    done = bncheck("run", *arguments, "--out", "a", cwd=repo)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (repo / "a").exists()


def test_verbose_prints_the_workers_commands_and_every_cell(repo: Path) -> None:
    done = bncheck("run", "-v", "-t", "reference", "--no-probe", "--no-report", "--out", "a", cwd=repo)
    assert "-I " in done.stderr
    assert "worker/run.py" in done.stderr.replace(os.sep, "/")
    assert "1/2 reference all-ones--forward: ok" in done.stderr


def test_no_color_and_quiet(repo: Path) -> None:
    arguments = ("run", "--no-probe", "--no-report")
    colour = bncheck(*arguments, "--out", "a", cwd=repo, FORCE_COLOR="1")
    plain = bncheck(*arguments, "--out", "b", cwd=repo, FORCE_COLOR="1", NO_COLOR="1")
    quiet = bncheck(*arguments, "-q", "--out", "c", cwd=repo)
    assert "\x1b[3" in colour.stdout
    assert "\x1b[3" not in plain.stdout
    assert (quiet.stdout, quiet.stderr) == ("", "")


def test_annotations_leave_json_alone(repo: Path) -> None:
    (repo / "pyproject.toml").write_text(CONFIGURED.replace("tolerances", "# tolerances"))
    done = bncheck("run", "--json", "--github", "--no-report", "--out", "a", cwd=repo)
    assert json.loads(done.stdout)["format"] == 1
    assert done.stderr.startswith("::error title=bncheck BN106 batch-weight::")


@pytest.mark.parametrize(
    ("words", "position", "expected"),
    [
        ("bncheck base", "1", "baseline"),
        ("bncheck run --fail-on n", "3", "never"),
        ("bncheck compare --gi", "2", "--github"),
    ],
)
def test_a_shell_can_complete(tmp_path: Path, words: str, position: str, expected: str) -> None:
    variables = {"COMP_WORDS": words, "COMP_CWORD": position, "_BNCHECK_COMPLETE": "bash_complete"}
    done = bncheck(cwd=tmp_path, **variables)
    assert done.stdout == f"plain,{expected}\n"


def test_version(tmp_path: Path) -> None:
    from bncheck import __version__

    assert bncheck("--version", cwd=tmp_path).stdout == f"bncheck, version {__version__}\n"
