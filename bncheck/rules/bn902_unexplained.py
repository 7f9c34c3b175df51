"""A difference that no rule explains.

Signature: outside the tolerance, larger than rounding can be, and neither a measured convention nor a numeric cause
accounts for it. Where a convention accounts for a part, the finding says how much is left.

What to do: run the probe scenarios (`bncheck run probe`), so that the targets' conventions are known; rerun with
`--isolate cell` to see whether earlier cases leak into this one; then `bncheck repro` gives a script to report.
"""

import math
from collections.abc import Iterable, Iterator

from bncheck.evidence import CellView, Drift, PairView
from bncheck.finding import Finding
from bncheck.rules.attributed import summary
from bncheck.rules.bn901_rounding import is_rounding
from bncheck.rules.identifiability import not_identifiable
from bncheck.rules.in_batches import dependent, in_batches
from bncheck.rules.leftover import explained_by_conventions
from bncheck.rules.onnx_files import file_name, node_ratios, plays
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
    """A layer other than BatchNorm that gives a sample another output in another batch, by more than rounding; a node
    of an ONNX file that is off its opset's text, where the file as a whole cannot be compared."""
    yield from odd_nodes(cell)
    for found in in_batches(cell):
        odd = [place for place in dependent(cell, found) if not found.norms[place]]
        if odd:
            own = float(found.own[:, odd[0]].max())
            yield Finding(
                CODE, CAUSE, "unexplained",
                f"{names(cell.members)} in eval: {found.named(odd[0])} gives the same input bits another output in "
                f"another batch, by up to {number(own)}, and no rule says why.",
                targets(cell.members), cell.case.scenario, cell.case.name, found.layers[odd[0]], found.event, "output",
                evidence={**found.distances, "layers": len(odd), "own difference": own},
                advice="look at what that layer computes over the batch axis",
            )  # fmt: skip


def odd_nodes(cell: CellView) -> Iterator[Finding]:
    for event, notes in plays(cell):
        ratios = node_ratios(notes) if notes.get("no_oracle") else {}
        layer = max(ratios, key=lambda name: ratios[name], default="")
        if not layer or ratios[layer] <= 1:
            continue
        size = f"{number(ratios[layer])} times what rounding may do" if math.isfinite(ratios[layer]) else "NaN or Inf"
        yield Finding(
            CODE, CAUSE, "unexplained",
            f"{layer} of {file_name(cell)} on {names(cell.members)} is off the text of its opset, from its own input: "
            f"by {size}, and no rule says why.",
            targets(cell.members), cell.case.scenario, cell.case.name, layer, event, "output",
            evidence={"of its rounding bound": number(ratios[layer]), "nodes compared": len(ratios)},
            advice="play that node alone, and compare it with the formula of its opset",
        )  # fmt: skip
        return


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
