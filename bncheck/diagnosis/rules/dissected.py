"""From a layer of the user's that was taken apart (``anatomy``) to findings: what rules about its parts share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bncheck.diagnosis.rules.attributed import summary
from bncheck.diagnosis.rules.wording import label, names, percent, targets, verb
from bncheck.evidence import Anatomy, CellView, Departure, Drift, PairView
from bncheck.finding import Finding
from bncheck.trace import STATISTICS

# Below this share of a difference a rule has no part in it.
LEAST = 1e-6
SHOWN = 1e-3
ASKED = "leave out the keywords (native) that ask the layer for it, or have the other side do the same"


def departing(pair: PairView, code: str, cause: str) -> Iterator[Finding]:
    """One finding per layer that was taken apart, the user's or one with keywords of its framework's own, and parts
    from the other side in this rule, where it makes a difference."""
    for odd, other in ((pair.a, pair.b), (pair.b, pair.a)):
        if other.own_layer or other.anatomy:
            continue
        for anatomy in odd.anatomy.values():
            for part in anatomy.departures:
                drift = drift_of(pair, anatomy, part) if part.cause == cause else None
                if drift is not None:
                    yield finding(pair, code, odd, other, anatomy, part, drift)


def scaled_otherwise(pair: PairView) -> bool:
    """Whether a layer of the user's scales or shifts in a way of its own, or bends what comes of it: a replay of
    conventions, which takes gamma and beta as they are held and nothing behind them, then explains nothing of its
    outputs."""
    parts = (part for cell in (pair.a, pair.b) for anatomy in cell.anatomy.values() for part in anatomy.departures)
    return any(part.cause in ("affine", "activation") for part in parts)


def drift_of(pair: PairView, anatomy: Anatomy, part: Departure) -> Drift | None:
    """The first difference that it takes part in: the output's, else that of a running statistic."""
    for quantity, share in part.shares.items():
        drift = pair.drift("" if quantity == "output" else anatomy.layer, quantity)
        if drift is not None and drift.relation != "agrees" and abs(share) > LEAST:
            return drift
    return None


def finding(
    pair: PairView, code: str, odd: CellView, other: CellView, anatomy: Anatomy, part: Departure, drift: Drift
) -> Finding:
    share = part.shares[drift.quantity]
    evidence = {f"share of {quantity}": size for quantity, size in part.shares.items() if abs(size) > LEAST}
    own = pair.a is odd
    says = part.says + (inner(odd, anatomy) if part.of_inner else "")
    return Finding(
        code=code,
        cause=part.cause,
        kind="convention",
        title=f"{whole_name(odd)} {says}; {names(other.members)} {verb(other.members, 'does', 'do')} not. "
        f"This accounts for {accounted(part)}.",
        targets=targets(odd.members, other.members) if own else targets(other.members, odd.members),
        scenario=pair.case.scenario,
        case=pair.case.name,
        layer=anatomy.layer,
        event=drift.first_event,
        quantity=drift.quantity,
        explained=min(max(share, 0.0), 1.0),
        evidence={**summary(drift), **evidence},
        advice=part.advice if odd.own_layer else ASKED,
        accounts=tuple((anatomy.layer, quantity) for quantity in states_of(pair, anatomy, part)),
    )


def inner(cell: CellView, anatomy: Anatomy) -> str:
    """The layers with statistics of their own inside it, as its state dict names them: " (aux_bn.0)"."""
    notes: Any = cell.notes.get("cell")
    for key in ("custom", anatomy.layer, "state_dict", "additional"):
        notes = notes.get(key) if isinstance(notes, Mapping) else None
    keys = [key for key in notes if isinstance(key, str)] if isinstance(notes, list | tuple) else []
    found = [key.removesuffix(".running_mean") for key in keys if key.endswith(".running_mean")]
    return f" ({listed(found)})" if found else ""


def accounted(part: Departure) -> str:
    """ "99.5 % of its difference from BatchNorm in y and 100.0 % in running_mean and running_var"."""
    groups: dict[str, list[str]] = {}
    for quantity, share in part.shares.items():
        if share > LEAST:
            size = percent(share) if share >= SHOWN else "less than 0.1 %"
            groups.setdefault(size, []).append("y" if quantity == "output" else quantity)
    said = [
        f"{size}{'' if number else ' of its difference from BatchNorm'} in {listed(places)}"
        for number, (size, places) in enumerate(groups.items())
    ]
    return listed(said) or "nothing alone: it works against another cause"


def listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def states_of(pair: PairView, anatomy: Anatomy, part: Departure) -> Sequence[str]:
    """Running statistics that it accounts for: all of the layer's steps are made, and it takes part in them."""
    return [quantity for quantity in STATISTICS if anatomy.states and abs(part.shares.get(quantity, 0.0)) > LEAST]


def whole_name(cell: CellView) -> str:
    """ "Ghost in torch 2.13.0@cpu and torch[timed] 2.13.0@cpu": one layer, wherever it runs."""
    if not cell.own_layer:
        return names(cell.members)
    return f"{cell.own_layer} in {' and '.join(dict.fromkeys(label(member) for member in cell.members))}"
