"""Programs that several tests of lives play, and the rules that say what they say without fitting anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from programs import CHANNELS, VALIDATE, Program

from bncheck.diagnosis.rules import load_rules
from bncheck.finding import Finding
from bncheck.life import Life

# Rules that say what they say without fitting anything.
CODES = ("BN104", "BN109", "BN111", "BN115", "BN204", "BN301", "BN302", "BN401", "BN402", "BN408", "BN410")
TWO = ("bn1", "bn2")
BETA = np.array([0.2, -0.1, 0.05, -0.4])
SHIFTED = (np.array([9.0, 0.0, -4.0, 1.0]), np.array([1.0, 4.0, 0.5, 2.0]))
HELD = {"mean": np.array([1.0, -2.0, 0.5, 3.0]), "var": np.array([1.0, 4.0, 0.5, 2.0])}


def judged(life: Life) -> list[Finding]:
    rules = [rule for rule in load_rules() if rule.code in CODES and rule.check_life]
    return [found for rule in rules if rule.check_life for found in rule.check_life(life)]


def epochs(program: Program, count: int = 3, steps: int = 20) -> None:
    for _ in range(count):
        program.mode(True)
        program.train(steps)
        program.mode(False, VALIDATE)
        program.evaluate()


def by_hand(program: Program, forwards: int = 20) -> None:
    """Training without an optimiser that the recorder knows."""
    for _ in range(forwards):
        program.forward()
        for layer in program.layers.values():
            layer.gamma = layer.gamma + 0.01 * np.cos(program.index * np.arange(1, CHANNELS + 1))


def begins_alike(*names: str, others: Sequence[str] = ("stem.bn",)) -> Program:
    """One call of a network in eval: layers that hold the same statistics, each passed by a batch of its own."""
    program = Program(*names, **HELD)
    for place, name in enumerate(others):
        program.layers[name] = Program(name, mean=HELD["mean"] + place + 1, var=HELD["var"])[name]
    program.mode(False)
    program.forward(layers=[names[0], *others])
    for place, name in enumerate(names[1:]):
        program.forward(layers=[name], batch=(SHIFTED[0] + place * 10, SHIFTED[1]), within=True)
    return program


def plain() -> Program:
    program = Program(*TWO)
    epochs(program)
    return program


def left_in_eval() -> Program:
    program = Program(*TWO)
    epochs(program, 1)
    program.train(50)
    return program


def inference() -> Program:
    program = Program(*TWO, mean=np.ones(CHANNELS), beta=BETA)
    program.mode(False)
    program.evaluate()
    return program
