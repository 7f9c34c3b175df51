"""``bncheck diff A B``: two things of the user's: do they hold and compute the same, and why not?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bncheck.commands.gating import gating_options
from bncheck.commands.options import DATA, OUT, PYTHON, TIMEOUT, VERBOSE, WEIGHTS, telling_options

if TYPE_CHECKING:
    from bncheck.gate.changes import Change

CI_FORMATS = ("csv", "junit", "summary")


def second(options: dict[str, Any]) -> str:
    """The other thing; with --after it is the first one again."""
    from bncheck.errors import UsageError

    a, b, after = options["a"], options["b"], options["after"]
    if after and b not in (None, a):
        raise UsageError(f"--after looks at one model, before and after {after}.", f"bncheck diff {a} --after {after}")
    if not after and b is None:
        raise UsageError(f"diff compares two things, and {a} is one.", f"name the other one: bncheck diff {a} B")
    return str(a if b is None else b)


@click.command(name="diff")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B", required=False)
@click.option("--after", metavar="FILE.py:FUNCTION", help="Call this function with model A: what does it change?")
@click.option("--input", "inputs", multiple=True, metavar="SHAPE", help="e.g. 8,3,32,32: the input that both get.")
@WEIGHTS
@DATA
@PYTHON
@OUT
@TIMEOUT
@partial(gating_options, default="Default: convention: any difference beyond rounding.")
@telling_options
@VERBOSE
def diff_command(**options: Any) -> int:
    """Compare two things of yours: which layer differs, in what, and why.

    \b
    bncheck diff before.pt after.pt              what their BatchNorm layers hold
    bncheck diff run.ckpt:model run.ckpt:ema     two states of one file
    bncheck diff model.pt model.safetensors
    bncheck diff model.py:build model.onnx       the same bytes through both
    bncheck diff model.onnx optimised.onnx
    bncheck diff model.py:build --after tools.py:convert     before and after a function of yours
    bncheck diff reports/before reports/after    two runs: what is new, worse, gone

    Exit code 0: equal up to rounding; 1: they differ; 2: a file cannot be read; 3: there was nothing to compare.
    """
    options["b"] = second(options)
    if is_run(options["a"]) or is_run(options["b"]):
        return tell_changes(options)
    from bncheck.commands.check import show
    from bncheck.commands.gating import bar_of, tell_verdict, with_configuration
    from bncheck.commands.progress import open_progress
    from bncheck.gate.bar import read_verdict
    from bncheck.subjects.diff import diff
    from bncheck.subjects.sides import AskedDiff, parse_side

    began = time.perf_counter()
    options, configuration = with_configuration(options)
    # Two things that are meant to be one differ, whatever kind of difference it is.
    options["fail_on"] = options["fail_on"] or "convention"
    asked = AskedDiff(
        a=parse_side(options["a"]),
        b=parse_side(options["b"]),
        after=parse_side(options["after"]) if options["after"] else None,
        inputs=options["inputs"],
        weights=options["weights"],
        data=options["data"],
        python=options["python"],
        out=options["out"],
        seconds=options["timeout"],
        bar=bar_of(options, configuration),
        formats=CI_FORMATS if options["no_report"] else (*CI_FORMATS, "plots", "html"),
    )
    with open_progress(options["quiet"] or options["as_json"], options["verbose"]) as progress:
        run, results = diff(asked, progress)
    show(run, results, options, time.perf_counter() - began)
    verdict = read_verdict(run, results)
    tell_verdict(run, verdict, options)
    return verdict.exit_code


def is_run(text: str) -> bool:
    """Whether it names a run: its folder or run.json, ``latest``, or its name below reports/."""
    from bncheck.run_folder.folder import known_runs

    path = Path(text)
    named = text == "latest" or text in known_runs()
    return path.name == "run.json" or (path / "run.json").is_file() or (named and not path.exists())


def tell_changes(options: dict[str, Any]) -> int:
    """Two runs: what the second found that the first did not, or that is worse; and what is gone."""
    import json

    from bncheck.errors import UsageError
    from bncheck.gate.changes import changes, held_against
    from bncheck.run_folder.folder import find_run
    from bncheck.run_folder.results import plain, read_results

    for name in ("a", "b"):
        if not is_run(options[name]):
            raise UsageError(
                f"{options[name]} is no run, and what it is compared with is one.",
                "Name two runs, or two things of yours; bncheck compare joins runs.",
            )
    before, after = (read_results(find_run(options[name])) for name in ("a", "b"))
    verdict = held_against(before, after, options["fail_on"] or "convention")
    found = changes(verdict)
    if options["as_json"]:
        said = {"changes": plain(found), "known": len(verdict.of("known")), "exit_code": verdict.exit_code}
        click.echo(json.dumps(said, indent=1, ensure_ascii=False))
    elif not options["quiet"]:
        for line in change_lines(found, len(verdict.of("known"))):
            click.echo(line)
    return verdict.exit_code


def change_lines(found: Sequence[Change], known: int) -> Iterator[str]:
    from bncheck.report.plain_text import clean, kinded, one_line, plural
    from bncheck.report.summary import place

    for change in found:
        head = " ".join(filter(None, (change.code, change.cause))) + kinded(change)
        where = place(*change.cases[0])
        more = f" and {plural(len(change.cases) - 1, 'more case')}" if len(change.cases) > 1 else ""
        sides = " and ".join(", ".join(side) for side in change.sides)
        said = change.note or change.sentence or f"between {sides}"
        yield clean(f" {change.what:5}  {head} in {where}{more}: {one_line(said, 300)}")
    counts = [f"{sum(change.what == what for change in found)} {what}" for what in ("new", "worse", "gone")]
    yield f" {', '.join(counts)}; {plural(known, 'finding')} as before"
