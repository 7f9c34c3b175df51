"""``bncheck diff A B``: two things of the user's: do they hold and compute the same, and why not?"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import click

from bncheck.commands.gating import gating_options
from bncheck.commands.options import DATA, OUT, PYTHON, TIMEOUT, VERBOSE, WEIGHTS, telling_options

CI_FORMATS = ("csv", "junit", "summary")


@click.command(name="diff")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
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
        b=parse_side(options["b"]),
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
