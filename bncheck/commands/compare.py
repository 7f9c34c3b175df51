"""``bncheck compare``: runs joined into one comparison; needs no framework."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click

from bncheck.commands.completion import runs
from bncheck.commands.gating import gating_options
from bncheck.commands.options import telling_options


@click.command(name="compare")
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...", shell_complete=runs)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder to make. Default: reports/<UTC time>-<id>.")
@gating_options
@telling_options
def compare_command(**options: Any) -> int:
    """Join RUNs of other machines, devices, versions or shards into one comparison.

    The same cases are found by content, not by name; the same name with other inputs is refused. Nothing is run
    again, and no framework is needed.

    \b
    bncheck compare laptop/ gpu-server/
    bncheck compare before/ after/ --baseline bncheck-baseline.json
    bncheck compare shard-1/ shard-2/ shard-3/ --out all/
    """
    from bncheck.commands.gating import bar_of, tell_verdict, with_configuration
    from bncheck.commands.progress import open_progress
    from bncheck.commands.run import CI_FORMATS, show
    from bncheck.errors import UsageError
    from bncheck.gate.bar import read_verdict

    if len(options["runs"]) < 2:
        raise UsageError("One run has nothing to be compared with.", "Name two: bncheck compare RUN RUN")
    began = time.perf_counter()
    options, configuration = with_configuration(options)
    bar = bar_of(options, configuration)
    formats = CI_FORMATS if options["no_report"] else (*CI_FORMATS, "plots", "html")
    with open_progress(quiet=options["quiet"] or options["as_json"]) as progress:
        run, results = join_runs(options["runs"], options["out"], bar, formats, progress)
    show(run, results, options, time.perf_counter() - began)
    verdict = read_verdict(run, results)
    tell_verdict(run, verdict, options)
    return verdict.exit_code


def join_runs(names: tuple[str, ...], out: Path | None, bar: Any, formats: tuple[str, ...], progress: Any) -> Any:
    """Check all runs before anything is written; then join, judge and report as a run does."""
    from bncheck.environments.backend_file import find_backends
    from bncheck.joining.runs import join, missing_parts, open_sources, write_joined
    from bncheck.run_folder.folder import create_run_folder
    from bncheck.session import conclude

    sources = open_sources(names, progress.say)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    joined = join(sources, shlex.join(["bncheck", *sys.argv[1:]]), created)
    for part in missing_parts(sources):
        progress.say(f"{part} is not among these runs: its cases are missing here")
    backends = find_backends(())
    documented = {
        target.name: backends[target.backend].documented for target in joined.targets if target.backend in backends
    }
    run = create_run_folder(out)
    write_joined(joined, sources, run)
    return run, conclude(run, joined.plan, joined.targets, documented, formats, progress, bar)
