"""How one array of a layer differs from another's: not at all, as the types round, or truly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from bncheck.life import Held
from bncheck.trace import Array

MEAN = "running_mean"
QUANTITIES = ("running_mean", "running_var", "gamma", "beta")
# Distance of 1 to the next number.
SPACING = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
# Roundings that a copy goes through (a conversion there and back, a mean over one replica).
ROUNDINGS = 4

# So many different numbers that all have few bits are no chance; 1 and 2 have them in every model.
TELLING = 4

Word = Literal["equal", "rounding", "narrowed", "differs", "missing", "width", "nonfinite"]


@dataclass(frozen=True, slots=True)
class Likeness:
    """One quantity of a pair of layers. ``size`` is the largest |a − b|; ``detail`` the type that a narrowed one went
    through, or the side that lacks it (a, b)."""

    word: Word
    size: float = 0.0
    detail: str = ""

    @property
    def same(self) -> bool:
        return self.word in ("equal", "rounding", "narrowed")


@dataclass(frozen=True)
class Pair:
    """Two layers that belong together."""

    a: Held
    b: Held
    quantities: Mapping[str, Likeness] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.a.layer

    def differing(self) -> tuple[str, ...]:
        return tuple(what for what, found in self.quantities.items() if not found.same)


def compared(a: Held, b: Held) -> Pair:
    """A pair with the likeness of every quantity that either holds."""
    found: dict[str, Likeness] = {}
    for what in QUANTITIES:
        one, two = array(a, what), array(b, what)
        if one is None and two is None:
            continue
        if what in ("gamma", "beta") and (
            (one is None and "affine" in a.shapes) or (two is None and "affine" in b.shapes)
        ):
            continue  # one side has an array that may be this one
        if one is None or two is None:
            # Keras leaves out a gamma of 1 and a beta of 0 that it does not train; others store them.
            other = two if one is None else one
            neutral = what in ("gamma", "beta") and other is not None and bool((other == (what == "gamma")).all())
            found[what] = Likeness("equal" if neutral else "missing", detail="a" if one is None else "b")
        else:
            found[what] = alike(one, two, dtype_of(a, what), dtype_of(b, what), spread(a, b) if what == MEAN else 0.0)
    found.update(narrowed_with_others(a, b, found))
    if a.counter is not None and b.counter is not None:
        found["counter"] = Likeness("equal" if a.counter == b.counter else "differs", abs(a.counter - b.counter))
    return Pair(a=a, b=b, quantities=found)


def narrowed_with_others(a: Held, b: Held, found: Mapping[str, Likeness]) -> dict[str, Likeness]:
    """Quantities of too few different numbers to tell a type by themselves (gammas next to 1), where another quantity
    of the same layer tells that one side went through it."""
    said: dict[str, Likeness] = {}
    for narrow in {each.detail for each in found.values() if each.word == "narrowed"}:
        for what, each in found.items():
            one, two = array(a, what), array(b, what)
            if each.word in ("rounding", "differs") and one is not None and two is not None:
                wide, other = one.astype(np.float64), two.astype(np.float64)
                if (rounded(wide, narrow) == other).all() or (rounded(other, narrow) == wide).all():
                    said[what] = Likeness("narrowed", each.size, narrow)
    return said


def array(held: Held, what: str) -> Array | None:
    value: Array | None = getattr(held, what)
    return value


def dtype_of(held: Held, what: str) -> str:
    value = array(held, what)
    return held.dtypes.get(what) or ("float32" if value is None else str(value.dtype))


def spread(a: Held, b: Held) -> Array | float:
    """The standard deviations of what a mean is of, where both say them: it sums numbers of that size, and a mean near
    0 rounds as they do."""
    one, two = a.running_var, b.running_var
    if one is None or two is None or one.shape != two.shape:
        return 0.0
    least = np.minimum(one.astype(np.float64), two.astype(np.float64))
    found: Array = np.sqrt(np.where(np.isfinite(least) & (least > 0), least, 0.0))
    return found if a.running_mean is not None and found.shape == a.running_mean.shape else 0.0


def alike(
    a: Array, b: Array, dtype_a: str = "float32", dtype_b: str = "float32", size_of: Array | float = 0.0
) -> Likeness:
    """Whether two arrays hold the same numbers, up to a few roundings of the coarser of their types. ``size_of``: what
    numbers went into them, where those are larger."""
    if a.shape != b.shape:
        return Likeness("width")
    one, two = a.astype(np.float64), b.astype(np.float64)
    if not (np.isfinite(one).all() and np.isfinite(two).all()):
        return Likeness("nonfinite")
    apart = np.abs(one - two)
    size = float(apart.max(initial=0.0))
    if size == 0:
        return Likeness("equal")
    for narrow in ("float16", "bfloat16"):
        for wide, other, dtype in ((one, two, dtype_b), (two, one, dtype_a)):
            told = dtype == narrow or len(np.unique(other)) >= TELLING
            if told and (rounded(wide, narrow) == other).all():
                return Likeness("narrowed", size, narrow)
    coarse = max(SPACING.get(dtype_a, SPACING["float32"]), SPACING.get(dtype_b, SPACING["float32"]))
    if (apart <= ROUNDINGS * coarse * np.maximum(np.maximum(np.abs(one), np.abs(two)), size_of)).all():
        return Likeness("rounding", size)
    return Likeness("differs", size)


def rounded(values: Array, dtype: str) -> Array:
    """Numbers as a narrower type holds them, in float64; bfloat16 to nearest even."""
    if dtype == "bfloat16":
        bits = values.astype(np.float32).view(np.uint32)
        kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
        return kept.view(np.float32).astype(np.float64)
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float64)
