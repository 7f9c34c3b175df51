"""``bncheck baseline``: accept what a run found, so that later runs fail only for what is new or worse."""

from __future__ import annotations

from pathlib import Path

import click

from bncheck.commands.completion import runs
from bncheck.commands.options import run_and


@click.group(name="baseline")
def baseline_command() -> None:
    """Accept what a run found: write it to a file, or show that file.

    \b
    bncheck baseline update bncheck-baseline.json
    bncheck run --baseline bncheck-baseline.json
    """


@baseline_command.command("update")
@click.argument("words", nargs=-1, required=True, metavar="[RUN] FILE", shell_complete=runs)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def update(words: tuple[str, ...], quiet: bool) -> None:
    """Write everything that RUN (default: the newest) found to FILE; with --baseline FILE, only what is new or worse
    fails.

    What a waiver covers is left out: it has its own reason and its own end.
    """
    from bncheck.errors import UsageError
    from bncheck.gate.bar import read_verdict
    from bncheck.gate.baseline import dump, read_if_there, record
    from bncheck.run_folder.folder import find_run
    from bncheck.run_folder.results import read_results
    from bncheck.run_folder.whole import write_whole

    run, name = run_and(words, "FILE")
    folder, file = find_run(run), Path(name)
    if file.is_dir():
        raise UsageError(f"{file} is a folder.", "Name the file to write, for example bncheck-baseline.json")
    verdict = read_verdict(folder, read_results(folder))
    entries = record(item.charge for item in verdict.judged if item.standing != "waived")
    before = read_if_there(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, dump(entries))
    if not quiet:
        came = len({entry.key for entry in entries} - {entry.key for entry in before})
        went = len({entry.key for entry in before} - {entry.key for entry in entries})
        click.echo(f"{file}: {len(entries)} known ({came} new, {went} gone)")


@baseline_command.command("show")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def show(file: Path) -> None:
    """Print what FILE says is known, a line each."""
    from bncheck.gate.baseline import read_baseline, shown
    from bncheck.report.plain_text import clean, kinded

    for entry in read_baseline(file):
        sides = " and ".join(", ".join(side) for side in entry.sides)
        what = ".".join(filter(None, (entry.layer, entry.quantity)))
        size = "" if entry.size is None else f" off by {shown(entry.size)}"
        share = "" if entry.explained is None else f", {100 * entry.explained:.1f} % explained"
        place = f"{entry.scenario} · {entry.case}" if entry.case else entry.scenario
        drift = f": {what}{size}{share}" if what else ""
        click.echo(clean(f"{place}: {entry.cause}{kinded(entry)} between {sides}{drift}").replace("\n", " "))
