"""``bncheck run``: scenarios × targets → run folder, terminal table, report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bncheck.commands.options import playing_options
from bncheck.errors import TargetsUnavailable

if TYPE_CHECKING:
    from bncheck.results import Results

# What makes exit code 1, each level with the kinds of finding that reach it.
FAIL_ON = {
    "defect": ("defect",),
    "hazard": ("defect", "hazard"),
    "convention": ("defect", "hazard", "unexplained", "convention"),
    "drift": ("defect", "hazard", "unexplained", "convention"),
    "never": (),
}


@click.command(name="run")
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO]...")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. input.shape=[4,3].")
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with an interrupted run.")
@playing_options
@click.option(
    "--fail-on",
    type=click.Choice(list(FAIL_ON)),
    default="defect",
    show_default=True,
    help="The least finding that makes exit code 1.",
)
@click.option("--no-probe", is_flag=True, help="Do not measure conventions; fewer causes can be named.")
@click.option("--no-report", is_flag=True, help="Tables only; render the rest later with: bncheck report.")
@click.option("--json", "as_json", is_flag=True, help="Print run.json instead of the table.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def run_command(**options: Any) -> int:
    """Run scenarios on targets, compare them, name the causes, write a report.

    SCENARIO is a name (bncheck list) or the path of a TOML file; without one, the default scenarios run.

    \b
    bncheck run
    bncheck run all-ones --target mxnet --target torch
    bncheck run all-ones -t "mxnet==1.7.0.post2" -t mxnet
    bncheck run my-scenario.toml --set program.repeat=10 --fail-on drift
    """
    from bncheck.commands.options import request_of
    from bncheck.commands.progress import open_progress
    from bncheck.session import carry_out

    began = time.perf_counter()
    formats = ("csv",) if options["no_report"] else ("csv", "plots", "html")
    request = request_of(
        options,
        scenarios=options["scenarios"],
        overrides=options["overrides"],
        resume=options["resume"],
        probes=not options["no_probe"],
        formats=formats,
    )
    with open_progress(quiet=options["quiet"] or options["as_json"]) as progress:
        run, results = carry_out(request, progress)
    show(run, results, options, time.perf_counter() - began)
    refuse_missing(results, options["require"])
    return exit_code(results, options["fail_on"])


def show(run: Path, results: Results, options: dict[str, Any], seconds: float) -> None:
    if options["as_json"]:
        click.echo((run / "run.json").read_text(encoding="utf-8"))
    elif not options["quiet"]:
        from bncheck.commands.progress import console
        from bncheck.report.terminal import render_terminal

        out = console()
        out.print(render_terminal(results, run, seconds=seconds))


def refuse_missing(results: Results, required: tuple[str, ...]) -> None:
    """TargetsUnavailable when a target named by --require could not run or was not asked for."""
    missing = [t for t in results.targets if t.status != "ok" and (t.name in required or t.backend in required)]
    absent = [name for name in required if not any(name in (t.name, t.backend) for t in results.targets)]
    if missing or absent:
        lines = [f"{t.name}: {t.reason}" for t in missing]
        lines += [f"{name}: it is not among the targets of this run" for name in absent]
        remedy = next((t.remedy for t in missing if t.remedy), "see: bncheck doctor")
        raise TargetsUnavailable("A required target cannot run.\n  " + "\n  ".join(lines), remedy)


def exit_code(results: Results, fail_on: str) -> int:
    """3: cells crashed or timed out; 1: findings at the level asked for, or an expectation that did not come true."""
    if any(cell.outcome in ("crashed", "timeout") for cell in results.cells):
        return 3
    if fail_on == "never":
        return 0
    found = any(finding.kind in FAIL_ON[fail_on] for finding in results.findings)
    unmet = any(each.met is False for scenario in results.scenarios for each in scenario.expectations)
    apart = fail_on == "drift" and any(drift.verdict != "agrees" for drift in results.drifts)
    return 1 if found or unmet or apart else 0
