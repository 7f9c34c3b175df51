"""The same case gives another result in another order, or in a process of its own.

Signature: one target, one case, run more than once (after other cases, and isolated), and the traces differ by more
than rounding. Something outlives a case: a cached primitive, a global flag, a shared buffer, a random state.

What to do: run with `--isolate cell`, trust that result, and report the case that comes before: it leaks.
"""

from collections.abc import Iterator

import numpy as np

from bncheck.compare import compare
from bncheck.evidence import CellView, PairView, TargetView
from bncheck.finding import Finding
from bncheck.rules.leftover import within_rounding
from bncheck.rules.wording import name, number

CODE = "BN403"
CAUSE = "order-dependence"


def check_target(target: TargetView) -> Iterator[Finding]:
    first: dict[str, CellView] = {}
    said: set[str] = set()
    for cell in target.cells:
        earlier = first.setdefault(cell.case.id, cell)
        if earlier is cell or cell.case.id in said:
            continue
        found = difference(earlier, cell)
        if found is None:
            continue
        said.add(cell.case.id)
        quantity, layer, size = found
        yield Finding(
            CODE, CAUSE, "defect",
            f"{name(cell)} gives another {quantity} in the same case when it runs again (order or isolation): "
            f"off by {number(size)}.",
            (cell.target,), cell.case.scenario, cell.case.name, layer, None, quantity,
            departs=cell.target, departs_from="itself", evidence={"max_abs": size},
            advice="run with --isolate cell, and look at the case that ran before",
        )  # fmt: skip


def difference(one: CellView, two: CellView) -> tuple[str, str, float] | None:
    """(quantity, layer, size) of the first difference between two runs of a case that is not rounding."""
    if one.outcome != two.outcome:
        return "outcome", "", float("nan")
    pair = PairView(one.case, one, two, compare(one.case, one, two))
    with np.errstate(all="ignore"):
        drift = next((item for item in pair.differing if not within_rounding(pair, item)), None)
    return None if drift is None else (drift.quantity, drift.layer, drift.max_abs)
