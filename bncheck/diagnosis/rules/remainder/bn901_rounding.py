"""The difference is rounding: no larger than a correct implementation makes it at this precision.

Signature: the numbers are not bit-identical, but the difference is inside the tolerance of the dtype, or inside the
bound derived for its unit roundoff, the number of values and their mean/std ratio; in a deep network, inside what each
layer makes of the error that it measurably got in. Repeat the case in float64 and it shrinks by nine decades; a real
cause stays.

What to do: nothing. Compare with a tolerance instead of for equality. Two libraries, two devices or two batch sizes
add in different orders; eval BatchNorm itself is a fixed map of each sample.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from bncheck.diagnosis.rules import applications
from bncheck.diagnosis.rules.born import births
from bncheck.diagnosis.rules.in_batches import dependent, in_batches, is_beyond_rounding
from bncheck.diagnosis.rules.leftover import within_rounding
from bncheck.diagnosis.rules.numerics.bn202_normalise_arithmetic import is_ill_conditioned
from bncheck.diagnosis.rules.numerics.bn206_gradient import is_rounding as gradient_is_rounding
from bncheck.diagnosis.rules.wording import GRADIENT_WORDS, names, number, targets
from bncheck.evidence import CellView, Drift, PairView
from bncheck.finding import Finding
from bncheck.trace import Array

CODE = "BN901"
CAUSE = "rounding"
EXPLAINS = ()


def check_pair(pair: PairView) -> Iterable[Finding]:
    """One finding per pair: the largest difference that is rounding, when nothing is identical down to the bit."""
    rounded = [drift for drift in pair.drifts if drift.max_abs > 0 and is_rounding(pair, drift)]
    if not rounded:
        return
    # Gradients cancel and are counted in many ULP without saying much: they speak only when nothing else differs.
    worst = max(rounded, key=lambda drift: (drift.quantity not in GRADIENT_WORDS, drift.max_ulp))
    where = f"{worst.quantity} of {worst.layer}" if worst.layer else worst.quantity
    more = any(drift.max_ulp > worst.max_ulp for drift in rounded)
    where += f": up to {number(worst.max_abs)}"
    where += "; gradients by more, relative to their size" if more else ""
    sizes = {"max_abs": worst.max_abs, "max_rel": worst.max_rel, "max_ulp": worst.max_ulp, "quantities": len(rounded)}
    yield Finding(
        code=CODE,
        cause=CAUSE,
        kind="rounding",
        title=f"{where_finite(pair)}{otherwise(pair)}{names([*pair.a.members, *pair.b.members])} differ by "
        f"{worst.dtype} rounding only ({where}).",
        targets=targets(pair.a.members, pair.b.members),
        scenario=pair.case.scenario,
        case=pair.case.name,
        layer=worst.layer,
        event=None,
        quantity=worst.quantity,
        evidence=sizes,
        advice="nothing to do; compare with a tolerance",
    )


def otherwise(pair: PairView) -> str:
    return "Otherwise " if any(apart(pair, drift) for drift in pair.drifts) else ""


def apart(pair: PairView, drift: Drift) -> bool:
    """Gradients are held against a tolerance for what they cancel from: they alone are no sign of a difference."""
    return drift.relation == "differs" and drift.quantity not in GRADIENT_WORDS and not is_rounding(pair, drift)


def where_finite(pair: PairView) -> str:
    """NaN and Inf in the same place on both sides do not drift; they are no rounding either. (What one side does not
    have is recorded as NaN too: only what a cell made so counts.)"""
    bad = any(drift.nonfinite_a and drift.nonfinite_b for drift in pair.drifts)
    return "Where both are finite, " if bad and (births(pair.a) or births(pair.b)) else ""


def check_cell(cell: CellView) -> Iterator[Finding]:
    """The same samples in batches of other sizes: every layer on its own agrees with itself to within rounding."""
    yield from applications.found(cell, CODE, CAUSE)
    for found in in_batches(cell):
        first, norms = found.first_to_differ, int(found.norms.sum())
        if first is None or dependent(cell, found) or found.one_sided or is_beyond_rounding(cell, found):
            continue
        tight = norms - found.loose_norms
        acquitted = f"all {norms}" if tight == norms else f"{tight} of {norms}"
        worst = float(found.l1[found.worst])
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="rounding",
            title=(
                f"{names(cell.members)} in eval: in other batches the same samples differ by {cell.case.dtype} "
                f"rounding, "
                f"L1 {number(worst)}. Batch-invariant to the bit: {acquitted} BatchNorm layers; the first layer that "
                f"is not is {found.named(first)}."
            ),
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=found.layers[first],
            event=found.event,
            quantity="output",
            evidence={
                **found.distances,
                "BatchNorm layers": norms,
                "of them invariant to the bit": tight,
                "largest own difference, relative": relative(found.own, found.scale),
            },
            advice="nothing to do: a convolution adds in another order for another batch size; float64 shrinks it",
        )


def relative(own: Array, scale: Array) -> float:
    return float((own / np.maximum(scale, 1e-300)).max())


def is_rounding(pair: PairView, drift: Drift) -> bool:
    key = ("is rounding", drift.layer, drift.quantity, drift.relation, repr(drift.max_abs))
    return bool(pair.once(key, lambda: looks_rounded(pair, drift)))


def looks_rounded(pair: PairView, drift: Drift) -> bool:
    if drift.relation == "agrees":
        return True
    if drift.quantity in GRADIENT_WORDS:
        return gradient_is_rounding(pair, drift)
    return within_rounding(pair, drift) and not (drift.quantity == "output" and is_ill_conditioned(pair, drift))
