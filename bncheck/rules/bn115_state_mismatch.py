"""One side holds a state that the other does not hold, or holds for another number of channels.

Signature: running statistics, gamma or beta are there on one side only (a layer without running statistics, a layer
that keeps them under other names, no affine part), or for 3 channels here and for 6 there. Nothing can be compared
there, and weights cannot be carried over as they are.

What to do: build both layers with the same parts (track_running_stats and affine in PyTorch, scale and center in
Keras). In a layer of your own keep one value per channel under PyTorch's names: weight and bias as parameters,
running_mean, running_var and num_batches_tracked with register_buffer.
"""

from collections.abc import Iterator

from bncheck.evidence import CellView, PairView
from bncheck.finding import Finding
from bncheck.rules.wording import names, targets, verb
from bncheck.trace import STATES

CODE = "BN115"
CAUSE = "state-mismatch"
EXPLAINS = ()
ADVICE = "build both layers with the same parts (torch: track_running_stats, affine; Keras and Flax: scale, center)"
OWN = (
    "keep one value per channel under PyTorch's names: parameters weight and bias, register_buffer for running_mean, "
    "running_var and num_batches_tracked"
)


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
                f"{names(lacking[0].members)} {keeps} no {what} of {layer}{where}; {names(other.members)} {holds_it}."
            )
        else:
            one, two = (width(cell, layer, quantities[0]) for cell in (pair.a, pair.b))
            what = f"{', '.join(quantities[:-1])}{' and ' if len(quantities) > 1 else ''}{quantities[-1]}"
            title = (
                f"{names(pair.a.members)} {verb(pair.a.members, 'keeps', 'keep')} {what} of {layer} for {one} "
                f"channel{'' if one == 1 else 's'}, {names(pair.b.members)} for {two}."
            )
        yield Finding(
            CODE, CAUSE, "hazard" if own else "convention", title, targets(pair.a.members, pair.b.members),
            pair.case.scenario, pair.case.name, layer, None, quantities[0],
            advice=OWN if own else ADVICE,
            accounts=tuple((layer, quantity) for quantity in quantities),
        )  # fmt: skip


def width(cell: CellView, layer: str, quantity: str) -> int:
    """For how many channels a layer holds it."""
    rows = cell.trace.get(layer, quantity) if cell.trace is not None else None
    if rows is None or rows.ndim != 2:
        return cell.other_widths.get(f"{layer}/{quantity}", 0)
    return int(rows.shape[1])


def holds(cell: CellView, layer: str, quantity: str) -> bool:
    kept = cell.trace is not None and cell.trace.get(layer, quantity) is not None
    return kept or f"{layer}/{quantity}" in cell.other_widths
