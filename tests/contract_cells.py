"""The cells of the contract test and how they are played: through the real worker, one process for all of them."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import left_by_cells
import numpy as np
import pytest

from bncheck.playing.nursery import Nursery
from bncheck.playing.readied import RUNNER
from bncheck.scenario import Layer, describe_ops
from bncheck.worker.archive import digest
from bncheck.worker.backends import reference

WEIGHT, EPS = 0.3, 1e-3
Arrays = dict[str, np.ndarray]
Network = dict[str, Any]


# --- what is played


def layer(name: str, kind: str = "batch_norm", rank: int = 2, **fields: Any) -> dict[str, Any]:
    """A layer as the host writes it into job.json."""
    made = Layer(name=name, type=kind, batch_weight=WEIGHT, eps=EPS)
    return dataclasses.asdict(dataclasses.replace(made, **fields)) | {"rank": rank}


def network(*layers: dict[str, Any]) -> Network:
    return {"layers": list(layers), "custom": None, "file": None, "returns": None}


def program(text: str, layer: str | None = None) -> list[dict[str, Any]]:
    """Events from words: T train, N no_grad, E eval, A as it is, B backward, + and - set the mode."""
    words = {"T": "train_forward", "N": "no_grad_forward", "E": "eval_forward", "A": "forward", "B": "backward"}
    events: list[dict[str, Any]] = []
    batch = 0
    for word in text:
        if word in "+-":
            events.append({"op": "set_mode", "arguments": {"training": word == "+"}})
        else:
            events.append({"op": words[word], "input": "main", "batch": batch, "arguments": {}})
            batch += word in "TNEA"
    return events


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).normal(size=shape).astype(np.float32)


def inputs(shape: Sequence[int], out: Sequence[int] | None = None, **params: Any) -> Arrays:
    """Six batches of a shape, upstream gradients of the output's shape, and parameters."""
    found = {"x/main": numbers(6, *shape) * 2 + 1, "dy/main": numbers(6, *(out or shape), seed=1)}
    found |= {f"param/{name.replace('__', '/')}": np.array(value, np.float32) for name, value in params.items()}
    return found


BN: dict[str, Any] = {
    "bn__running_mean": [0.5, 1, -1],
    "bn__running_var": [2, 3, 0.5],
    "bn__gamma": [2, 3, 0.5],
    "bn__beta": [1, 0, -2],
}
NO_PARAMETERS: dict[str, Any] = {}


def stack() -> tuple[Network, Arrays]:
    """conv2d, BatchNorm, relu, flatten, dense, BatchNorm: 2×2×5×4 in, 6×... out."""
    layers = network(
        layer("conv", "conv2d", 4, options={"stride": 2, "padding": 1}),
        layer("bn", rank=4, channels=3),
        layer("relu", "relu", 4),
        layer("flat", "flatten", 4),
        layer("fc", "dense"),
        layer("tail", channels=2),
    )
    weights = {"conv/weight": numbers(3, 2, 3, 3, seed=2), "conv/bias": numbers(3, seed=3)}
    weights |= {"fc/weight": numbers(2, 3 * 3 * 2, seed=4), "fc/bias": numbers(2, seed=5)}
    tail = {
        "tail__running_mean": [0, 1],
        "tail__running_var": [1, 2],
        "tail__gamma": [1, 2],
        "tail__beta": [0, 1],
    }
    arrays = inputs((6, 2, 5, 4), (6, 2), **BN, **tail)
    return layers, arrays | {f"param/{name}": value for name, value in weights.items()}


@dataclasses.dataclass(frozen=True)
class Cell:
    network: Network
    events: list[dict[str, Any]]
    arrays: Arrays
    dtype: str = "float32"


def one(rank: int = 2, events: str = "TTE", dtype: str = "float32", **fields: Any) -> Cell:
    """One BatchNorm layer with 3 channels on an input of this rank."""
    last = fields.get("axis") == -1
    shape = (6, 3, 5, 2, 2)[:rank] if not last else (6, *(5, 2, 2)[: rank - 2], 3)
    given = NO_PARAMETERS if fields.get("batch_weight", WEIGHT) is None or not fields.get("affine", True) else BN
    return Cell(network(layer("bn", rank=rank, channels=3, **fields)), program(events), inputs(shape, **given), dtype)


CELLS: dict[str, Cell] = {
    "2-D": one(2),
    "3-D": one(3),
    "4-D": one(4),
    "5-D": one(5),
    "4-D last": one(4, axis=-1),
    "2-D last": one(2, axis=-1),
    "backward": one(2, "TBE"),
    "backward 4-D": one(4, "TBE"),
    "backward last": one(4, "TBE", axis=-1),
    "several": one(2, "TTBTBB"),
    "modes": one(2, "EATA-A+A"),
    "no_grad": one(2, "NE"),
    "defaults": one(2, "E", batch_weight=None, eps=None),
    "plain": one(2, "TE", affine=False),
    "stack": Cell(stack()[0], program("TBE"), stack()[1]),
    "unknown": Cell(
        network(layer("bn", channels=3), layer("odd", "no_such_layer")), program("T"), inputs((6, 3), **BN)
    ),
    "cumulative": one(2, "TTE", averaging="cumulative"),
    "untracked": one(2, "TE", track_running_stats=False),
    "float64": one(2, "TTBE", "float64"),
    "float16": one(2, "TTBE", "float16"),
    "bfloat16": one(2, "TTBE", "bfloat16"),
}
# Of a target that compiles every network anew: each event, changes of mode, and two layers among others.
FEW = ("2-D", "modes", "stack", "unknown")


# --- playing it


@dataclasses.dataclass(frozen=True)
class Played:
    """What one target left of these cells."""

    folder: Path
    cells: Sequence[str] = tuple(CELLS)
    unit: float = 0.0  # half the spacing of the numbers that matrices are multiplied in; 0: the cell's own dtype

    @property
    def close(self) -> float:
        """How near a number behind several layers comes to the one in float64, where those that are added up to it are
        of the order of 1 and both factors of each are rounded."""
        return max(1e-4, 16 * self.unit)

    @functools.cached_property
    def environment(self) -> Mapping[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "environment.json").read_text())
        return found

    def result(self, cell: str) -> dict[str, Any]:
        return left_by_cells.result_of(self.folder / folder_name(cell))

    def trace(self, cell: str) -> Arrays:
        """The cell's arrays; a cell that the target says it cannot do is a skip with its reason."""
        if cell not in self.cells:
            pytest.skip("played with -m slow: every network is compiled anew")
        result = self.result(cell)
        if result["outcome"] == "unsupported":
            pytest.skip(f"unsupported: {result['error']['message']}")
        assert result["outcome"] == "ok", result["error"]
        assert [item for item in result["failed"] if item["status"] != "skipped"] == []
        return left_by_cells.arrays_of(self.folder / folder_name(cell))


def folder_name(cell: str) -> str:
    return cell.replace(" ", "_")


def play(
    python: Path,
    backend: Path,
    variant: str,
    folder: Path,
    cells: Sequence[str] = tuple(CELLS),
    nursery: Nursery | None = None,
) -> None:
    """The cells in one real worker process, forked from the nursery where there is one."""
    (folder / "inputs").mkdir(parents=True)
    job = {
        "protocol": 1,
        "host": os.getpid() if nursery is None else nursery.process.pid,
        "backend": str(backend),
        "variant": variant,
        "device": "cpu",
        "inputs": "inputs",
        "cases": "cases.jsonl",
        "memory_limit": None,
    }
    (folder / "job.json").write_text(json.dumps(job))
    lines = []
    for name in cells:
        cell = CELLS[name]
        np.savez(folder / "inputs" / f"{folder_name(name)}.npz", **cell.arrays)
        task = {
            "cell": folder_name(name),
            "protocol": 1,
            "inputs": f"{folder_name(name)}.npz",
            "dtype": cell.dtype,
            "network": cell.network,
            "events": cell.events,
            "ops": describe_ops(event["op"] for event in cell.events),
            "sample": 4096,
        }
        lines.append(json.dumps(task) + "\n")
    (folder / "cases.jsonl").write_text("".join(lines))
    asked = {"cells": [folder_name(name) for name in cells], "cases": digest("".join(lines).encode())}
    (folder / "cells.json").write_text(json.dumps(asked))
    if nursery is None:
        subprocess.run([str(python), "-I", str(RUNNER), str(folder)], check=True)
    else:
        assert nursery.fork(RUNNER.name, folder, {}).wait() == 0


# --- what is expected


def moments(cell: str, event: int, channel_axis: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """float64 mean and biased variance of the batch that a single-layer cell's event saw."""
    batch = CELLS[cell].events[event]["batch"]
    rows = np.moveaxis(CELLS[cell].arrays["x/main"][batch].astype(float), channel_axis, 0).reshape(3, -1)
    return rows.mean(axis=1), rows.var(axis=1)


def expected(cell: str) -> tuple[dict[int, np.ndarray], dict[int, dict[str, Any]]]:
    """(outputs of forward events, gradients of backward events) of the float64 reference, by event."""
    given = CELLS[cell]
    params = {name[6:]: value for name, value in given.arrays.items() if name.startswith("param/")}
    model = reference.build(given.network, params, "float64", "", "cpu")
    outputs, gradients, waiting, last = {}, {}, [], []
    for index, event in enumerate(given.events):
        if event["op"] == "backward":
            last, waiting = waiting or last, []
            gradients[index] = model.backward(last)
            continue
        batch = event["batch"]
        mode = {"train_forward": "train", "eval_forward": "eval"}[event["op"]]
        outputs[index] = model.forward(given.arrays["x/main"][batch].astype(float), mode)
        if mode == "train":
            waiting.append(given.arrays["dy/main"][batch].astype(float))
    return outputs, gradients
