"""Devices that are not here: unavailable at once, with the reason and what to do; what would be installed for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from at_the_prompt import here

from bncheck.environments.backend_file import find_backends
from bncheck.environments.devices import SIGNS, nvidia, why_not
from bncheck.environments.pythons import Unavailable, prepare
from bncheck.environments.targets import parse_target
from bncheck.session import default_targets

# Every backend on every device that it names besides the CPU, where this machine has no such device.
ELSEWHERE = [
    f"{name}@{device}"
    for name, backend in find_backends().items()
    for device in backend.devices
    if device.partition(":")[0] != "cpu" and why_not(device) is not None
]


def test_a_cpu_and_a_device_of_ones_own_are_not_looked_for() -> None:
    assert why_not("cpu") is None
    assert why_not("npu:3") is None


@pytest.mark.parametrize(
    ("device", "file"),
    [("cuda", "nvidia0"), ("cuda:1", "kfd"), ("rocm", "kfd"), ("xpu", "dri/renderD128"), ("tpu", "accel0")],
)
def test_a_device_file_is_a_sign(tmp_path: Path, device: str, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert why_not(device, tmp_path) is None


@pytest.mark.parametrize("kind", ["rocm", "xpu", "tpu"])
def test_without_one_the_reason_and_the_way_out_are_said(tmp_path: Path, kind: str) -> None:
    found = why_not(kind, tmp_path)
    assert found is not None
    assert found[0].startswith("this machine shows no ")
    assert found[1].startswith("run it on a machine that has one (in a container: docker run ")


def test_every_device_of_every_backend_has_a_sign() -> None:
    named = {device.partition(":")[0] for backend in find_backends().values() for device in backend.devices}
    assert named - {"cpu"} == set(SIGNS)


@pytest.mark.skipif(not ELSEWHERE, reason="this machine shows every kind of device")
def test_what_is_not_here_is_unavailable_before_anything_is_installed(tmp_path: Path) -> None:
    backends = find_backends()
    lines: list[str] = []
    targets = [parse_target(name, backends) for name in ELSEWHERE]
    prepared = prepare(targets, backends, report=lines.append)
    assert lines == []
    assert all(isinstance(place, Unavailable) and place.reason and place.remedy for place in prepared.values())


@pytest.mark.skipif("torch@cuda" not in ELSEWHERE, reason="an NVIDIA GPU is here")
def test_a_run_says_it_and_a_required_one_fails(tmp_path: Path) -> None:
    words = ("run", "all-ones", "-t", "reference", "-t", "torch@cuda", "--no-report")
    done = here(*words, "--require", "torch@cuda", "--out", str(tmp_path / "run"))
    assert done.returncode == 3
    targets = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["targets"]
    (cuda,) = [target for target in targets if target["name"] == "torch@cuda"]
    assert cuda["status"] == "unavailable"
    assert "no NVIDIA GPU" in cuda["reason"]
    assert "bncheck compare RUN RUN" in cuda["remedy"]
    assert "no NVIDIA GPU" in done.stdout


def test_a_gpu_here_is_compared_with_the_cpu_by_default() -> None:
    assert ("torch@cuda" in default_targets()) == (why_not("cuda") is None)
    assert default_targets()[:3] == ("reference", "torch", "mxnet")


# Builds for GPUs: (target, distribution, a package that is asked for).
RECIPES = [
    ("mxnet@cuda", "mxnet-cu112", "nvidia-cudnn-cu11>=8.9,<9"),
    ("onnxruntime@cuda", "onnxruntime-gpu", "onnxruntime-gpu[cuda,cudnn]=={version}"),
    ("paddle@cuda", "paddlepaddle-gpu", "paddlepaddle-gpu=={version}"),
    ("paddle==2.6.2@cuda", "paddlepaddle-gpu", "setuptools<81"),
    ("mxnet", "", "mxnet=={version}"),
    ("onnxruntime", "", "onnxruntime=={version}"),
    ("paddle", "", "paddlepaddle=={version}"),
]


@pytest.mark.parametrize(("name", "distribution", "package"), RECIPES)
def test_a_device_has_the_packages_of_its_own_row(name: str, distribution: str, package: str) -> None:
    backends = find_backends()
    target = parse_target(name, backends)
    backend = backends[target.backend]
    row = backend.row_for(target.version or backend.default_version, target.device)
    assert row is not None
    assert row.distribution == distribution
    assert package in row.packages


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("keras@cuda", "jax[cuda12]>=0.4.30,<0.13"),
        ("keras", "jax>=0.4.30,<0.13"),
        ("keras[tensorflow]@cuda", "tensorflow[and-cuda]>=2.16"),
        ("keras[tensorflow]", "tensorflow-cpu>=2.16"),
        ("flax@cuda", "jax[cuda12]"),
        ("tf_keras@cuda", "tensorflow[and-cuda]"),
    ],
)
def test_a_variant_may_need_other_packages_on_a_device(name: str, package: str) -> None:
    from bncheck.environments.pythons import _extra_packages

    backends = find_backends()
    target = parse_target(name, backends)
    assert package in _extra_packages(target, backends[target.backend], "1")
    engines = [item for item in _extra_packages(target, backends[target.backend], "1") if item.startswith("tensorflow")]
    assert len(engines) <= 1


def test_nvidia_is_looked_for_in_a_folder_that_may_be_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not nvidia(tmp_path)
