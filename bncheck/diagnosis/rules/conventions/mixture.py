"""Unlike data through one layer, a batch of each in turn: a discriminator's real and fake batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bncheck.diagnosis.rules.movement import moved
from bncheck.evidence import CellView
from bncheck.scenario import op_of
from bncheck.trace import Array

# Means that lie this many standard deviations of a batch apart are of unlike data.
APART = 3.0
REPEATS = 3  # of each kind of data: fewer are no habit


@dataclass(frozen=True)
class Mixture:
    """The channel in which the kinds of data lie furthest apart: its variances, and each input's mean there."""

    layer: str
    first: int  # event
    forwards: int
    means: dict[str, float]
    running: float  # running variance at the end
    within: float  # mean variance of a batch
    pooled: float  # variance of all data together


def mixtures(cell: CellView) -> Iterator[Mixture]:
    """Layers whose statistics take in batches of unlike inputs in turn, one finding's worth each."""
    for layer in cell.trace.layers if cell.trace is not None else ():
        found = mixture(cell, layer)
        if found is not None:
            yield found


def mixture(cell: CellView, layer: str) -> Mixture | None:
    trace = cell.trace
    assert trace is not None
    means, variances, held = (trace.get(layer, name) for name in ("input_mean", "input_var", "running_var"))
    if means is None or variances is None or held is None or not moved(trace, layer, "running_var").any():
        return None
    played = [
        (t, event.input)
        for t, event in enumerate(cell.case.events[: len(trace.events)])
        if op_of(event.op).mode == "train" and trace.events[t].status == "ok"
    ]
    by_input = {name: [t for t, other in played if other == name] for name in dict.fromkeys(name for _, name in played)}
    if len(by_input) < 2 or any(len(events) < REPEATS for events in by_input.values()):
        return None
    steps = [t for t, _ in played]
    if not (np.isfinite(means[steps]).all() and np.isfinite(variances[steps]).all() and np.isfinite(held[-1]).all()):
        return None
    centres: Array = np.stack([means[events].mean(axis=0) for events in by_input.values()])
    within = variances[steps].mean(axis=0)
    gap = centres.max(axis=0) - centres.min(axis=0)
    channel = int(np.argmax(gap / np.sqrt(within + 1e-30)))
    if gap[channel] <= APART * np.sqrt(within[channel]):
        return None
    pooled = within + means[steps].var(axis=0)
    named = {name: float(centre[channel]) for name, centre in zip(by_input, centres, strict=True)}
    return Mixture(
        layer=layer,
        first=steps[0],
        forwards=len(steps),
        means=named,
        running=float(held[-1][channel]),
        within=float(within[channel]),
        pooled=float(pooled[channel]),
    )
