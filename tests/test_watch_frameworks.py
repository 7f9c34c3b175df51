"""Watching frameworks other than PyTorch: real scripts, healthy and with a fault, in their own interpreters."""

from __future__ import annotations

import os
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

# Script, and for Keras its backend → (cause, the first layer's name, the line that is named; "" for none).
FIRST = "batch_normalization"
WANTED = {
    "keras/copied_momentum@torch": ("batch-weight", FIRST, ""),
    "keras/few_updates@torch": ("few-updates", "batch_normalization_1", ""),
    "keras/nan_in_the_data@torch": ("poisoned-state", FIRST, "nan_in_the_data.py:9"),
    "keras/never_in_training@torch": ("mode-leak", FIRST, "never_in_training.py:14"),
    "keras_compiled/nan_in_the_data@jax": ("poisoned-state", FIRST, "nan_in_the_data.py:9"),
    "keras_compiled/never_in_training@jax": ("mode-leak", FIRST, "never_in_training.py:22"),
    "keras_compiled/evaluated_in_training@jax": ("mode-leak", FIRST, "evaluated_in_training.py:13"),
    "keras_compiled/nan_in_the_data@tensorflow": ("poisoned-state", FIRST, "nan_in_the_data.py:9"),
    "keras_compiled/never_in_training@tensorflow": ("mode-leak", FIRST, "never_in_training.py:22"),
    "keras_compiled/evaluated_in_training@tensorflow": ("mode-leak", FIRST, "evaluated_in_training.py:13"),
    "keras_compiled/frozen_without_compile@tensorflow": ("mode-leak", FIRST, "frozen_without_compile.py:11"),
    "flax/copied_momentum": ("batch-weight", "norm1", ""),
    "flax/eval_never_undone": ("mode-leak", "norm1", "eval_never_undone.py:10"),
    "flax/evaluated_in_training": ("mode-leak", "norm1", "evaluated_in_training.py:12"),
    "flax/few_updates": ("few-updates", "norm1", ""),
    "flax/nan_from_step_40": ("poisoned-state", "norm1", "nan_from_step_40.py:11"),
    "mxnet/few_updates": ("few-updates", "batchnorm0", ""),
    "mxnet/nan_from_step_40": ("poisoned-state", "batchnorm0", "parts.py:35"),
    "mxnet/never_in_training": ("mode-leak", "batchnorm0", "never_in_training.py:11"),
    "paddle/eval_never_undone": ("mode-leak", "batch_norm2d_0", "eval_never_undone.py:12"),
    "paddle/evaluated_in_training": ("mode-leak", "batch_norm2d_0", "evaluated_in_training.py:14"),
}
BACKENDS = {"keras": ["@torch"], "keras_compiled": ["@jax", "@tensorflow"], "flax": [""], "mxnet": [""], "paddle": [""]}
HEALTHY = sorted(
    f"{name}/{path.stem}{backend}"
    for name, backends in BACKENDS.items()
    for path in (SCRIPTS / name).glob("healthy*.py")
    for backend in backends
)


@cache
def python_of(name: str) -> Path:
    backends = find_backends(())
    target = parse_target(name, backends)
    place = prepare([target], backends)[target]
    if not isinstance(place, Ready):
        pytest.skip(f"{name} cannot be installed here: {place}")
    return place.python


def target_of(script: str) -> str:
    name, _, backend = script.partition("/")[0], "", script.partition("@")[2]
    return f"keras[{backend}]" if backend else name


def watched(script: str, folder: Path) -> tuple[Ended, tuple[Life, ...]]:
    path, _, backend = script.partition("@")
    python = python_of(target_of(script))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", backend)
        ended = launch([str(python), "-W", "ignore", str(SCRIPTS / f"{path}.py")], folder, KEEP, None, python)
    return ended, read_lives(folder, {ended.pid: ended.code})


def found_in(script: str, folder: Path) -> tuple[Finding, ...]:
    ended, lives = watched(script, folder)
    assert (ended.code, len(lives)) == (0, 1)
    return judge_lives(lives)


@pytest.mark.parametrize("script", WANTED)
def test_a_planted_fault_is_named_at_its_layer_and_line(script: str, tmp_path: Path) -> None:
    (found,) = found_in(script, tmp_path)
    line = str(found.evidence.get("line", ""))
    assert (found.cause, found.layer.partition(",")[0], line, found.kind) == (*WANTED[script], "hazard")


@pytest.mark.parametrize("script", HEALTHY)
def test_healthy_training_is_left_alone(script: str, tmp_path: Path) -> None:
    ended, (life,) = watched(script, tmp_path)
    assert (ended.code, {layer.device for layer in life.layers}) == (0, {"cpu"})
    assert [(item.cause, item.title) for item in judge_lives((life,))] == []


def test_every_script_is_expected_somewhere() -> None:
    there = {f"{name}/{path.stem}" for name in BACKENDS for path in (SCRIPTS / name).glob("*.py")}
    known = {script.partition("@")[0] for script in (*WANTED, *HEALTHY)}
    assert there == known | {f"{name}/parts" for name in BACKENDS}


def test_keras_says_what_its_layers_did(tmp_path: Path) -> None:
    _, (life,) = watched("keras/healthy_fit@torch", tmp_path)
    layer = life.layer("batch_normalization")
    assert (life.framework, layer.kind, layer.channels, life.steps) == ("keras", "BatchNormalization", 8, 64)
    training = [span for span in layer.spans if span.training]
    assert sum(span.forwards for span in training) == sum(span.moved or 0 for span in training) == 64
    assert training[0].called_from is not None
    assert (training[0].called_from.label, training[0].n) == ("healthy_fit.py:10", (1152, 1152))


FIT = """
from parts import compiled, images, network
x, y = images(272)
model = compiled(network())
model.fit(x, y, batch_size=32, epochs=2, verbose=0)
values = model.get_weights()
"""
BITS = {
    "keras/fit@torch": FIT,
    "keras_compiled/fit@jax": FIT,
    "keras_compiled/fit@tensorflow": FIT,
    "flax/steps": """
import jax
from flax import nnx
from parts import Network, accuracy, batch, optimiser_of, train_step
net = Network()
optimiser = optimiser_of(net)
for _ in range(20):
    train_step(net, optimiser, *batch())
net.eval()
accuracy(net, *batch())
values = [np.asarray(each) for each in jax.tree.leaves(nnx.state(net))]
""",
    "mxnet/steps": """
from parts import accuracy, batch, network, train_step, trainer_of
values = []
for hybrid in (False, True):
    net = network()
    net.hybridize(hybrid)
    trainer = trainer_of(net)
    for _ in range(20):
        train_step(net, trainer, *batch())
    accuracy(net)
    values += [each.data().asnumpy() for each in net.collect_params().values()]
""",
    "paddle/steps": """
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


@pytest.mark.parametrize("name", BITS)
def test_training_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    python = python_of(target_of(name))
    command = [str(python), "-W", "ignore", "-c", "import numpy as np" + BITS[name] + TELL]
    outcomes = []
    for variables in (dict(os.environ), environment(tmp_path, "all", None, None)):
        variables["KERAS_BACKEND"] = name.partition("@")[2]
        where = SCRIPTS / name.partition("/")[0]
        done = subprocess.run(command, env=variables, cwd=where, capture_output=True, text=True, check=True)
        outcomes.append(done.stdout)
    assert outcomes[0] == outcomes[1] != ""
    assert len(read_lives(tmp_path)) == 1


FIVE = """
from parts import compiled, images, network
x, y = images(272)
model = compiled(network())
model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy", steps_per_execution=4)
model.fit(x, y, batch_size=32, epochs=2, verbose=0)
"""


@pytest.mark.parametrize("engine", ["jax", "tensorflow"])
def test_steps_of_one_execution_are_counted_one_by_one(engine: str, tmp_path: Path) -> None:
    """Nine batches in an epoch, four in an execution: each is one step and one forward."""
    python = python_of(f"keras[{engine}]")
    variables = {**environment(tmp_path, KEEP, None, None), "KERAS_BACKEND": engine}
    where = SCRIPTS / "keras_compiled"
    subprocess.run([str(python), "-W", "ignore", "-c", FIVE], env=variables, cwd=where, capture_output=True, check=True)
    (life,) = read_lives(tmp_path)
    spans = life.layer(FIRST).spans
    counts = sum(span.forwards for span in spans), sum(span.moved or 0 for span in spans)
    assert (life.steps, *counts, max(span.most_per_step for span in spans)) == (18, 18, 18, 1)


OWN_JIT = """
import jax
from flax import nnx
from parts import Network, batch
graph, state = nnx.split(Network())

@jax.jit
def forward(state, x):
    net = nnx.merge(graph, state)
    return net(x), nnx.state(net)

forward(state, batch()[0])
"""


def test_modules_inside_jax_jit_are_said_to_be_out_of_sight(tmp_path: Path) -> None:
    python = python_of("flax")
    (tmp_path / "train.py").write_text(OWN_JIT, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(SCRIPTS / "flax"))
        ended = launch([str(python), str(tmp_path / "train.py")], tmp_path / "run", KEEP, None, python)
    (said,) = missed(read_lives(tmp_path / "run"), ended)
    assert said.sentence == (
        "Nothing was recorded: jax.jit hands arrays to a function, and a module that it makes of them is gone behind it"
    )
    assert said.remedy == "Use nnx.jit, which is seen"


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
