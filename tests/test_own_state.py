"""Where the state of a layer of one's own is looked for, and what its constructor gets."""

from __future__ import annotations

from typing import Any

import numpy as np

from bncheck.worker.own_side import layer as own_side


class Norm:
    def __init__(self, channels: int = 2, eps: float = 1e-5, momentum: float = 0.9) -> None:
        self.moving_mean, self.moving_variance = np.zeros(channels), np.ones(channels)


class Private:
    def __init__(self) -> None:
        self._running_mean, self._var, self.running_var = np.full(2, 3.0), np.full(2, 4.0), "not an array"


class Holder:
    def __init__(self, *layers: object) -> None:
        self.layers = layers


class Hands(own_side.Hands):
    """Layers whose tensors are NumPy's."""

    def array(self, held: Any) -> np.ndarray:
        return np.asarray(held)

    def is_tensor(self, held: object) -> bool:
        return isinstance(held, np.ndarray)

    def inner(self, layer: Any) -> list[Any]:
        return list(getattr(layer, "layers", ()))


HANDS = Hands()


def test_statistics_are_those_of_the_only_layer_inside_and_of_none_where_there_are_two() -> None:
    norm = Norm()
    assert own_side.find(HANDS, norm, "running_mean") is norm.moving_mean
    assert own_side.find(HANDS, Holder(norm), "running_var") is norm.moving_variance
    assert own_side.find(HANDS, Holder(norm, Norm()), "running_mean") is None


def test_names_that_begin_with_an_underscore_count_and_what_is_no_array_does_not() -> None:
    layer = Private()
    assert own_side.find(HANDS, layer, "running_mean") is layer._running_mean
    assert own_side.find(HANDS, layer, "running_var") is layer._var


def test_what_the_user_says_stays_beside_what_the_scenario_asks() -> None:
    spec = {"channels": 7}
    given, left_out = own_side.arguments_for(HANDS, None, Norm, {"eps": 1e-3, "momentum": 0.5}, spec, {"eps": 0.25})
    assert given == {"eps": 0.25, "momentum": 0.5, "channels": 7}
    assert left_out == []
    assert own_side.arguments_for(HANDS, None, Norm, {"axis": 1}, spec, {})[1] == ["axis"]
