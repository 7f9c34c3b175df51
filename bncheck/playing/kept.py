"""Conventions kept per environment: a target's probe cells are played once, and later runs take them as they were.

A kept file is ``conventions/<environment>/<target>-<key>.tar`` in the cache folder. Its first entry, ``kept.json``,
says what the cells belong to, on which day they were measured, and size and SHA-256 of what follows: the entries of
the cells as the worker wrote them. A run copies those into its own folder as if they had been played there, with a mark
beside them (``run_folder/origin.py``), so that nothing behind it needs the cache.

Whatever the cells could depend on is part of the key. Kept is only what bncheck has made itself: shipped backends in
environments of its own, and the reference; a Python or a backend file of the user's may change under the same name, and
which GPU is there is not to be seen from here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bncheck import __version__
from bncheck.bounded import clear, expanded, own_folder, read_bounded
from bncheck.environments.backend_file import BACKENDS_FOLDER
from bncheck.environments.devices import threads
from bncheck.environments.folder import cache_folder, site_packages
from bncheck.environments.pythons import Ready
from bncheck.playing import said
from bncheck.playing.jobs import Options
from bncheck.playing.seats import Seat
from bncheck.run_folder.arrays import MAX_ARCHIVE
from bncheck.run_folder.cell import FINISHED, record_or_crash, sound_record
from bncheck.run_folder.cell_files import LONGEST_NAME, TAR, read_cell_file, read_header
from bncheck.run_folder.folder import LARGEST_JSON
from bncheck.run_folder.origin import Origin, is_day, write_origin
from bncheck.run_folder.results import TargetResult
from bncheck.run_folder.whole import write_whole
from bncheck.scenario_files.plan import Plan
from bncheck.worker.archive import BLOCK, tar_entry

HEAD, FORMAT = "kept.json", 1
LARGEST = 64 * 1024 * 1024  # bytes of a kept file; those of the shipped probes have 0.7 to 1.3 MB
LARGEST_HEAD = 1024 * 1024
MOST_KEPT = 4  # files per target: other versions of bncheck, other variables
TRACE, RESULT = "trace.npz", "result.json"  # of a cell
PACKAGE = Path(__file__).parent.parent
# What decides what a cell plays and records.
SOURCES = ("worker", "scenario_files", "playing", "scenario.py")
# Environment variables that steer frameworks and the libraries below them begin with one of these.
STEERING = (
    "ATEN_", "BEAM", "BLIS_", "CLANG", "CUBLAS", "CUDA", "CUDNN", "DNNL_", "DYLD_", "FLAGS_", "GLIBC_", "GOMP_", "HIP_",
    "JAX_", "KERAS_", "KMP_", "LD_", "LLVM", "MKL_", "MLX_", "MXNET_", "NOOPT", "NPY_", "NUMEXPR_", "NVIDIA_", "OMP_",
    "ONEDNN_", "OPENBLAS_", "ORT_", "PYTORCH_", "ROCM", "TF_", "TORCH", "VECLIB_", "XLA_",
)  # fmt: skip


@dataclass(frozen=True)
class Shelf:
    """Where the probe cells of a target are kept, and what those that may be used belong to."""

    path: Path
    belongs: Mapping[str, Any]
    cells: tuple[str, ...]


class KeptProbes:
    """Those of one run: which targets take theirs from a shelf, and which put theirs there."""

    def __init__(self, run: Path, shelves: Mapping[str, Shelf]) -> None:
        self.run, self.shelves = run, dict(shelves)
        self.cells = 0  # that need not be played
        self.taken: dict[str, tuple[Shelf, str]] = {}  # targets whose probes an earlier run has played; their digest

    def lay_out(self, plan: Plan, slugs: Mapping[str, str]) -> None:
        """Copy what is kept into the run, for targets (name → slug) that have it."""
        for name, shelf in list(self.shelves.items()):
            found = lay_out(self.run, slugs[name], shelf, whole=len(shelf.cells) == len(plan.cases))
            if found:
                del self.shelves[name]
                self.cells += len(shelf.cells)
                self.taken[name] = shelf, found

    def keep(self, target: TargetResult) -> tuple[Shelf, str] | None:
        """Keep what a target has played; where, and the digest of its cells."""
        shelf = self.shelves.get(target.name)
        found = "" if shelf is None else keep(self.run, target.slug, shelf, datetime.now(UTC).date())
        return (shelf, found) if shelf is not None and found else None


def conventions_folder() -> Path | None:
    """$BNCHECK_CONVENTIONS, else beside the environments; None where the variable is there and empty: keep nothing."""
    given = os.environ.get("BNCHECK_CONVENTIONS")
    if given is None:
        return cache_folder() / "conventions"
    return expanded(given).absolute() if given else None


# ------------------------------------------------------------------------------------------- what cells belong to


def shelves(plan: Plan, seats: Sequence[Seat], ready: Mapping[str, Ready], options: Options) -> dict[str, Shelf]:
    """Target → its shelf, for those whose probes can be kept. ``ready``: target → its Python."""
    folder = conventions_folder()
    probes = [scenario for scenario in plan.scenarios if scenario.name in plan.background]
    if folder is None or not probes:
        return {}
    cells = tuple(case.id for scenario in probes for case in scenario.cases)
    files = {scenario.name: digest(Path(scenario.path).read_bytes()) for scenario in probes}
    shared = {"cells": list(cells), "probes": files, **playing_with(options)}
    found = {}
    for seat in seats:
        home = home_of(seat, ready.get(seat.result.name))
        if home is None:
            continue
        name, own = home
        belongs = {**shared, **own}
        key = digest(json.dumps(belongs, sort_keys=True).encode())[:16]
        found[seat.result.name] = Shelf(folder / name / f"{seat.result.slug}-{key}.tar", belongs, cells)
    return found


def playing_with(options: Options) -> dict[str, Any]:
    """What all targets of a run have in common: bncheck, the machine, and how workers are started."""
    here = os.uname()
    return {
        "format": FORMAT,
        "bncheck": [__version__, sources()],
        "inputs": np.__version__,
        "machine": [here.sysname, here.release, here.machine, processor(), os.cpu_count()],
        "started": [threads(options.at_once), options.isolate, options.limits.memory],
        # As a hash: nobody's secret is to lie in a cache because its name begins like that of a framework's variable.
        "variables": digest(json.dumps(steering()).encode()),
    }


def steering() -> list[tuple[str, str]]:
    return sorted((name, value) for name, value in os.environ.items() if name.startswith(STEERING))


def home_of(seat: Seat, place: Ready | None) -> tuple[str, dict[str, Any]] | None:
    """(folder's name, what of the target its cells depend on); None where they are not to be kept."""
    target = seat.result
    if place is None or seat.backend_path.parent != BACKENDS_FOLDER.resolve() or target.device != "cpu":
        return None
    if place.origin == "environment" and place.folder is not None:
        name, packages = place.folder.name, installed(place.folder)
    elif target.backend == "reference":
        name = "reference"
        packages = [each for each in installed(Path(sys.prefix)) if each.startswith("numpy-")]
    else:
        return None
    own = {
        "environment": name,
        "python": [str(place.python), sys.version if name == "reference" else ""],
        "packages": packages,
        "backend": digest(seat.backend_path.read_bytes()),
        "target": [target.name, target.variant, target.device, place.version],
    }
    return (name, own) if packages else None


def installed(folder: Path) -> list[str]:
    """Names with versions of what is installed: equal requirements can give other packages at another time."""
    return sorted(path.stem for packages in site_packages(folder) for path in packages.glob("*.dist-info"))


@cache
def sources(package: Path = PACKAGE) -> str:
    """The content of everything in bncheck that decides what a cell plays and records."""
    found = hashlib.sha256()
    for place in SOURCES:
        path = package / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(f"{file.relative_to(package)}\0".encode() + file.read_bytes())
    return found.hexdigest()


@cache
def processor() -> str:
    """Which kernels a library takes depends on it; a cache folder can be on a disk that several machines share."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as handle:
            lines = {line for line in handle if line.startswith(("model name", "flags", "Features"))}
            return digest("".join(sorted(lines)).encode())
    except OSError:
        return os.uname().machine


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --------------------------------------------------------------------------------------------------- taking


def lay_out(run: Path, slug: str, shelf: Shelf, whole: bool) -> str:
    """Copy a target's kept probe cells into a new run; returns their digest, "" where there are none to be used.

    ``whole``: the run has no other cells, so the worker need not be asked what it is either."""
    found = read(shelf)
    if found is None:
        return ""
    head, cells = found
    folder = own_folder(run / "cells" / slug)
    write_whole(folder / TAR, cells)
    if not all(sound_record(folder / cell) is not None for cell in shelf.cells):
        clear(folder / TAR)
        return ""
    write_origin(folder, Origin(measured=head["measured"], size=head["size"], sha256=head["sha256"]))
    if whole:
        write_whole(folder / said.NAME, json.dumps(head["environment"]))
    touch(shelf.path)
    return str(head["sha256"])


def read(shelf: Shelf) -> tuple[dict[str, Any], bytes] | None:
    """(what it says of itself, the entries of its cells); None for a file that is missing, damaged, or of others."""
    try:
        raw = read_bounded(shelf.path, LARGEST)
    except OSError:
        return None
    name, size, kind = read_header(raw[:BLOCK].ljust(BLOCK, b"\0"))
    if (name, kind) != (HEAD, b"0") or size > LARGEST_HEAD:
        return None
    try:
        head = json.loads(raw[BLOCK : BLOCK + size])
    except (ValueError, RecursionError):
        return None
    cells = raw[BLOCK + size + -size % BLOCK :]
    return (head, cells) if is_ours(head, cells, shelf) and are_all(names(cells), shelf) else None


def is_ours(head: Any, cells: bytes, shelf: Shelf) -> bool:
    """Whether the head has its shape, names what is asked for, and stands before these very bytes."""
    if not isinstance(head, dict) or head.get("belongs") != shelf.belongs:
        return False
    day, environment = head.get("measured"), head.get("environment")
    if not is_day(day) or not isinstance(environment, dict):
        return False
    return (head.get("size"), head.get("sha256")) == (len(cells), digest(cells))


def are_all(found: set[str], shelf: Shelf) -> bool:
    """Each probe cell's result, and nothing of any other cell. One that was refused when it was built has no trace."""
    results, traces = ({f"{cell}/{name}" for cell in shelf.cells} for name in (RESULT, TRACE))
    return results <= found <= results | traces


def names(cells: bytes) -> set[str]:
    """Names of a tar's entries; empty for what is no whole one."""
    found, at, long_name = set(), 0, ""
    while at < len(cells):
        name, size, kind = read_header(cells[at : at + BLOCK].ljust(BLOCK, b"\0"))
        after = at + BLOCK + size + -size % BLOCK
        if not kind or after > len(cells) or (kind == b"L" and size > LONGEST_NAME):
            return set()
        if kind == b"L":
            long_name = cells[at + BLOCK : at + BLOCK + size].rstrip(b"\0").decode("utf-8", "replace")
        else:
            found.add(long_name or name)
            long_name = ""
        at = after
    return found


# --------------------------------------------------------------------------------------------------- keeping


def keep(run: Path, slug: str, shelf: Shelf, day: date) -> str:
    """Keep the probe cells that a run has played; returns their digest. They are not kept, and it is "", where one of
    them came to no end or left something beside them.

    A cache that cannot be written is no reason to fail. Concurrent runs each write a file of their own and rename it:
    the last one stands."""
    folder = run / "cells" / slug
    cells = pack(folder, shelf)
    environment = said.read_environment(folder)
    if not cells or environment is None:
        return ""
    head = {
        "measured": day.isoformat(),
        "belongs": shelf.belongs,
        "environment": environment,
        "size": len(cells),
        "sha256": digest(cells),
    }
    part = shelf.path.with_name(f"{shelf.path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        shelf.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(part, tar_entry(HEAD, json.dumps(head).encode()) + cells).replace(shelf.path)
        prune(shelf.path.parent, slug)
    except OSError:
        with suppress(OSError):  # nor can be looked at
            clear(part)
        return ""
    return str(head["sha256"])


def pack(folder: Path, shelf: Shelf) -> bytes:
    """The tar entries of a target's probe cells; empty where they are not fit to be kept."""
    found = []
    for cell in shelf.cells:
        record = record_or_crash(folder / cell)
        if record is None or record.outcome not in FINISHED or record.artifacts:
            return b""
        for name, most in ((TRACE, MAX_ARCHIVE), (RESULT, LARGEST_JSON)):
            content = read_cell_file(folder / cell, name, most)
            found += [] if content is None else [tar_entry(f"{cell}/{name}", content)]
    return b"".join(found) if sum(map(len, found)) < LARGEST - 2 * LARGEST_HEAD else b""


def prune(folder: Path, slug: str) -> None:
    """Leave the newest few files of a target."""
    ours = re.compile(re.escape(slug) + r"-[0-9a-f]{16}\.tar(\.\d+-[0-9a-f]{8}(\.part)?)?")
    there = [(path.stat().st_mtime, path) for path in folder.iterdir() if ours.fullmatch(path.name)]
    for _, path in sorted(there, reverse=True)[MOST_KEPT:]:
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)


def touch(path: Path) -> None:
    """Remember that it was used; a read-only cache is no reason to fail."""
    try:
        os.utime(path)
    except OSError:
        pass


def forget(environment: str) -> None:
    """Take away what is kept of an environment that is removed."""
    folder = conventions_folder()
    if folder is not None:
        shutil.rmtree(folder / environment, ignore_errors=True)
