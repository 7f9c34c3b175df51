"""Averaged weights: torch's AveragedModel has the statistics of those that were averaged, and update_bn estimates its
own."""

from __future__ import annotations

import numpy as np
import pytest
from lived_programs import judged
from programs import Program

from bncheck.life import Where

UPDATE = Where("swa.py", 9, "average")
COPY = "AveragedModel.bn1"


def averaged(buffers: bool = False) -> Program:
    """A network that was trained, and its average."""
    program = Program("bn1", COPY)
    copy = program[COPY]
    copy.training = copy.trainable = False
    program.train(100, layers=["bn1"])
    program.tell("average", UPDATE, [COPY], module="AveragedModel", buffers=buffers)
    copy.mean, copy.var = program["bn1"].mean, program["bn1"].var
    copy.gamma, copy.beta = program["bn1"].gamma + 0.1, program["bn1"].beta - 0.1
    return program


def batch(program: Program, off: float) -> tuple[np.ndarray, np.ndarray]:
    """One that is off by so many deviations."""
    held = program[COPY]
    return held.mean + off * np.sqrt(held.var), held.var


def evaluated(program: Program, off: float, n: int = 4096) -> Program:
    program.forward(Where("engine.py", 88, "evaluate"), layers=[COPY], gradients=False, batch=batch(program, off), n=n)
    return program


def test_averaged_weights_with_the_statistics_of_others_are_named() -> None:
    (found,) = judged(evaluated(averaged(), 0.5).life)
    assert (found.cause, found.kind, found.layer) == ("stale-state", "hazard", COPY)
    assert found.title == (
        "The averaged weights of average() at swa.py:9 are evaluated with running statistics that are not their own: "
        "those of AveragedModel.bn1 come from the weights that were averaged. In eval the output of AveragedModel.bn1 "
        "is off by 0.5 standard deviations."
    )
    assert "update_bn" in found.advice and found.evidence["line"] == "swa.py:9"


@pytest.mark.parametrize(
    ("program", "off", "n"),
    [(averaged(), 0.1, 4096), (averaged(), 0.5, 64), (averaged(buffers=True), 0.5, 4096)],
    ids=["no matter", "few values", "averaged, too"],
)
def test_what_shows_nothing_is_left_alone(program: Program, off: float, n: int) -> None:
    assert judged(evaluated(program, off, n).life) == []


def test_statistics_of_a_new_layer_come_from_no_weights() -> None:
    """As before torch 2.0, which copied none: that they are new is said, and nothing else."""
    program = averaged()
    program[COPY].mean, program[COPY].var = np.zeros(4), np.ones(4)
    (found,) = judged(evaluated(program, 0.5).life)
    assert "with the statistics of a new layer" in found.title


def test_statistics_that_were_estimated_anew_are_their_own() -> None:
    program = averaged()
    program.mode(True, layers=[COPY])
    for _ in range(100):
        program.forward(layers=[COPY], gradients=False, batch=batch(program, 0.0))
    program.mode(False, layers=[COPY])
    assert judged(evaluated(program, 0.5).life) == []
