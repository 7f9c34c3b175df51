"""The contract test: the same little program through the real worker, for every backend file.

Without a word all backends are run: those that fit CI's time always, the heavier ones with ``-m slow``.
BNCHECK_TEST_BACKENDS names the ones whose environments are made and run instead (comma list, or "all"). A path names a
backend file that is not in the package. A backend that is named and cannot run fails; one that is only covered by "all"
or by the default is skipped with the reason, and so is a variant that this machine cannot run (no compiler).

    pytest -m slow tests/test_backends.py       # the heavier ones, and all cells of torch[compile]
    BNCHECK_TEST_BACKENDS=flax,haiku pytest tests/test_backends.py
    BNCHECK_TEST_BACKENDS=/path/to/mine.py pytest tests/test_backends.py
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import finish, once
from contract_cells import BN, CELLS, EPS, FEW, Played, expected, moments, play
from nurseries import nursery_of

from bncheck.environments import installer
from bncheck.environments.backend_file import find_backends
from bncheck.environments.index_settings import read_index_settings
from bncheck.environments.interpreters import find_interpreters
from bncheck.environments.pythons import Ready, prepare
from bncheck.environments.targets import Target

# Environment and cells take under half a minute on 2 cores each; JAX compiles, tinygrad interprets, TensorFlow is big.
QUICK = ("reference", "torch", "mxnet", "onnxruntime", "mlx", "paddle")
NAMED = [name.strip() for name in os.environ.get("BNCHECK_TEST_BACKENDS", "").split(",") if name.strip()]
BACKENDS = find_backends([Path(name) for name in NAMED if name.endswith(".py")])
NAMED = [Path(name).stem if name.endswith(".py") else name for name in NAMED]
ASKED = NAMED if NAMED and NAMED != ["all"] else sorted(BACKENDS)
if not set(ASKED) <= set(BACKENDS):
    raise pytest.UsageError(f"BNCHECK_TEST_BACKENDS={','.join(ASKED)}: there are {', '.join(BACKENDS)}, or all")
# It compiles every network anew, most of a minute for all cells.
COMPILES = Target("torch", "compile")


def played_params() -> Iterator[Any]:
    """(target, cells) of every variant."""
    for target in (Target(name, variant) for name in ASKED for variant in BACKENDS[name].variants if variant != "*"):
        quick = bool(NAMED) or target.backend in QUICK
        few = target == COMPILES and not NAMED
        if few:
            yield pytest.param((target, FEW), id=str(target))
        again = target.variant == "builtin" and target.backend != "torch"  # the same layer where none is the user's
        again = again or target.variant in ("plain_input", "to_static")
        again = again or target == Target("mlx", "compile")  # g++ takes a second or so for each kernel
        marks = [] if quick and not few and not again else [pytest.mark.slow]
        yield pytest.param((target, tuple(CELLS)), id=f"{target}-all" if few else str(target), marks=marks)


@functools.cache
def python_of(target: Target) -> Path | str:
    """The target's Python, or why there is none."""
    answer = prepare([target], BACKENDS)[target]
    return answer.python if isinstance(answer, Ready) else f"{target}: {answer.reason}. Remedy: {answer.remedy}"


def refuse(target: Target, reason: str) -> None:
    """A backend that was asked for by name must run; any other, and any variant, is skipped with the reason."""
    if target.backend in NAMED and not target.variant:
        pytest.fail(reason)
    pytest.skip(reason)


# Variants of torch that multiply matrices in fewer digits than the cell's dtype has.
UNITS = {"autocast": 2.0**-9, "autocast_float16": 2.0**-12}


@pytest.fixture(scope="module", params=played_params())
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Played:
    target, cells = request.param
    python = python_of(target)
    if isinstance(python, str):
        refuse(target, python)
    folder, empty, lock = once(tmp_path_factory, f"contract-{target.slug}-{len(cells)}")
    try:
        if empty:
            nursery = nursery_of(Path(python)) if target.backend == "torch" else None
            play(Path(python), BACKENDS[target.backend].path, target.variant, folder, cells, nursery)
    finally:
        finish(folder, lock)
    found = Played(folder, cells, UNITS.get(target.variant, 0.0))
    if "unavailable" in found.environment:
        refuse(target, f"{target}: {found.environment['unavailable']}")
    return found


# --- the contract


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
    np.testing.assert_allclose(trace["bn/used_invstd"][last], 1 / np.sqrt(held["running_var"] + EPS), rtol=1e-5)


@pytest.mark.parametrize("cell", ["backward", "backward 4-D", "backward last", "several", "stack"])
def test_gradients_are_the_closed_form(played: Played, cell: str) -> None:
    trace, close = played.trace(cell), 2 * played.close
    for event, found in expected(cell)[1].items():
        if played.environment.get("input_gradient", True):
            np.testing.assert_allclose(trace[f"grad_input/{event}"], found["input"], rtol=close, atol=close)
        else:
            assert f"grad_input/{event}" not in trace, "nobody asked for it"
        for name, value in found.items():
            if name.rpartition("/")[2] in ("gamma", "beta"):
                held = trace[name.replace("/", "/grad_")][event]
                np.testing.assert_allclose(held, value, rtol=close, atol=close)


def test_two_layers_in_one_network_agree_with_the_reference(played: Played) -> None:
    trace = played.trace("stack")
    np.testing.assert_allclose(trace["output/0"], expected("stack")[0][0], rtol=played.close, atol=played.close)
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
    for cell in {"cumulative", "untracked"} & set(played.cells):
        outcome = played.result(cell)
        assert outcome["outcome"] in ("ok", "unsupported"), outcome["error"]
        assert outcome["outcome"] == "ok" or len(outcome["error"]["message"]) > 10


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-5), ("float16", 2e-2), ("bfloat16", 1.5e-1)])
def test_other_dtypes_compute_or_say_why_not(played: Played, dtype: str, tolerance: float) -> None:
    if "accumulates" in played.environment:
        pytest.skip("the reference's dtype is one of its rules, whatever the cell says")
    trace = played.trace(dtype)
    outputs, gradients = expected(dtype)
    assert trace["output/0"].dtype == ("float32" if dtype == "bfloat16" else dtype)
    np.testing.assert_allclose(trace["output/0"], outputs[0], rtol=tolerance, atol=tolerance)
    if played.environment.get("input_gradient", True):
        np.testing.assert_allclose(trace["grad_input/2"], gradients[2]["input"], rtol=tolerance * 5, atol=tolerance * 5)
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
    has_numpy = subprocess.run([str(old[0].path), "-I", "-c", "import numpy"], capture_output=True, check=False)
    if has_numpy.returncode == 0:
        return old[0].path
    folder = tmp_path_factory.mktemp("python37") / "environment"
    failure = installer.create_venv(folder, old[0].path)
    python = folder / "bin" / "python"
    failure = failure or installer.install(python, ("numpy<1.22",), read_index_settings())
    if failure is not None:
        pytest.skip(f"no NumPy for Python 3.7: {failure.reason}")
    return python


def test_the_worker_runs_on_python_3_7(python37: Path, tmp_path: Path) -> None:
    play(python37, BACKENDS["reference"].path, "", tmp_path)
    old = Played(tmp_path)
    assert old.environment["python"].startswith("3.7.")
    for cell in ("2-D", "stack", "several"):
        for event, output in expected(cell)[0].items():
            np.testing.assert_allclose(old.trace(cell)[f"output/{event}"], output, rtol=1e-12, atol=1e-12)
