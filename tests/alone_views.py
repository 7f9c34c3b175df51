"""Literal holdings and lives for the tests of rules: what a reader of files, or of a recording, would hand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bncheck.life import Held, Holding

# Four channels of a layer that was trained.
MEAN, VAR = [0.3, -1.2, 0.05, 2.0], [1.4, 0.2, 3.1, 0.9]
GAMMA, BETA = [1.1, 0.8, 0.95, 1.3], [0.2, -0.1, 0.05, -0.4]


def make_held(layer: str = "bn", **parts: Any) -> Held:
    """A layer of four trained channels; None takes a part away."""
    values = {"running_mean": MEAN, "running_var": VAR, "gamma": GAMMA, "beta": BETA, "counter": 120.0, **parts}
    arrays = {
        name: np.asarray(values.pop(name), dtype=np.float32)
        for name in ("running_mean", "running_var", "gamma", "beta")
        if values.get(name) is not None
    }
    return Held(layer=layer, **{**values, **arrays})


def fresh(layer: str = "bn", channels: int = 4, **parts: Any) -> Held:
    """A layer as it is built."""
    zeros, ones = np.zeros(channels), np.ones(channels)
    return make_held(
        layer, **{"running_mean": zeros, "running_var": ones, "gamma": ones, "beta": zeros, "counter": 0.0, **parts}
    )


def make_holding(*layers: Held, framework: str = "torch", kind: str = "pt", **more: Any) -> Holding:
    return Holding(name="m.pt", framework=framework, format=kind, layers=tuple(layers), **more)


def said(found: Sequence[Any]) -> list[tuple[str, str]]:
    return [(item.kind, item.cause) for item in found]


def shapes(*names: str) -> Mapping[str, tuple[int, ...]]:
    return dict.fromkeys(names, (4,))
