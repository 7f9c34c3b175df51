"""Devices besides the first that a machine with nothing but a CPU has: JAX and tinygrad make several of it.

What the device column does (names, folders, comparison, replicas over devices) is played for real on them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import readme_tables
from at_the_prompt import bncheck

from bncheck.diagnosis.audit import audit
from bncheck.environments.backend_file import find_backends
from bncheck.environments.devices import why_not
from bncheck.environments.pythons import Unavailable, prepare
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
FIRST = "tinygrad"  # the same on its own first device


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("devices")
    files = []
    for name, text in (("ones", ONES), ("halves", HALVES), ("uneven", HALVES.replace("[4, 4]", "[6, 2]"))):
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
        files.append(str(folder / f"{name}.toml"))
    words = [word for target in ("reference", *BOTH, FIRST, *SECOND) for word in ("-t", target)]
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
        ("onnxruntime@dnnl", "onnxruntime@dnnl: ONNX Runtime has no device 'dnnl'"),
    ],
)
def test_a_device_that_a_framework_has_not_is_refused_in_a_sentence(name: str, words: str) -> None:
    with pytest.raises(TargetError) as caught:
        parse_target(name, find_backends())
    assert words in str(caught.value)


ASKED = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("backend", sys.argv[1])
backend = importlib.util.module_from_spec(spec)
spec.loader.exec_module(backend)
said = {}
for device in ("cpu", "cuda"):
    try:
        said[device] = backend.describe("", device)
    except RuntimeError as error:
        said[device] = str(error)
"""
OF_ONNX_RUNTIME = (
    ASKED
    + """
import onnx, onnxruntime
said["takes"] = [backend.takes(onnx, onnxruntime, backend.providers(device)) for device in ("cpu", "cuda")]
print(json.dumps(said))
"""
)
OF_TORCH = (
    ASKED
    + """
import torch
said["before"] = backend.part("gpu").flags(torch)
torch.backends.cudnn.conv.fp32_precision = "ieee"
said["after"] = backend.part("gpu").flags(torch)
print(json.dumps(said))
"""
)


def asked(name: str, code: str) -> dict[str, Any]:
    """What the worker's side answers in the framework's own environment, where no sign of a device is looked for."""
    backends = find_backends()
    target = parse_target(name, backends)
    place = prepare([target], backends)[target]
    assert not isinstance(place, Unavailable), place.reason
    words = [place.python, "-I", "-c", code, backends[name].path]
    found: dict[str, Any] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return found


@pytest.mark.slow
@pytest.mark.skipif(why_not("cuda") is None, reason="an NVIDIA GPU is here")
@pytest.mark.parametrize("name", [name for name, backend in find_backends().items() if "cuda" in backend.devices])
def test_a_framework_that_sees_no_gpu_says_so_in_a_sentence(name: str) -> None:
    said = asked(name, f"{ASKED}\nprint(json.dumps(said))")
    assert said["cpu"]["version"]
    assert re.search("CUDA|cuda|GPU", said["cuda"])
    assert "\n" not in said["cuda"]


@pytest.fixture(scope="module")
def onnx_runtime() -> dict[str, Any]:
    return asked("onnxruntime", OF_ONNX_RUNTIME)


def test_the_wheel_of_onnxruntime_computes_on_the_cpu_alone(onnx_runtime: dict[str, Any]) -> None:
    """Azure's provider sends a request away. One that is new here is a second device to play on."""
    assert onnx_runtime["cpu"]["providers"] == ["AzureExecutionProvider", "CPUExecutionProvider"]


def test_a_build_of_onnxruntime_without_cuda_says_so(onnx_runtime: dict[str, Any]) -> None:
    assert onnx_runtime["cuda"] == "this build of onnxruntime has no CUDA (onnxruntime-gpu has)"


def test_a_provider_that_gives_way_to_the_cpu_is_found_out(onnx_runtime: dict[str, Any]) -> None:
    assert onnx_runtime["takes"] == [True, False]


@pytest.mark.skipif(why_not("cuda") is None, reason="an NVIDIA GPU is here")
def test_torch_says_why_not_and_how_many_digits_a_gpu_would_compute_with() -> None:
    """A program that has set the precision by the newer names makes torch refuse to tell the older one."""
    said = asked("torch", OF_TORCH)
    assert said["cuda"] in ("this build of torch has no CUDA", "torch sees no CUDA device")
    assert (said["before"]["tf32_convolutions"], said["before"]["tf32_matmul"]) == (True, False)
    assert (said["after"]["tf32_convolutions"], said["after"]["tf32_matmul"]) == ("ieee", False)


# ------------------------------------------------------------------------------- a run of another device as data


def joined(measured: Path, folder: Path) -> Results:
    """The scenarios of a run from elsewhere, played on this CPU and joined with it."""
    results = read_results(measured)
    names = {item.name for item in results.scenarios if not item.probe}
    files = [str(path) for path in (measured / "scenarios").glob("*.toml") if path.stem in names]
    words = ("-t", "reference", "--no-probe", "--no-report", "-q", "--fail-on", "never")
    played = bncheck("run", *files, *words, "--out", str(folder / "here"))
    assert played.returncode in (0, 3), played.stderr  # 3: one target alone is compared with nothing
    words = ("--no-report", "-q", "--fail-on", "never", "--out", str(folder / "both"))
    done = bncheck("compare", str(folder / "here"), str(measured), *words)
    assert done.returncode in (0, 3), done.stderr  # 3: what was unavailable there
    return read_results(folder / "both")


def is_there(results: Results, measured: Path) -> None:
    """Every target that ran there stands in the comparison, with its device, and nothing differs silently."""
    there = {(each.name, each.device) for each in read_results(measured).targets if each.status == "ok"}
    assert {(each.name, each.device) for each in results.targets if each.status == "ok"} >= there
    away = {name for name, _ in there if "@" in name}
    assert away
    assert {drift.a for drift in results.drifts} | {drift.b for drift in results.drifts} >= away
    assert audit(results) == ()


COMMITTED = sorted(path.parent for path in readme_tables.MEASURED.glob("*/run.json"))


@pytest.mark.skipif(not COMMITTED, reason="no GPU has run yet: tests/data/gpu has no run folder")
@pytest.mark.parametrize("measured", COMMITTED or [readme_tables.MEASURED], ids=lambda path: path.name)
def test_a_committed_run_of_a_gpu_is_joined_with_this_cpu(measured: Path, tmp_path: Path) -> None:
    assert sum(path.stat().st_size for path in measured.rglob("*") if path.is_file()) < 2**20
    is_there(joined(measured, tmp_path), measured)


def test_a_run_of_another_device_is_joined_with_this_cpu(run: Path, tmp_path: Path) -> None:
    is_there(joined(run, tmp_path), run)


def test_a_run_of_another_device_changes_the_table_of_gpus(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (readme_tables.DOCS / "targets.md").read_text(encoding="utf-8")
    assert readme_tables.fill(page) == page
    shutil.copytree(run, tmp_path / "lent")
    monkeypatch.setattr(readme_tables, "MEASURED", tmp_path)
    filled = readme_tables.fill(page)
    assert filled != page
    (row,) = [line for line in filled.splitlines() if line.startswith("| `tinygrad@cpu:1` | PYTHON:1 | ")]
    assert "| 1 of 1 (lent) |  |" in row
    assert readme_tables.fill(filled) == filled


def test_what_no_gpu_has_run_is_said_to_be_unmeasured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme_tables, "MEASURED", tmp_path)
    lines = readme_tables.gpus().splitlines()[2:]
    assert "| `torch@cuda` | not measured yet |  |  |  |" in lines
    assert all("not measured yet" in line for line in lines)
