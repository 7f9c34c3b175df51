"""Activations that may stand behind a normalisation: y = f(z)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import erf

import numpy as np

from bncheck.trace import Array

BISECTIONS = 64
WIDEST = 64.0  # z is looked for within this many units; deviations of a normalised value are fewer
Function = Callable[[Array], Array]


@dataclass(frozen=True)
class Activation:
    """``name`` as frameworks call it, ``slope`` of the negative side (leaky ReLU), ``low`` and ``high`` of what is cut
    off (ReLU, ReLU6, clamp)."""

    name: str = "none"
    slope: float = 0.0
    low: float = -np.inf
    high: float = np.inf

    @property
    def words(self) -> str:
        if self.name == "leaky ReLU":
            return f"a leaky ReLU of slope {self.slope:.4g}"
        if self.name == "clamp":
            return " and ".join(
                f"a cut {where} {edge:.4g}"
                for where, edge in (("below", self.low), ("above", self.high))
                if np.isfinite(edge)
            )
        return f"{'an' if self.name[0] in 'aeioE' else 'a'} {self.name}"

    def __call__(self, z: Array) -> Array:
        if self.name == "none":
            return z
        if self.name == "leaky ReLU":
            return np.asarray(np.where(z >= 0, z, self.slope * z))
        return np.asarray(np.clip(z, self.low, self.high) if self.name in CUTS else SMOOTH[self.name](z))

    def invert(self, y: Array) -> tuple[Array, Array]:
        """(z, where it is known) of outputs: nowhere that two different z give the same y."""
        if self.name == "none":
            return y, np.ones(y.shape, dtype=bool)
        if self.name == "leaky ReLU":
            return np.where(y >= 0, y, y / self.slope), np.ones(y.shape, dtype=bool)
        if self.name in CUTS:
            return y, (y > self.low) & (y < self.high)
        # Near a limit a rounding of y is much of z.
        lowest, highest = (0.9 * edge for edge in LIMITS.get(self.name, (0.0, np.inf)))
        known = (y > lowest + (0.1 if self.name in POSITIVE else 0.0)) & (y < highest)
        start = 0.0 if self.name in TURNING else -WIDEST
        rough = gelu_tanh if self.name == "GELU" else SMOOTH[self.name]
        z = bisect(rough, np.where(known, y, 0.5), start)
        return newton(SMOOTH[self.name], np.where(known, y, 0.5), z) if self.name == "GELU" else z, known


def newton(function: Function, y: Array, z: Array) -> Array:
    """A root that is near already; the error function has no fast form in NumPy."""
    for _ in range(4):
        slope = (function(z + 1e-5) - function(z - 1e-5)) / 2e-5
        z = z - (function(z) - y) / slope
    return np.asarray(z)


def bisect(function: Function, y: Array, start: float) -> Array:
    """z of an increasing function, to the last digit."""
    low, high = np.full(y.shape, start), np.full(y.shape, WIDEST)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        above = function(middle) > y
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.asarray(0.5 * (low + high))


def logistic(z: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)))


def softplus(z: Array) -> Array:
    return np.asarray(np.logaddexp(0.0, z))


def gelu_tanh(z: Array) -> Array:
    return np.asarray(0.5 * z * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (z + 0.044715 * z**3))))


def gelu(z: Array) -> Array:
    return np.asarray(0.5 * z * (1.0 + np.vectorize(erf, otypes=[float])(z / np.sqrt(2.0))))


SMOOTH: Mapping[str, Function] = {
    "SiLU": lambda z: np.asarray(z * logistic(z)),
    "ELU": lambda z: np.asarray(np.where(z > 0, z, np.expm1(np.minimum(z, 0.0)))),
    "GELU (tanh)": gelu_tanh,
    "Mish": lambda z: np.asarray(z * np.tanh(softplus(z))),
    "Hardswish": lambda z: np.asarray(z * np.clip(z + 3.0, 0.0, 6.0) / 6.0),
    "tanh": np.tanh,
    "sigmoid": logistic,
    "Softplus": softplus,
    "GELU": gelu,
}
CUTS = ("ReLU", "ReLU6", "clamp")
# These turn round below zero, or lose digits there: z is taken from y where y is positive.
TURNING = ("SiLU", "GELU (tanh)", "Mish", "Hardswish", "GELU", "ELU")
LIMITS = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0), "Softplus": (0.0, np.inf)}
POSITIVE = ("sigmoid", "Softplus")
LOWEST = {"SiLU": -0.2786, "GELU (tanh)": -0.1701, "GELU": -0.1701, "Mish": -0.3089, "Hardswish": -0.3751, "ELU": -1.0}
FEWEST_CUT = 3  # the same bits so often, at an end of all outputs, are no chance


def candidates(y: Array) -> list[Activation]:
    """The activations that can have made these outputs, the simplest first; ``y``: all values of all forwards."""
    low, high = float(y.min()), float(y.max())
    cut_low, cut_high = (bool(np.count_nonzero(y == edge) >= FEWEST_CUT) for edge in (low, high))
    if low == high:
        return []
    if cut_low and low == 0.0:
        return [Activation("ReLU6", low=0.0, high=6.0)] if cut_high and high == 6.0 else cut(low, high, cut_high)
    found = [Activation("clamp", low=low if cut_low else -np.inf, high=high if cut_high else np.inf)]
    smooth = [Activation(name) for name in SMOOTH if fits_range(name, low, high)]
    return [*(found if cut_low or cut_high else []), *smooth]


def cut(low: float, high: float, cut_high: bool) -> list[Activation]:
    return [Activation("clamp", low=low, high=high)] if cut_high else [Activation("ReLU", low=0.0)]


def fits_range(name: str, low: float, high: float) -> bool:
    lowest, highest = LIMITS.get(name, (LOWEST.get(name, -np.inf), np.inf))
    return lowest - 1e-3 <= low and high <= highest + 1e-3


def leaky(x: Array, y: Array) -> Activation | None:
    """The slope of the negative side, where all channels bend at y = 0 by one factor; ``x``, ``y``: (C, n)."""
    ratios = []
    for inputs, outputs in zip(x, y, strict=True):
        sides = [slope_of(inputs[side], outputs[side]) for side in (outputs > 0, outputs < 0)]
        if None not in sides and sides[0]:
            ratios.append((sides[1] or 0.0) / sides[0])
    if not ratios:
        return None
    slope = float(np.median(ratios))
    near = float(f"{slope:.2g}")
    return Activation("leaky ReLU", slope=near if abs(near - slope) < 1e-3 * abs(slope) else slope) if slope else None


def slope_of(x: Array, y: Array) -> float | None:
    if len(x) < 3 or np.ptp(x) == 0:
        return None
    centred = x - x.mean()
    return float((y * centred).sum() / (centred**2).sum())
