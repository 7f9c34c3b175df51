"""Options that every command that plays cells has, and the request they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bncheck.commands import completion

if TYPE_CHECKING:
    from bncheck.playing.begun import Begun
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


OUT = click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder to make; default: reports/<UTC time>-<id>"
)
# Of commands that take things of the user's.
WEIGHTS = click.option(
    "--weights", type=click.Path(path_type=Path), metavar="FILE", help="A checkpoint to load into the model."
)
DATA = click.option(
    "--data", type=click.Path(path_type=Path), metavar="FILE", help="A batch of yours: .npz, .npy or .pt."
)
PYTHON = click.option("--python", metavar="PATH", help="Your project's Python. Default: the active environment's.")
TIMEOUT = click.option("--timeout", type=float, default=120.0, show_default=True, help="Seconds that playing may take.")
VERBOSE = click.option("-v", "--verbose", is_flag=True, help="Say which Python is used, and show every step.")
# Of commands that end with a table and a report.
TELLING = [
    click.option("--no-report", is_flag=True, help="Tables only; render the rest later with: bncheck report."),
    click.option("--json", "as_json", is_flag=True, help="Print run.json instead of the table."),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
]
SECONDS, GIGABYTES = Amount(10**7, "seconds"), Amount(10**6, "gigabytes")
PLAYING = [
    click.option(
        "-t",
        "--target",
        "targets",
        multiple=True,
        metavar="TARGET",
        help="backend[variant]==version@device; several times; each must run. Default: reference, torch, mxnet, which "
        "may be missing.",
        shell_complete=completion.targets,
    ),
    click.option(
        "--optional",
        multiple=True,
        metavar="TARGET",
        help="Also run this target, if it can; missing is no error.",
        shell_complete=completion.targets,
    ),
    OUT,
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
    click.option(
        "--timeout", type=SECONDS, default=120.0, show_default=True, help="Seconds that a case may take on a target."
    ),
    click.option(
        "--memory",
        type=GIGABYTES,
        metavar="GB",
        help="Memory (address space) of a process on the CPU. Default: the machine's.",
    ),
    click.option(
        "--isolate",
        type=click.Choice(["target", "cell"]),
        default="target",
        show_default=True,
        help="One process for each target, or (cell) for each case on it.",
    ),
    click.option("--fresh", is_flag=True, help="Measure conventions again, also those kept of an earlier run."),
    click.option(
        "-v", "--verbose", is_flag=True, help="Print how each target is started, every case, and the figures."
    ),
    click.option("--jobs", type=click.IntRange(min=1), help="Targets that play at once. Default: the cores."),
]


def run_and(words: Sequence[str], what: str) -> tuple[str, str]:
    """(run, what comes behind it); the run is the newest where only one word is given. A shell completes latest to
    reports/latest, which means the same."""
    if len(words) > 2:
        raise click.UsageError(f"At most two words can stand here: [RUN] {what}; got {len(words)}.")
    run, last = ("latest", words[0]) if len(words) == 1 else (words[0], words[1])
    return "latest" if Path(run) == Path("reports/latest") else run, last


def playing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(PLAYING):
        command = option(command)
    return command


def telling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(TELLING):
        command = option(command)
    return command


def request_of(options: dict[str, Any], early: Begun | None = None, **more: Any) -> Request:
    """The request that the options make; ``more`` are the fields only one command has."""
    from bncheck.environments.devices import cores, physical_memory
    from bncheck.playing.job import Limits
    from bncheck.playing.jobs import Options
    from bncheck.session import Request

    memory = physical_memory() if options["memory"] is None else int(options["memory"] * 2**30)
    begun = () if early is None else (early.nursery, early.ready)
    limits = Limits(cell_seconds=options["timeout"], memory=memory)
    return Request(
        targets=options["targets"],
        out=options["out"],
        pythons=options["pythons"],
        backend_files=options["backend_files"],
        options=Options(options["jobs"] or cores(), limits, options["isolate"] == "cell", *begun),
        require=options["require"],
        fresh=options["fresh"],
        optional=options["optional"],
        **more,
    )
