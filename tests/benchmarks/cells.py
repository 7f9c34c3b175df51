"""What a cell costs: played by a worker, diagnosed by the host, kept in the host's memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from spent import THREADS, WORKER, Row, Spent, bncheck, environment, paired, python_of, spend

SCENARIO = """
title = "benchmark"
why = "many small cells"
[network]
layers = [{{ name = "bn", type = "batch_norm", channels = 3 }}]
[input]
shape = [6, 3]
[program]
events = ["train_forward", "eval_forward"]
repeat = {repeat}
[matrix]
"input.seed" = {seeds}
"""
BARE = """
import sys, time, torch
bn = torch.nn.BatchNorm1d(3); x = torch.randn(6, 3)
def scenario():
    bn = torch.nn.BatchNorm1d(3)
    bn.train(); bn(x); bn.eval()
    with torch.no_grad(): bn(x)
for _ in range(200): scenario()
wall, cpu = time.perf_counter(), time.process_time()
for _ in range(2000): scenario()
print((time.perf_counter() - wall) / 2000, (time.process_time() - cpu) / 2000)
"""
# What nobody who records the scenario can leave out: values that are given, another batch for each event, the state
# before and after each, and outputs that last.
RECORDED = BARE.replace(
    """
def scenario():
    bn = torch.nn.BatchNorm1d(3)
    bn.train(); bn(x); bn.eval()
    with torch.no_grad(): bn(x)
""",
    """
import numpy as np
given = {name: np.ones(3, np.float32) for name in ("running_mean", "running_var", "weight", "bias")}
batches = np.random.randn(2, 6, 3).astype(np.float32)
def state(bn):
    return {name: getattr(bn, name).detach().numpy().copy() for name in (*given, "num_batches_tracked")}
def scenario():
    bn = torch.nn.BatchNorm1d(3)
    with torch.no_grad():
        for name, value in given.items(): getattr(bn, name).copy_(torch.from_numpy(value))
    states = [state(bn)]
    outs = [bn.train()(torch.from_numpy(batches[0]).requires_grad_()).detach().numpy().copy()]
    states.append(state(bn))
    bn.eval()
    with torch.no_grad(): outs.append(bn(torch.from_numpy(batches[1])).numpy().copy())
    states.append(state(bn))
""",
)
PEAK = """
import json, resource, sys
from bncheck.cli import cli
cli.main(args=sys.argv[1:], standalone_mode=False)
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
"""
# CPU seconds of this one process: no pool of processes, whose own imports would be counted.
DIAGNOSE = """
import sys, time
from pathlib import Path
from bncheck.diagnosis import analyse
from bncheck.playing.plan_file import read_plan
from bncheck.run_folder.results import read_results
run = Path(sys.argv[1])
plan, targets = read_plan(run), read_results(run).targets
began = time.process_time()
analyse.measure_target(run, plan, targets[1])
one = time.process_time() - began
began = time.process_time()
results = analyse.analyse(run, plan, targets)
print(one, time.process_time() - began, len(results.cells))
"""


def scenario_file(folder: Path, cases: int, repeat: int = 1) -> str:
    path = folder / f"bench-{cases}-{repeat}.toml"
    path.write_text(SCENARIO.format(seeds=list(range(cases)), repeat=repeat))
    return str(path)


def measure_cells(folder: Path) -> Iterator[Row]:
    """The worker on 2,000 cells less the worker on the first 200, so that its import is in neither; each beside a bare
    loop."""
    python, out = python_of("torch"), folder / "cells"
    words = ["-t", "torch", "--no-reference", "--no-probe", "--no-report", "-q"]
    spend(bncheck("run", scenario_file(folder, 2000), *words, "--out", str(out)))
    job = out / "cells" / "torch"
    asked = json.loads((job / "cells.json").read_text())

    def played(count: int) -> Spent:
        (job / "cells.tar").unlink(missing_ok=True)
        (job / "cells.json").write_text(json.dumps({**asked, "cells": asked["cells"][:count]}))
        return spend([python, "-I", str(WORKER), str(job), "--alone"], **THREADS)

    def ours(number: int) -> Spent:
        few, many = played(200), played(2000)
        return Spent((many.wall - few.wall) / 1800, (many.cpu - few.cpu) / 1800)

    def looped(code: str) -> Spent:
        done = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, check=True, env={**environment(), **THREADS}
        )
        return Spent(*map(float, done.stdout.split()))

    for floor, goal, code in (("a bare scenario", "2.5", BARE), ("one that reads and keeps its figures", "", RECORDED)):
        bare = partial(looped, code)
        row = paired("a small cell on torch, over 2,000", floor, goal, ours, bare, 3)
        each, base = ours(0), bare()
        said = f"{1e6 * each.cpu:.0f} µs of CPU against {1e6 * base.cpu:.0f}"
        yield Row(row.what, row.floor, row.goal, row.wall, row.cpu, said)


def measure_judge(folder: Path) -> Iterator[Row]:
    out = folder / "judge"
    words = ["run", scenario_file(folder, 500), "-t", "reference", "-t", "reference[mxnet]", "-q", "--no-report"]
    spend(bncheck(*words, "--out", str(out)))
    done = subprocess.run(
        [sys.executable, "-c", DIAGNOSE, str(out)], capture_output=True, text=True, check=True, env=environment()
    )
    one, total, count = done.stdout.split()
    said = f"{float(total):.1f} s of CPU for {count} cells; one target's conventions {float(one):.2f} s"
    yield Row("1,000 cells diagnosed", "", "a third", None, None, said)


def measure_memory(folder: Path) -> Iterator[Row]:
    for cases, repeat in ((5, 1), (500, 1), (5000, 1), (5, 1000)):
        out = str(folder / f"memory-{cases}-{repeat}")
        words = ["run", scenario_file(folder, cases, repeat), "-t", "reference", "-t", "reference[mxnet]"]
        words += ["--no-probe", "--no-report", "-q", "--out", out]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *words], capture_output=True, text=True, check=False, env=environment()
        )
        peak = json.loads(done.stdout.splitlines()[-1]) / 1024
        yield Row(
            f"memory of the host, {2 * cases:,} cells of {2 * repeat:,} events",
            "",
            "flat",
            None,
            None,
            f"peak {peak:.0f} MiB",
        )
