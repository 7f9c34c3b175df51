"""A model that lies in a file, played by its own runtime: bncheck/worker/players has a file per format."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bncheck.bounded import expanded
from bncheck.checkpoints.arrays import npy_of
from bncheck.checkpoints.recognise import Checkpoint, read_checkpoint
from bncheck.checkpoints.tensor import Tensor
from bncheck.checkpoints.zipped import entries
from bncheck.diagnosis.held.quantised import Quantised
from bncheck.environments.backend_file import BackendFile, find_backends, literals, read_backend
from bncheck.environments.installed import installed_in
from bncheck.environments.pythons import Unavailable, find_ready, make_ready
from bncheck.environments.targets import Target
from bncheck.errors import EnvironmentFailure, UsageError
from bncheck.life import Holding
from bncheck.run_folder.folder import read_json, write_json
from bncheck.subjects.asked import parse_input
from bncheck.subjects.interpreter import active_python
from bncheck.subjects.sides import AskedDiff, Side

if TYPE_CHECKING:
    from bncheck.playing.progress import Listener

PLAYERS = Path(__file__).parent.parent / "worker" / "players"
PLAY = PLAYERS / "playing.py"


@dataclass(frozen=True)
class Played:
    """One side: what it holds, and its outputs for each way to run it. ``python`` ran it; ``version`` its framework.
    ``narrow`` counts its weights of types below float32; ``usual`` tells "optimised" apart from "plain"."""

    checkpoint: Checkpoint
    plays: Mapping[str, Sequence[NDArray[Any]]]
    taps: Mapping[str, NDArray[Any]]
    arrays: Path  # the .npz with its inputs
    backend: str
    title: str
    version: str
    python: str
    remarks: tuple[str, ...] = ()
    narrow: Mapping[str, int] = field(default_factory=dict)
    usual: str = ""
    quantised: Quantised | None = None  # where the file is that
    refolded: Sequence[NDArray[Any]] = ()  # outputs with the other side's folds in the place of its own
    cast: Sequence[NDArray[Any]] = ()  # outputs in the other side's type of 16 bits
    exchanged: Sequence[NDArray[Any]] = ()  # outputs with what the other side's normalising layers hold


@dataclass(frozen=True)
class Player:
    """A file of worker/players, and what its runtime needs to be installed."""

    path: Path
    runtime: BackendFile
    preferred: tuple[str, ...] = ()  # variants whose environment is taken where it is there


@functools.cache
def players() -> Mapping[str, Player]:
    """Suffix of a model's file → who plays it."""
    known, found = find_backends(()), {}
    for path in sorted(PLAYERS.glob("*.py")):
        said = literals(path)
        if "SUFFIXES" in said:
            runtime = known[path.stem] if path.stem in known else read_backend(path)
            player = Player(path=path, runtime=runtime, preferred=tuple(said.get("PREFERRED", (0, ()))[1]))
            found.update(dict.fromkeys(said["SUFFIXES"][1], player))
    return found


def play_file(side: Side, asked: AskedDiff, folder: Path, given: Path | None, listener: Listener) -> Played:
    """UsageError where its runtime refuses it, EnvironmentFailure where there is none."""
    assert side.path is not None
    player = players()[side.path.suffix.lower()]
    python = python_with(player, asked, listener)
    given = given or (asked.data.absolute() if asked.data else None)
    inputs = [parse_input(text) for text in asked.inputs]
    job = {"file": str(side.path.absolute()), "arrays": str(given or ""), "inputs": inputs}
    write_json(folder / "play.json", job)
    said = run(player, python, folder, side, asked.seconds)
    arrays = arrays_of(folder / "played.npz")
    return Played(
        checkpoint=checkpoint_of(side.path, player, folder, said),
        plays=grouped(arrays),
        taps={key.removeprefix("tap/"): array for key, array in arrays.items() if key.startswith("tap/")},
        arrays=folder / "played.npz",
        backend=player.runtime.name,
        title=player.runtime.title,
        version=str(said["version"]),
        python=str(python),
        remarks=tuple(f"{side.path.name}: {remark}." for remark in said["remarks"]),
        usual=str(said["usual"]),
        narrow={str(kind): int(count) for kind, count in said["narrow"].items()},
    )


def play_unrounded(
    side: Side, played: Played, restored: Mapping[str, NDArray[Any]], folder: Path, seconds: float
) -> dict[str, list[NDArray[Any]]]:
    """Outputs of a quantised file on the same input without its rounding: "unrounded", "restored" and "cut"."""
    assert side.path is not None
    folder.mkdir()
    names = write_restored(folder, restored)
    job = {"file": str(side.path.absolute()), "arrays": str(played.arrays), "inputs": [], "restored": names}
    write_json(folder / "play.json", job)
    run(players()[side.path.suffix.lower()], Path(played.python), folder, side, seconds)
    return grouped(arrays_of(folder / "played.npz"))


def write_restored(folder: Path, weights: Mapping[str, NDArray[Any]]) -> list[str]:
    """Weights that stand for others, as ``w0``, ``w1``, … of a file in the folder: their names in that order."""
    if weights:
        folder.mkdir(exist_ok=True)
        arrays: dict[str, Any] = {f"w{place}": array for place, array in enumerate(weights.values())}
        np.savez(folder / "restored.npz", **arrays)
    return list(weights)


def run(player: Player, python: Path, folder: Path, side: Side, seconds: float) -> Mapping[str, Any]:
    title = player.runtime.title
    command = [str(python), "-I", str(PLAY), str(player.path), str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise EnvironmentFailure(
            f"{side.text} did not end within {seconds:g} s", "give it more time: --timeout SECONDS"
        ) from None
    if not (folder / "played.json").is_file():
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise EnvironmentFailure(f"{title} died on {side.text}: {last[0][:500]}", "try another version of it")
    said: Mapping[str, Any] = read_json(folder / "played.json")
    if said["error"]:
        why = " ".join(str(said["error"]).split())
        raise UsageError(f"{title} does not run {side.text} on this input: {why}", "give one: --input, or --data")
    return said


def checkpoint_of(path: Path, player: Player, folder: Path, said: Mapping[str, Any]) -> Checkpoint:
    """By bncheck's own reader where it has one; else the constants that the runtime told."""
    if not (folder / "weights.npz").is_file() or not entries(folder / "weights.npz"):
        states = read_checkpoint(path)
        if len(states) != 1:
            raise UsageError(f"{path} holds {len(states)} states", "name a file with one model")
        return states[0]
    tensors = {key: in_memory(tensor) for key, tensor in state_of(folder / "weights.npz").items()}
    others = {key: tensor.shape for key, tensor in tensors.items()}
    holding = Holding(name=path.name, framework=player.path.stem, format=player.runtime.title, layers=(), others=others)
    return Checkpoint(
        holding=holding, tensors=tensors, beside={str(key): str(said["beside"][key]) for key in said["beside"]}
    )


def python_with(player: Player, asked: AskedDiff, listener: Listener) -> Path:
    """The user's Python where it has the runtime; bncheck's environment for it else."""
    runtime = player.runtime
    given = expanded(asked.python) if asked.python else active_python(os.environ, runtime.module)
    if given is not None and has(given, runtime.module):
        return given
    for variant in player.preferred:
        there = find_ready(Target(runtime.name, variant), runtime)
        if there is not None:
            return there.python
    ready = make_ready(Target(runtime.name), runtime, {}, listener.say, devices=False)
    if isinstance(ready, Unavailable):
        raise EnvironmentFailure(
            f"{runtime.title} is unavailable: {ready.reason}",
            f"where your own Python has it (pip install {runtime.distribution}): --python PATH; {ready.remedy}",
        )
    return ready.python


def has(python: Path, module: str) -> bool:
    answer = installed_in(python, module) if python.is_file() else None
    return answer is not None and module in answer[1]


# ------------------------------------------------------------------------------------------------ what came back


def arrays_of(path: Path) -> dict[str, NDArray[Any]]:
    return {key: tensor.read() for key, tensor in state_of(path).items()}


def state_of(path: Path) -> dict[str, Tensor]:
    found = {name.removesuffix(".npy"): npy_of(path, entry.whole()) for name, entry in entries(path).items()}
    return {key: value for key, value in found.items() if isinstance(value, Tensor)}


def in_memory(tensor: Tensor) -> Tensor:
    """Read now: its file goes with the folder."""
    array = tensor.read()
    return replace(tensor, read=lambda: array)


def grouped(arrays: Mapping[str, NDArray[Any]]) -> dict[str, list[NDArray[Any]]]:
    """Way to run it → its outputs in order."""
    found: dict[str, list[tuple[int, NDArray[Any]]]] = {}
    for key, array in arrays.items():
        way, _, place = key.rpartition("/")
        if place.isdigit() and way not in ("input", "tap"):
            found.setdefault(way, []).append((int(place), array))
    return {way: [array for _, array in sorted(items, key=lambda item: item[0])] for way, items in found.items()}
