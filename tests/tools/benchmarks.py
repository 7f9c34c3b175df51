"""Benchmarks: prints what was measured, as ratios against the bare framework where there is one. Nothing is asserted.

    python tests/tools/benchmarks.py             all of them, about seven minutes once the environments are there
    python tests/tools/benchmarks.py help cells  only these

``help``     time of ``bncheck --help`` and what it imports
``cells``    small cells per second on torch after the import, over 2,000 cells, against a bare loop
``overlap``  wall time of the default run, warm, against the slowest target's import and compute
``targets``  wall time of the default scenarios on every target that installs here, against the same bound
``memory``   peak memory of the host for 10, 100, 1,000 and 10,000 cells, and for 1,000 steps
``depth``    time and peak memory of eval_in_batches on 169 layers, against the bare forward of the same batch
``judge``    seconds to measure one target's conventions and to diagnose 1,000 cells
"""

from __future__ import annotations

import compileall
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

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
import time, torch
bn = torch.nn.BatchNorm1d(3); x = torch.randn(6, 3)
def scenario():
    bn = torch.nn.BatchNorm1d(3)
    bn.train(); bn(x); bn.eval()
    with torch.no_grad(): bn(x)
for _ in range(200): scenario()
began = time.perf_counter()
for _ in range(2000): scenario()
print((time.perf_counter() - began) / 2000)
"""


WORKER = Path(__file__).parents[2] / "bncheck" / "worker" / "run.py"


def bncheck(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bncheck", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def scenario_file(folder: Path, cases: int, repeat: int = 1) -> str:
    path = folder / f"bench-{cases}-{repeat}.toml"
    path.write_text(SCENARIO.format(seeds=list(range(cases)), repeat=repeat))
    return str(path)


def python_of(target: str) -> str:
    """The interpreter that bncheck would use for a target."""
    from bncheck.environments.backend_file import find_backends
    from bncheck.environments.pythons import Ready, prepare
    from bncheck.environments.targets import parse_targets

    backends = find_backends(())
    (wanted,) = parse_targets([target], backends)
    place = prepare([wanted], backends)[wanted]
    if not isinstance(place, Ready):
        raise SystemExit(f"{target} is unavailable: {place.reason}")
    return str(place.python)


def measure_help(folder: Path) -> None:
    times = []
    for _ in range(10):
        began = time.perf_counter()
        bncheck("--help")
        times.append(time.perf_counter() - began)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import click"], check=True)
    bare = time.perf_counter() - began
    print(
        f"help     {1000 * statistics.median(times):.0f} ms; ratio to importing click alone {statistics.median(times) / bare:.2f}"
    )


def measure_cells(folder: Path) -> None:
    python = python_of("torch")
    bare = float(subprocess.run([python, "-c", BARE], capture_output=True, text=True, check=True).stdout)
    out = folder / "cells"
    bncheck("run", scenario_file(folder, 2000), "-t", "torch", "--no-probe", "--no-report", "-q", "--out", str(out))
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    stamps = [datetime.fromisoformat(line["time"]).timestamp() for line in lines]
    first = next(k for k in range(100, len(stamps)) if stamps[k] != stamps[k - 1])  # the host looks every 20 ms
    rate = (len(stamps) - first) / (stamps[-1] - stamps[first - 1])
    print(
        f"cells    {rate:.0f} cells a second over {len(stamps)}; {1 / rate / bare:.1f} × a bare scenario of {1e6 * bare:.0f} µs"
    )


def measure_overlap(folder: Path) -> None:
    """The default run without and with its reports, against the larger of the slowest target alone and the CPU time
    of all targets ÷ cores (each a bare worker: import and compute, nothing beside it)."""
    run = ["run", "-q", "--no-report", "--out"]
    bncheck(*run, str(folder / "warm"), folder=folder)
    walls = {"run": [], "whole": []}
    for turn in range(5):
        for name, arguments in (("run", run), ("whole", ["run", "-q", "--out"])):
            began = time.perf_counter()
            bncheck(*arguments, str(folder / f"{name}-{turn}"), folder=folder)
            walls[name].append(time.perf_counter() - began)
    alone = {target: run_alone(target, folder / "run-0") for target in ("reference", "torch", "mxnet")}
    cores = os.cpu_count() or 1
    bound = max(*(wall for wall, _ in alone.values()), sum(cpu for _, cpu in alone.values()) / cores)
    bare, whole = statistics.median(walls["run"]), statistics.median(walls["whole"])
    each = ", ".join(f"{target} {wall:.2f} s ({cpu:.2f} s CPU)" for target, (wall, cpu) in alone.items())
    print(f"overlap  alone: {each}; bound {bound:.2f} s on {cores} cores; default run {bare:.2f} s, ratio {bare / bound:.2f}; "
          f"with all reports {whole:.2f} s, that is 1.3 × bound + {whole - 1.3 * bound:.2f} s")  # fmt: skip


TARGETS = (
    "reference", "torch", "torch[functional]", "torch[channels_last]", "torch[jit]", "mxnet", "mxnet==1.7.0.post2",
    "onnxruntime", "keras", "keras[jax]", "keras[torch]", "tf_keras", "flax", "flax[linen]", "haiku", "paddle", "mlx",
    "tinygrad", "torch==1.13.1", "torch==1.1.0",
)  # fmt: skip


def measure_targets(folder: Path) -> None:
    """Environments have to be there; the first run warms what the machine keeps of them."""
    run, walls = ["run", "-q", "--no-report", *(word for name in TARGETS for word in ("-t", name))], []
    for turn in range(4):
        began = time.perf_counter()
        bncheck(*run, "--out", str(folder / f"run-{turn}"), folder=folder)
        walls.append(time.perf_counter() - began)
    found = json.loads((folder / "run-0" / "run.json").read_text())["targets"]
    slugs = {each["name"]: each["slug"] for each in found if each["status"] == "ok"}
    alone = {name: run_alone(name, folder / "run-0", slug, times=1) for name, slug in slugs.items()}
    cores = os.cpu_count() or 1
    bound = max(*(wall for wall, _ in alone.values()), sum(cpu for _, cpu in alone.values()) / cores)
    slowest = max(alone, key=lambda name: alone[name][0])
    each = ", ".join(f"{wall:.1f}" for wall in walls[1:])
    print(f"targets  {len(alone)} targets: {each} s; bound {bound:.1f} s (slowest alone: {slowest}, {alone[slowest][0]:.1f} s); "
          f"ratio of the median {statistics.median(walls[1:]) / bound:.2f}")  # fmt: skip


def run_alone(target: str, run: Path, slug: str = "", times: int = 3) -> tuple[float, float]:
    """(wall, CPU) seconds of the bare worker of one target on the jobs of a finished run; the best of ``times``."""
    job, python, found = run / "cells" / (slug or target), python_of(target), []
    for _ in range(times):
        (job / "cells.tar").unlink()
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as bncheck sets it for two workers on two cores
        subprocess.run([python, "-I", str(WORKER), str(job), "--alone"], check=True, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = sum(getattr(after, key) - getattr(before, key) for key in ("ru_utime", "ru_stime"))
        found.append((time.perf_counter() - start, cpu))
    return min(found)


PEAK = """
import json, resource, sys
from bncheck.cli import cli
cli.main(args=sys.argv[1:], standalone_mode=False)
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
"""


def measure_memory(folder: Path) -> None:
    for cases, repeat in ((5, 1), (50, 1), (500, 1), (5000, 1), (5, 1000)):
        out = str(folder / f"memory-{cases}-{repeat}")
        arguments = ["run", scenario_file(folder, cases, repeat), "-t", "reference", "-t", "reference[mxnet]"]
        arguments += ["--no-probe", "--no-report", "-q", "--out", out]
        done = subprocess.run([sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, check=False)
        peak = json.loads(done.stdout.splitlines()[-1]) / 1024
        print(f"memory   {2 * cases} cells of {2 * repeat} events: host peak {peak:.0f} MiB")


def measure_judge(folder: Path) -> None:
    from bncheck.diagnosis.analyse import analyse, measure_target
    from bncheck.playing.plan import read_plan
    from bncheck.run_folder.results import read_results

    out = folder / "judge"
    arguments = ["run", scenario_file(folder, 500), "-t", "reference", "-t", "reference[mxnet]", "-q", "--no-report"]
    bncheck(*arguments, "--out", str(out))
    plan, targets = read_plan(out), read_results(out).targets
    began = time.perf_counter()
    measure_target(out, plan, targets[1])
    one = time.perf_counter() - began
    began = time.perf_counter()
    results = analyse(out, plan, targets)
    total = time.perf_counter() - began
    print(f"judge    one target's conventions {one:.2f} s; {len(results.cells)} cells diagnosed in {total:.1f} s")


DEPTH = """
import resource, statistics, sys, time
import numpy as np
sys.path.insert(0, sys.argv[1])
from bncheck.worker.backends import torch as backend
import torch
torch.set_num_threads(1)  # waiting threads spin, and would be counted as CPU time
network = {"layers": [], "model": sys.argv[2] + ":build", "arguments": {}}
model = backend.build(network, {}, "float32", "", "cpu")
x = np.random.default_rng(0).normal(size=(64, 3, 64, 64)).astype(np.float32)
model.net.eval()
data, spent = torch.from_numpy(x), {"bare": [], "traced": []}
def bare():
    with torch.no_grad(), model.unwatched():
        model.net(data)
def traced():
    model.eval_in_batches(x, [4, 64])
def pair():
    with torch.no_grad(), model.unwatched():
        model.net(data[:4]), model.net(data)
memory = {}
for name, action in (("bare", bare), ("traced", traced)):
    action()
    memory[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for _ in range(5):  # in turns, and in CPU time: what else runs on the machine then counts for both, and for little
    for name, action in (("bare", pair), ("traced", traced)):
        began = time.process_time()
        action()
        spent[name].append(time.process_time() - began)
bare_seconds, traced_seconds = statistics.median(spent["bare"]), statistics.median(spent["traced"])
print(f"depth    {len(model.layers)} BatchNorm layers, 64 images: bare forwards {bare_seconds:.2f} s of CPU, traced {traced_seconds:.2f} s"
      f" = {traced_seconds / bare_seconds:.2f} x; peak {memory['bare']:.0f} MiB, traced {memory['traced']:.0f} MiB"
      f" = {memory['traced'] / memory['bare']:.2f} x")
"""


def measure_depth(folder: Path) -> None:
    """With the Python that BNCHECK_TORCH names, else this one: it has to have torch."""
    root = Path(__file__).parents[2]
    python = os.environ.get("BNCHECK_TORCH", sys.executable)
    network = root / "scenarios" / "layers" / "densenet.py"
    subprocess.run([python, "-c", DEPTH, str(root), str(network)], check=True)


BENCHMARKS: dict[str, Callable[[Path], None]] = {
    "help": measure_help,
    "cells": measure_cells,
    "overlap": measure_overlap,
    "targets": measure_targets,
    "memory": measure_memory,
    "judge": measure_judge,
    "depth": measure_depth,
}


if __name__ == "__main__":
    # As pip does when it installs: a source tree without bytecode imports twice as slowly.
    compileall.compile_dir(WORKER.parents[1], quiet=2)
    for name in sys.argv[1:] or BENCHMARKS:
        with tempfile.TemporaryDirectory() as temporary:
            BENCHMARKS[name](Path(temporary))
