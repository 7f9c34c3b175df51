"""``bncheck run``: scenarios × targets → run folder, terminal table, report."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import click

from bncheck.errors import TargetsUnavailable, UsageError

if TYPE_CHECKING:
    from bncheck.backend_file import BackendFile
    from bncheck.plan import Plan
    from bncheck.results import Results, TargetResult
    from bncheck.run import Options, Seat

DEFAULT_TARGETS = ("reference", "torch", "mxnet")
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
@click.option(
    "-t",
    "--target",
    "targets",
    multiple=True,
    help="backend[variant]==version@device; several times. Default: reference, torch, mxnet.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a scenario key, e.g. input.shape=[4,3].",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder to make. Default: reports/<UTC time>-<id>."
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Go on with an interrupted run; finished cells are kept.",
)
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="TARGET=PATH",
    help="Interpreter to use for a target as it is.",
)
@click.option(
    "--backend-file",
    "backend_files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A backend that is not in the package.",
)
@click.option("--require", multiple=True, metavar="TARGET", help="Exit with 3 when this target cannot run.")
@click.option(
    "--fail-on",
    type=click.Choice(list(FAIL_ON)),
    default="defect",
    show_default=True,
    help="The least finding that makes exit code 1.",
)
@click.option("--timeout", type=float, default=120.0, show_default=True, help="Seconds a cell may take.")
@click.option(
    "--memory",
    type=float,
    metavar="GB",
    help="Address space of a CPU worker. Default: this machine's memory.",
)
@click.option(
    "--isolate",
    type=click.Choice(["target", "cell"]),
    default="target",
    show_default=True,
    help="One process per target, or per cell.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Worker processes at once. Default: the cores.")
@click.option("--no-probe", is_flag=True, help="Do not measure conventions; causes are then not named.")
@click.option(
    "--no-report", is_flag=True, help="Write run.json and the tables only; render later with: bncheck report."
)
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
    from bncheck.commands.progress import open_progress

    began = time.perf_counter()
    with open_progress(quiet=options["quiet"] or options["as_json"]) as progress:
        run, plan, seats = prepare(options, progress.say)
        play = options_of(options)
        from bncheck.run import run_cells

        progress.expect(len(plan.cases) * sum(seat.python is not None for seat in seats))
        Thread(target=import_reports, daemon=True).start()
        targets = run_cells(run, plan, seats, play, progress.cell)
        results = judge(run, plan, targets, options, progress.say)
    return conclude(run, results, options, time.perf_counter() - began)


def import_reports() -> None:
    """Import what the reports need while the workers import their frameworks: it saves most of a second."""
    import matplotlib.figure
    import pandas  # noqa: F401


def prepare(options: dict[str, Any], say: Callable[[str], None]) -> tuple[Path, Plan, list[Seat]]:
    """The run folder with its plan, and every target with its interpreter or the reason why it has none."""
    from bncheck.backend_file import find_backends
    from bncheck.plan import read_plan, write_plan
    from bncheck.run_folder import create_run_folder, find_run
    from bncheck.targets import parse_targets

    backends = find_backends(options["backend_files"])
    if options["resume"] is not None:
        if options["scenarios"] or options["targets"] or options["out"] or options["overrides"]:
            raise UsageError(
                "--resume goes on with the scenarios and targets of that run.",
                "Leave out scenarios, --target, --set and --out.",
            )
        run = find_run(options["resume"])
        plan = read_plan(run)
    else:
        plan = make_plan(options)
        targets = parse_targets(plan.targets, backends)  # before anything is written
        run = create_run_folder(options["out"])
        write_plan(run, plan)
    targets = parse_targets(plan.targets, backends)
    parse_targets(options["require"], backends)
    return run, plan, seat_targets(targets, backends, options["pythons"], say)


def make_plan(options: dict[str, Any]) -> Plan:
    """Load what was asked for, and the probes behind it."""
    from bncheck.plan import Plan
    from bncheck.scenario_file import find_scenarios, load_scenario, parse_override, resolve_scenario

    overrides = dict(parse_override(text) for text in options["overrides"])
    shipped = [load_scenario(path) for path in find_scenarios()]
    if options["scenarios"]:
        chosen = [load_scenario(resolve_scenario(name), overrides) for name in options["scenarios"]]
    else:
        if overrides:
            raise UsageError(
                "--set changes one scenario, and none is named.", "Name it: bncheck run SCENARIO --set …"
            )
        chosen = [scenario for scenario in shipped if scenario.default and not scenario.probe]
    names = [scenario.name for scenario in chosen]
    probes = [s for s in shipped if s.probe and s.name not in names and not options["no_probe"]]
    return Plan(
        tuple(chosen + probes),
        tuple(dict.fromkeys(options["targets"] or DEFAULT_TARGETS)),
        overrides,
        "bncheck " + " ".join(sys.argv[1:]),
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def seat_targets(
    targets: Any, backends: dict[str, BackendFile], pythons: tuple[str, ...], say: Callable[[str], None]
) -> list[Seat]:
    """Find or make an interpreter for each target, several at a time."""
    from bncheck.environments import parse_pythons
    from bncheck.environments import prepare as prepare_environments

    found = prepare_environments(targets, backends, parse_pythons(pythons, backends), say)
    return [seat(target, backends[target.backend], found[target]) for target in targets]


def seat(target: Any, backend: BackendFile, place: Any) -> Seat:
    from bncheck.environments import Ready
    from bncheck.results import TargetResult
    from bncheck.run import Seat

    base = TargetResult(
        target.name, target.slug, target.backend, target.variant, target.version, target.device
    )
    if isinstance(place, Ready):
        return Seat(base, backend.path, place.python)
    from dataclasses import replace

    return Seat(replace(base, status="unavailable", reason=place.reason, remedy=place.remedy), backend.path)


def options_of(options: dict[str, Any]) -> Options:
    from bncheck.run import Options, cores, physical_memory
    from bncheck.workers import Limits

    memory = physical_memory() if options["memory"] is None else int(options["memory"] * 2**30)
    limits = Limits(cell_seconds=options["timeout"], memory=memory)
    return Options(options["jobs"] or cores(), limits, options["isolate"] == "cell")


def judge(
    run: Path, plan: Plan, targets: list[TargetResult], options: dict[str, Any], say: Callable[[str], None]
) -> Results:
    """Compare, name causes, write run.json and the reports."""
    from bncheck.analyse import analyse
    from bncheck.report import render
    from bncheck.results import write_results

    results = analyse(run, plan, targets, say)
    write_results(results, run)
    formats = ("csv",) if options["no_report"] else ("csv", "plots", "html")
    render(run, formats, say)
    return results


def conclude(run: Path, results: Results, options: dict[str, Any], seconds: float) -> int:
    """Print the result and decide the exit code."""
    if options["as_json"]:
        click.echo((run / "run.json").read_text(encoding="utf-8"))
    elif not options["quiet"]:
        from bncheck.commands.progress import console
        from bncheck.report.terminal import render_terminal

        console().print(render_terminal(results, run, seconds=seconds))
    refuse_missing(results, options["require"])
    return exit_code(results, options["fail_on"])


def refuse_missing(results: Results, required: tuple[str, ...]) -> None:
    missing = [
        t for t in results.targets if t.status != "ok" and (t.name in required or t.backend in required)
    ]
    absent = [name for name in required if not any(name in (t.name, t.backend) for t in results.targets)]
    if missing or absent:
        lines = [f"{t.name}: {t.reason}" for t in missing] + [
            f"{name}: it is not among the targets of this run" for name in absent
        ]
        remedy = next((t.remedy for t in missing if t.remedy), "See: bncheck doctor")
        raise TargetsUnavailable("A required target cannot run.\n  " + "\n  ".join(lines), remedy)


def exit_code(results: Results, fail_on: str) -> int:
    """3: cells crashed or timed out; 1: findings at the level asked for, or an expectation that did not come true."""
    if any(cell.outcome in ("crashed", "timeout") for cell in results.cells):
        return 3
    if fail_on == "never":
        return 0
    found = any(finding.kind in FAIL_ON[fail_on] for finding in results.findings)
    unmet = any(
        expectation.met is False for scenario in results.scenarios for expectation in scenario.expectations
    )
    apart = fail_on == "drift" and any(drift.verdict != "agrees" for drift in results.drifts)
    return 1 if found or unmet or apart else 0
