"""What watching costs: CPU time of training steps with the recorder over that without it, in pairs.

    python tests/tools/watch_overhead.py [PAIRS]

A convolutional network of 20 layers (64 channels, 16 × 16 places, batch 32), SGD, one thread. Two figures: --keep all;
and the default after its first 100 steps. One process takes a step with the recorder's hooks and one without, in turn,
each on a network of its own, so that what else the machine does falls on both.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from watched_lives import KEEP as DEFAULT
from watched_lives import torch_python

from bncheck.subjects.launch import environment

SCRIPT = """
import copy, json, sys, time
import torch
from torch import nn

start, steps = int(sys.argv[1]), int(sys.argv[2])
torch.manual_seed(0)
torch.set_num_threads(1)
net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU())
for _ in range(19):
    net.extend([nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()])
net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)])
nets = {each: copy.deepcopy(net) for each in (True, False)}  # laid out in memory by the same calls
optimisers = {each: torch.optim.SGD(nets[each].parameters(), lr=0.01) for each in nets}
small = torch.randn(2, 3, 4, 4)
x, y = torch.randn(32, 3, 16, 16), torch.randint(0, 10, (32,))


def step(x, y, watched=True):
    optimisers[watched].zero_grad()
    nn.functional.cross_entropy(nets[watched](x), y).backward()
    optimisers[watched].step()


import torch.nn.modules.module as hooks

for _ in range(start):  # small ones: only their number counts
    step(small, y[:2])
held = [(each, dict(each)) for each in vars(hooks).values() if isinstance(each, dict) and each
        and all(isinstance(key, int) for key in each)]
times = {True: [], False: []}
for number in range(2 * steps + 2):
    watched = bool(number % 2)
    for each, found in held:
        each.clear()
        if watched:
            each.update(found)
    began = time.process_time()
    step(x, y, watched)
    times[watched].append(time.process_time() - began)
print(json.dumps([times[False][1:], times[True][1:]]))
"""


def seconds(keep: str, start: int, steps: int) -> tuple[list[float], list[float]]:
    """CPU seconds of each step: bare, watched."""
    with tempfile.TemporaryDirectory() as folder:
        variables = environment(Path(folder), keep, None, None)
        command = [str(torch_python()), "-c", SCRIPT, str(start), str(steps)]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    bare, watched = json.loads(done.stdout)
    return bare, watched


def told(bare: list[float], watched: list[float]) -> str:
    """The ratio of means with its standard error, and that of medians: of steps that are not looked at whole."""
    more = [after - before for before, after in zip(bare, watched, strict=True)]
    mean = statistics.mean(bare)
    ratio, error = statistics.mean(watched) / mean, statistics.stdev(more) / len(more) ** 0.5 / mean
    middle = 1 + statistics.median(more) / statistics.median(bare)
    return f"{mean:.4f} s bare, ratio {ratio:.3f} ± {error:.3f}, of medians {middle:.3f} ({len(more)} pairs)"


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    for name, keep, start in (("--keep all", "all", 0), ("the default, after 100 steps", DEFAULT, 110)):
        print(f"{name}: {told(*seconds(keep, start, pairs))}", flush=True)


if __name__ == "__main__":
    main()
