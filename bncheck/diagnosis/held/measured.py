"""How far two outputs lie apart, and how much of that may be rounding."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """The largest difference over the largest value, and up to where it is rounding."""

    gap: float
    bound: float

    @property
    def fits(self) -> bool:
        return self.gap <= self.bound
