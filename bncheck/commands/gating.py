"""Whether a run fails: the options that decide it, ``[tool.bncheck]`` behind them, and how the verdict is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from bncheck.gate.bar import Bar, Verdict
    from bncheck.gate.configuration import Configuration
    from bncheck.gate.shortfall import Shortfall

# As in gate.FAIL_ON (a test checks): importing that for --help would take NumPy along.
LEVELS = ("defect", "hazard", "convention", "drift", "never")
USUAL = "Default: defect; with a baseline: convention."
GATING = [
    click.option(
        "--baseline",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Fail only for what is new or worse than this file says (bncheck baseline update).",
    ),
    click.option(
        "--waivers",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="A TOML file of [[waivers]] with cause, reason and expires.",
    ),
    click.option("--github", is_flag=True, help="Print annotations for GitHub. On by itself in GitHub Actions."),
]


def gating_options(command: Callable[..., Any], default: str = USUAL) -> Callable[..., Any]:
    """``default`` says what fails where nobody says so."""
    level = click.option(
        "--fail-on", type=click.Choice(LEVELS), help=f"The least finding that makes exit code 1. {default}"
    )
    for option in reversed([level, *GATING]):
        command = option(command)
    return command


def with_configuration(options: dict[str, Any]) -> tuple[dict[str, Any], Configuration]:
    """The options with what [tool.bncheck] says wherever the command line says nothing."""
    from bncheck.gate.project import find_configuration

    found = find_configuration(Path.cwd())
    said = {
        "targets": found.targets,
        "optional": found.optional,
        "scenarios": found.scenarios,
        "fail_on": found.fail_on,
        "timeout": found.timeout,
        "baseline": found.baseline,
    }
    context = click.get_current_context()
    settled = dict(options)
    named = typed_in(context, options, "targets")
    for name, value in said.items():
        # --resume goes on with that run's own scenarios and targets.
        resumed = options.get("resume") is not None and name in ("targets", "optional", "scenarios")
        if name == "optional" and named:
            continue  # -t says who plays, instead of the file
        if name in options and value and not typed_in(context, options, name) and not resumed:
            settled[name] = value
    return settled, found


def typed_in(context: click.Context, options: dict[str, Any], name: str) -> bool:
    return context.get_parameter_source(name) is not ParameterSource.DEFAULT and bool(options.get(name))


def bar_of(options: dict[str, Any], configuration: Configuration) -> Bar:
    """What the run is held against; a missing baseline is an error now, not after an hour of running."""
    from bncheck.gate.bar import Bar
    from bncheck.gate.baseline import read_baseline

    waivers = configuration.waivers
    if options["waivers"]:
        from bncheck.gate.config import read_waivers  # and what checks such a file: 60 ms of CPU time

        waivers = read_waivers(options["waivers"])
    entries = read_baseline(options["baseline"]) if options["baseline"] else None
    # Conventions are no fault of anybody; but once those that are there are listed, another one is news.
    level = options["fail_on"] or ("defect" if entries is None else "convention")
    return Bar(level, entries, waivers)


def tell_verdict(run: Path, verdict: Verdict, options: dict[str, Any]) -> None:
    """Why the exit code is what it is; annotations and the job summary where GitHub asks for them."""
    from bncheck.report.verdict_text import error_lines, lines, why

    silent = options["quiet"] or options["as_json"]
    if not silent:
        for line in error_lines(verdict):
            click.echo(line, err=True)
        for line in lines(verdict):
            click.echo(line)
    if options["github"] or os.environ.get("GITHUB_ACTIONS") == "true":
        from bncheck.report.annotation import annotate

        for line in annotate(verdict):
            # The runner reads both streams; stdout belongs to run.json when that is asked for.
            click.echo(line, err=options["as_json"])
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        from bncheck.report.summary import append

        append(Path(summary), run, lambda text: click.echo(f"bncheck: {text}", err=True))
    if silent and verdict.exit_code:
        click.echo(f"bncheck: {why(verdict)}", err=True)
    elif not silent:
        tell_missed(verdict.missed, silent)


def tell_missed(missed: Sequence[Shortfall], silent: bool) -> None:
    """What was asked for and did not come, on stderr; one line when nothing else is to be printed."""
    if silent and missed:
        click.echo(f"bncheck: {'; '.join(item.sentence for item in missed)}", err=True)
    for item in () if silent else missed:
        click.echo(f"bncheck: {item.sentence}." + (f"\n  → {item.remedy}" if item.remedy else ""), err=True)
