"""The table of layer types: a row is all that the host knows of one that keeps its input's shape or flattens it."""

from __future__ import annotations

import pytest

from bncheck import scenario
from bncheck.scenario import LAYERS, Case, InputSpec, Layer, LayerType, Network
from bncheck.scenario_files.shapes import layer_path, with_channels

BN = Layer(name="bn", type="batch_norm")


def test_a_new_row_alone_lets_shapes_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = (Layer(name="leaky", type="leaky_relu"), BN)
    assert with_channels(layers, (4, 3, 5, 5))[1] is None  # nobody knows
    monkeypatch.setitem(scenario._LAYER_OF, "leaky_relu", LayerType(name="leaky_relu", keeps_shape=True))
    filled, shape = with_channels(layers, (4, 3, 5, 5))
    assert shape == (4, 3, 5, 5)
    assert filled[1].channels == 3


@pytest.mark.parametrize("kind", ["flatten", "global_avg_pool", "relu"])
def test_what_flattens_is_told_by_its_row(kind: str) -> None:
    network = Network((Layer(name="first", type=kind), BN))
    case = Case("s", "base", "", {}, network, {"main": InputSpec((4, 3, 5, 5))}, ())
    assert layer_path(case) == ("4-D" if kind == "relu" else "2-D")
    assert [row.name for row in LAYERS if row.flattens] == ["dense", "flatten", "global_avg_pool"]
