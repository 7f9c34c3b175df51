"""What watching a long training of many layers leaves: the recorder's memory, the run folder, the time of its report.

    python tests/tools/watch_many.py [STEPS [LAYERS]]

Layers of eight channels and batches of eight: next to nothing is computed, so that 10,000 steps of 100 layers take
minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from watched_lives import torch_python

from bncheck.run_folder.folder import WATCHED

SCRIPT = """
import resource, sys, time
import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
steps, layers = int(sys.argv[1]), int(sys.argv[2])
net = nn.Sequential(*(nn.BatchNorm1d(8) for _ in range(layers)))
optimiser = torch.optim.SGD(net.parameters(), lr=0.001)
x, at, began = torch.randn(8, 8), 0, 0
for step in range(steps):
    if step == 200:
        at, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    optimiser.zero_grad()
    net(x).pow(2).mean().backward()
    optimiser.step()
each = (time.process_time() - began) / (steps - 200) / layers * 1e6
print("%.0f us per layer and step; %.1f MB after 200 steps, %.1f MB at the end"
      % (each, at / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024), file=sys.stderr)
"""


def main() -> None:
    steps, layers = (sys.argv[1:] + ["10000", "100"][len(sys.argv) - 1 :])[:2]
    python = str(torch_python())
    subprocess.run([python, "-c", SCRIPT, steps, layers], check=True)
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        words = [sys.executable, "-m", "bncheck"]
        subprocess.run([*words, "watch", "--out", str(run), "--", python, "-c", SCRIPT, steps, layers], check=False)
        size = sum(path.stat().st_size for path in (run / WATCHED).rglob("*") if path.is_file())
        before = os.times()
        subprocess.run([*words, "report", str(run), "-q"], check=True)
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"recording {size / 1e6:.1f} MB, report {spent:.1f} CPU s")


if __name__ == "__main__":
    main()
