"""Small batches are measured together and the cases of a run read from what their neighbours said: nobody can tell."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncheck.scenario import describe_ops
from bncheck.worker import cell, run
from bncheck.worker.backends import reference

LAYER = {"name": "bn", "type": "batch_norm", "channels": 3, "axis": 1, "batch_weight": 0.1, "eps": 1e-5,
         "averaging": "exponential", "affine": True, "track_running_stats": True, "native": {},
         "options": {}}  # fmt: skip
EVENTS = ["train_forward", "eval_forward", "train_forward", "backward", "eval_forward"]
TARGET = {"backend": reference.__file__, "variant": "", "device": "cpu"}


def recorded(batches: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays of a cell of the reference, without the seconds that its events took."""
    events = [{"op": op, "input": "main", "batch": k % len(batches), "arguments": {}} for k, op in enumerate(EVENTS)]
    job = {"dtype": "float64", "network": {"layers": [LAYER]}, "events": events, "ops": describe_ops(EVENTS)}
    gamma = {"param/bn/gamma": np.array([1.0, -2.0, 0.5], dtype=np.float32)}
    result, arrays = cell.run_cell("", job, {"x/main": batches, **gamma}, reference, TARGET)
    assert result["outcome"] == "ok"
    return {name: array for name, array in arrays.items() if name != "event_seconds"}


@given(st.integers(2, 40), st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1e8, float("inf"), float("nan")]))
def test_batches_that_are_measured_together_are_measured_as_each_by_itself(n: int, seed: int, odd: float) -> None:
    batches = np.random.default_rng(seed).normal(3, 2, (2, n, 3))
    batches[1, 0, 1] *= odd
    recorder = cell.recorder
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        together = recorded(batches)
        patch.setattr(recorder, "SMALL_IN_ALL", 3 * n)  # so that every second forward is measured with the one before
        in_twos = recorded(batches)
        patch.setattr(recorder, "SMALL", 0)
        alone = recorded(batches)
    assert list(alone) == list(together) == list(in_twos)
    for name, array in alone.items():
        assert array.dtype == together[name].dtype
        assert array.tobytes() == together[name].tobytes() == in_twos[name].tobytes()


def test_an_output_of_another_shape_is_looked_at_by_itself() -> None:
    model = reference.build({"layers": [LAYER]}, {}, "float64", "", "cpu")
    found = cell.recorder.Recorder(model, [{"op": "train_forward"}], 64)
    found.states["bn"] = [{}]
    x = np.ones((4, 3))
    assert found.put_off("bn", 0, x, x[:2]) is False
    found.states["bn"].append({"gamma": np.ones(2)})
    assert found.put_off("bn", 0, x, x) is False
    found.states["bn"].append({"gamma": np.ones(3)})
    assert found.put_off("bn", 0, x, x) is True


def test_a_case_that_says_what_its_neighbour_said_has_objects_of_its_own() -> None:
    rest = {"dtype": "float32", "network": {"layers": [1, 2.5, None, True]}, "events": []}
    lines = [json.dumps({"cell": name, "inputs": "k.npz", "digest": "", **rest}).encode() for name in "ab"]
    first = run.task_of(lines[0])
    first["network"]["layers"].append("spoilt")
    assert run.task_of(lines[1]) == json.loads(lines[1])
    assert run.task_of(b'{"cell": "c", "dtype": "float64"}') == {"cell": "c", "dtype": "float64"}
    assert run.task_of(b'{"cell": "c"}') == {"cell": "c"}
