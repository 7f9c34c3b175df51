"""What ``bncheck check`` of a layer costs: CPU time of all its processes beside that of one ``import torch``, in pairs.

    python tests/tools/check_cost.py [PAIRS]

The page and its pictures are drawn after the answer and are counted apart.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from watched_lives import torch_python

LAYER = Path(__file__).parents[1] / "third_party_layers.py"


def seconds(*command: str) -> float:
    """CPU seconds of a command and all that it starts."""
    before = os.times()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    pairs, python = int(sys.argv[1]) if len(sys.argv) > 1 else 5, str(torch_python())
    rows = []
    for number in range(pairs):
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, "-m", "bncheck", "check", f"{LAYER}:DividesByN", "--python", python, "--out"]
            answer = seconds(*words, f"{folder}/{number}", "--no-report")
            page = seconds(*words, f"{folder}/{number}-page")
            rows.append((seconds(python, "-c", "import torch"), answer, page))
    bare, answer, page = (statistics.median(column) for column in zip(*rows, strict=True))
    beyond = statistics.median(each[1] - each[0] for each in rows)
    print(f"import torch {bare:.2f} s, the answer {answer:.2f} s: {beyond:.2f} s beyond it, ratio {answer / bare:.2f}")
    print(f"with the page {page:.2f} s ({pairs} pairs)")


if __name__ == "__main__":
    main()
