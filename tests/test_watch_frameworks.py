"""Watching frameworks other than PyTorch: real scripts, healthy and with a fault, in their own interpreters."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import pytest
from watched_lives import KEEP, SCRIPTS

from bncheck.diagnosis.alone import judge_lives
from bncheck.environments.backend_file import find_backends
from bncheck.environments.pythons import Ready, prepare
from bncheck.environments.targets import parse_target
from bncheck.finding import Finding
from bncheck.life import Life
from bncheck.run_folder.lives import read_lives
from bncheck.subjects.launch import Ended, environment, launch
from bncheck.subjects.watched import missed

pytestmark = [pytest.mark.process, pytest.mark.slow]

# Script → (target, cause, the end of the first layer's name, the line that is named; "" where the fault has none).
WANTED = {
    "keras/few_updates": ("few-updates", "batch_normalization_1", ""),
    "keras/nan_in_the_data": ("poisoned-state", "batch_normalization", "nan_in_the_data.py:9"),
    "keras/never_in_training": ("mode-leak", "batch_normalization", "never_in_training.py:14"),
    "paddle/eval_never_undone": ("mode-leak", "batch_norm2d_0", "eval_never_undone.py:12"),
    "paddle/evaluated_in_training": ("mode-leak", "batch_norm2d_0", "evaluated_in_training.py:14"),
}
HEALTHY = sorted(
    f"{path.parent.name}/{path.stem}" for name in ("keras", "paddle") for path in (SCRIPTS / name).glob("healthy*.py")
)


@cache
def python_of(name: str) -> Path:
    backends = find_backends(())
    target = parse_target(name, backends)
    place = prepare([target], backends)[target]
    if not isinstance(place, Ready):
        pytest.skip(f"{name} cannot be installed here: {place}")
    return place.python


@pytest.fixture
def on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")


def watched(script: str, folder: Path, target: str = "") -> tuple[Ended, tuple[Life, ...]]:
    name = script.partition("/")[0]
    python = python_of(target or {"keras": "keras[torch]"}.get(name, name))
    ended = launch([str(python), "-W", "ignore", str(SCRIPTS / f"{script}.py")], folder, KEEP, None, python)
    return ended, read_lives(folder, {ended.pid: ended.code})


def found_in(script: str, folder: Path) -> tuple[Finding, ...]:
    ended, lives = watched(script, folder)
    assert (ended.code, len(lives)) == (0, 1)
    return judge_lives(lives)


@pytest.mark.usefixtures("on_torch")
@pytest.mark.parametrize("script", WANTED)
def test_a_planted_fault_is_named_at_its_layer_and_line(script: str, tmp_path: Path) -> None:
    (found,) = found_in(script, tmp_path)
    line = str(found.evidence.get("line", ""))
    assert (found.cause, found.layer.partition(",")[0], line, found.kind) == (*WANTED[script], "hazard")


@pytest.mark.usefixtures("on_torch")
@pytest.mark.parametrize("script", HEALTHY)
def test_healthy_training_is_left_alone(script: str, tmp_path: Path) -> None:
    assert [(item.cause, item.title) for item in found_in(script, tmp_path)] == []


def test_every_script_is_expected_somewhere() -> None:
    there = {
        f"{path.parent.name}/{path.stem}" for name in ("keras", "paddle") for path in (SCRIPTS / name).glob("*.py")
    }
    assert there == {*WANTED, *HEALTHY, "keras/parts", "paddle/parts"}


@pytest.mark.usefixtures("on_torch")
def test_keras_says_what_its_layers_did(tmp_path: Path) -> None:
    _, (life,) = watched("keras/healthy_fit", tmp_path)
    layer = life.layer("batch_normalization")
    assert (life.framework, layer.kind, layer.channels, life.steps) == ("keras", "BatchNormalization", 8, 64)
    training = [span for span in layer.spans if span.training]
    assert sum(span.forwards for span in training) == sum(span.moved or 0 for span in training) == 64
    assert training[0].called_from is not None
    assert (training[0].called_from.label, training[0].n) == ("healthy_fit.py:10", (1152, 1152))


BITS = {
    "keras": """
from parts import compiled, images, network
x, y = images(256)
model = compiled(network())
model.fit(x, y, batch_size=32, epochs=2, verbose=0)
values = model.get_weights()
""",
    "paddle": """
import paddle
from parts import network, train_step
net = network()
optimiser = paddle.optimizer.Adam(1e-2, parameters=net.parameters())
for _ in range(20):
    train_step(net, optimiser)
values = [each.numpy() for each in net.state_dict().values()]
""",
}
TELL = "import hashlib\nprint(hashlib.sha256(b''.join(each.tobytes() for each in values)).hexdigest())"


@pytest.mark.usefixtures("on_torch")
@pytest.mark.parametrize("name", BITS)
def test_training_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    python = python_of({"keras": "keras[torch]"}.get(name, name))
    command = [str(python), "-W", "ignore", "-c", BITS[name] + TELL]
    outcomes = []
    for variables in (None, environment(tmp_path, "all", None, None)):
        done = subprocess.run(command, env=variables, cwd=SCRIPTS / name, capture_output=True, text=True, check=True)
        outcomes.append(done.stdout)
    assert outcomes[0] == outcomes[1] != ""
    assert len(read_lives(tmp_path)) == 1


def test_keras_on_jax_is_said_to_be_out_of_sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    python = python_of("keras[jax]")
    ended = launch([str(python), "-c", "import keras"], tmp_path, KEEP, None, python)
    (said,) = missed(read_lives(tmp_path), ended)
    assert said.sentence == (
        "Nothing was recorded: Keras runs its layers compiled on jax, where nothing can be seen of them"
    )


OLD = """
import torch
from torch import nn
model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
for step in range(3):
    model(torch.randn(32, 3, 24, 24)).sum().backward()
"""


def test_the_oldest_torch_is_recorded_whole(tmp_path: Path) -> None:
    """It has no bfloat16, and an input of more than 65,536 values is summed another way than a small one."""
    (tmp_path / "train.py").write_text(OLD, encoding="utf-8")
    python = python_of("torch==1.1.0")
    ended = launch([str(python), str(tmp_path / "train.py")], tmp_path / "run", KEEP, None, python)
    (life,) = read_lives(tmp_path / "run", {ended.pid: ended.code})
    (layer,) = life.layers
    assert (ended.code, layer.forwards) == (0, 3)
    assert len(layer.moments["input_mean"]) == 3
    assert judge_lives((life,)) == ()
