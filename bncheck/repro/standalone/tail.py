"""The end of every script: print what came out next to what is expected, and say whether the problem is there.

The functions' source is copied into scripts as it stands, so they use nothing but NumPy and each other.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
from __future__ import annotations

import inspect

import numpy as np


def number(value):
    """Five decimals where they carry something, else three digits: as the report writes it."""
    if value == 0 or not np.isfinite(value):
        return "0" if value == 0 else ("NaN" if np.isnan(value) else "Inf" if value > 0 else "-Inf")
    return f"{value:.5f}" if 1e-3 <= abs(value) < 1e5 else f"{value:.2e}"


def some(values):
    return " ".join(number(v) for v in values[:4]) + (f" … ({len(values)} values)" if len(values) > 4 else "")


def gaps(here, there, rtol, atol):
    """(|here - there| where both are finite, where they differ by more than the tolerance allows)."""
    with np.errstate(all="ignore"):
        both = np.isfinite(here) & np.isfinite(there)
        gap = np.where(both, np.abs(here - there), 0.0)
        size = np.where(both, np.maximum(np.abs(here), np.abs(there)), 0.0)
        same = ~both & ((here == there) | (np.isnan(here) & np.isnan(there)))
    return gap, both, (gap > atol + rtol * size) | (~both & ~same)


def compare(name, rows, there, source, *, rtol, atol):
    """Print one quantity, point by point, and how far it is off; True where it is outside the tolerance."""
    here = np.array([values for _, values in rows], dtype="float64")
    gap, both, outside = gaps(here, there, rtol, atol)
    print(f"\n{name}: here | {source}")
    for (when, values), expected in zip(rows, there):  # noqa: B905 - Python 3.8 has no strict
        print(f"  {when}: {some(values)} | {some(expected)}")
    held = both.any(axis=1)
    points = gap.sum(axis=1)[held] / both.sum(axis=1)[held]
    mean, std = (points.mean(), points.std()) if len(points) else (np.nan, np.nan)
    spread = f"{std:.5f}" if 1e-3 <= abs(mean) < 1e5 else number(std)
    most = number(gap.max() if gap.size else 0.0)
    print(f"{name} off by {number(mean)} ± {spread} over {len(there)} points, at most {most}")
    if not both.all():
        print(f"{name}: {np.sum(~np.isfinite(here))} values here are NaN or Inf, {np.sum(~np.isfinite(there))} there")
    return bool(outside.any())


def source_of(*names):
    lines = []
    for name in names:
        lines += ["", "", *inspect.getsource(globals()[name]).rstrip().splitlines()]
    return lines
