"""Other ways to run a layer, on the real frameworks: compiled by XLA, as a traced program, on an input that asks for no
gradient."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from conftest import play
from test_checkpoints import python_of

from bncheck.environments.backend_file import find_backends
from bncheck.environments.targets import parse_target
from bncheck.run_folder.cell import trace_of
from bncheck.run_folder.results import Results, read_results

ROOT = Path(__file__).parents[1]
# Two forwards before one backward; constant batches of 2 and 6, of weight one half, from 0 on.
SCENARIO = """
title = "Two batches, one backward"
why = "Which of them comes last in the average?"
[network]
layers = [{ name = "bn", type = "batch_norm", channels = 2, batch_weight = 0.5 }]
[input]
shape = [4, 2]
fill = "constant"
value = 2.0
[inputs.other]
fill = "constant"
value = 6.0
[program]
events = ["train_forward", { event = "train_forward", input = "other" }, "backward"]
"""


def played(tmp_path: Path, targets: tuple[str, ...], *more: str) -> tuple[Results, dict[str, list[float]]]:
    """(what was found, {target: its running mean at the end})."""
    (tmp_path / "two.toml").write_text(SCENARIO, encoding="utf-8")
    asked = [word for target in targets for word in ("-t", target)]
    play(tmp_path / "run", "run", str(tmp_path / "two.toml"), *asked, "--no-report", *more)
    results, held = read_results(tmp_path / "run"), {}
    for cell in [cell for cell in results.cells if cell.scenario == "two"]:
        trace = trace_of(tmp_path / "run", cell)
        assert trace is not None, cell.error
        held[cell.target] = trace.arrays["bn/running_mean"][-1].tolist()
    return results, held


@pytest.mark.process
def test_an_input_that_asks_for_no_gradient_turns_the_order_of_mxnets_updates(tmp_path: Path) -> None:
    """0 → 1 → 3.5 where 2 comes first, 0 → 3 → 2.5 where 6 does; a gradient that nobody asked for is not missed."""
    results, held = played(tmp_path, ("mxnet", "mxnet[plain_input]"))
    assert held == {"mxnet": [3.5, 3.5], "mxnet[plain_input]": [2.5, 2.5]}
    assert [item.cause for item in results.findings if item.kind != "rounding"] == ["update-phase"]
    assert not [drift for drift in results.drifts if drift.quantity == "grad_input"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "targets",
    [
        ("tf_keras", "tf_keras[function]", "tf_keras[jit_compile]", "tf_keras[plain_input]"),
        (
            "keras[tensorflow]", "keras[tensorflow_function]", "keras[tensorflow_jit_compile]",
            "keras[tensorflow_plain_input]",
        ),
        ("keras", "keras[plain_input]"),
        ("keras[torch]", "keras[torch_plain_input]"),
        ("flax", "flax[plain_input]"),
        ("haiku", "haiku[plain_input]"),
        ("tinygrad", "tinygrad[jit]", "tinygrad[plain_input]"),
        ("mlx", "mlx[compile]", "mlx[plain_input]"),
        ("paddle", "paddle[to_static]", "paddle[plain_input]"),
        ("torch", "torch[trace]", "torch[plain_input]"),
    ],
    ids=lambda targets: targets[0],
)  # fmt: skip
def test_other_ways_to_run_a_layer_move_its_statistics_as_it_does(tmp_path: Path, targets: tuple[str, ...]) -> None:
    if "mlx[compile]" in targets and which("g++") is None:
        pytest.skip("mx.compile needs g++")
    results, held = played(tmp_path, targets, "--no-probe")
    # Haiku's average is one of two batches, not of two and what was there before: divided by 1 - 0.5².
    mean = 3.5 / 0.75 if targets[0] == "haiku" else 3.5
    assert held == {target: pytest.approx([mean, mean]) for target in targets}
    assert not [item for item in results.findings if item.kind in ("convention", "defect", "unexplained")]


MODEL = """
title = "A model of one's own"
why = "Its modes are those of the call."
[network]
model = "net.py:build"
[input]
shape = [8, 6, 6, 3]
channel_axis = -1
[program]
events = ["train_forward", "backward", "eval_forward"]
repeat = 2
then = [{ event = "freeze" }, "train_forward", "eval_forward"]
"""
BUILD = """
import keras

def build():
    x = given = keras.Input((6, 6, 3))
    for layer in (keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(momentum=0.9), keras.layers.ReLU(),
                  keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)):
        x = layer(x)
    return keras.Model(given, x)
"""


@pytest.mark.slow
def test_a_model_in_a_function_trains_evaluates_and_freezes_as_it_does_without(tmp_path: Path) -> None:
    """A function holds the mode that it was traced in: each has its own."""
    (tmp_path / "net.py").write_text(BUILD, encoding="utf-8")
    (tmp_path / "model.toml").write_text(MODEL, encoding="utf-8")
    targets = ("keras[tensorflow]", "keras[tensorflow_function]", "keras[tensorflow_jit_compile]", "keras[jax]")
    asked = [word for target in targets for word in ("-t", target)]
    play(tmp_path / "run", "run", str(tmp_path / "model.toml"), *asked, "--no-probe", "--no-report")
    results = read_results(tmp_path / "run")
    assert [cell.outcome for cell in results.cells] == ["ok"] * 4
    found = [(item.cause, len(item.targets)) for item in results.findings if item.kind != "rounding"]
    assert found == [("mode-leak", 4)], "frozen, it normalises with its running statistics, on all alike"
    means = [trace_of(tmp_path / "run", cell).arrays["batch_normalization/running_mean"] for cell in results.cells]  # type: ignore[union-attr]
    assert all(abs(each - means[0]).max() < 1e-5 for each in means)
    assert abs(means[0][-1] - means[0][0]).max() > 1e-3


# Whether XLA must compile each function that TensorFlow made: forward, forward for a gradient, and backward.
COMPILED = """
import importlib.util, numpy, sys
spec = importlib.util.spec_from_file_location("backend", sys.argv[1])
backend = importlib.util.module_from_spec(spec)
spec.loader.exec_module(backend)
backend.describe(sys.argv[2], "cpu")
row = {"name": "bn", "type": "batch_norm", "channels": 2, "axis": 1, "rank": 2, "batch_weight": 0.1, "eps": 1e-3,
       "averaging": "exponential", "affine": True, "track_running_stats": True, "native": {}, "options": {}}
model = backend.build({"layers": [row], "returns": None}, {}, "float32", sys.argv[2], "cpu")
x = numpy.arange(8, dtype="float32").reshape(4, 2)
model.forward(x, "train")
model.backward([numpy.ones_like(x)])
model.forward(x, "eval")
from tensorflow.python.eager.context import context
made = [context().get_function_def(name) for name in context().list_function_names()]
walks = [each for each in made if "walk" in each.signature.name]
print(len(walks), all(each.attr["_XlaMustCompile"].b for each in walks))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("tf_keras[jit_compile]", "True"), ("keras[tensorflow_jit_compile]", "True"), ("tf_keras[function]", "False"),
    ],
)  # fmt: skip
def test_xla_compiles_the_forward_and_the_backward(target: str, says: str) -> None:
    name, _, variant = target.rstrip("]").partition("[")
    path = str(find_backends(())[name].path)
    python = str(python_of("tf_keras" if name == "tf_keras" else "keras[tensorflow]"))
    done = subprocess.run([python, "-I", "-c", COMPILED, path, variant], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count, compiled = done.stdout.split()
    assert int(count) >= 4
    assert compiled == says


# One layer by itself, in the framework's own interpreter: 3 and 5 in each channel, mean 4 and deviation 1.
ALONE = """
import importlib.util, json, numpy, sys
spec = importlib.util.spec_from_file_location("backend", sys.argv[1])
backend = importlib.util.module_from_spec(spec)
spec.loader.exec_module(backend)
backend.describe("", "cpu")
row = {"name": "bn", "type": "batch_norm", "channels": 2, "axis": 1, "rank": 2, "batch_weight": 0.5, "eps": 1e-6,
       "averaging": "exponential", "affine": True, "track_running_stats": True, "native": {}, "options": {}}
x = numpy.array([[3, 5], [5, 3], [3, 5], [5, 3]], "float32")
dy = numpy.array([[1, 0], [0, 0], [0, 0], [0, 1]], "float32")

def made(variant, **network):
    backend.describe(variant, "cpu")
    return backend.build(dict({"layers": [row], "returns": None}, **network), {}, "float32", variant, "cpu")

def gradients(model):
    model.forward(x, "train")
    found = model.backward([dy])
    return {name: None if held is None else numpy.round(held, 3).tolist() for name, held in found.items()}
"""


def alone(backend: str, asked: str) -> list[Any]:
    """What these lines left in ``said``."""
    script = [str(python_of(backend)), "-I", "-c", f"{ALONE}\nsaid = []\n{asked}\nprint(json.dumps(said))"]
    path = str(find_backends(())[backend].path)
    done = subprocess.run([*script, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


PARAMETERS = {"input": None, "bn/gamma": [-1.0, -1.0], "bn/beta": [1.0, 1.0]}


@pytest.mark.slow
def test_what_goes_back_in_haiku_goes_to_the_input_only_where_it_asks() -> None:
    """What jax.vjp gives back has one part for the parameters, and one for the input where there is one."""
    found = alone(
        "haiku",
        """
for model in (made(""), made("", input_gradient=False), made("plain_input")):
    said += [gradients(model), len(model.run["backward"](model.tape[0], dy))]
""",
    )
    assert found[1::2] == [2, 1, 1]
    assert found[2] == found[4] == PARAMETERS
    assert found[0] == PARAMETERS | {"input": [[0.5, 0], [0, -0.5], [-0.5, 0], [0, 0.5]]}


def test_what_tinygrad_plays_in_a_tinyjit_are_kernels_it_captured() -> None:
    """Python walks the layer twice, the second time to capture it; what is played are the captured kernels."""
    found = alone(
        "tinygrad",
        """
from tinygrad.nn import BatchNorm
walks, call = [], BatchNorm.__call__
BatchNorm.__call__ = lambda norm, x: (walks.append(0), call(norm, x))[1]
for variant in ("", "jit"):
    walks.clear()
    model = made(variant)
    outputs = [model.forward(x * k, "train").tolist() for k in (1, 1, 2)]
    state = model.state("bn")
    said += [len(walks), outputs, state["running_mean"].tolist(), state["counter"]]
    given, out = model.taps()["bn"]
    said += [given.tolist(), out.tolist()]
said.append([jit.captured is not None and jit.cnt for jit in model.jits.values()])
""",
    )
    once, replayed = found[:6], found[6:12]
    assert (once[0], replayed[0], found[12]) == (3, 2, [5])
    assert replayed[1:] == once[1:], "outputs, statistics and what is looked at are those of each batch"
    assert replayed[2:4] == [[5.5, 5.5], 3], "0, 2, 3, and (3 + 8) / 2: what captured it moved nothing"
    assert replayed[4] == [[6, 10], [10, 6], [6, 10], [10, 6]], "the last batch, not that of the capture"


@pytest.mark.slow
def test_gradients_of_tinygrad_are_taken_by_what_asks_for_one() -> None:
    found = alone(
        "tinygrad",
        """
from tinygrad import Tensor
targets, own = [], Tensor.gradient
Tensor.gradient = lambda y, *by, gradient: (targets.append(len(by)), own(y, *by, gradient=gradient))[1]
for model in (made(""), made("", input_gradient=False), made("plain_input"), made("jit")):
    said.append(gradients(model))
said.append(targets)
""",
    )
    assert found[1] == found[2] == PARAMETERS
    assert found[0] == found[3] == PARAMETERS | {"input": [[0.5, 0], [0, -0.5], [-0.5, 0], [0, 0.5]]}
    assert found[4] == [3, 2, 2, 3, 3]


def test_gradients_of_mlx_are_taken_by_what_asks_for_one() -> None:
    found = alone(
        "mlx",
        """
import mlx.core as mx
primals, own = [], mx.vjp
mx.vjp = lambda function, by, dys: (primals.append(len(by)), own(function, by, dys))[1]
for model in (made(""), made("", input_gradient=False), made("plain_input")):
    said.append(gradients(model))
said.append(list(primals))
dense = {"name": "fc", "type": "dense", "options": {}}
for layers in ([dense, row], [row]):
    row["affine"] = False
    model = backend.build({"layers": layers, "returns": None},
                          {"fc/weight": numpy.eye(2, dtype="float32"), "fc/bias": numpy.zeros(2, "float32")},
                          "float32", "plain_input", "cpu")
    try:
        said.append([gradients(model), primals[-1]])
    except NotImplementedError as error:
        said.append(str(error))
""",
    )
    assert found[1] == found[2] == PARAMETERS
    assert found[0] == PARAMETERS | {"input": [[0.5, 0], [0, -0.5], [-0.5, 0], [0, 0.5]]}
    assert found[3] == [3, 2, 2]
    assert found[4] == [{"input": None}, 2], "the weight and bias in front of a layer that has none"
    assert found[5] == "neither the input nor any parameter asks for a gradient"


@pytest.mark.slow  # g++ compiles each kernel
def test_what_mlx_plays_compiled_is_walked_once_by_python() -> None:
    """Once for three forwards and once for three backwards, where it is six times without; each mode by itself."""
    if which("g++") is None:
        pytest.skip("mx.compile needs g++")
    found = alone(
        "mlx",
        """
from mlx.nn import BatchNorm
walks, call = [], BatchNorm.__call__
BatchNorm.__call__ = lambda norm, x: (walks.append(0), call(norm, x))[1]
for variant in ("", "compile"):
    walks.clear()
    model = made(variant)
    for k in (1, 1, 2):
        model.forward(x * k, "train")
    given = numpy.round(model.taps()["bn"][0], 3).tolist()
    model.backward([dy, dy, dy])
    said += [len(walks), given, model.state("bn")["running_mean"].tolist()]
    said.append([numpy.round(model.forward(x, "eval"), 3).tolist(), len(walks)])
    said.append(gradients(model))
    try:
        model.forward(x[:1], "train")
    except ValueError:
        said.append(model.forward(x, "train").tolist() == model.forward(x, "train").tolist())
""",
    )
    once, compiled = found[:6], found[6:]
    assert (once[0], compiled[0]) == (6, 2)
    assert (once[3][1], compiled[3][1]) == (7, 3)
    assert once[2] == compiled[2] == [5.5, 5.5], "0, 2, 3, and (3 + 8) / 2: a backward moves nothing"
    assert once[1] == compiled[1] == [[6, 10], [10, 6], [6, 10], [10, 6]]
    assert once[3][0] == compiled[3][0]
    assert once[4] == compiled[4] == PARAMETERS | {"input": [[0.5, 0], [0, -0.5], [-0.5, 0], [0, 0.5]]}
    assert once[5] is compiled[5] is True, "a batch that is refused leaves a layer that goes on"


@pytest.mark.process
def test_mlx_that_finds_no_compiler_says_so_instead_of_playing_as_without(tmp_path: Path) -> None:
    script = [str(python_of("mlx")), "-I", "-c", f"{ALONE}\nmade('compile')", str(find_backends(())["mlx"].path)]
    done = subprocess.run(script, capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert done.stderr.splitlines()[-1] == (
        "RuntimeError: mx.compile compiles nothing here: on a CPU it needs g++ on PATH"
    )


def test_every_way_that_the_page_names_is_a_target() -> None:
    backends = find_backends(())
    page = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
    table = page.partition("## Other ways to run the same layer")[2].partition("\n\nAdding")[0]
    named = [span for span in re.findall(r"`([a-z_]+(?:\[[a-z_]+\])?)`", table) if span.partition("[")[0] in backends]
    assert len(named) > 15
    for name in named:
        assert str(parse_target(name, backends)) == name
