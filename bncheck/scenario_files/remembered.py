"""Shipped scenarios as an earlier run has read them, in the cache folder.

Reading ten of them takes longer than importing NumPy: what checks scenario files is made for files that people write.
A shipped one says the same every time, so what it came to is kept: ``scenarios/<name>-<key>.json``, where the key is of
the file and of the code that reads it. Only what comes back from JSON as it was is kept, and names no other files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from bncheck.bounded import read_bounded
from bncheck.environments.folder import cache_folder
from bncheck.run_folder.whole import write_whole
from bncheck.scenario import Case, Event, Expect, InputSpec, Layer, Network, Scenario, Tolerance

FORMAT = 1
LARGEST = 4 * 1024 * 1024  # bytes of a kept scenario; the largest shipped one has 0.1 MB
MOST_KEPT = 4  # files of one name: other versions of bncheck, other checkouts


def read_remembered(paths: Sequence[Path]) -> list[Scenario]:
    """The scenarios of shipped files, in their order."""
    folder = cache_folder() / "scenarios"
    return [read_kept(folder, path) or read_and_keep(folder, path) for path in paths]


def read_kept(folder: Path, path: Path) -> Scenario | None:
    """None where there is none, or one that is damaged."""
    try:
        check, _, text = read_bounded(place(folder, path), LARGEST).partition(b"\n")
        return scenario_of(json.loads(text)) if check.decode() == digest(text) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def read_and_keep(folder: Path, path: Path) -> Scenario:
    from bncheck.scenario_files.files import load_scenario

    found = load_scenario(path)
    text = json.dumps(asdict(found))
    if not names_files(found) and repr(scenario_of(json.loads(text))) == repr(found):
        keep(folder, path, text)
    return found


def names_files(scenario: Scenario) -> bool:
    """Those may be gone another time, or others."""
    networks = (case.network for case in scenario.cases)
    own = any(network.custom or network.file or network.model for network in networks)
    return own or any(case.functions for case in scenario.cases)


def keep(folder: Path, path: Path, text: str) -> None:
    """A cache that cannot be written is no reason to fail."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(place(folder, path), f"{digest(text.encode())}\n{text}")
        older = sorted(folder.glob(f"{path.stem}-{'?' * 16}.json"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in older[MOST_KEPT:]:
            file.unlink(missing_ok=True)
    except OSError:
        pass


def place(folder: Path, path: Path) -> Path:
    """Where it is kept. A scenario holds its own path, and those of files beside it."""
    said = [FORMAT, code(), str(path.absolute()), path.read_text(encoding="utf-8")]
    return folder / f"{path.stem}-{digest(json.dumps(said).encode())[:16]}.json"


@cache
def code() -> str:
    """What reads scenarios, told by size and time of change of its files, as Python tells what it has compiled."""
    package = Path(__file__).parent.parent
    files = [package / "scenario.py", *sorted(Path(__file__).parent.glob("*.py"))]
    return digest(json.dumps([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]).encode())


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def scenario_of(said: Mapping[str, Any]) -> Scenario:
    own = {
        "cases": tuple(map(case_of, said["cases"])),
        "expect": tuple(Expect(**{**each, **tuples(each, "between", "causes")}) for each in said["expect"]),
        "tolerance": Tolerance(**said["tolerance"]),
    }
    return Scenario(**{**said, **tuples(said, "targets", "tags"), **own})


def case_of(said: Mapping[str, Any]) -> Case:
    network = said["network"]
    layers = tuple(Layer(**{**each, "initial": per_channel(each["initial"])}) for each in network["layers"])
    own = {
        "network": Network(**{**network, "layers": layers, "replicas": tuple(network["replicas"])}),
        "inputs": {name: InputSpec(**input_of(each)) for name, each in said["inputs"].items()},
        "events": tuple(Event(**each) for each in said["events"]),
    }
    return Case(**{**said, **tuples(said, "steps"), **own})


def input_of(said: Mapping[str, Any]) -> dict[str, Any]:
    return {**said, **per_channel(said)}


def per_channel(said: Mapping[str, Any]) -> dict[str, Any]:
    """What is a number or one per channel: those are a tuple."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}


def tuples(said: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: tuple(said[name]) for name in names}
