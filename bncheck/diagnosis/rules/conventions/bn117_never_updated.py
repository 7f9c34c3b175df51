"""The running statistics never move, though training forwards ran.

Signature: in the same program one side's running mean and variance move and the other's are the same bits from the
first event to the last; its counter stands still too, where it has one. It is not a matter of phase: no event of
the program moves them. Copies were updated instead of the layer's own buffers, the update was left out (a fused or
frozen layer), or the state that a functional call returned was dropped. Or a user's own network evaluates with a
mean of 0 and a variance of 1 in every channel, and what reaches the layer is nothing like that: the statistics were
neither trained nor loaded. Or a checkpoint holds that mean and variance beside gamma and beta that were trained, and a
counter of 0 or none. Or a layer of your own moves one of the two and never the other. Or none of the training
forwards of a program that was watched moved them (momentum 0, no update).

What to do: write the update into the layer's own buffers (in place, under torch.no_grad()); pass
functional_call the model's own buffers; keep the state that a stateless call returns.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from bncheck.diagnosis.lived.judged import Lived, unmoved
from bncheck.diagnosis.rules import handed_over
from bncheck.diagnosis.rules.attributed import summary
from bncheck.diagnosis.rules.dissected import departing
from bncheck.diagnosis.rules.gaps import anew, weight_of
from bncheck.diagnosis.rules.holdings import start
from bncheck.diagnosis.rules.holdings.words import of_holding
from bncheck.diagnosis.rules.layer_names import named, of_all
from bncheck.diagnosis.rules.leftover import explained_by_conventions
from bncheck.diagnosis.rules.lives.unseen import never_moved
from bncheck.diagnosis.rules.lives.words import Said, of_life
from bncheck.diagnosis.rules.movement import forwards_behind, holds_training, moved
from bncheck.diagnosis.rules.wording import names, number, targets, verb
from bncheck.evidence import CellView, PairView
from bncheck.finding import Finding
from bncheck.life import Holding, Life
from bncheck.trace import STATISTICS

CODE = "BN117"
CAUSE = "never-updated"
EXPLAINS = ("statistics", "counter", "evaluations")
FOLLOWS_FROM = ("mode", "refused")
# What conventions explain of the running mean beyond this is their doing: a side that moves in backward, say.
ENOUGH = 0.99


def check_cell(cell: CellView) -> Iterable[Finding]:
    """A user's own network as it was handed over."""
    return handed_over.found(cell, CODE, CAUSE, handed_over.never_trained)


def check_pair(pair: PairView) -> Iterable[Finding]:
    return list(standing_still(pair)) or departing(pair, CODE, CAUSE)


def standing_still(pair: PairView) -> Iterator[Finding]:
    """Neither statistic moves on one side."""
    for layer in pair.a.trace.layers if pair.a.trace is not None else ():
        drift = pair.drift(layer, "running_mean")
        if drift is None or drift.relation == "agrees" or (explained_by_conventions(pair, drift) or 0.0) >= ENOUGH:
            continue
        moves = [moving_forwards(cell, layer) for cell in (pair.a, pair.b)]
        for still, other, theirs in ((pair.a, pair.b, moves[1]), (pair.b, pair.a, moves[0])):
            if not moving_events(still, layer) and not moves_elsewhere(still) and theirs & trained(still, layer):
                yield Finding(
                    code=CODE,
                    cause=CAUSE,
                    kind="convention",
                    title=(
                        f"{names(still.members)} never {verb(still.members, 'moves', 'move')} the running statistics "
                        f"of {layer} in {len(trained(still, layer))} training forwards; {names(other.members)} "
                        f"{verb(other.members, 'moves', 'move')} them."
                    ),
                    targets=targets(still.members, other.members),
                    scenario=pair.case.scenario,
                    case=pair.case.name,
                    layer=layer,
                    event=drift.first_event,
                    quantity="running_mean",
                    evidence={**summary(drift), "training forwards": len(trained(still, layer))},
                    advice="write the update into the layer's own buffers, in place, under torch.no_grad(); keep the "
                    "state that a functional call returns",
                    accounts=tuple((layer, quantity) for quantity in STATISTICS),
                )


def moves_elsewhere(cell: CellView) -> bool:
    """Whether it was measured that other events than those of this program move the statistics."""
    update_on = cell.convention.value("update_on") if cell.convention is not None else None
    return update_on not in (None, "never")


def moving_events(cell: CellView, layer: str) -> set[int]:
    if cell.trace is None:
        return set()
    mask = moved(cell.trace, layer, "running_mean") | moved(cell.trace, layer, "running_var")
    return {int(t) for t in np.flatnonzero(mask)}


def moving_forwards(cell: CellView, layer: str) -> set[int]:
    """The moving events, and behind a backward that moves them the forwards that it goes back through (MXNet)."""
    moving = moving_events(cell, layer)
    behind = forwards_behind(cell.trace) if cell.trace is not None else {}
    return moving.union(*(behind.get(event, []) for event in moving))


def trained(cell: CellView, layer: str) -> set[int]:
    """Training forwards of the layer that were carried out on more than one value per channel."""
    counts = cell.trace.get(layer, "n") if cell.trace is not None else None
    if cell.trace is None or counts is None or cell.trace.get(layer, "running_mean") is None:
        return set()
    events = enumerate(cell.trace.events)
    return {
        t for t, record in events if record.status == "ok" and counts[t] > 1 and holds_training(cell.trace, layer, t)
    }


def check_holding(holding: Holding) -> list[Finding]:
    """Trained parameters beside the statistics of a new layer."""
    return of_holding(holding, CODE, CAUSE, [start.never_updated(holding)])


def check_life(life: Life) -> list[Finding]:
    """Training forwards that moved nothing. (Layers that are only evaluated are BN402's.)"""
    return of_life(life, CODE, CAUSE, [moved_nothing(life), never_moved(life)])


def moved_nothing(life: Life) -> Said | None:
    layers = unmoved(life)
    if not layers:
        return None
    first, names_ = layers[0], tuple(layer.name for layer in layers)
    record = first.record
    ran = sum(span.forwards for span in first.life.spans if span.training)
    weight = weight_of(first)
    why = f", because momentum is {number(float(record.momentum[-1]))}" if weight == 0 else ""
    cure = "give momentum its usual value" if weight == 0 else "write each update into the layer's own buffers"
    return Said(
        layers=names_,
        title=f"None of {ran:,} training forwards moved the running statistics of {of_all(names_, life)}{why}. "
        f"{in_eval(first)}",
        advice=f"{cure}; then {anew(life)}",
        evidence={"training forwards": ran, **gap_evidence(first)},
    )


def in_eval(layer: Lived) -> str:
    """How far off that makes an evaluation, where there is one."""
    ev = layer.evaluation
    if ev is None or ev.gap is None:
        return "Eval will normalise with what they started from."
    return f"In eval the output of {named(layer.name)} is off by {number(round(ev.gap.size, 2))} standard deviations."


def gap_evidence(layer: Lived) -> dict[str, float | int | str]:
    ev = layer.evaluation
    return {} if ev is None or ev.gap is None else {"gap, in deviations of the output": ev.gap.size}
