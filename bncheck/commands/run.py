"""``bncheck run``: scenarios × targets → run folder, terminal table, report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bncheck.commands import completion
from bncheck.commands.gating import gating_options
from bncheck.commands.options import playing_options, telling_options

if TYPE_CHECKING:
    from bncheck.commands.progress import Quiet
    from bncheck.gate.configuration import Configuration
    from bncheck.playing.begun import Begun
    from bncheck.playing.shard import Shard
    from bncheck.run_folder.results import Results
    from bncheck.session import Request

# Small, and what a CI job reads; "csv" first.
CI_FORMATS = ("csv", "junit", "summary")


@click.command(name="run")
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO]...", shell_complete=completion.scenarios)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. input.shape=[4,3].")
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with an interrupted run.")
@click.option(
    "--allow-code", is_flag=True, help="With --resume: run the code (own layers, models) that lies in that run folder."
)
@playing_options
@click.option("--no-reference", is_flag=True, help="Leave a single target alone: compare it with nothing.")
@gating_options
@click.option("--shard", metavar="i/N", help="Play the i-th of N parts; join them with: bncheck compare.")
@click.option("--durations", metavar="RUN", help="With --shard: an earlier run whose durations balance the parts.")
@click.option("--executor", metavar="ADDRESS", help="Let other machines play: dask://HOST:PORT, a Dask scheduler.")
@click.option("--check-order", is_flag=True, help="Play all cases again in reversed order; they must give the same.")
@click.option("--no-probe", is_flag=True, help="Do not measure conventions; fewer causes can be named.")
@telling_options
def run_command(**options: Any) -> int:
    """Run scenarios on targets, compare them, name the causes, write a report.

    SCENARIO is a name (bncheck list) or the path of a TOML file; without one, the default scenarios run.

    \b
    bncheck run
    bncheck run all-ones -t torch                against the reference
    bncheck run all-ones --target mxnet --target torch
    bncheck run all-ones -t "mxnet==1.7.0.post2" -t mxnet
    bncheck run my-scenario.toml --set program.repeat=10 --fail-on drift
    bncheck run --executor dask://10.0.0.5:8786    played by other machines
    """
    from bncheck.commands.gating import with_configuration

    began = time.perf_counter()
    options, configuration = with_configuration(options)
    from bncheck.playing.begun import begun

    with begun(sure(options), options["pythons"], options["jobs"]) as early:
        return answer(options, configuration, early, began)


def sure(options: dict[str, Any]) -> Sequence[str]:
    """Targets that will be played here, whatever the scenarios say, by processes that may import what they like first:
    a bound on the memory holds for the import too."""
    elsewhere = options["resume"] or options["executor"] or options["isolate"] == "cell" or options["backend_files"]
    wrong = options["overrides"] and not options["scenarios"]  # --set belongs to a scenario that is named
    if elsewhere or wrong or options["memory"] is not None or (options["scenarios"] and not options["targets"]):
        return ()
    from bncheck.environments.targets import DEFAULT_TARGETS

    return (*(options["targets"] or DEFAULT_TARGETS), *options["optional"])


def answer(options: dict[str, Any], configuration: Configuration, early: Begun, began: float) -> int:
    """Carry it out and tell what was found. Imports of bncheck's own stand here: the framework's has begun."""
    from bncheck.commands.gating import bar_of, tell_verdict
    from bncheck.commands.options import request_of
    from bncheck.commands.progress import open_progress
    from bncheck.gate.bar import read_verdict

    formats = CI_FORMATS if options["no_report"] else (*CI_FORMATS, "plots", "html")
    request = request_of(
        options,
        early,
        scenarios=options["scenarios"],
        overrides=options["overrides"],
        resume=options["resume"],
        allow_code=options["allow_code"],
        probes=not options["no_probe"],
        alone=options["no_reference"],
        formats=formats,
        bar=bar_of(options, configuration),
        tolerance=configuration.tolerance_of_all(),
        shard=shard_of(options),
        check_order=options["check_order"],
    )
    with open_progress(options["quiet"] or options["as_json"], options["verbose"]) as progress:
        run, results = carry_out_by(options, request, progress)
    show(run, results, options, time.perf_counter() - began)
    verdict = read_verdict(run, results)
    tell_verdict(run, verdict, options)
    return verdict.exit_code


def carry_out_by(options: dict[str, Any], request: Request, progress: Quiet) -> tuple[Path, Results]:
    """Here, or by a fleet; whether that answers is known before anything is written."""
    if options["executor"] is None:
        from bncheck.session import carry_out

        return carry_out(request, progress)
    from bncheck.errors import UsageError

    if request.resume or request.shard:
        raise UsageError("--executor cuts a new run into parts itself.", "Leave out --resume and --shard.")
    from bncheck.fleet.elsewhere import carry_out_elsewhere
    from bncheck.fleet.executor import open_fleet

    # Where they are not given, each machine has its own.
    given = [word for name in ("memory", "jobs") if options[name] for word in (f"--{name}", str(options[name]))]
    with open_fleet(options["executor"]) as fleet:
        return carry_out_elsewhere(request, progress, fleet, given)


def shard_of(options: dict[str, Any]) -> Shard | None:
    from bncheck.errors import UsageError
    from bncheck.playing.shard import durations, parse_shard
    from bncheck.run_folder.folder import find_run
    from bncheck.run_folder.results import read_results

    if options["shard"] is None:
        if options["durations"]:
            raise UsageError("--durations balances the parts of --shard, and none is asked for.", "Add --shard i/N.")
        return None
    if options["resume"]:
        raise UsageError("--resume goes on with the part that run was.", "Leave out --shard.")
    cells = read_results(find_run(options["durations"])).cells if options["durations"] else ()
    return parse_shard(options["shard"], durations([(f"{cell.scenario}--{cell.case}", cell.seconds) for cell in cells]))


def show(run: Path, results: Results, options: dict[str, Any], seconds: float) -> None:
    if options["as_json"]:
        from bncheck.commands.streams import sayable_json

        click.echo(sayable_json((run / "run.json").read_text(encoding="utf-8")))
    elif not options["quiet"]:
        from bncheck.commands.progress import console
        from bncheck.report.terminal import render_terminal

        out = console()
        out.print(render_terminal(results, run, seconds=seconds, verbose=options.get("verbose", False)))
