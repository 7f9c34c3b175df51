"""``bncheck diff A B``: two things of the user's: do they hold and compute the same, and why not?"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import click

from bncheck.commands.gating import gating_options

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
@click.option("--weights", type=click.Path(path_type=Path), metavar="FILE", help="A checkpoint to load into the model.")
@click.option("--data", type=click.Path(path_type=Path), metavar="FILE", help="A batch of yours: .npz, .npy or .pt.")
@click.option("--python", metavar="PATH", help="Your project's Python. Default: the active environment's.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder to make; default: reports/<UTC time>-<id>")
@click.option("--timeout", type=float, default=120.0, show_default=True, help="Seconds that playing may take.")
@partial(gating_options, default="Default: convention: any difference beyond rounding.")
@click.option("--no-report", is_flag=True, help="Tables only; render the rest later with: bncheck report.")
@click.option("--json", "as_json", is_flag=True, help="Print run.json instead of the table.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Say which Python is used, and show every step.")
def diff_command(**options: Any) -> int:
    """Compare two things of yours: which layer differs, in what, and why.

    \b
    bncheck diff before.pt after.pt              what their BatchNorm layers hold
    bncheck diff run.ckpt:model run.ckpt:ema     two states of one file
    bncheck diff model.pt model.safetensors
    bncheck diff model.py:build model.onnx       the same bytes through both
    bncheck diff model.onnx optimised.onnx
    bncheck diff model.py:build --after tools.py:convert     before and after a function of yours

    Exit code 0: equal up to rounding; 1: they differ; 2: a file cannot be read; 3: there was nothing to compare.
    """
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
        b=parse_side(second(options)),
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
