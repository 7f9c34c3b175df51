"""Layers whose numbers a function of the user's rounded to a type of 16 bits, and did nothing else to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bncheck.diagnosis.held.likeness import Pair
from bncheck.diagnosis.held.reading import AFFINE, STATISTICS, Reading, joined
from bncheck.diagnosis.rules.layer_names import listed, named


def of_layers(layers: Sequence[str]) -> str:
    """ "bn1", "3 layers (bn1, bn2 and bn3)"."""
    return named(layers[0]) if len(layers) == 1 else f"{len(layers)} layers ({listed(layers)})"


def changed(pair: Pair, quantities: Sequence[str]) -> list[str]:
    """Which of them are other numbers: also by a rounding, for a state that nobody touched is the same to the bit."""
    return [what for what in quantities if what in pair.quantities and pair.quantities[what].word != "equal"]


def type_of(pair: Pair) -> str:
    """The type that all of its other numbers are rounded to; "" where one of them is another by more, or the counter
    is."""
    found = {pair.quantities[what].detail for what in changed(pair, (*STATISTICS, *AFFINE))}
    whole = all(pair.quantities[what].word == "narrowed" for what in changed(pair, (*STATISTICS, *AFFINE, "counter")))
    return next(iter(found)) if whole and len(found) == 1 else ""


def shortened(does: str, pairs: Sequence[Pair]) -> Iterator[Reading]:
    """What was rounded, by type."""
    for kind in dict.fromkeys(type_of(pair) for pair in pairs):
        chosen = [pair for pair in pairs if kind and type_of(pair) == kind]
        if not chosen:
            continue
        places = tuple((pair.name, what) for pair in chosen for what in changed(pair, (*STATISTICS, *AFFINE)))
        quantities = [what for what in (*STATISTICS, *AFFINE) if any(what == other for _, other in places)]
        yield Reading(
            cause="reduced-precision",
            kind="hazard",
            title=f"{does} rounded {joined(quantities)} of {of_layers([pair.name for pair in chosen])} to {kind}.",
            advice="keep a copy in float32 (copy.deepcopy) where training goes on, or where that is too much: back in "
            "float32 the numbers stay rounded",
            places=places,
        )
