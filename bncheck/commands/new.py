"""``bncheck new``: a new scenario, begun from a shipped one."""

from __future__ import annotations

from pathlib import Path

import click

from bncheck.commands.completion import scenarios


@click.command(name="new")
@click.argument("name")
@click.option(
    "--from",
    "source",
    default="all-ones",
    show_default=True,
    metavar="SCENARIO",
    help="The scenario to begin from: a name (bncheck list) or a file.",
    shell_complete=scenarios,
)
def new_command(name: str, source: str) -> None:
    """Write NAME.toml here, a scenario to edit. What exists is not overwritten.

    \b
    bncheck new my-check
    bncheck new my-check --from custom-layer
    bncheck run my-check.toml
    """
    from bncheck.run_folder.whole import write_whole
    from bncheck.scenario_files.shipped import resolve_scenario
    from bncheck.scenario_files.start import begun_from

    for path, content in begun_from(resolve_scenario(source), name, Path()).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
        click.echo(f" wrote    {path}")
    click.echo(f" run it   bncheck run {name}.toml")
    click.echo(" keys     bncheck schema > bncheck.schema.json lets an editor complete them")
