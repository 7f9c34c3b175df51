"""The command line: a lazy group. Nothing heavy is imported until the command that needs it runs.

Only this module and ``bncheck/commands`` print or exit. Short helps are stored here so that ``--help`` imports
no command: it takes about 40 ms instead of 500.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

import click

from bncheck import __version__
from bncheck.commands.signals import USUAL, is_untouched
from bncheck.commands.streams import help_width, leave_what_is_gone, prepare
from bncheck.errors import BncheckError, Interrupted, Stopped, nearest

ENDING = (*USUAL, signal.SIGALRM)
AGAIN_SECONDS = 0.01
# Objects between two looks for garbage. What is imported is none: with Python's 700, looking for some there took 20 ms.
SELDOM = 50_000
# Command → (what it does, in the order a newcomer meets them). It lives in bncheck/commands/<name>.py.
COMMANDS = {
    "run": "Run scenarios on targets, compare them, name the causes, write a report.",
    "check": "Check one thing of yours: a layer, a model, a checkpoint, an ONNX file.",
    "watch": "Run your training command and say what each BatchNorm layer lived through.",
    "diff": "Compare two things of yours: checkpoints, a model and its export, two files.",
    "conventions": "Measure each target's BatchNorm rules, side by side.",
    "compare": "Join runs of other machines, devices, versions or shards into one comparison.",
    "baseline": "Accept what a run found: later runs fail only for what is new or worse.",
    "report": "Render a run again, in any format; needs no framework.",
    "repro": "Write the bug-report kit of a finding: text, picture, a script per framework.",
    "plot": "Draw the picture of one finding or case.",
    "explain": "Explain a rule: what it means, how it is told apart, what to do.",
    "list": "List scenarios and targets.",
    "show": "Show one scenario: what it does, why it exists, its cases.",
    "new": "Begin a scenario of your own from a shipped one.",
    "schema": "Print the JSON Schema of scenario files, for editors.",
    "init": "Set a project up: configuration, baseline, a workflow for GitHub.",
    "env": "List, create or remove the environments of targets.",
    "doctor": "Say what is here, what is missing, and what fixes it.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"bncheck.commands.{cmd_name}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            near = nearest(args[0], COMMANDS)
            hint = f" Did you mean {near!r}?" if near else ""
            raise click.UsageError(f"There is no command {args[0]!r}.{hint} There are: {', '.join(COMMANDS)}.", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(__version__, prog_name="bncheck")
def cli() -> None:
    """Find out what your BatchNorm layers did, and why they behave differently elsewhere.

    \b
    bncheck watch -- python train.py    which layers stand still or turn NaN, and why
    bncheck check checkpoint.pt         is it right? (or layer.py:Name, model.onnx, …)
    bncheck diff model.pt ema.pt        which layer differs, in what, and why
    bncheck run all-ones -t torch       where does it part from the reference?

    \b
    bncheck explain update-phase says what a cause means and what to do.
    Defaults stand in [tool.bncheck] of pyproject.toml. NO_COLOR=1 leaves colour out.
    Completion for bash (zsh, fish likewise): eval "$(_BNCHECK_COMPLETE=bash_source bncheck)"
    """


def main(arguments: Sequence[str] | None = None) -> Any:
    """Entry point: errors of ours are sentences on stderr with their exit code, never a traceback."""
    gc.set_threshold(SELDOM)
    prepare()
    with ended_by_signals():
        try:
            answer(arguments)
        except KeyboardInterrupt as again:  # a second one, while the first was told
            sys.exit(128 + int(getattr(again, "number", signal.SIGINT)))


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end what runs as Ctrl-C does, once: a run then still writes what it knows. One that is ignored
    (``nohup``) stays so.

    None of them does so in the middle of an import: the exception would leave Python's import lock taken, and the next
    import, in whatever thread, would wait for it for ever. It comes again a moment later."""
    waiting = [signal.SIGINT]

    def hear(number: int, frame: FrameType | None) -> None:
        number = waiting[0] if number == signal.SIGALRM else number
        if imports(frame):
            waiting[0] = signal.Signals(number)
            signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
            return
        if number != signal.SIGINT:
            for each in before:
                signal.signal(each, signal.SIG_IGN if each not in (signal.SIGINT, signal.SIGALRM) else hear)
        leave_what_is_gone()
        raise Stopped(number)

    is_main = current_thread() is main_thread()
    before = {each: signal.getsignal(each) for each in ENDING if is_main and is_untouched(each)}
    for each in before:
        signal.signal(each, hear)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def imports(frame: FrameType | None) -> bool:
    """Whether Python is importing something in this frame or in one that called it."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def answer(arguments: Sequence[str] | None) -> None:
    try:
        code = cli.main(args=arguments, prog_name="bncheck", standalone_mode=False, terminal_width=help_width())
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort as abort:  # click's word for Ctrl-C
        sys.exit(tell_interrupt(abort.__cause__ or abort.__context__))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BncheckError as error:
        click.echo(f"bncheck: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt as interrupt:
        sys.exit(tell_interrupt(interrupt))
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # The reader of our output went away (``| head``): nothing is left to say, and nobody to say it to.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        where = f" {error.filename}" if error.filename else ""
        click.echo(f"bncheck: the system refused{where}: {error.strerror or error}", err=True)
        click.echo("  → look at its permissions and at the space on its disk, or name another place", err=True)
        sys.exit(3)


def tell_interrupt(interrupt: BaseException | None) -> int:
    """A run that was interrupted says where it lies and how it goes on; the exit code is 128 and the signal."""
    where = f": {interrupt}" if isinstance(interrupt, Interrupted) else ""
    click.echo(f"bncheck: interrupted{where}", err=True)
    return 128 + int(getattr(interrupt, "number", signal.SIGINT))


if __name__ == "__main__":
    main()
