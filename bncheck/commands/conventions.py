"""``bncheck conventions``: each target's BatchNorm rules, measured, side by side; and what to change when porting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bncheck.commands.options import playing_options


@click.command(name="conventions")
@playing_options
@click.option("--from", "source", metavar="TARGET", help="Porting: the framework you come from (with --to).")
@click.option("--to", "goal", metavar="TARGET", help="Porting: the framework you go to (with --from).")
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the table, with porting advice from every target to every other, as one HTML page.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print every facet with residuals and runners-up as CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print run.json instead of the table.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def conventions_command(**options: Any) -> int:
    """Measure each target's BatchNorm rules by the probe scenarios, side by side.

    Every rule is measured on this machine, per layer path where paths differ, and held against the framework's own
    documentation. "not identifiable" means that the probes cannot tell: it is never a guess. With -v each value has its
    residual and the next best value's below it.

    \b
    bncheck conventions
    bncheck conventions -t torch==1.13.1 -t torch
    bncheck conventions --from mxnet --to torch
    bncheck conventions -t torch -t keras -t flax --html conventions.html
    """
    from bncheck.commands.gating import tell_missed, with_configuration
    from bncheck.commands.options import request_of
    from bncheck.commands.progress import open_progress
    from bncheck.errors import UsageError
    from bncheck.gate.bar import read_verdict
    from bncheck.session import carry_out

    pair = [name for name in (options["source"], options["goal"]) if name]
    if len(pair) == 1:
        raise UsageError("--from and --to go together.", "For example: bncheck conventions --from mxnet --to torch")
    if pair:
        from bncheck.environments.backend_file import find_backends
        from bncheck.environments.targets import parse_targets

        # By the names that the run will use: torch@cpu is torch.
        source, goal = (parse_targets([name], find_backends(options["backend_files"]))[0].name for name in pair)
        options |= {"source": source, "goal": goal, "targets": (*options["targets"], source, goal)}
    else:
        options, _ = with_configuration(options)
    request = request_of(options, chosen=False, formats=("csv", "html"))
    silent = options["quiet"] or options["as_json"] or options["as_csv"]
    with open_progress(silent, options["verbose"]) as progress:
        run, results = carry_out(request, progress)
    show(run, results, options)
    missed = read_verdict(run, results).missed
    tell_missed(missed, silent)
    return 3 if missed else 0


def show(run: Any, results: Any, options: dict[str, Any]) -> None:
    from bncheck.commands.progress import console
    from bncheck.report import conventions as report
    from bncheck.report.plain_text import clean

    report.write_csv(results, run)
    if options["page"]:
        from bncheck.report.conventions_page import write

        write(options["page"], results, options["source"] or "", options["goal"] or "")
    if options["as_csv"]:
        click.echo(report.as_csv(results), nl=False)
    elif options["as_json"]:
        from bncheck.commands.streams import sayable_json

        click.echo(sayable_json((run / "run.json").read_text(encoding="utf-8")))
    elif not options["quiet"]:
        out = console()
        out.print(report.table(results, out.width, options["verbose"]))
        for sentence in report.disagreements(results):
            out.print(f"≠ {sentence}", style="red", markup=False)
        for sentence in report.kept(results):
            out.print(sentence, style="dim", markup=False)
        out.print("documented in", style="bold")
        for line in report.links(results):
            out.print(f"  {line}", style="dim", markup=False, soft_wrap=True)
        for target in results.targets:
            if target.status != "ok":
                out.print(
                    f"{target.name} is unavailable: {clean(target.reason)}\n  → {clean(target.remedy)}", markup=False
                )
        if options["source"]:
            for line in porting(results, options["source"], options["goal"]):
                out.print(line, markup=False)
        out.print(f"\n report   {run / 'index.html'}\n table    {run / 'conventions.csv'}", markup=False)
        if options["page"]:
            out.print(f" page     {options['page']}", markup=False)


def porting(results: Any, source: str, goal: str) -> list[str]:
    """Advice from two measured targets, over the layer paths that both have."""
    from bncheck.diagnosis.porting import advise_paths

    found = results.conventions_at
    sides = [found.get(name, {}) for name in (source, goal)]
    lines = advise_paths(*sides)
    if not lines:
        return [f"\nPorting from {source} to {goal}: nothing was measured on both."]
    return [f"\nPorting from {source} to {goal}:", *(f"  {line}" for line in lines)]
