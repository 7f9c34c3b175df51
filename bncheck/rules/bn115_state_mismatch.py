"""One side holds a state that the other does not hold, or holds for another number of channels.

Signature: running statistics, gamma or beta are there on one side only (a layer without running statistics, a layer
that keeps them under other names, no affine part), or for 3 channels here and for 6 there. Nothing can be compared
there, and weights cannot be carried over as they are.

What to do: build both layers with the same parts (track_running_stats, affine, scale, center); in an own layer keep the
state under the usual names, one value per channel.
"""

from collections.abc import Iterator

from bncheck.evidence import CellView, PairView
from bncheck.finding import Finding
from bncheck.rules.wording import names, targets, verb
from bncheck.trace import STATES

CODE = "BN115"
CAUSE = "state-mismatch"
EXPLAINS = ()


def check_pair(pair: PairView) -> Iterator[Finding]:
    """One finding per layer and side that lacks something."""
    lost = [drift for drift in pair.drifts if drift.verdict == "missing" and drift.quantity in STATES]
    for layer in dict.fromkeys(drift.layer for drift in lost):
        quantities = tuple(drift.quantity for drift in lost if drift.layer == layer)
        lacking = [cell for cell in (pair.a, pair.b) if not holds(cell, layer, quantities[0])]
        own = pair.case.network.custom is not None or pair.case.network.model is not None
        what = f"{', '.join(quantities[:-1])}{' or ' if len(quantities) > 1 else ''}{quantities[-1]}"
        if lacking:
            other = pair.b if lacking[0] is pair.a else pair.a
            keeps, holds_it = verb(lacking[0].members, "keeps", "keep"), verb(other.members, "does", "do")
            where = " under the usual names" if lacking[0].own_layer else ""
            title = (
                f"{names(lacking[0].members)} {keeps} no {what} of {layer}{where}, {names(other.members)} {holds_it}."
            )
        else:
            title = f"{names(pair.a.members)} and {names(pair.b.members)} hold {what} of {layer} in other shapes."
        yield Finding(
            CODE, CAUSE, "hazard" if own else "convention", title, targets(pair.a.members, pair.b.members),
            pair.case.scenario, pair.case.name, layer, None, quantities[0],
            advice="build both with the same parts; an own layer keeps its state under the usual names",
            accounts=tuple((layer, quantity) for quantity in quantities),
        )  # fmt: skip


def holds(cell: CellView, layer: str, quantity: str) -> bool:
    return cell.trace is not None and cell.trace.get(layer, quantity) is not None
