"""What is counted of a step without being looked at is what a look at each of its forwards says."""

from __future__ import annotations

from pathlib import Path

import pytest
from watched_lives import lives_of

pytestmark = pytest.mark.process


def test_counts_say_what_looks_say(tmp_path: Path) -> None:
    (whole,) = lives_of("irregular", tmp_path / "whole", keep="all")
    (counted,) = lives_of("irregular", tmp_path / "counted", keep="first:5,last:0")
    assert [layer.spans for layer in counted.layers] == [layer.spans for layer in whole.layers]
    assert counted.happenings == whole.happenings
    assert [len(layer.moments["index"]) for layer in counted.layers] < [
        len(layer.moments["index"]) for layer in whole.layers
    ]
    assert (counted.steps, counted.forwards, counted.remarks) == (whole.steps, whole.forwards, whole.remarks)
