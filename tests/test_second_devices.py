"""Devices besides the first that a machine with nothing but a CPU has: JAX and tinygrad make several of it.

What the device column does (names, folders, comparison, replicas over devices) is played for real on them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from at_the_prompt import bncheck

from bncheck.diagnosis.audit import audit
from bncheck.environments.backend_file import find_backends
from bncheck.environments.targets import parse_target
from bncheck.errors import TargetError
from bncheck.run_folder.cell import trace_of
from bncheck.run_folder.results import Results, read_results

ONES = """
title = "Ones on each device"
why = "What the device column does."

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
why = "What the device column does."

[[network.layers]]
name = "bn"
type = "batch_norm"
channels = 1
batch_weight = 0.5

[network]
replicas = [4, 4]

[input]
shape = [8, 1]
fill = "ones"
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
    for name, text in (("ones", ONES), ("halves", HALVES), ("uneven", HALVES.replace("[4, 4]", "[6, 2]"))):
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
        files.append(str(folder / f"{name}.toml"))
    words = [word for target in ("reference", *BOTH, *SECOND) for word in ("-t", target)]
    done = bncheck("run", *files, *words, "--no-probe", "--no-report", "-q", "--out", str(folder / "run"))
    assert done.returncode in (0, 1), done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def results(run: Path) -> Results:
    return read_results(run)


def held(results: Results, run: Path, target: str, layer: str = "bn") -> list[float]:
    """running_mean before the first event and after each training forward."""
    scenario = "halves" if "shard_map" in target or layer != "bn" else "ones"
    (cell,) = [cell for cell in results.cells if (cell.target, cell.scenario) == (target, scenario)]
    trace = trace_of(run, cell)
    assert trace is not None
    found = trace.get(layer, "running_mean")
    assert found is not None
    return [round(float(row[0]), 3) for row in found[:3]]


@pytest.mark.parametrize("target", SECOND)
def test_a_second_cpu_device_holds_what_the_first_does(results: Results, run: Path, target: str) -> None:
    assert held(results, run, target) == [0.0, 0.5, 0.75]
    (said,) = [item for item in results.targets if item.name == target]
    assert (said.status, said.device, said.slug) == ("ok", "cpu:1", f"{said.backend}-cpu1")
    assert str(said.environment["unit"]).upper() in ("CPU:1", "TFRT_CPU_1", "PYTHON:1")


def test_a_replica_on_its_own_device_averages_its_own_half(results: Results, run: Path) -> None:
    assert held(results, run, "flax[shard_map]") == [0.0, 0.5, 0.75]
    assert held(results, run, "flax[shard_map]", "bn@1") == [0.0, 4.5, 6.75]
    assert held(results, run, "reference", "bn@1") == [0.0, 2.5, 3.75]
    (finding,) = [item for item in results.findings if item.cause == "synchronisation"]
    assert finding.targets == ("flax[shard_map]",)
    assert "give nnx.BatchNorm the axis_name" in finding.advice


@pytest.mark.parametrize(("target", "values"), [("flax[shard_map]", 4), ("flax[shard_map_axis_name]", 8)])
def test_moments_are_recorded_of_what_is_averaged(results: Results, run: Path, target: str, values: int) -> None:
    """Of the replica's own part, or of the whole batch: replay takes these."""
    (cell,) = [cell for cell in results.cells if (cell.target, cell.scenario) == (target, "halves")]
    trace = trace_of(run, cell)
    assert trace is not None
    assert [int(found[0]) for layer in ("bn", "bn@1") if (found := trace.get(layer, "n")) is not None] == [values] * 2


def test_with_axis_name_all_average_the_whole_batch(results: Results, run: Path) -> None:
    for layer in ("bn", "bn@1"):
        assert held(results, run, "flax[shard_map_axis_name]", layer) == [0.0, 2.5, 3.75]


def test_nothing_differs_silently(results: Results) -> None:
    assert audit(results) == ()


def test_an_uneven_batch_is_not_sharded(results: Results) -> None:
    (cell,) = [cell for cell in results.cells if (cell.scenario, cell.target) == ("uneven", BOTH[0])]
    assert cell.outcome == "unsupported"
    assert "JAX divides a batch evenly among devices" in cell.error


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torch@meta", "torch@meta: PyTorch has no device 'meta'"),
        ("torch@cpu:1", "torch@cpu:1: PyTorch has no device 'cpu:1'"),
        ("flax@cpu:2", "flax@cpu:2: Flax has no device 'cpu:2' (did you mean cpu:1?)"),
        ("onnxruntime@xnnpack", "onnxruntime@xnnpack: ONNX Runtime has no device 'xnnpack'"),
    ],
)
def test_a_device_that_a_framework_has_not_is_refused_in_a_sentence(name: str, words: str) -> None:
    with pytest.raises(TargetError) as caught:
        parse_target(name, find_backends())
    assert words in str(caught.value)
