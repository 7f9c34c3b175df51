"""``bncheck init``: configuration, baseline and workflow of a project. Nothing that exists is overwritten."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="init")
def init_command() -> None:
    """Set the project in this folder up: [tool.bncheck] in pyproject.toml, a baseline, a workflow for GitHub.

    What exists stays as it is: pyproject.toml gets a table added if it has none. The baseline accepts what the newest
    run below reports/ found; without a run there is none.
    """
    from bncheck.gate.baseline import dump, record
    from bncheck.gate.charge import charges
    from bncheck.gate.setup import BASELINE, WORKFLOW
    from bncheck.run_folder.folder import find_run, known_runs
    from bncheck.run_folder.results import read_results

    runs, baseline = known_runs(), Path(BASELINE)
    if runs and not baseline.exists():
        folder = find_run(runs[0])
        add(baseline, dump(record(charges(read_results(folder)))), f", with what {folder.name} found")
    elif baseline.exists():
        kept(baseline)
    else:
        click.echo(f" no run   {BASELINE} is written by: bncheck run, then bncheck baseline update {BASELINE}")
    configure(Path("pyproject.toml"), baseline.exists())
    add(Path(".github/workflows/bncheck.yml"), WORKFLOW)
    click.echo(" next     bncheck run")


def configure(path: Path, baseline: bool) -> None:
    from bncheck.errors import ConfigurationError
    from bncheck.gate.config import TABLE, parse, read_text
    from bncheck.gate.setup import table
    from bncheck.run_folder.whole import write_whole

    if not path.exists():
        add(path, table(baseline))
        return
    text = read_text(path)
    tools = parse(path, text, TABLE).get("tool", {})
    if not isinstance(tools, dict) or "bncheck" in tools:
        kept(path)
        return
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    whole = f"{text}{gap}{table(baseline)}"
    try:
        parse(path, whole)
    except ConfigurationError:
        raise ConfigurationError(
            f"Nothing was added to {path}: its table `tool` is written in a way that no table can be added to.",
            "Write it as [tool.…] tables, then: bncheck init",
        ) from None
    write_whole(path, whole)
    click.echo(f" added    [tool.bncheck] to {path}")


def add(path: Path, text: str, told: str = "") -> None:
    from bncheck.run_folder.whole import write_whole

    if path.exists():
        kept(path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
    click.echo(f" wrote    {path}{told}")


def kept(path: Path) -> None:
    click.echo(f" kept     {path}, which is there already")
