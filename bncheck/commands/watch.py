"""``bncheck watch``: a command of the user's, unchanged → what each of its BatchNorm layers lived through."""

from __future__ import annotations

import re
import shlex
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bncheck.commands.gating import gating_options
from bncheck.commands.options import OUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bncheck.run_folder.results import Results
    from bncheck.subjects.launch import Ended

KEEP = "first:50,last:50,every:100"
FORMATS = ("csv", "junit", "summary", "html")


@click.command(name="watch", context_settings={"ignore_unknown_options": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Record the first N optimiser steps only.")
@click.option(
    "--keep",
    default=KEEP,
    show_default=True,
    metavar="WHAT",
    help="Steps whose forwards are recorded whole, or: all. The rest is counted.",
)
@click.option("--python", type=click.Path(path_type=Path), metavar="PATH", help="The interpreter of the command.")
@OUT
@gating_options
@click.option("--json", "as_json", is_flag=True, help="Print run.json on stdout when the command has ended.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Show every layer, and the figures behind each finding.")
def watch_command(**options: Any) -> int:
    """Run a command that trains or evaluates, and say what each BatchNorm layer lived through.

    The command runs as it would without bncheck; its exit code is ours, unless it is 0 and something was found.
    What bncheck says goes to stderr: stdout is the command's. On a terminal, a line below the cursor
    says how far it is.

    \b
    bncheck watch -- python train.py --epochs 3
    bncheck watch -- torchrun --nproc-per-node 2 train.py
    bncheck watch --fail-on hazard -- pytest tests/test_model.py
    """
    from bncheck.commands.gating import bar_of, with_configuration
    from bncheck.commands.live_line import LiveLine, wanted
    from bncheck.gate.bar import read_verdict
    from bncheck.run_folder.folder import create_run_folder
    from bncheck.subjects.launch import launch, with_python

    options, configuration = with_configuration(options)
    keep = checked_keep(options["keep"])
    bar = bar_of(options, configuration)
    command = with_python(options["command"], options["python"])
    run = create_run_folder(options["out"])
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = LiveLine(run) if wanted(options["quiet"]) else None
    ended = launch(command, run, keep, options["steps"], options["python"], line)
    if line is not None:
        line.clear()
    results = conclusion(run, ended, options["command"], created, bar, lambda text: None)
    verdict = read_verdict(run, results)
    tell(run, results, options, ended, verdict.exit_code)
    return ended.code or verdict.exit_code


def checked_keep(text: str) -> str:
    from bncheck.errors import UsageError

    if text == "all" or (text and re.fullmatch(r"((first|last|every):\d{1,6})(,(first|last|every):\d{1,6})*", text)):
        return text
    raise UsageError(f"--keep {text}: not a list of first:N, last:N and every:N, or all.", f"For example --keep {KEEP}")


def conclusion(run: Path, ended: Ended, command: Sequence[str], created: str, bar: Any, say: Any) -> Results:
    """Read the recording, judge every life, write the run folder."""
    from bncheck.run_folder.folder import make_way
    from bncheck.run_folder.lives import read_lives
    from bncheck.run_folder.source_lines import look_up, write_lines
    from bncheck.subjects.conclusion import conclude
    from bncheck.subjects.watched import judged, missed

    make_way(run)
    lives = read_lives(run, {ended.pid: ended.code if not ended.signal else -ended.signal})
    write_lines(run, look_up(lives))
    ours = shlex.join(["bncheck", *sys.argv[1:]])
    answer, results = judged(lives, shlex.join(command), ours, created, ended.stopped)
    return conclude(run, answer, results, FORMATS, say, bar, missed(lives, ended))


def tell(run: Path, results: Results, options: dict[str, Any], ended: Ended, code: int) -> None:
    """The report, on stderr; why the exit code is what it is, where the command's own is not 0."""
    from bncheck.commands.gating import tell_verdict
    from bncheck.gate.bar import read_verdict

    if options["as_json"]:
        from bncheck.commands.streams import sayable_json

        click.echo(sayable_json((run / "run.json").read_text(encoding="utf-8")))
    elif not options["quiet"]:
        from bncheck.commands.progress import console
        from bncheck.report.terminal import render_terminal

        console(stderr=True).print(render_terminal(results, run, verbose=options["verbose"]))
    with redirect_stdout(sys.stderr):
        tell_verdict(run, read_verdict(run, results), options)
    if ended.code:
        how = f"was ended by signal {ended.signal}" if ended.signal else f"ended with exit code {ended.code}"
        click.echo(f"bncheck: the command itself {how}; that is the exit code.", err=True)
