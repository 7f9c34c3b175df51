"""One side holds a state that the other does not hold, or holds for another number of channels.

Signature: running statistics, gamma or beta are there on one side only (a layer without running statistics, a layer
that keeps them under other names, no affine part), or for 3 channels here and for 6 there. Nothing can be compared
there, and weights cannot be carried over as they are. Or one checkpoint by itself: mean and variance have changed
places (variances below zero in the pattern of means, and no mean below zero), arrays of one layer have different
widths, a layer has no statistics where its siblings have theirs. In a model that runs: two layers begin with the very
same trained statistics, though unlike data reach them in one call. Or a function that was called with the model left
layers with other numbers, or without them.

What to do: build both layers with the same parts (track_running_stats and affine in PyTorch, scale and center in
Keras). In a layer of your own keep one value per channel under PyTorch's names: weight and bias as parameters,
running_mean, running_var and num_batches_tracked with register_buffer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bncheck.diagnosis.rules import applications
from bncheck.diagnosis.rules.holdings import damage, parts
from bncheck.diagnosis.rules.holdings.words import of_holding
from bncheck.diagnosis.rules.lives import taken_over
from bncheck.diagnosis.rules.lives.words import of_life
from bncheck.diagnosis.rules.wording import names, targets, verb
from bncheck.evidence import CellView, PairView
from bncheck.finding import Finding
from bncheck.life import Holding, Life
from bncheck.trace import STATES

CODE = "BN115"
CAUSE = "state-mismatch"
EXPLAINS = ()
ADVICE = "build both layers with the same parts (torch: track_running_stats, affine; Keras and Flax: scale, center)"
OWN = (
    "keep one value per channel under PyTorch's names: parameters weight and bias, register_buffer for running_mean, "
    "running_var and num_batches_tracked"
)


AFFINE = {"gamma", "beta"}
UNSCALED = "if it is to learn a scale and a shift, give it parameters weight and bias, with one value per channel"


@dataclass(frozen=True)
class Lack:
    """What one side lacks, or holds in another width, as a sentence; ``own``: it is the user's code that does, and it
    lacks more than gamma and beta, which a layer may do without."""

    title: str
    own: bool
    advice: str


def check_cell(cell: CellView) -> Iterator[Finding]:
    """A function of the user's that changed what layers hold."""
    yield from applications.found(cell, CODE, CAUSE)


def check_pair(pair: PairView) -> Iterator[Finding]:
    """One finding per layer, with a sentence for each side that lacks something."""
    lost = [drift for drift in pair.drifts if drift.relation == "missing" and drift.quantity in STATES]
    for layer in dict.fromkeys(drift.layer for drift in lost):
        quantities = [drift.quantity for drift in lost if drift.layer == layer]
        lacks = list(lacks_of(pair, layer, quantities))
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="hazard" if any(lack.own for lack in lacks) else "convention",
            title=" ".join(lack.title for lack in lacks),
            targets=targets(pair.a.members, pair.b.members),
            scenario=pair.case.scenario,
            case=pair.case.name,
            layer=layer,
            event=None,
            quantity=quantities[0],
            advice="; ".join(dict.fromkeys(lack.advice for lack in lacks)),
            accounts=tuple((layer, quantity) for quantity in quantities),
        )


def lacks_of(pair: PairView, layer: str, quantities: Sequence[str]) -> Iterator[Lack]:
    for cell, other in ((pair.a, pair.b), (pair.b, pair.a)):
        none = [quantity for quantity in quantities if not holds(cell, layer, quantity)]
        if none:
            plain = set(none) == AFFINE
            own = bool(cell.own_code)
            advice = ADVICE if not own else UNSCALED if plain else OWN
            yield Lack(without(cell, other, layer, none), own and not plain, advice)
    both = [quantity for quantity in quantities if all(holds(cell, layer, quantity) for cell in (pair.a, pair.b))]
    widths = {quantity: (width(pair.a, layer, quantity), width(pair.b, layer, quantity)) for quantity in both}
    for known in dict.fromkeys(widths.values()):
        alike = [quantity for quantity in both if widths[quantity] == known]
        own = bool(pair.a.own_code or pair.b.own_code)
        yield Lack(in_another_width(pair, layer, alike, *known), own, OWN if own else ADVICE)


def without(cell: CellView, other: CellView, layer: str, none: Sequence[str]) -> str:
    keeps, holds_it = verb(cell.members, "keeps", "keep"), verb(other.members, "does", "do")
    where = " under the usual names" if cell.own_layer and set(none) != AFFINE else ""
    return (
        f"{names(cell.members)} {keeps} no {listed(none, 'or')} of {layer}{where}; {names(other.members)} {holds_it}."
    )


def in_another_width(pair: PairView, layer: str, quantities: Sequence[str], one: int, two: int) -> str:
    return (
        f"{names(pair.a.members)} {verb(pair.a.members, 'keeps', 'keep')} {listed(quantities, 'and')} of {layer} for "
        f"{one} channel{'' if one == 1 else 's'}, {names(pair.b.members)} for {two}."
    )


def listed(words: Sequence[str], last: str) -> str:
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def width(cell: CellView, layer: str, quantity: str) -> int:
    """For how many channels a layer holds it."""
    rows = cell.trace.get(layer, quantity) if cell.trace is not None else None
    if rows is None or rows.ndim != 2:
        return cell.other_widths.get(f"{layer}/{quantity}", 0)
    return int(rows.shape[1])


def holds(cell: CellView, layer: str, quantity: str) -> bool:
    kept = cell.trace is not None and cell.trace.get(layer, quantity) is not None
    return kept or f"{layer}/{quantity}" in cell.other_widths


def check_holding(holding: Holding) -> list[Finding]:
    """What the layers of one thing hold in the wrong place, in the wrong width, or not at all."""
    return of_holding(
        holding,
        CODE,
        CAUSE,
        [
            damage.swapped(holding),
            parts.misshaped(holding),
            parts.half_held(holding),
            parts.without_statistics(holding),
        ],
    )


def check_life(life: Life) -> list[Finding]:
    """Statistics that another layer's forward made."""
    return of_life(life, CODE, CAUSE, [taken_over.taken_over(life)])
