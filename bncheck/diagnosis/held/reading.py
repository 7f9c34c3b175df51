"""A reading: one cause, its sentence, and what it explains; and the words that readings share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bncheck.diagnosis.held.likeness import Pair, array
from bncheck.diagnosis.rules import load_rules
from bncheck.diagnosis.rules.layer_names import listed
from bncheck.finding import Finding, Kind
from bncheck.life import Held
from bncheck.trace import Array, Place

STATISTICS = ("running_mean", "running_var")
AFFINE = ("gamma", "beta")
# A factor is one factor where the channels' own ones are no further apart than this.
ONE_FACTOR = 1e-4
# Frameworks whose momentum is the weight of the new batch; elsewhere it is that of the old average.
NEW_BATCH = ("torch", "mlx")


@dataclass(frozen=True)
class Others:
    """Tensors of one name on both sides that belong to no normaliser: how many are the same, which are not, and how
    many of the same are so up to the rounding of their types."""

    same: int = 0
    different: tuple[str, ...] = ()
    rounded: int = 0

    @property
    def total(self) -> int:
        return self.same + len(self.different)


@dataclass(frozen=True)
class Sides:
    """What is compared: ``a`` and ``b`` as sentences call them, and their frameworks. ``others`` is None where other
    tensors were not looked at."""

    a: str
    b: str
    framework_a: str = ""
    framework_b: str = ""
    others: Others | None = None
    eps_a: float | None = None  # where all layers of a have one
    scenario: str = "diff"
    case: str = ""


@dataclass(frozen=True)
class Reading:
    """One cause: its sentence, and the (layer, quantity) that it explains. ``departs`` is the side at fault."""

    cause: str
    kind: Kind
    title: str
    advice: str
    places: tuple[Place, ...]
    departs: str = ""
    evidence: Mapping[str, float | int | str] = field(default_factory=dict)


Left = dict[str, set[str]]  # layer of a → quantities that differ and are not explained yet
Reader = Callable[[Sides, Sequence[Pair], Left], Iterable[Reading]]


def finding_of(sides: Sides, reading: Reading) -> Finding:
    layer, quantity = reading.places[0] if reading.places else ("", "")
    return Finding(
        code=next(rule.code for rule in load_rules() if rule.cause == reading.cause),
        cause=reading.cause,
        kind=reading.kind,
        title=reading.title,
        targets=(sides.a, sides.b),
        sides=((sides.a,), (sides.b,)),
        scenario=sides.scenario,
        case=sides.case,
        layer=layer,
        quantity=quantity,
        departs=reading.departs,
        departs_from="itself" if reading.departs else "",
        evidence=reading.evidence,
        advice=reading.advice,
        accounts=reading.places[1:],
    )


def layers_in(pairs: Sequence[Pair], chosen: Sequence[Pair]) -> str:
    """ "bn1", "all 20 layers", "3 of 20 layers (bn1, bn2 and bn3)"."""
    names = [pair.name for pair in chosen]
    if len(names) == 1:
        return f"layer {names[0]}" if names[0][:1].isdigit() else names[0]
    return f"{len(names)} layers ({listed(names)})" if len(names) > 1 else ""


def joined(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def places(chosen: Sequence[Pair], quantities: Sequence[str], left: Left) -> tuple[Place, ...]:
    return tuple((pair.name, what) for pair in chosen for what in quantities if what in left[pair.name])


def same(pair: Pair, quantities: Sequence[str]) -> bool:
    return all(pair.quantities[what].same for what in quantities if what in pair.quantities)


def f64(held: Held, what: str) -> Array:
    value = array(held, what)
    return np.zeros(0) if value is None else value.astype(np.float64)
