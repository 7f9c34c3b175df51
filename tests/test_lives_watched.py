"""Real trainings, recorded: the gaps that they end with are named, and ordinary ones are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from watched_lives import lives_of

from bncheck.diagnosis.alone import judge_life
from bncheck.diagnosis.lived.innocence import innocence

NAMED = {
    "few_updates": ("few-updates", "After 20 updates of weight 0.01 the running statistics still hold 81.8 %"),
    "evaluation_not_scaled": ("data-shift", "the data of the evaluation lie"),
    "two_kinds_in_turn": ("mixed-batches", "training batches are of unlike kinds in turn"),
    "two_domains_evaluated": ("mixed-batches", "training batches are of unlike kinds in turn"),
    "momentum_zero": ("never-updated", "None of 100 training forwards moved the running statistics of 2 of 2 layers"),
}


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("script", NAMED)
def test_what_a_training_ends_with_is_named(script: str, tmp_path: Path) -> None:
    (life,) = lives_of(f"faulty/{script}", tmp_path)
    cause, says = NAMED[script]
    assert [found.cause for found in judge_life(life)] == [cause]
    assert says in judge_life(life)[0].title
    assert innocence(life).startswith("BatchNorm itself is innocent: both layers did what PyTorch documents")


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("script", ["short_and_small", "sorted_validation", "own_layer", "train_and_evaluate"])
def test_an_ordinary_training_is_left_alone(script: str, tmp_path: Path) -> None:
    (life,) = lives_of(f"healthy/{script}", tmp_path)
    assert judge_life(life) == ()
