"""What grows: twenty targets on two cores, and a network of 169 normalising layers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from spent import ROOT, Row, Spent, alone, bncheck, environment, paired, python_of, spend

TARGETS = (
    "reference", "torch", "torch[functional]", "torch[channels_last]", "torch[jit]", "mxnet", "mxnet==1.7.0.post2",
    "onnxruntime", "keras", "keras[jax]", "keras[torch]", "tf_keras", "flax", "flax[linen]", "haiku", "paddle", "mlx",
    "tinygrad", "torch==1.13.1", "torch==1.1.0",
)  # fmt: skip


def measure_targets(folder: Path) -> Iterator[Row]:
    """Environments have to be there; the first run keeps conventions and warms what the machine keeps of them."""
    run = ["run", "-q", "--no-report", *(word for name in TARGETS for word in ("-t", name))]
    for name in ("first", "warm"):
        spend_any(bncheck(*run, "--out", str(folder / name)))
    found = json.loads((folder / "warm" / "run.json").read_text())["targets"]
    slugs = {each["name"]: each["slug"] for each in found if each["status"] == "ok"}
    bare = [alone(name, folder / "warm", slug, times=1) for name, slug in slugs.items()]
    cpu = sum(each.cpu for each in bare)
    bound = Spent(max(*(each.wall for each in bare), cpu / (os.cpu_count() or 1)), cpu)
    yield paired(
        f"{len(bare)} targets, default scenarios", "their bare workers", "1.15",
        lambda number: spend_any(bncheck(*run, "--out", str(folder / f"run-{number}"))), lambda: bound, 2,
    )  # fmt: skip


def spend_any(command: list[str]) -> Spent:
    """A target that does not install here is no reason to measure none."""
    return spend(command, codes=(0, 1, 3))


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
ratio = statistics.median(spent["traced"]) / statistics.median(spent["bare"])
print(ratio, memory["traced"] / memory["bare"], len(model.layers))
"""


def measure_depth(folder: Path) -> Iterator[Row]:
    network = ROOT / "scenarios" / "layers" / "densenet.py"
    command = [python_of("torch"), "-c", DEPTH, str(ROOT), str(network)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
    cpu, memory, layers = done.stdout.split()
    said = f"peak memory {float(memory):.2f} ×"
    yield Row(f"traced forwards of {layers} layers", "the bare forwards", "", None, float(cpu), said)
