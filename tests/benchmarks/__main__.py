"""Benchmarks: what bncheck costs beside what nobody can do without, as a Markdown table. Nothing is asserted.

    python tests/benchmarks                 all but "targets"; some minutes, once the environments are there
    python tests/benchmarks help cells      only these
    python tests/benchmarks targets         twenty targets: minutes of their own

Ratios are medians of paired runs (BNCHECK_PAIRS, 5 by itself). Where the machine is busy the wall ratio says little,
and the CPU ratio (user + system, of all processes) is the one to read.
"""

from __future__ import annotations

import compileall
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import answers
import cells
import whole
from spent import ROOT, Row, described

BENCHMARKS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "help": answers.measure_help,
    "one": answers.measure_one,
    "default": answers.measure_default,
    "fresh": answers.measure_fresh,
    "check": answers.measure_check,
    "onnx": answers.measure_onnx,
    "cells": cells.measure_cells,
    "judge": cells.measure_judge,
    "memory": cells.measure_memory,
    "depth": whole.measure_depth,
    "targets": whole.measure_targets,
}
APART = ("targets",)


def line(row: Row) -> str:
    ratios = ("" if each is None else f"{each:.2f}" for each in (row.wall, row.cpu))
    return f"| {' | '.join((row.what, row.floor, row.goal, *ratios, row.said))} |"


def main(names: list[str]) -> None:
    # As pip does when it installs: a source tree without bytecode imports twice as slowly.
    compileall.compile_dir(ROOT / "bncheck", quiet=2)
    print(f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, {described()}\n")
    print("| what | against | goal | wall ratio | CPU ratio | |\n| --- | --- | --- | --- | --- | --- |", flush=True)
    for name in names or [each for each in BENCHMARKS if each not in APART]:
        with tempfile.TemporaryDirectory() as temporary:
            os.environ["BNCHECK_CONVENTIONS"] = f"{temporary}/conventions"
            for row in BENCHMARKS[name](Path(temporary)):
                print(line(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
