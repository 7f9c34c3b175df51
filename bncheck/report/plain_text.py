"""How numbers, steps and foreign text are written for people, the same in every report."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Protocol


def number(value: float) -> str:
    """Five decimals where they carry something (0.90099), else three digits (1.51e-07)."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Inf" if value > 0 else "-Inf")
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.5f}"
    return f"{value:.2e}"


def amount(mean: float, std: float) -> str:
    """``0.90099 ± 0.20569``; both in the notation of the mean, so that they can be compared at a glance."""
    if not (math.isfinite(mean) and math.isfinite(std)):
        return f"{number(mean)} ± {number(std)}"
    if 1e-3 <= abs(mean) < 1e5:
        return f"{mean:.5f} ± {std:.5f}"
    return f"{number(mean)} ± {number(std)}"


def since(step: int | None) -> str:
    """Step 0 is the initial state, step k the state after k repeats of the program."""
    if step is None:
        return ""
    return "from the initial state on" if step <= 0 else f"since step {step}"


def share(explained: float) -> str:
    return f"{100 * explained:.1f} %"


def scalar(value: Any) -> str:
    """One value of an evidence, matrix or environment table."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not known"}[value]
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else number(value)
    if isinstance(value, Mapping):
        return clean(", ".join(f"{key}: {scalar(item)}" for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return clean(", ".join(scalar(item) for item in value))
    return clean(str(value))


def clean(text: str) -> str:
    """Foreign text without control characters: a run folder must not be able to drive a terminal."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def one_line(text: str, limit: int = 100) -> str:
    text = re.sub(r"\s+", " ", clean(text)).strip()
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


class Named(Protocol):
    """A finding, a charge, an entry of a baseline."""

    @property
    def cause(self) -> str: ...
    @property
    def kind(self) -> str: ...


def kinded(item: Named) -> str:
    """`` (convention)``; nothing where the kind is the cause, as of what is unexplained."""
    return "" if item.kind == item.cause else f" ({clean(item.kind)})"


def words(name: str) -> str:
    """A facet's or evidence's key as words: ``variance_divisor`` → ``variance divisor``."""
    return clean(name).replace("_", " ")


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
