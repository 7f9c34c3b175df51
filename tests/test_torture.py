"""Kills at random moments (``tests/tools/torture.py``): a few of them here, hundreds by its own command."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from torture import torture


def test_a_few_kills_lose_nothing(tmp_path: Path) -> None:
    tally = torture(tmp_path, 3, ("nap_backend[second]", "reference"), random.Random(11))
    assert tally.faults == []
    assert tally.kills.total() == 3


@pytest.mark.slow
def test_many_kills_lose_nothing(tmp_path: Path) -> None:
    tally = torture(tmp_path, 40, ("nap_backend", "nap_backend[second]", "reference"), random.Random(12))
    assert tally.faults == []
