"""The same case gives another result in another order, or in a process of its own.

Signature: one target, one case, run more than once (`--check-order`, or `check_order = true` in its scenario: in
reversed order, in new processes), and the traces differ by more than rounding. Something outlives a case: a cached
primitive, a global flag, a shared buffer, a random state.

What to do: run with `--isolate cell`, trust that result, and report the case that comes before: it leaks.
"""

import math
from collections.abc import Iterator

import numpy as np

from bncheck.diagnosis.drifts import drifts_between
from bncheck.diagnosis.rules.leftover import within_rounding
from bncheck.diagnosis.rules.wording import name, number
from bncheck.evidence import CellView, PairView, Repeat, TargetView
from bncheck.finding import Finding

CODE = "BN403"
CAUSE = "order-dependence"
EXPLAINS = ("order", "statistics", "counter", "affine", "outputs", "gradients", "events")


def check_target(target: TargetView) -> Iterator[Finding]:
    """One finding per case that comes out differently; one in all for cases that differ by rounding only."""
    repeats = target.repeats
    for repeat in repeats:
        if repeat.quantity:
            yield finding(repeat)
    rounded = [repeat for repeat in repeats if not repeat.quantity and not repeat.identical]
    if rounded:
        cell = rounded[0].cell
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="rounding",
            title=(
                f"{name(cell)} gives other bits, within rounding, in {len(rounded)} of {len(repeats)} cases when "
                f"they run again in another order."
            ),
            targets=(cell.target,),
            scenario=cell.case.scenario,
            case=cell.case.name,
            evidence={"cases": len(rounded), "of": len(repeats)},
            advice="nothing to do; summation order depends on threads, unless deterministic algorithms are asked for",
        )


def finding(repeat: Repeat) -> Finding:
    cell, what = repeat.cell, repeat.quantity
    size = "" if math.isnan(repeat.size) else f": off by {number(repeat.size)}"
    return Finding(
        code=CODE,
        cause=CAUSE,
        kind="defect",
        title=f"{name(cell)} gives another {what} in the same case when it runs again (order or isolation){size}.",
        targets=(cell.target,),
        scenario=cell.case.scenario,
        case=cell.case.name,
        layer=repeat.layer,
        event=None,
        quantity=what,
        departs=cell.target,
        departs_from="itself",
        evidence={} if math.isnan(repeat.size) else {"max_abs": repeat.size},
        advice="run with --isolate cell, and look at the case that ran before",
    )


def difference(one: CellView, two: CellView) -> tuple[str, str, float] | None:
    """(quantity, layer, size) of the first difference between two runs of a case that is not rounding."""
    if one.outcome != two.outcome:
        return "outcome", "", float("nan")
    pair = PairView(case=one.case, a=one, b=two, drifts=drifts_between(one.case, one, two))
    with np.errstate(all="ignore"):
        drift = next((item for item in pair.differing if not within_rounding(pair, item)), None)
    return None if drift is None else (drift.quantity, drift.layer, drift.max_abs)
