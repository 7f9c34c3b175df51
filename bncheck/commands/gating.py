"""Whether a run fails: the options that decide it, ``[tool.bncheck]`` behind them, and how the verdict is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from bncheck.gate.bar import Bar, Verdict
    from bncheck.gate.baseline import Entry
    from bncheck.gate.configuration import Configuration
    from bncheck.gate.shortfall import Shortfall

# As in gate.FAIL_ON (a test checks): importing that for --help would take NumPy along.
LEVELS = ("defect", "hazard", "convention", "drift", "never")
USUAL = "Default: defect; with a baseline: convention."
MOST_LINES = 20  # that say what fails; a run can have thousands of drifts
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
    from bncheck.gate.config import read_waivers

    waivers = read_waivers(options["waivers"]) if options["waivers"] else configuration.waivers
    entries = read_baseline(options["baseline"]) if options["baseline"] else None
    # Conventions are no fault of anybody; but once those that are there are listed, another one is news.
    level = options["fail_on"] or ("defect" if entries is None else "convention")
    return Bar(level, entries, waivers)


def read_baseline(path: Path) -> tuple[Entry, ...]:
    from bncheck.bounded import read_bounded
    from bncheck.errors import BaselineError
    from bncheck.gate.baseline import LARGEST, parse

    try:
        if path.stat().st_size > LARGEST:
            raise BaselineError(f"{path} is {path.stat().st_size:,} bytes long; no baseline is.", "name another file")
        return parse(read_bounded(path, LARGEST).decode("utf-8"), str(path))
    except FileNotFoundError:
        raise BaselineError(
            f"There is no baseline {path}.",
            f"make one from a run whose findings are accepted: bncheck baseline update latest {path}",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(f"{path} cannot be read: {error}", "check the path and its permissions") from None


def tell_verdict(run: Path, verdict: Verdict, options: dict[str, Any]) -> None:
    """Why the exit code is what it is; annotations and the job summary where GitHub asks for them."""
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


def why(verdict: Verdict) -> str:
    """The reason of an exit code other than 0, in one line: how many, and the first by name."""
    from bncheck.report.plain_text import one_line
    from bncheck.report.summary import overdue, place, ruling

    missed = [item.sentence for item in verdict.missed]
    failing = [item.charge for item in verdict.of("fails")]
    first = [
        f"{' '.join(filter(None, (item.code, item.cause)))} in {place(item.scenario, item.case)}: {item.sentence}"
        for item in failing[:1]
    ] or list(overdue(verdict))[:1]
    rest = f"; {ruling(replace(verdict, missed=()))}" if missed and (failing or verdict.expired) else ""
    text = f"{'; '.join(missed)}{rest}" if missed else f"{ruling(verdict)}: {'; '.join(first)}"
    return one_line(f"exit code {verdict.exit_code}: {text}", 1000)


def error_lines(verdict: Verdict) -> list[str]:
    """Cells that were not carried out by nobody's fault but the user's file's or bncheck's: what, where, what now."""
    from bncheck.gate.blamed import EXITS, REMEDIES
    from bncheck.report.plain_text import one_line, plural
    from bncheck.report.summary import place

    alike: dict[tuple[str, str], list[str]] = {}
    for item in verdict.of("fails"):
        charge = item.charge
        if charge.kind in REMEDIES:
            where = f"{place(charge.scenario, charge.case)} on {' and '.join(charge.names)}"
            alike.setdefault((charge.kind, charge.sentence), []).append(where)
    found = []
    for (kind, text), places in alike.items():
        more = f" and {plural(len(places) - 1, 'more case')}" if len(places) > 1 else ""
        found.append(f"bncheck: {one_line(places[0], 200)}{more}: {one_line(text, 700)}")
        found.append(f"  → {REMEDIES[kind]} (exit code {EXITS[kind]})")
    return found


def lines(verdict: Verdict) -> list[str]:
    """What the table above them does not say: what fails and is no finding there, what is new, worse, waived or not
    checked, and waivers that are due."""
    from bncheck.finding import KINDS
    from bncheck.gate.blamed import REMEDIES
    from bncheck.report.plain_text import one_line
    from bncheck.report.summary import place, remarks, ruling

    others = [item for item in verdict.of("fails") if item.charge.kind not in REMEDIES]  # error_lines has those
    failing = [item for item in others if item.note or item.charge.kind not in KINDS]
    found = []
    for item in failing[:MOST_LINES]:
        where = place(item.charge.scenario, item.charge.case)
        said = ": ".join(filter(None, (item.note, item.charge.sentence if item.charge.kind not in KINDS else "")))
        found.append(f" ✗ {item.charge.cause} in {where}: {one_line(said, 300)}")
    if len(failing) > MOST_LINES:
        found.append(f" ✗ and {len(failing) - MOST_LINES} more that fail; all of them are in gate.json")
    for item in verdict.of("waived"):
        where = place(item.charge.scenario, item.charge.case)
        found.append(f" ~ {item.charge.cause} in {where}: waived {one_line(item.note, 200)}")
    for item in verdict.of("unchecked"):
        said = item.charge.sentence.rstrip(".")  # its condition is the charge's case
        found.append(f" – {item.charge.scenario}: {one_line(said, 300)}: {one_line(item.note, 200)}")
    found += [f" ! {one_line(text, 300)}" for text in remarks(verdict)]
    if verdict.with_baseline or found or verdict.exit_code:
        code = f" (exit code {verdict.exit_code})" if verdict.exit_code else ""
        found.append(f" verdict  {ruling(verdict)}{code}")
    return found
