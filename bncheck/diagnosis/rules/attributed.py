"""From an attribution to a finding: what every rule about a convention's facet has in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bncheck.diagnosis.rules.departure import Departure, departure_of
from bncheck.diagnosis.rules.identifiability import not_identifiable
from bncheck.diagnosis.rules.movement import moving_ops
from bncheck.diagnosis.rules.wording import percent, targets
from bncheck.evidence import Attribution, CellView, Drift, PairView
from bncheck.finding import Finding

# Quantities of an attribution that are seen in the output; the statistics themselves come first.
PREFERRED = {"output": 1, "used_mean": 2, "used_invstd": 3}
# How a batch enters the average: a side whose statistics never move in this case has no say in it.
OF_AVERAGING = ("variance_divisor", "statistic", "batch_weight", "averaging", "updates_per_event")
ALL = 0.9995  # of a difference, in sentences: percent() rounds to 100.0 % from there
WORDS = {"used_mean": "mean in the output", "used_invstd": "scale in the output"}

Side = Sequence[CellView]
Sentence = Callable[[Side, Any, Side, Any], str]


def differing_facets(
    pair: PairView,
    code: str,
    cause: str,
    facets: Sequence[str],
    sentence: Sentence,
    advice: str,
    usual: Sequence[Any] = (),
    own_advice: str = "",
) -> Iterator[Finding]:
    """One finding per layer for the facet of ``facets`` that explains most; other quantities go into evidence.

    ``sentence(x, value, y, value)`` says the difference, the odd side first: the one that departs, else the one whose
    value is not among ``usual``. ``own_advice`` is for a layer of the user's beside a framework's.
    """
    if own_advice and bool(pair.a.own_layer) != bool(pair.b.own_layer):
        advice = own_advice
    for layer in dict.fromkeys(item.layer for item in pair.attributions):
        found = [
            (item.shares[facet], facet, item)
            for item in pair.attributions
            for facet in facets
            if item.layer == layer and matters(pair, item, facet)
        ]
        if found:
            best = min(found, key=lambda entry: (PREFERRED.get(entry[2].quantity, 0), -entry[0]))
            yield _finding(pair, code, cause, best, found, sentence, advice, usual)


def matters(pair: PairView, item: Attribution, facet: str) -> bool:
    """True if the facet takes part in a drift that somebody can see. (That it exceeds rounding, replay has checked.)"""
    if facet not in item.shares or facet not in item.values or any(str(value) == "nan" for value in item.values[facet]):
        return False  # NaN: a state that one side does not hold yet
    if facet in OF_AVERAGING and not all(moving_ops(cell, item.layer) for cell in (pair.a, pair.b)):
        return False
    drift = drift_behind(pair, item)
    if drift is None:
        return True
    return drift.relation != "agrees" and visible(pair, item, facet, drift)


def visible(pair: PairView, item: Attribution, facet: str, drift: Drift) -> bool:
    """True if what the facet changes of a statistic would be a drift by itself: on average more than the tolerance."""
    if drift.quantity != item.quantity or facet not in item.effects or not np.isfinite(drift.mean_abs):
        return True
    _, atol = pair.tolerance.at(drift.dtype)
    return item.effects[facet] * drift.mean_abs > atol


def same_affine(pair: PairView, layer: str) -> bool:
    """Whether both sides hold the same gamma and beta: a replay of outputs leaves them out, and explains nothing of
    what they make."""
    drifts = (pair.drift(layer, quantity) for quantity in ("gamma", "beta"))
    return all(drift is None or drift.relation == "agrees" for drift in drifts)


def drift_behind(pair: PairView, item: Attribution) -> Drift | None:
    """The drift that an attribution is about: what a layer normalises with shows in the network's output."""
    return pair.drift(item.layer, item.quantity) or (pair.drift("", "output") if item.quantity in PREFERRED else None)


def _finding(
    pair: PairView,
    code: str,
    cause: str,
    best: tuple[float, str, Attribution],
    found: Sequence[tuple[float, str, Attribution]],
    sentence: Sentence,
    advice: str,
    usual: Sequence[Any],
) -> Finding:
    share, facet, item = best
    value_a, value_b = item.values[facet]
    a, b = sharing(pair.a, facet), sharing(pair.b, facet)
    judged = departure_of(facet, a, value_a, b, value_b)
    x, y = (a, value_a), (b, value_b)
    if odd_is_second(judged, pair, value_a, value_b, usual):
        x, y = y, x
    drift = drift_behind(pair, item)
    what = WORDS.get(item.quantity, item.quantity)
    bare = item.quantity in PREFERRED and not same_affine(pair, item.layer)
    apart = " that gamma and beta have no part in" if bare else ""
    evidence: dict[str, float | int | str] = {
        f"{facet} of {pair.a.target}": _plain(value_a),
        f"{facet} of {pair.b.target}": _plain(value_b),
        "replay residual": item.residual,
        "rounding bound": item.rounding_bound,
    }
    evidence |= summary(drift) if drift is not None else {}
    evidence |= {f"explained {other.quantity} ({f})": s for s, f, other in found if other is not item or f != facet}
    said = judged.said + ": " if judged.kind == "defect" and judged.said else ""
    return Finding(
        code=code,
        cause=cause,
        kind=judged.kind,
        title=sentence(*x, *y),
        targets=targets(a, b),
        scenario=pair.case.scenario,
        case=pair.case.name,
        layer=item.layer,
        event=drift.first_event if drift is not None else None,
        quantity=item.quantity,
        explained=None if bare else min(max(share, 0.0), 1.0),
        departs=judged.departs,
        departs_from=judged.departs_from,
        evidence=evidence,
        advice=f"{said}{advice}" if said else advice,
        link=judged.link,
        not_identifiable=not_identifiable(pair, item),
        accounts=tuple(dict.fromkeys((other.layer, other.quantity) for _, _, other in found)),
        facets=tuple(dict.fromkeys(f for _, f, _ in found)),
        proof=accounts_for(share, f"{what}{apart}"),
    )


def accounts_for(share: float, what: str) -> str:
    """What replay says of a cause: how much of a difference is gone once one side is given the other's rule."""
    if share <= 0:
        return f"It hides part of another cause: corrected alone, it makes the difference in {what} grow."
    some = (
        f"all of the difference in {what} (100 %)" if share >= ALL else f"{percent(share)} of the difference in {what}"
    )
    return f"This accounts for {some}."


def sharing(cell: CellView, facet: str) -> tuple[CellView, ...]:
    """The cell and its peers that follow the same rule, as far as known.

    Peers agree in what the case shows: they may still differ in a rule that this case hides."""
    own = cell.convention.value(facet) if cell.convention is not None else None
    same = []
    for peer in cell.peers:
        value = peer.convention.value(facet) if peer.convention is not None else None
        if value is None or own is None or isinstance(value, float) or value == own:
            same.append(peer)
    return (cell, *same)


def summary(drift: Drift) -> dict[str, float | int | str]:
    """The numbers of a drift that belong into evidence."""
    return {"points": drift.points, "mean_abs": drift.mean_abs, "std_abs": drift.std_abs, "max_abs": drift.max_abs}


def odd_is_second(judged: Departure, pair: PairView, value_a: Any, value_b: Any, usual: Sequence[Any]) -> bool:
    """The sentence starts with the side that departs, else with the one that does something unusual."""
    if judged.departs:
        return judged.departs in {cell.target for cell in pair.b.members}
    return value_a in usual and value_b not in usual


def _plain(value: Any) -> float | int | str:
    return value if isinstance(value, int | float | str) else str(value)
