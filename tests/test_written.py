"""Writes into running statistics that no forward, no load and no reset did: seen, and said."""

from __future__ import annotations

from typing import Any

from literal_life import layer, span

from bncheck.diagnosis.lived.written import how_often, jumps_of, written
from bncheck.life import Happening, Life
from bncheck.subjects.watched import headline


def jump(step: int, *layers: str, quantity: str = "running_var", by: str = "", **detail: Any) -> Happening:
    return Happening("jump", 3 * step, step, layers, detail={"quantity": quantity, "largest": 1.0, "by": by} | detail)


def life(*happenings: Happening, framework: str = "torch") -> Life:
    used = layer("used", spans=(span(0, 9, False, 0),))
    return Life("train.py", framework, "2.13.0", (layer("a"), layer("1"), used), happenings, steps=100)


def test_a_write_into_the_variance_alone_is_counted_and_one_into_both_is_one() -> None:
    seen = life(jump(1, "a"), jump(2, "a", times=30), jump(2, "a", quantity="running_mean"), jump(3, "1"))
    assert how_often(jumps_of(seen, "a")) == 31
    assert how_often(jumps_of(seen, "used")) == 0


def test_writes_that_nothing_known_did_are_said_of_layers_that_train() -> None:
    said = "Something that is no forward, no load_state_dict() and no reset_running_stats() wrote into "
    assert written(life(jump(4, "a", times=7), jump(3, "a"))) == (
        f"{said}running_var of a, 8 times, first in step 3. Eval uses what it left."
    )
    assert written(life(jump(5, "1"))) == f"{said}running_var of layer 1, once, in step 5. Eval uses what it left."
    assert written(life(jump(5, "a", by="load"), jump(6, "a", by="reset"), jump(7, "used"))) == ""
    assert written(life(jump(5, "a"), framework="keras")) == ""  # there a load is not told from the others


def test_a_headline_does_not_call_a_run_healthy_whose_statistics_were_written_into() -> None:
    assert headline([life()], []) == "3 layers, 100 steps: nothing wrong was seen"
    assert headline([life(jump(4, "a"))], []) == (
        "3 layers, 100 steps: nothing wrong was seen; a note says what was not judged"
    )
