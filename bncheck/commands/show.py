"""bncheck show: one scenario in full."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence

import click

from bncheck.commands.completion import scenarios


@click.command("show", short_help="Show one scenario: what it does, why it exists, its cases.")
@click.argument("scenario", shell_complete=scenarios)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key of the file first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, all cases in full.")
@click.option("--toml", "as_toml", is_flag=True, help="Print the file as it is written.")
def show_command(scenario: str, overrides: Sequence[str], *, as_json: bool, as_toml: bool) -> None:
    """Show a scenario, by its name or the path of its file.

    \b
    bncheck show all-ones
    bncheck show all-ones --set program.repeat=3
    bncheck show all-ones --toml                  bncheck new begins a file of yours with it
    """
    from bncheck.errors import UsageError
    from bncheck.report.scenario_text import describe
    from bncheck.scenario_files.files import load_scenario
    from bncheck.scenario_files.overrides import parse_override
    from bncheck.scenario_files.shipped import resolve_scenario

    path, given = resolve_scenario(scenario), dict(parse_override(text) for text in overrides)
    if "network.file" in given:
        from bncheck.scenario_files.model_file import with_input_of_file

        given = with_input_of_file(given, path)
    found = load_scenario(path, given)
    if as_toml:
        if overrides:
            raise UsageError("--toml prints the file as it is written, without --set.", "Leave one of them out.")
        click.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=1, ensure_ascii=False, default=str))
        return
    for line in describe(found):
        click.echo(line)
    settings = "".join(f" --set {shlex.quote(text)}" for text in overrides)
    click.echo(f"\nrun it    bncheck run {shlex.quote(scenario)}{settings}")
