"""The command line: lazy, exit codes, errors as sentences."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from at_the_prompt import bncheck, here

from bncheck.cli import COMMANDS, tell_interrupt
from bncheck.errors import Interrupted

HEAVY = ("numpy", "pandas", "matplotlib", "pydantic", "rich", "jinja2", "torch", "mxnet", "uv", "packaging")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom bncheck.cli import cli\n"
        "try:\n    cli.main(args=['--help'], standalone_mode=True)\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_names_every_command_and_every_command_has_help() -> None:
    text = bncheck("--help").stdout
    for name in COMMANDS:
        assert f"\n  {name} " in text
        done = here(name, "--help")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"Usage: bncheck {name}")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_stored_short_help_is_the_command_s_own_file(name: str) -> None:
    """The lazy group names a module that exists and holds a command of that name."""
    import importlib

    module = importlib.import_module(f"bncheck.commands.{name}")
    assert getattr(module, f"{name}_command").name == name


def test_version() -> None:
    from bncheck import __version__

    assert bncheck("--version").stdout.split()[-1] == __version__


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu"], "Did you mean 'run'?"),
        (["run", "all-onse"], "all-ones"),
        (["run", "all-ones", "-t", "troch"], "torch"),
        (["run", "all-ones", "-t", "torch[functionl]"], "functional"),
        (["run", "all-ones", "--set", "program.repaet=3"], 'did you mean "repeat"'),
        (["run", "--set", "program.repeat=3"], "Name it: bncheck run SCENARIO"),
        (["run", "all-ones", "--set", "program.repeat"], "key=value"),
        (["run", "--resume", "no-such-run"], "There is no run folder no-such-run"),
        (["run", "all-ones", "--resume", "x"], "Leave out scenarios"),
        (["run", "all-ones", "--python", "torch"], "NAME=PATH"),
        (["run", "missing.toml"], "missing.toml"),
        (["report", "no-such-run"], "no-such-run"),
        (["explain", "update-phas"], "update-phase"),
        (["conventions", "--from", "mxnet"], "--from and --to go together"),
    ],
)
def test_usage_errors_are_sentences_with_exit_code_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = here(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir()), "nothing is written for a request that is wrong"


def test_a_run_never_writes_over_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    done = here("run", "all-ones", "-t", "reference", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "is not empty" in done.stderr and "--resume" not in done.stderr
    (tmp_path / "plan.json").write_text("{}")
    done = here("run", "all-ones", "-t", "reference", "--out", str(tmp_path))
    assert "bncheck run --resume" in done.stderr
    (tmp_path / "plan.json").unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_output_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = here("run", "all-ones", "-t", "reference", "--out", str(tmp_path / "file" / "run"))
    assert done.returncode == 2
    assert "cannot be made" in done.stderr
    assert "--out" in done.stderr


def test_an_interrupted_run_says_where_it_lies_and_how_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    tell_interrupt(Interrupted(Path("reports/a"), "bncheck run --resume reports/a"))
    tell_interrupt(KeyboardInterrupt())
    assert capsys.readouterr().err == (
        "bncheck: interrupted: reports/a keeps what is finished\n  → go on with: bncheck run --resume reports/a\n"
        "bncheck: interrupted\n"
    )
