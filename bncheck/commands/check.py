"""``bncheck check THING``: one layer, model, checkpoint or ONNX file of the user's: is it right, will it bite?"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bncheck.commands.gating import gating_options
from bncheck.commands.options import DATA, OUT, PYTHON, TIMEOUT, VERBOSE, WEIGHTS, telling_options

if TYPE_CHECKING:
    from bncheck.playing.begun import Begun
    from bncheck.run_folder.results import Results
    from bncheck.subjects.thing import Thing

CI_FORMATS = ("csv", "junit", "summary")
PAGE = ("plots", "html")


@click.command(name="check")
@click.argument("thing", metavar="THING")
@click.option("--with", "given", multiple=True, metavar="KEY=VALUE", help="An argument of the class or function.")
@click.option("--input", "inputs", multiple=True, metavar="SHAPE", help="e.g. 8,3,32,32 or int64:8,10; one per input.")
@WEIGHTS
@DATA
@click.option("--steps", type=click.IntRange(0, 1000), default=3, show_default=True, help="Training steps of a model.")
@click.option("--as", "kind", type=click.Choice(["layer", "model"]), help="What it is to be taken for.")
@PYTHON
@click.option("--save-scenario", type=click.Path(path_type=Path), metavar="FILE", help="Write what was played as TOML.")
@OUT
@TIMEOUT
@partial(gating_options, default="Default: hazard; for a layer, or with a baseline: convention.")
@telling_options
@VERBOSE
def check_command(**options: Any) -> int:
    """Check one thing of yours: a layer, a model, a checkpoint, an ONNX file.

    \b
    bncheck check my_bn.py:MyBatchNorm2d         is it equivalent to torch.nn.BatchNorm2d?
    bncheck check timm.layers:BatchNormAct2d
    bncheck check model.py:build --weights model.pt --data batch.npz
    bncheck check torchvision.models:resnet18 --input 8,3,64,64
    bncheck check model.onnx
    bncheck check checkpoint.pt

    Exit code 0: nothing wrong; 1: something is, or will bite (--fail-on); 2: it cannot be read, made or played;
    3: there was nothing to judge.
    """
    from bncheck.subjects.begun import begun
    from bncheck.subjects.thing import parse_thing

    began = time.perf_counter()
    thing = parse_thing(options["thing"])
    with begun(thing, options["python"]) as early:
        return answer(thing, early, options, began)


def answer(thing: Thing, early: Begun, options: dict[str, Any], began: float) -> int:
    """What it is, and the exit code. Imports of bncheck's own stand here: the framework's has begun."""
    from bncheck.commands.gating import bar_of, tell_verdict, with_configuration
    from bncheck.commands.progress import open_progress
    from bncheck.gate.bar import read_verdict
    from bncheck.subjects.asked import Asked, parse_with
    from bncheck.subjects.check import check

    options, configuration = with_configuration(options)
    strict = options["fail_on"] is None and options["baseline"] is None
    # A thing of the user's that will bite is not right, though no framework is at fault.
    options["fail_on"] = "hazard" if strict else options["fail_on"]
    asked = Asked(
        thing=thing,
        given=parse_with(options["given"]),
        inputs=options["inputs"],
        weights=options["weights"],
        data=options["data"],
        steps=options["steps"],
        kind=options["kind"] or "",
        python=options["python"],
        save_scenario=options["save_scenario"],
        out=options["out"],
        seconds=options["timeout"],
        bar=bar_of(options, configuration),
        strict=strict,
        verbose=options["verbose"],
        formats=CI_FORMATS,
    )
    with open_progress(options["quiet"] or options["as_json"], options["verbose"]) as progress:
        run, results = check(asked, progress, early.nursery, early.ready)
    show(run, results, options, time.perf_counter() - began)
    if not options["no_report"]:
        draw(run, results, options)
    verdict = read_verdict(run, results)
    tell_verdict(run, verdict, options)
    return verdict.exit_code


def show(run: Path, results: Results, options: dict[str, Any], seconds: float) -> None:
    if options["as_json"]:
        from bncheck.commands.streams import sayable_json

        click.echo(sayable_json((run / "run.json").read_text(encoding="utf-8")))
    elif not options["quiet"]:
        from bncheck.commands.progress import console
        from bncheck.report.terminal import render_terminal

        console().print(render_terminal(results, run, seconds=seconds, verbose=options["verbose"]))


def draw(run: Path, results: Results, options: dict[str, Any]) -> None:
    """The page and its pictures, when the answer is on the screen: drawing takes as long as finding out."""
    from bncheck.report import render

    written = render(run, PAGE, results=results)
    if not (options["as_json"] or options["quiet"]):
        from bncheck.commands.progress import console

        console().print(f" report   {written[-1]}", no_wrap=True, overflow="fold", markup=False, highlight=False)
