"""``bncheck report``: render a run again, anywhere; no framework is needed."""

from __future__ import annotations

from pathlib import Path

import click

from bncheck.commands import completion


@click.command(name="report")
@click.argument("run", default="latest", required=False, shell_complete=completion.runs)
@click.option(
    "--format",
    "wanted",
    multiple=True,
    default=("csv", "html", "plots"),
    metavar="FORMAT",
    shell_complete=completion.formats,
    help="html, csv, plots, png, … or all; several times. `plots` or `png` alone draws every case. "
    "Default: csv, plots, html.",
)
@click.option("-v", "--verbose", is_flag=True, help="Every layer or case, and the figures.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def report_command(run: str, wanted: tuple[str, ...], verbose: bool, quiet: bool) -> None:
    """Render RUN (a run folder or its run.json; default: the newest below reports/).

    \b
    bncheck report
    bncheck report reports/latest --format plots
    bncheck report downloaded-artifact/ --format all
    """
    from bncheck.commands.progress import console
    from bncheck.report import formats, render
    from bncheck.report.gallery import SHOWN
    from bncheck.report.terminal import render_terminal
    from bncheck.run_folder.folder import find_run
    from bncheck.run_folder.results import read_results

    # A path that a shell completed to reports/latest means the same as the word.
    folder = find_run("latest" if Path(run) == Path("reports/latest") else run)
    results = read_results(folder)
    names = tuple(formats()) if "all" in wanted else wanted
    every_case = set(wanted) <= {"plots", "png"}
    try:
        written = render(folder, names, pictures=None if every_case else SHOWN, results=results)
    except OSError:  # a full disk, or one that nobody may write to: what was found can be read all the same
        if not quiet:
            console().print(render_terminal(results, folder, verbose=verbose))
        raise
    if quiet:
        return
    console().print(render_terminal(results, folder, verbose=verbose))
    others = [path for path in written if path.parent == folder and path.name != "index.html"]
    drawn = [path for path in written if path.parent != folder]
    for path in others:
        click.echo(f" wrote    {path}")
    if drawn:
        click.echo(f" wrote    {len(drawn)} pictures in {drawn[0].parent}")
