"""bncheck list: the scenarios and the targets that there are."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command("list", short_help="List scenarios and targets.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(as_json: bool) -> None:
    """List the shipped scenarios, and the backends that targets are made of.

    A target is a backend, with a variant, version and device where you want one: torch, torch==1.13.1,
    torch@cuda, reference[mxnet].
    """
    scenarios, backends = _scenarios(), _backends()
    if as_json:
        click.echo(json.dumps({"scenarios": scenarios, "backends": backends}, indent=1, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title="Scenarios (bncheck show NAME tells more)", title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    for heading in ("name", "cases", "", "title"):
        table.add_column(heading, justify="right" if heading == "cases" else "left")
    for row in scenarios:
        use = "probe" if row["probe"] else "default" if row["default"] else ""
        table.add_row(row["name"], str(row["cases"]), use, _plain(row["title"]))
    found = Table(title="Targets", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("backend", "variants", "devices", "title"):
        found.add_column(heading)
    for row in backends:
        variants = ", ".join(f"[{name}]" for name in row["variants"] if name)
        found.add_row(row["name"], _plain(variants), ", ".join(row["devices"]), _plain(row["title"]))
    console = Console(highlight=False)
    console.print(table)
    console.print()
    console.print(found)


def _plain(text: str) -> Any:
    """Text that is not read as rich's markup: a variant's brackets are brackets."""
    from rich.text import Text

    return Text(text)


def _scenarios() -> list[dict[str, Any]]:
    from bncheck.scenario_files.files import load_scenario
    from bncheck.scenario_files.shipped import find_scenarios

    found = [load_scenario(path) for path in find_scenarios()]
    return [
        {
            "name": one.name,
            "title": one.title,
            "cases": len(one.cases),
            "default": one.default,
            "probe": one.probe,
            "tags": list(one.tags),
            "path": one.path,
        }
        for one in found
    ]


def _backends() -> list[dict[str, Any]]:
    from bncheck.environments.backend_file import find_backends

    return [
        {
            "name": one.name,
            "title": one.title,
            "variants": dict(one.variants),
            "devices": list(one.devices),
            "default_version": one.default_version,
        }
        for one in find_backends().values()
    ]
