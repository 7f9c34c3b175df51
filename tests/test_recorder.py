"""What a recorder counts as one step, and which moments it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bncheck.worker.watching.recorder import MOST_ALIKE, Recorder
from bncheck.worker.watching.streams import MOST_EVERY
from bncheck.worker.watching.units import MOST_BEATS, Clock


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    found = Recorder({"folder": str(tmp_path), "keep": "every:1"})
    yield found
    found.ended = True  # nothing is written when this process ends


def test_sixteen_calls_are_one_step_and_after_them_each_is_one() -> None:
    clock = Clock(0)
    assert [clock.beat(0) for _ in range(MOST_BEATS)] == [True] + [False] * (MOST_BEATS - 1)
    assert [clock.beat(0) for _ in range(3)] == [True, True, True]
    assert clock.unit == 3
    assert [clock.beat(1), clock.beat(1), clock.beat(2)] == [True, False, True]


def test_of_too_many_kept_steps_every_second_goes_and_the_rest_lie_evenly(recorder: Recorder) -> None:
    layer, clock = recorder.new_layer("BatchNorm1d", 1), recorder.clock("model")
    for step in range(MOST_EVERY + 20):
        recorder.steps = step
        if recorder.beat(clock):
            recorder.moment(layer, clock, {"step": step, "mean": np.zeros(1)})
    recorder.flush()
    (stream,) = [each for each in recorder.streams.values() if each.kind == "every"]
    kept = [int(np.load(path)["0/step"][0]) for path, _, _ in stream.files]
    assert clock.every == 2
    assert kept[:51] == list(range(0, MOST_EVERY + 1, 2))
    assert len(kept) < MOST_EVERY


def test_what_comes_again_and_again_is_logged_twenty_times_then_counted(recorder: Recorder) -> None:
    assert [recorder.happen("eval", where=("a.py", 3, "f")) for _ in range(MOST_ALIKE + 2)] == (
        [True] * MOST_ALIKE + [False] * 2
    )
    ((times, last),) = recorder.alike.values()
    assert (times, last["what"]) == (MOST_ALIKE + 2, "eval")


def test_sizes_of_batches_that_are_not_known_widen_no_range(recorder: Recorder) -> None:
    layer, key = recorder.new_layer("BatchNorm1d", 1), (True, False, True, "float32")
    for n in (8, 4, -1, 16):
        span = recorder.forward(layer, key, n, None, None)
    assert span["n"] == [4, 16]
    (other,) = [recorder.forward(layer, (False, *key[1:]), n, None, None) for n in (-1,)]
    assert recorder.forward(layer, (False, *key[1:]), 8, None, None) is other
    assert other["n"] == [-1, -1]


def test_the_most_forwards_of_a_step_are_the_most_of_any(recorder: Recorder) -> None:
    layer, key = recorder.new_layer("BatchNorm1d", 1), (True, False, True, "float32")
    for step in (0, 0, 0, 1):
        recorder.steps = step
        span = recorder.forward(layer, key, 8, 1, None)
    assert (span["most_per_step"], span["moved"], span["forwards"]) == (3, 4, 4)
