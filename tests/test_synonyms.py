"""Words that people bring from elsewhere are answered with the one that is right here."""

from __future__ import annotations

from pathlib import Path

import pytest

from bncheck.errors import ConfigurationError, ScenarioError
from bncheck.gate.config import read_configuration
from bncheck.scenario import OP_NAMES
from bncheck.scenario_files.files import load_scenario
from bncheck.scenario_files.schema import tables_with
from bncheck.scenario_files.synonyms import EVENTS, KEYS

SCENARIO = """
title = "Mine"
[network]
layers = [{{ name = "bn", type = "batch_norm", {layer} }}]
[input]
shape = [4, 3]
{input}
[program]
events = ["train_forward"{event}]
{top}
"""


def said(folder: Path, **parts: str) -> str:
    path = folder / "mine.toml"
    path.write_text(SCENARIO.format(**{"layer": "channels = 3", "input": "", "event": "", "top": "", **parts}))
    with pytest.raises(ScenarioError) as refused:
        load_scenario(path)
    return str(refused.value)


@pytest.mark.parametrize(
    ("parts", "answer"),
    [
        ({"layer": "momentum = 0.01"}, 'calls it "batch_weight": the weight of the new batch: PyTorch\'s momentum'),
        ({"layer": "epsilon = 1e-3"}, 'unknown key "epsilon"; bncheck calls it "eps"'),
        ({"layer": "num_features = 3"}, 'bncheck calls it "channels": it follows from the input where it is left out'),
        ({"input": "affine = false"}, '"affine" belongs to [[network.layers]]'),
        ({"input": "momentum = 0.1"}, 'bncheck calls it "batch_weight", in [[network.layers]]'),
        ({"top": "seed = 3"}, '"seed" belongs to [input]'),
        ({"event": ', "save"'}, 'unknown event "save"; bncheck calls it "reload"'),
        ({"event": ', "load"'}, 'unknown event "load"; bncheck calls it "reload"'),
        ({"input": "bananas = 3"}, 'unknown key "bananas"; allowed: shape, fill'),
        ({"layer": "batch_wieght = 0.1"}, 'did you mean "batch_weight"?'),
    ],
)
def test_a_word_from_elsewhere_is_answered(parts: dict[str, str], answer: str, tmp_path: Path) -> None:
    assert answer in said(tmp_path, **parts)


def test_every_answer_exists() -> None:
    assert {right for right, _ in EVENTS.values()} <= set(OP_NAMES)
    assert [right for right, _ in KEYS.values() if not tables_with(right)] == []
    assert not set(EVENTS) & set(OP_NAMES)


def test_a_key_of_a_scenario_is_nobodys_key_in_pyproject(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text("[tool.bncheck]\ntolerance = 3\n")
    with pytest.raises(ConfigurationError) as refused:
        read_configuration(path)
    assert 'did you mean "tolerances"?' in str(refused.value) and "belongs" not in str(refused.value)


def test_a_scenario_of_ones_own_needs_no_reason(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SCENARIO.format(layer="channels = 3", input="", event="", top=""))
    assert load_scenario(path).why == ""
