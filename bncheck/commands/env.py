"""bncheck env: the environments that targets run in."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import click

from bncheck.commands import completion

SECONDS_PER_DAY = 86400
DAMAGED, LEFT, BEING_MADE = "damaged: made anew when next needed", "left by a bncheck that ended", "being made"


@click.group("env", short_help="List, create and remove the environments that targets run in.")
def env_command() -> None:
    """List, create and remove the environments that targets run in.

    An environment is made when a run first needs it and kept in the cache folder ($BNCHECK_CACHE, else the
    user's cache folder). Nothing is lost by removing one: the next run makes it again.
    """


@env_command.command("list", short_help="What is there, how big, and when it was last used.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(as_json: bool) -> None:
    """List the environments, with their size and the days since they were last used."""
    from bncheck.environments.folder import environments_folder

    folders = _folders()
    if as_json:
        rows = [_describe(folder) for folder in folders]
        click.echo(json.dumps({"folder": str(environments_folder()), "environments": rows}, indent=1))
        return
    if not folders:
        click.echo(f"no environments in {environments_folder()}")
        return
    width = max(len(folder.name) for folder in folders)
    for row in map(_describe, folders):  # a line as soon as its files are counted: 26 environments have 260,000
        state = "" if row["usable"] else f"  {row['state']}"
        size, days = f"{row['megabytes']} MB", f"used {row['days_unused']} d ago"
        click.echo(f"{row['name']:{width}}  Python {row['python']:8} {size:>9}  {days}{state}")
    click.echo(f"in {environments_folder()}")


@env_command.command("create", short_help="Make the environments of targets now.")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET…", shell_complete=completion.targets)
@click.option(
    "--backend-file",
    "backend_files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A backend file of your own.",
)
def create_command(targets: Sequence[str], backend_files: Sequence[Path]) -> None:
    """Make the environments of targets, for example: bncheck env create torch==2.13.0 mxnet"""
    from bncheck.environments.backend_file import find_backends
    from bncheck.environments.pythons import Unavailable, prepare
    from bncheck.environments.targets import parse_targets
    from bncheck.errors import TargetsUnavailable
    from bncheck.report.plain_text import clean

    backends = find_backends(backend_files)
    prepared = prepare(
        parse_targets(targets, backends),
        backends,
        report=lambda text: click.echo(text, err=True),
        devices=False,
        thorough=True,
    )
    failed = []
    for target, outcome in prepared.items():
        if isinstance(outcome, Unavailable):
            failed.append(target.name)
            click.echo(f"{target}: unavailable: {clean(outcome.reason)}\n  → {clean(outcome.remedy)}")
        else:
            version = f" {outcome.version}" if outcome.version else ""
            click.echo(f"{target}: ready,{version} in {outcome.origin} {outcome.python}")
    if failed:
        raise TargetsUnavailable(f"not available: {', '.join(failed)}", "the lines above say what fixes each")


@env_command.command("remove", short_help="Remove environments by name, the unused ones, or all.")
@click.argument("names", nargs=-1, metavar="NAME…")
@click.option("--all", "everything", is_flag=True, help="Remove every environment.")
@click.option("--unused", is_flag=True, help="Remove the damaged and those not used for 30 days.")
def remove_command(names: Sequence[str], everything: bool, unused: bool) -> None:
    """Remove environments by the names that `bncheck env list` prints."""
    from bncheck.environments.folder import UNUSED_DAYS, remove
    from bncheck.environments.targets import did_you_mean
    from bncheck.errors import UsageError, nearest
    from bncheck.playing.kept import forget

    if sum((bool(names), everything, unused)) != 1:
        raise UsageError("say which: NAME…, --all or --unused", "bncheck env list shows the names")
    # Names are looked up in the listing, never joined to a path: ../.. is just an unknown name.
    known = {folder.name: folder for folder in _folders()}
    for name in names:
        if name not in known:
            guess = did_you_mean(nearest(name, known))
            raise UsageError(f"there is no environment {name!r}{guess}", "bncheck env list shows the names")
    chosen = list(dict.fromkeys(names)) if names else list(known)
    if unused:
        described = {name: _describe(known[name]) for name in chosen}
        chosen = [
            name
            for name, row in described.items()
            if row["state"] in (DAMAGED, LEFT) or (row["usable"] and float(str(row["days_unused"])) >= UNUSED_DAYS)
        ]
    for name in chosen:
        remove(known[name])
        forget(name)
        click.echo(f"removed {name}")
    if not chosen:
        click.echo("nothing to remove")


def _folders() -> list[Path]:
    from bncheck.environments.folder import environments_folder

    folder = environments_folder()
    return (
        sorted(path for path in folder.glob("*") if path.is_dir() and not path.is_symlink()) if folder.is_dir() else []
    )


def _describe(folder: Path) -> dict[str, object]:
    from bncheck.environments.folder import MAKING, is_being_made, is_usable, last_used, read_marker

    marker = read_marker(folder) or {}
    usable = is_usable(folder)
    state = "" if usable else BEING_MADE if is_being_made(folder) else LEFT if MAKING in folder.name else DAMAGED
    days = int((time.time() - last_used(folder)) / SECONDS_PER_DAY) if marker else 0
    return {
        "name": folder.name,
        "python": marker.get("python", "?"),
        "installed": marker.get("installed", ""),
        "packages": marker.get("packages", []),
        "megabytes": round(_size(folder) / 1e6),
        "days_unused": days,
        "usable": usable,
        "state": state,
    }


def _size(folder: str | Path) -> int:
    """Bytes of its files; what vanishes meanwhile, or cannot be read, counts as nothing."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                inner = entry.is_dir(follow_symlinks=False)
                total += _size(entry.path) if inner else entry.stat(follow_symlinks=False).st_size
    except OSError:
        return total
    return total
