"""The dtype that a network computes in, from the digits of its outputs: under autocast it is not its layers' own."""

from __future__ import annotations

import numpy as np

from bncheck.diagnosis.rules.roundoff import unit
from bncheck.evidence import CellView
from bncheck.trace import Array

# A value picked at random is a bfloat16 by chance once in 2^16 (a float16 once in 2^13): sixteen never are.
DISTINCT = 16
# Bits of a float32's 23-bit fraction that the shorter format leaves zero.
ZERO_BITS = {"bfloat16": 16, "float16": 13}
# Roundings of the shorter dtype, relative to the largest number of a quantity, that all of a difference may come to.
ROUNDINGS = 8.0


def computed_in(cell: CellView) -> str:
    """The dtype whose digits the network's outputs have; "" where there are too few of them to tell."""
    arrays = cell.trace.arrays if cell.trace is not None else {}
    outputs = [array for name, array in arrays.items() if name.startswith("output/") and array.dtype.kind == "f"]
    if not outputs:
        return ""
    values = np.unique(np.concatenate([array.ravel() for array in outputs]))
    values = values[np.isfinite(values)]
    if len(values) < DISTINCT:
        return ""
    if values.dtype != np.float32:
        return str(values.dtype)
    return next((name for name, bits in ZERO_BITS.items() if fits(values, bits).all()), "float32")


def shorter_unit(cell: CellView) -> float:
    """u of the dtype that a cell computes in, where that is shorter than the case's; else 0."""
    found = unit(computed_in(cell) or cell.case.dtype)
    return found if found > unit(cell.case.dtype) else 0.0


def fits(values: Array, bits: int) -> Array:
    return np.asarray((values.view(np.uint32) & np.uint32((1 << bits) - 1)) == 0)
