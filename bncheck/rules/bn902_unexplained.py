"""A difference that no rule explains.

Signature: outside the tolerance, larger than rounding can be, and neither a measured convention nor a numeric cause
accounts for it. Where a convention accounts for a part, the finding says how much is left.

What to do: run the probe scenarios (`bncheck run probe`), so that the targets' conventions are known; rerun with
`--isolate cell` to see whether earlier cases leak into this one; then `bncheck repro` gives a script to report.
"""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from bncheck.evidence import CellView, Drift, PairView
from bncheck.finding import Finding
from bncheck.rules.attributed import summary
from bncheck.rules.bn901_rounding import is_rounding
from bncheck.rules.identifiability import not_identifiable
from bncheck.rules.in_batches import InBatches, dependent, in_batches, is_beyond_rounding, rounding_bound
from bncheck.rules.leftover import explained_by_conventions
from bncheck.rules.wording import names, number, percent, targets

CODE = "BN902"
CAUSE = "unexplained"
# What a convention leaves below this is the replay's own rounding.
ENOUGH = 0.99


def check_pair(pair: PairView) -> Iterable[Finding]:
    for drift in pair.differing:
        if drift.verdict not in ("differs", "nonfinite") or is_rounding(pair, drift):
            continue
        explained = explained_by_conventions(pair, drift)
        if explained is not None and explained >= ENOUGH:
            continue
        yield _finding(pair, drift, explained)


def check_cell(cell: CellView) -> Iterator[Finding]:
    """A layer other than BatchNorm that gives a sample another output in another batch, by more than rounding; or a
    network that does, though no layer that is seen does."""
    for found in in_batches(cell):
        known = dependent(cell, found)
        odd = [place for place in known if not found.norms[place]]
        lost = [place for place in found.one_sided if place not in known]
        if odd:
            own = found.own[:, odd[0]]
            size = float(own[np.isfinite(own)].max())
            said = (
                f"{found.named(odd[0])} gives the same input bits another output in another batch, by up to "
                f"{number(size)}, and no rule says why"
            )
            yield in_batches_finding(cell, found, odd[0], said, {"layers": len(odd), "own difference": size})
        elif lost:
            said = (
                f"{found.named(lost[0])} gives the same input bits a finite output in one batch and NaN or Inf in "
                f"another, and no rule says why"
            )
            yield in_batches_finding(cell, found, lost[0], said, {"layers": len(lost)})
        elif not known and is_beyond_rounding(cell, found):
            yield behind_nothing(cell, found)


def in_batches_finding(
    cell: CellView, found: InBatches, place: int, said: str, evidence: Mapping[str, float | int]
) -> Finding:
    return Finding(
        CODE, CAUSE, "unexplained", f"{names(cell.members)} in eval: {said}.",
        targets(cell.members), cell.case.scenario, cell.case.name, found.layers[place], found.event, "output",
        evidence={**found.distances, **evidence}, advice="look at what that layer computes over the batch axis",
    )  # fmt: skip


def behind_nothing(cell: CellView, found: InBatches) -> Finding:
    """The outputs differ by more than rounding, and every layer that is seen acquits itself."""
    bound, worst = rounding_bound(cell, found), found.worst
    first = found.first_beyond(bound)
    many = len(found.layers)
    seen = (
        f"Each of the {many} modules that bncheck sees agrees"
        if many > 1
        else "The one module that bncheck sees agrees"
    )
    where = "behind the last of them" if first is None else f"before {found.named(first)}"
    return Finding(
        CODE, CAUSE, "unexplained",
        f"{names(cell.members)} in eval: the same samples lie L1 {number(float(found.l1[worst]))} apart between "
        f"batches of {found.sizes[worst]} and {found.largest}; rounding makes {number(bound * found.size)} at most. "
        f"{seen} with itself in both, so the difference enters {where}, where bncheck sees no module.",
        targets(cell.members), cell.case.scenario, cell.case.name,
        found.layers[first] if first is not None else "", found.event, "output",
        evidence={**found.distances, "rounding bound": bound * found.size, "L1 of the output": found.size},
        advice="look for a layer in a plain Python list, which eval() does not reach, and for what forward() computes "
        "over the batch axis",
    )  # fmt: skip


def _finding(pair: PairView, drift: Drift, explained: float | None) -> Finding:
    where = f"{drift.quantity} of {drift.layer}" if drift.layer else f"the network's {drift.quantity}"
    size = f"by up to {number(drift.max_abs)}"
    if drift.verdict == "nonfinite":
        size = f"in NaN or Inf ({drift.nonfinite_a} against {drift.nonfinite_b})"
    part = f"; measured conventions explain {percent(explained)} of it" if explained else ", and no rule says why"
    return Finding(
        CODE, CAUSE, "unexplained",
        f"{names(pair.a.members)} and {names(pair.b.members)} differ in {where} {size}{part}.",
        targets(pair.a.members, pair.b.members), pair.case.scenario, pair.case.name, drift.layer, drift.first_event,
        drift.quantity, explained,
        evidence={**summary(drift), "max_ulp": drift.max_ulp},
        advice="measure the conventions (bncheck run probe), then rerun with --isolate cell",
        not_identifiable=not_identifiable(pair, layer=drift.layer),
    )  # fmt: skip
