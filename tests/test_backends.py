"""The contract test: the same little program through the real worker, for every backend file.

BNCHECK_TEST_BACKENDS names the backends whose environments are made and run (comma list, or "all"); the default is
reference,torch,mxnet. A backend that is named and cannot run fails; one that is only covered by "all" or by the
default is skipped with the reason.

    BNCHECK_TEST_BACKENDS=flax,haiku pytest tests/test_backends.py
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bncheck import installer
from bncheck.backend_file import find_backends
from bncheck.environments import Ready, prepare
from bncheck.index_settings import read_index_settings
from bncheck.interpreters import find_interpreters
from bncheck.scenario import Layer
from bncheck.targets import Target
from bncheck.worker.backends import reference
from bncheck.workers import RUNNER

DEFAULT = "reference,torch,mxnet"
BACKENDS = find_backends()
ASKED = os.environ.get("BNCHECK_TEST_BACKENDS", DEFAULT).replace(" ", "").split(",")
ASKED = sorted(BACKENDS) if ASKED == ["all"] else ASKED
TARGETS = [
    Target(name, variant) for name in ASKED for variant in BACKENDS[name].variants if variant != "*"
]
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
    found |= {
        f"param/{name.replace('__', '/')}": np.array(value, np.float32) for name, value in params.items()
    }
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
    given = (
        NO_PARAMETERS if fields.get("batch_weight", WEIGHT) is None or not fields.get("affine", True) else BN
    )
    return Cell(
        network(layer("bn", rank=rank, channels=3, **fields)), program(events), inputs(shape, **given), dtype
    )


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


# --- playing it


@dataclasses.dataclass(frozen=True)
class Played:
    """What one target left of all cells."""

    folder: Path
    environment: Mapping[str, Any]

    def result(self, cell: str) -> dict[str, Any]:
        return json.loads((self.folder / folder_name(cell) / "result.json").read_text())

    def trace(self, cell: str) -> Arrays:
        """The cell's arrays; a cell that the target says it cannot do is a skip with its reason."""
        result = self.result(cell)
        if result["outcome"] == "unsupported":
            pytest.skip(f"unsupported: {result['error']['message']}")
        assert result["outcome"] == "ok", result["error"]
        assert [item for item in result["failed"] if item["status"] != "skipped"] == []
        return read(self.folder / folder_name(cell) / "trace.npz")


def read(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def folder_name(cell: str) -> str:
    return cell.replace(" ", "_")


def play(python: Path, backend: Path, variant: str, folder: Path) -> Played:
    """All cells in one real worker process."""
    (folder / "inputs").mkdir()
    job = {
        "protocol": 1,
        "backend": str(backend),
        "variant": variant,
        "device": "cpu",
        "inputs": "inputs",
        "memory_limit": None,
        "cells": [folder_name(name) for name in CELLS],
    }
    (folder / "job.json").write_text(json.dumps(job))
    for name, cell in CELLS.items():
        own = folder / folder_name(name)
        own.mkdir()
        np.savez(folder / "inputs" / f"{own.name}.npz", **cell.arrays)
        task = {
            "protocol": 1,
            "inputs": f"{own.name}.npz",
            "dtype": cell.dtype,
            "network": cell.network,
            "events": cell.events,
            "sample": 4096,
        }
        (own / "job.json").write_text(json.dumps(task))
    subprocess.run([str(python), "-I", str(RUNNER), str(folder)], check=True, timeout=600)
    return Played(folder, json.loads((folder / "environment.json").read_text()))


@functools.cache
def python_of(target: Target) -> Path | str:
    """The target's Python, or why there is none."""
    answer = prepare([target], BACKENDS)[target]
    return (
        answer.python if isinstance(answer, Ready) else f"{target}: {answer.reason}. Remedy: {answer.remedy}"
    )


def refuse(name: str, reason: str) -> None:
    """A backend that was asked for by name must run; any other is skipped, with the reason."""
    if name in os.environ.get("BNCHECK_TEST_BACKENDS", "").replace(" ", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module", params=TARGETS, ids=str)
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    target: Target = request.param
    python = python_of(target)
    if isinstance(python, str):
        refuse(target.backend, python)
    found = play(Path(python), BACKENDS[target.backend].path, target.variant, tmp_path_factory.mktemp("job"))
    if "unavailable" in found.environment:
        refuse(target.backend, f"{target}: {found.environment['unavailable']}")
    yield found


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


# --- the contract


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_every_backend_is_run_here_or_it_is_said_how(name: str) -> None:
    if name not in ASKED:
        pytest.skip(f"not run by default: BNCHECK_TEST_BACKENDS={name} pytest {Path(__file__).name}")
    assert any(target.backend == name for target in TARGETS)


def test_environment_names_the_version(played: Played) -> None:
    assert "version" in played.environment
    assert played.environment["import_seconds"] > 0


FORWARD_CELLS = ["2-D", "3-D", "4-D", "5-D", "2-D last", "4-D last"]


@pytest.mark.parametrize("cell", FORWARD_CELLS)
def test_arrays_have_the_names_shapes_and_dtypes_of_the_trace_table(played: Played, cell: str) -> None:
    trace = played.trace(cell)
    shape = CELLS[cell].arrays["x/main"].shape[1:]
    for name in ("running_mean", "running_var", "gamma", "beta"):
        assert trace[f"bn/{name}"].shape == (4, 3)
        assert trace[f"bn/{name}"].dtype.kind == "f"
    for name in ("counter", "momentum", "eps"):
        assert trace[f"bn/{name}"].shape == (4,)
        assert trace[f"bn/{name}"].dtype == np.float64
    assert trace["bn/training"].dtype == np.int8
    assert trace["bn/n"].tolist() == [np.prod(shape) // 3] * 3
    assert trace["bn/input_bad"].tolist() == trace["bn/output_bad"].tolist() == [0, 0, 0]
    for name in ("input_mean", "input_var", "used_mean", "used_invstd", "used_residual"):
        assert trace[f"bn/{name}"].shape == (3, 3)
        assert trace[f"bn/{name}"].dtype == np.float64
    assert trace["output/0"].shape == shape
    assert trace["output/0"].dtype == played.environment.get("accumulates", "float32")


def test_the_state_starts_with_the_given_parameters(played: Played) -> None:
    trace = played.trace("2-D")
    for name, value in BN.items():
        assert trace[name.replace("__", "/")][0].tolist() == value


@pytest.mark.parametrize("cell", ["2-D", "4-D", "4-D last"])
def test_eval_leaves_the_state_alone(played: Played, cell: str) -> None:
    trace = played.trace(cell)
    for name in ("running_mean", "running_var", "gamma", "beta", "counter"):
        held = trace[f"bn/{name}"]
        assert held[2].tobytes() == held[3].tobytes(), name


@pytest.mark.parametrize("cell", FORWARD_CELLS)
def test_a_training_forward_normalises_with_the_batch(played: Played, cell: str) -> None:
    trace = played.trace(cell)
    for event in (0, 1):
        mean, var = moments(cell, event, CELLS[cell].network["layers"][0]["axis"])
        np.testing.assert_allclose(trace["bn/input_mean"][event], mean, rtol=1e-12)
        np.testing.assert_allclose(trace["bn/input_var"][event], var, rtol=1e-12)
        np.testing.assert_allclose(trace["bn/used_mean"][event], mean, atol=1e-5)
        np.testing.assert_allclose(trace["bn/used_invstd"][event], 1 / np.sqrt(var + EPS), rtol=1e-5)


@pytest.mark.parametrize("cell", [*FORWARD_CELLS, "no_grad"])
def test_an_eval_forward_normalises_with_the_running_statistics(played: Played, cell: str) -> None:
    trace = played.trace(cell)
    last = len(CELLS[cell].events) - 1
    held = {name: trace[f"bn/{name}"][last].astype(float) for name in ("running_mean", "running_var")}
    np.testing.assert_allclose(trace["bn/used_mean"][last], held["running_mean"], atol=1e-5)
    np.testing.assert_allclose(
        trace["bn/used_invstd"][last], 1 / np.sqrt(held["running_var"] + EPS), rtol=1e-5
    )


@pytest.mark.parametrize("cell", ["backward", "backward 4-D", "backward last", "several", "stack"])
def test_gradients_are_the_closed_form(played: Played, cell: str) -> None:
    trace = played.trace(cell)
    for event, found in expected(cell)[1].items():
        np.testing.assert_allclose(trace[f"grad_input/{event}"], found["input"], rtol=2e-4, atol=2e-4)
        for name, value in found.items():
            if name.rpartition("/")[2] in ("gamma", "beta"):
                held = trace[name.replace("/", "/grad_")][event]
                np.testing.assert_allclose(held, value, rtol=2e-4, atol=2e-4)


def test_two_layers_in_one_network_agree_with_the_reference(played: Played) -> None:
    trace = played.trace("stack")
    np.testing.assert_allclose(trace["output/0"], expected("stack")[0][0], rtol=1e-4, atol=1e-4)
    # -1: a target that runs a compiled graph may have no layers left to look into.
    assert trace["bn/n"].tolist() in ([36, -1, 36], [-1, -1, -1])
    assert trace["tail/n"].tolist() in ([6, -1, 6], [-1, -1, -1])


def test_forward_as_it_is_keeps_the_mode(played: Played) -> None:
    trace = played.trace("modes")
    # EATA-A+A: an as-is forward (events 1, 3, 5, 7) after eval, after train, and after each set_mode.
    given = [moments("modes", event)[0] for event in (0, 1, 2, 3, 5, 7)]
    for event, mean, training in ((1, given[1], False), (3, given[3], True), (5, given[4], False)):
        used = trace["bn/used_mean"][event]
        np.testing.assert_allclose(used, mean if training else trace["bn/running_mean"][event], atol=1e-5)
    np.testing.assert_allclose(trace["bn/used_mean"][7], given[5], atol=1e-5)


def test_missing_parameters_keep_the_frameworks_own_values(played: Played) -> None:
    trace = played.trace("defaults")
    for name in ("running_mean", "running_var", "gamma", "beta"):
        held = trace.get(f"bn/{name}")
        if held is not None:
            assert held.shape == (2, 3)
            assert np.isfinite(held).all()


def test_a_layer_without_affine_normalises_only(played: Played) -> None:
    trace = played.trace("plain")
    mean, var = moments("plain", 0)
    x = CELLS["plain"].arrays["x/main"][0].astype(float)
    np.testing.assert_allclose(trace["output/0"], (x - mean) / np.sqrt(var + EPS), atol=1e-5)


def test_what_a_backend_cannot_do_is_unsupported_with_the_reason(played: Played) -> None:
    result = played.result("unknown")
    assert result["outcome"] == "unsupported"
    assert "no_such_layer" in result["error"]["message"]
    for cell in ("cumulative", "untracked"):
        outcome = played.result(cell)
        assert outcome["outcome"] in ("ok", "unsupported"), outcome["error"]
        assert outcome["outcome"] == "ok" or len(outcome["error"]["message"]) > 10


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-5), ("float16", 2e-2), ("bfloat16", 1.5e-1)]
)
def test_other_dtypes_compute_or_say_why_not(played: Played, dtype: str, tolerance: float) -> None:
    if "accumulates" in played.environment:
        pytest.skip("the reference's dtype is one of its rules, whatever the cell says")
    trace = played.trace(dtype)
    outputs, gradients = expected(dtype)
    assert trace["output/0"].dtype == ("float32" if dtype == "bfloat16" else dtype)
    np.testing.assert_allclose(trace["output/0"], outputs[0], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(
        trace["grad_input/2"], gradients[2]["input"], rtol=tolerance * 5, atol=tolerance * 5
    )
    if dtype == "bfloat16":
        # NumPy has no bfloat16: what was widened has to be said.
        widened = played.result(dtype)["dtypes"]
        assert set(widened.values()) <= {"bfloat16"}


# --- the oldest Python that a worker may meet


@pytest.fixture(scope="module")
def python37(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python 3.7 with NumPy: one that is here, else a new environment."""
    old = [item for item in find_interpreters() if item.minor == (3, 7)]
    if not old:
        pytest.skip("no Python 3.7 is here")
    if subprocess.run([str(old[0].path), "-I", "-c", "import numpy"], capture_output=True).returncode == 0:
        return old[0].path
    folder = tmp_path_factory.mktemp("python37") / "environment"
    failure = installer.create_venv(folder, old[0].path)
    python = folder / "bin" / "python"
    failure = failure or installer.install(python, ("numpy<1.22",), read_index_settings())
    if failure is not None:
        pytest.skip(f"no NumPy for Python 3.7: {failure.reason}")
    return python


def test_the_worker_runs_on_python_3_7(python37: Path, tmp_path: Path) -> None:
    old = play(python37, BACKENDS["reference"].path, "", tmp_path)
    assert old.environment["python"].startswith("3.7.")
    for cell in ("2-D", "stack", "several"):
        for event, output in expected(cell)[0].items():
            np.testing.assert_allclose(old.trace(cell)[f"output/{event}"], output, rtol=1e-12, atol=1e-12)
