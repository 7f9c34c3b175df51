"""Devices besides the first that a machine with nothing but a CPU has: JAX and tinygrad make several of it.

What the device column does (names, folders, comparison, replicas over devices) is played for real on them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from at_the_prompt import bncheck

from bncheck.diagnosis.audit import audit
from bncheck.environments.backend_file import find_backends
from bncheck.environments.targets import parse_target
from bncheck.errors import TargetError
from bncheck.run_folder.cells import read_trace
from bncheck.run_folder.results import Results, read_results

ONES = """
title = "Ones on each device"

[[network.layers]]
name = "bn"
type = "batch_norm"
channels = 1
batch_weight = 0.5

[input]
shape = [4, 1]
fill = "ones"

[program]
events = ["train_forward", "train_forward"]
"""
HALVES = """
title = "Two halves on two devices"

[[network.layers]]
name = "bn"
type = "batch_norm"
channels = 1
batch_weight = 0.5

[network]
replicas = [4, 4]

[input]
shape = [8, 1]
shifts = [0, 8]

[program]
events = ["train_forward", "train_forward", "backward"]
"""
BOTH = ("flax[shard_map]", "flax[shard_map_axis_name]")
SECOND = ("flax@cpu:1", "tinygrad@cpu:1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("devices")
    files = []
    for name, text in (("ones", ONES), ("halves", HALVES)):
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
        files.append(str(folder / f"{name}.toml"))
    words = [word for target in ("reference", *BOTH, *SECOND) for word in ("-t", target)]
    done = bncheck("run", *files, *words, "--no-probe", "--no-report", "-q", "--out", str(folder / "run"))
    assert done.returncode in (0, 1), done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def results(run: Path) -> Results:
    return read_results(run)


def held(run: Path, target: str, case: str, layer: str = "bn") -> list[float]:
    """running_mean before the first event and after each."""
    found = read_trace(run, target, case).get(layer, "running_mean")
    assert found is not None
    return np.round(np.asarray(found, dtype=np.float64)[:, 0], 3).tolist()
