"""Lives of the ranks of one job, held against each other."""

from __future__ import annotations

from lived_programs import (
    inference,
    judged,
    left_in_eval,
    plain,
)
from programs import TRAIN, Program

from bncheck.diagnosis.rules import load_rules
from bncheck.finding import Finding
from bncheck.life import Life


def rank(number: int, shift: float = 0.0, n: int = 64, own: bool = False) -> Life:
    program = Program("bn1")
    for _ in range(20):
        mean, var = program.data()
        program.forward(batch=(mean + shift * number, var), n=n)
        if not own:  # what rank 0 has is handed to all before the next forward
            program["bn1"].mean = 0.9 * program["bn1"].rows[-1]["mean_before"] + 0.1 * mean
        program.step()
    program.more = {"rank": number, "world": 2}
    return program.life


def of_ranks(*lives: Life) -> list[Finding]:
    return [found for rule in load_rules() if rule.check_lives for found in rule.check_lives(lives)]


def test_ranks_that_keep_their_own_statistics_are_named() -> None:
    (found,) = of_ranks(rank(0, 5.0, own=True), rank(1, 5.0, own=True))
    assert (found.cause, found.kind, found.layer) == ("synchronisation", "hazard", "bn1")
    assert "Each of 2 ranks keeps statistics of its own in bn1" in found.title


def test_few_values_on_each_rank_ask_for_synchronisation() -> None:
    (found,) = of_ranks(rank(0, n=2), rank(1, n=2))
    assert (found.cause, found.kind) == ("synchronisation", "hazard")
    assert "bn1 normalise with 2 values per channel on each of 2 ranks" in found.title


def test_broadcast_statistics_and_unrelated_processes_are_left_alone() -> None:
    assert of_ranks(rank(0, 5.0), rank(1, 5.0)) == []
    assert of_ranks(rank(0)) == []
    assert of_ranks(plain().life, inference().life) == []
    assert of_ranks() == []


def test_the_line_is_part_of_the_evidence() -> None:
    (found,) = judged(left_in_eval().life)
    assert (found.evidence["line"], found.evidence["step"]) == ("engine.py:88", 20)
    assert found.places == {("bn1", "training"), ("bn2", "training")}
    assert TRAIN.label == "train.py:30"
