"""What a command costs: wall and CPU seconds, with all that it starts; and the ratio of two, from paired runs."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORKER = ROOT / "bncheck" / "worker" / "run.py"
THREADS = {"OMP_NUM_THREADS": "1"}  # as bncheck sets it for two workers on two cores


@dataclass(frozen=True)
class Spent:
    """Seconds; ``cpu`` is user + system, of the process and all that it waited for."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Row:
    """A line of the table. Ratios are medians over paired runs; None where there is none of its kind."""

    what: str
    floor: str
    goal: str
    wall: float | None
    cpu: float | None
    said: str = ""


def spend(
    command: Sequence[str], folder: Path | None = None, codes: Collection[int] = (0, 1), **variables: str
) -> Spent:
    """Run it once, in a folder that no project is above. What it prints is lost; an exit code of 1 (something was
    found) is as good as 0."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command,
        cwd=folder or tempfile.gettempdir(),
        capture_output=True,
        text=True,
        check=False,
        env={**environment(), **variables},
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in codes:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-800:]}")
    return Spent(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def environment() -> dict[str, str]:
    """This checkout is what runs, from bytecode, as after an installation."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), kept.get("PYTHONPATH"))))}


def bncheck(*arguments: str) -> list[str]:
    """The command as its script starts it, without what ``-m`` imports beside it."""
    return [sys.executable, "-c", "from bncheck.cli import main; main()", *arguments]


def paired(
    what: str, floor: str, goal: str, ours: Callable[[int], Spent], bare: Callable[[], Spent], times: int
) -> Row:
    """A row from paired runs, the floor right before each of ours; a pair before them warms what the machine keeps."""
    bare(), ours(0)
    pairs = [(bare(), ours(number)) for number in range(1, times + 1)]
    wall = statistics.median(mine.wall / base.wall for base, mine in pairs)
    cpu = statistics.median(mine.cpu / base.cpu for base, mine in pairs)
    base, mine = (statistics.median(pair[side].cpu for pair in pairs) for side in (0, 1))
    return Row(what, floor, goal, wall, cpu, f"{mine:.2f} s of CPU against {base:.2f}")


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


def alone(target: str, run: Path, slug: str = "", times: int = 2) -> Spent:
    """The bare worker of one target on the jobs of a finished run: import and compute, nothing beside it."""
    job, python, found = run / "cells" / (slug or target), python_of(target), []
    for _ in range(times):
        (job / "cells.tar").unlink(missing_ok=True)
        found.append(spend([python, "-I", str(WORKER), str(job), "--alone"], **THREADS))
    return min(found, key=lambda each: each.cpu)


def described() -> str:
    """The machine in words, and how busy it is: a wall ratio of a machine under load says little."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return f"{os.cpu_count()} cores of {model}, Python {sys.version.split()[0]}, load {load}"
