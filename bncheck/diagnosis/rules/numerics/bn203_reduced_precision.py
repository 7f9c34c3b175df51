"""Statistics or outputs have fewer digits than their dtype.

Signature: buffers are kept in bfloat16 or float16 while the network computes in float32, or every held value has the
low bits of a float32 all zero: it went through a shorter format on the way. Errors are relative, of the size of that
format's unit roundoff, whatever the mean/std ratio.

What to do: keep running statistics in float32 (mixed-precision policies usually have an exception list), and switch
reduced-precision math modes off when you compare.
"""

from collections.abc import Iterator

import numpy as np

from bncheck.diagnosis.rules.movement import STATISTICS
from bncheck.diagnosis.rules.roundoff import unit
from bncheck.diagnosis.rules.wording import names, targets, verb
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.trace import Array

CODE = "BN203"
CAUSE = "reduced-precision"
EXPLAINS = ("statistics", "outputs", "gradients")
# A value picked at random is a bfloat16 by chance once in 2^16 (a float16 once in 2^13): sixteen never are.
DISTINCT = 16
# Bits of a float32's 23-bit fraction that the shorter format leaves zero.
ZERO_BITS = {"bfloat16": 16, "float16": 13}


def check_cell(cell: CellView) -> Iterator[Finding]:
    if cell.trace is None:
        return
    for layer in cell.trace.layers:
        for quantity in STATISTICS:
            held = cell.trace.get(layer, quantity)
            if held is None:
                continue
            dtype = cell.trace.dtype_of(f"{layer}/{quantity}")
            hidden = shorter_format(held, cell.replay.get(layer, {}).get(quantity)) if dtype == "float32" else ""
            if not hidden and not unit(dtype) > unit(cell.case.dtype):
                continue
            said = f"in {dtype}" if not hidden else f"in {dtype}, but with the digits of {hidden} only"
            yield Finding(
                code=CODE,
                cause=CAUSE,
                kind="hazard",
                title=f"{names(cell.members)} {verb(cell.members, 'keeps', 'keep')} {quantity} of {layer} {said}, "
                f"in a network of {cell.case.dtype}.",
                targets=targets(cell.members),
                scenario=cell.case.scenario,
                case=cell.case.name,
                layer=layer,
                event=None,
                quantity=quantity,
                evidence={"dtype": dtype, "digits of": hidden or dtype, "unit roundoff": unit(hidden or dtype)},
                advice="keep the running statistics in float32",
            )
            break


def shorter_format(held: Array, replay: Array | None) -> str:
    """bfloat16 or float16 when all values of a float32 buffer are such numbers and those it should hold are not."""
    values = np.unique(np.asarray(held, dtype=np.float32)[np.isfinite(held)])
    if replay is None or held.dtype != np.float32 or len(values) < DISTINCT:
        return ""
    should = np.unique(np.asarray(replay)[np.isfinite(replay)].astype(np.float32))
    for name, bits in ZERO_BITS.items():
        if fits(values, bits).all() and np.count_nonzero(~fits(should, bits)) >= DISTINCT:
            return name
    return ""


def fits(values: Array, bits: int) -> Array:
    return np.asarray((values.view(np.uint32) & np.uint32((1 << bits) - 1)) == 0)
