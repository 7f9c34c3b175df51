"""Gamma or beta is held but not applied, or applied in another way.

Signature: the statistics are right and y is (x − mean)/std without the scale, or without the shift, that the layer
holds, in all channels or in some. MXNet's raw operator fixes gamma to one by default (fix_gamma), Keras has
scale=False; both leave a parameter that looks trained and has no effect. A custom layer may scale by 1 + gamma, by
|gamma|, its square, exponential or inverse, take beta for gamma, or shift before it scales. It is named where one such
way makes every output and every gradient. Nothing is said where only some values of a channel go without: y is no
straight line over x there.

What to do: switch the affine part on (fix_gamma=False, scale=True, center=True, affine=True), or leave the parameter
out when you port the weights.
"""

from collections.abc import Iterator

from bncheck.diagnosis.lived.departures import Departure
from bncheck.diagnosis.rules.departing import about_departures
from bncheck.diagnosis.rules.dissected import departing
from bncheck.diagnosis.rules.revealed import Ignored, Revealed, affine_ignored, revealed
from bncheck.diagnosis.rules.wording import channels, names, targets, verb
from bncheck.evidence import CellView, PairView
from bncheck.finding import Finding
from bncheck.life import Life

CODE = "BN113"
CAUSE = "affine"
EXPLAINS = ("outputs", "gradients")
ADVICE = "switch the affine part on (fix_gamma=False, scale=True, affine=True), or drop the parameter"
OWN = "return weight * y + bias, one value per channel, in training and in eval"


def check_cell(cell: CellView) -> Iterator[Finding]:
    """One finding per layer: the first forward without gamma, or beta, and the first that is also without the other."""
    found: dict[str, list[tuple[Revealed, Ignored]]] = {}
    for seen in revealed(cell):
        ignored = affine_ignored(seen)
        known = found.setdefault(seen.layer, [])
        if ignored is not None and not any(ignored.parts in earlier.parts for _, earlier in known):
            known.append((seen, ignored))
    for layer, ((seen, ignored), *later) in ((layer, known) for layer, known in found.items() if known):
        more = "".join(
            f"; {other.parts} {'are' if ' and ' in other.parts else 'is'} not applied{where(cell, at, other)}"
            for at, other in later
        )
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="defect",
            title=(
                f"{names(cell.members)} {verb(cell.members, 'holds', 'hold')} {ignored.parts} in {layer} without "
                f"applying {'them' if ' and ' in ignored.parts else 'it'}{where(cell, seen, ignored)}{more}."
            ),
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=layer,
            event=seen.event,
            quantity="output",
            departs=cell.target,
            departs_from="arithmetic",
            evidence={"ignored": ignored.parts},
            advice=OWN if cell.own_layer else ADVICE,
        )


def check_pair(pair: PairView) -> Iterator[Finding]:
    """A layer of the user's that scales or shifts in another way."""
    return departing(pair, CODE, CAUSE)


def where(cell: CellView, seen: Revealed, ignored: Ignored) -> str:
    to = f" to {channels(ignored.channels, seen.of)}" if ignored.channels else ""
    below = ", where it is below zero," if ignored.below_zero else ""
    return f"{to}{below} in {cell.case.events[seen.event].op} (event {seen.event + 1})"


def check_life(life: Life) -> list[Finding]:
    return about_departures(life, CODE, CAUSE, left_out)


def left_out(found: Departure) -> tuple[str, str]:
    return f"{{who}} hold{{s}} {found.value} and do{{es}} not apply what is held.", "return gamma * x_hat + beta"
