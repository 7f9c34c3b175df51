"""Options that every command that plays cells has, and the request they make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bncheck.session import Request


class Amount(click.ParamType):  # type: ignore[type-arg]  # generic in its newest version
    """A number above 0, and below what any machine has of it: nan and inf would switch a limit off unseen."""

    name = "number"

    def __init__(self, most: float, what: str) -> None:
        self.most, self.what = most, what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            found = float(value)
        except (ValueError, OverflowError):
            found = 0.0
        if not 0 < found <= self.most:
            self.fail(f"{str(value)[:40]!r} is not a number of {self.what} above 0, up to {self.most:,.0f}", param, ctx)
        return found


SECONDS, GIGABYTES = Amount(10**7, "seconds"), Amount(10**6, "gigabytes")
PLAYING = [
    click.option(
        "-t",
        "--target",
        "targets",
        multiple=True,
        help="backend[variant]==version@device; several times; each must run. Default: reference, torch, mxnet, which "
        "may be missing.",
    ),
    click.option(
        "--optional", multiple=True, metavar="TARGET", help="Also run this target, if it can; missing is no error."
    ),
    click.option("--out", type=click.Path(path_type=Path), help="Run folder to make; default: reports/<UTC time>-<id>"),
    click.option("--python", "pythons", multiple=True, metavar="TARGET=PATH", help="Use this interpreter as it is."),
    click.option(
        "--backend-file",
        "backend_files",
        multiple=True,
        type=click.Path(path_type=Path),
        help="A backend that is not in the package.",
    ),
    click.option(
        "--require",
        multiple=True,
        metavar="TARGET",
        help="Fail with 3 if this target cannot run (targets named with -t are required anyway).",
    ),
    click.option("--timeout", type=SECONDS, default=120.0, show_default=True, help="Seconds a cell may take."),
    click.option(
        "--memory",
        type=GIGABYTES,
        metavar="GB",
        help="Address space of a CPU worker. Default: the machine's.",
    ),
    click.option(
        "--isolate",
        type=click.Choice(["target", "cell"]),
        default="target",
        show_default=True,
        help="One process per target, or per cell.",
    ),
    click.option("--fresh", is_flag=True, help="Measure conventions again, also those kept of an earlier run."),
    click.option("-v", "--verbose", is_flag=True, help="Print the workers' commands and every cell."),
    click.option("--jobs", type=click.IntRange(min=1), help="Worker processes at once. Default: the cores."),
]


def playing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(PLAYING):
        command = option(command)
    return command


def request_of(options: dict[str, Any], **more: Any) -> Request:
    """The request that the options make; ``more`` are the fields only one command has."""
    from bncheck.environments.devices import cores, physical_memory
    from bncheck.playing.jobs import Options
    from bncheck.playing.workers import Limits
    from bncheck.session import Request

    memory = physical_memory() if options["memory"] is None else int(options["memory"] * 2**30)
    limits = Limits(cell_seconds=options["timeout"], memory=memory)
    return Request(
        targets=options["targets"],
        out=options["out"],
        pythons=options["pythons"],
        backend_files=options["backend_files"],
        options=Options(options["jobs"] or cores(), limits, options["isolate"] == "cell"),
        require=options["require"],
        fresh=options["fresh"],
        optional=options["optional"],
        **more,
    )
