"""Statistics or outputs have fewer digits than their dtype.

Signature: buffers are kept in bfloat16 or float16 while the network computes in float32, or every held value has the
low bits of a float32 all zero: it went through a shorter format on the way. Errors are relative, of the size of that
format's unit roundoff, whatever the mean/std ratio. Or what layers compute has a shorter dtype than the network on one
side alone (autocast, a mixed-precision policy): outputs have the digits of float16 or bfloat16, and all that differs
is a few of its roundings.

What to do: keep running statistics in float32 (mixed-precision policies usually have an exception list), and switch
reduced-precision math modes off when you compare.
"""

from collections.abc import Iterator

import numpy as np

from bncheck.diagnosis.rules.attributed import summary
from bncheck.diagnosis.rules.computed import DISTINCT, ROUNDINGS, ZERO_BITS, computed_in, fits
from bncheck.diagnosis.rules.roundoff import unit
from bncheck.diagnosis.rules.wording import names, targets, verb
from bncheck.evidence import CellView, Drift, PairView
from bncheck.finding import Finding
from bncheck.trace import STATISTICS, Array

CODE = "BN203"
CAUSE = "reduced-precision"
EXPLAINS = ("statistics", "outputs", "gradients")


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
            whole = cell.case.network.model is not None and not hidden  # which keeps the types that it was made with
            yield Finding(
                code=CODE,
                cause=CAUSE,
                kind="hazard",
                title=f"{names(cell.members)} {verb(cell.members, 'keeps', 'keep')} {quantity} of {layer} {said}"
                f"{'' if whole else f', in a network of {cell.case.dtype}'}.",
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


def check_pair(pair: PairView) -> Iterator[Finding]:
    """One side computes in a shorter dtype than the case's, and nothing differs by more than that makes."""
    dtypes = [computed_in(cell) for cell in (pair.a, pair.b)]
    if "" in dtypes or unit(dtypes[0]) == unit(dtypes[1]):
        return
    output = pair.drift("", "output")
    (short, dtype), (other, wide) = sorted(zip((pair.a, pair.b), dtypes, strict=True), key=lambda side: -unit(side[1]))
    if output is None or output.relation != "differs" or not unit(dtype) > unit(pair.case.dtype):
        return
    if not all(
        is_of(pair, drift, unit(dtype)) for drift in pair.differing if drift.quantity in ("output", *STATISTICS)
    ):
        return
    yield Finding(
        code=CODE,
        cause=CAUSE,
        kind="hazard",
        title=f"{names(short.members)} {verb(short.members, 'computes', 'compute')} in {dtype}, {names(other.members)} "
        f"in {wide}: the outputs differ by a few roundings of {dtype}, and statistics by what reaches them.",
        targets=targets(pair.a.members, pair.b.members),
        scenario=pair.case.scenario,
        case=pair.case.name,
        event=output.first_event,
        quantity="output",
        evidence={**summary(output), "unit roundoff": unit(dtype)},
        advice="compare in one dtype; where digits matter, switch autocast off around that layer",
    )


def is_of(pair: PairView, drift: Drift, u: float) -> bool:
    """Whether a difference is no larger than a few roundings of a dtype make of the quantity's numbers."""
    if drift.relation != "differs":
        return False
    names_ = [f"{drift.layer}/{drift.quantity}"] if drift.layer else []
    arrays = [
        array
        for cell in (pair.a, pair.b)
        for name, array in (cell.trace.arrays.items() if cell.trace is not None else ())
        if name in names_ or (not drift.layer and name.startswith(f"{drift.quantity}/"))
    ]
    size = max((float(np.max(np.abs(array), where=np.isfinite(array), initial=0.0)) for array in arrays), default=0.0)
    return drift.max_abs <= ROUNDINGS * u * size
