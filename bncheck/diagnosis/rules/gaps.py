"""Evaluations of a life that are far off: the finding, and the words that every cause of a gap shares.

What is measured stands in diagnosis/lived; here it becomes sentences. The layer that a sentence gives numbers of is the
first one in the order of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bncheck.diagnosis.lived.evaluation import Evaluation
from bncheck.diagnosis.lived.gap import Gap
from bncheck.diagnosis.lived.judged import Lived, far_off
from bncheck.diagnosis.rules.holdings.words import ANEW
from bncheck.diagnosis.rules.layer_names import listed, named
from bncheck.diagnosis.rules.lives.words import Said, of_life
from bncheck.diagnosis.rules.roundoff import HALF
from bncheck.diagnosis.rules.wording import number, percent
from bncheck.finding import GAP, Finding
from bncheck.life import Life


@dataclass(frozen=True)
class Reason:
    """What makes most of a gap, in sentences, and what is done about it."""

    says: str
    advice: str
    part: str  # of the gap: diagnosis/lived/gap.py
    quantity: str = "output"
    evidence: Mapping[str, float | int | str] = field(default_factory=dict)
    mends: bool = True  # re-estimated statistics do


Says = Callable[[Life, Lived, Evaluation], Reason]


def about_gap(life: Life, code: str, cause: str, says: Says) -> list[Finding]:
    """The finding about all layers whose last evaluation is far off by a cause, at most one."""
    layers = far_off(life).get(cause, ())
    if not layers:
        return []
    first = layers[0]
    ev = first.evaluation
    assert ev is not None and ev.gap is not None
    reason = says(life, first, ev)
    share = min(ev.gap.share(reason.part), 1.0)
    left = removed(ev)
    # Batches that were not kept, and what is left of a start, are read off the state: half precision loses them.
    exact = first.record.u_state < HALF
    remove = f" Statistics re-estimated over the training data remove {percent(left)} of it."
    mend = remove if reason.mends and exact else ""
    said = Said(
        layers=tuple(layer.name for layer in layers),
        title=f"{whom(life, layers, ev.gap)} {reason.says}{mend}",
        advice=reason.advice,
        quantity=reason.quantity,
        step=int(first.record.step[ev.places[0]]),
        evidence={
            GAP: ev.gap.size,
            **{f"of it {PARTS[name]}": part for name, part in ev.gap.parts.items() if exact and abs(part) >= 0.005},
            **({"gap left with re-estimated statistics": ev.left} if exact and np.isfinite(ev.left) else {}),
            **reason.evidence,
        },
    )
    return [replace(found, explained=share if exact else None) for found in of_life(life, code, cause, [said])]


PARTS = {
    "set": "statistics that something else has set",
    "start": "start values",
    "divisor": "divisor of the variance",
    "noise": "chance of the last batches",
    "lag": "statistics older than the weights",
    "frozen": "batches that trained while the statistics stood still",
    "mixture": "unlike batches",
    "shift": "evaluation data",
    "sampling": "chance of this batch",
}


def whom(life: Life, layers: Sequence[Lived], gap: Gap) -> str:
    names = [layer.name for layer in layers]
    size = f"{number(round(gap.size, 2))} standard deviations"
    if len(names) == 1:
        return f"In eval the output of {named(names[0])} is off by {size}."
    return (
        f"In eval the outputs of {len(names)} of {len(life.layers)} layers ({listed(names)}) are off, that of "
        f"{named(names[0])} by {size}."
    )


def removed(ev: Evaluation) -> float:
    """Share of the gap that goes when the statistics are those of the latest training batches."""
    assert ev.gap is not None
    return max(0.0, 1.0 - ev.left / ev.gap.size)


def anew(life: Life) -> str:
    return ANEW.get(life.framework, "re-estimate the running statistics on clean training data")


def weight_of(layer: Lived) -> float | None:
    """The weight of a new batch in the training forwards, as held; None where it changes or is not known."""
    found = np.unique(layer.conduct.weight[layer.record.training])
    return float(found[0]) if len(found) == 1 and np.isfinite(found[0]) else None


def weighing(layer: Lived) -> str:
    weight = weight_of(layer)
    return f" of weight {number(weight)}" if weight is not None else ""
