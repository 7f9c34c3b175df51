"""Framework's own layers inside a whole network whose statistics move in a backward as well: a forward runs in there
once more, as under gradient checkpointing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bncheck.diagnosis.lived.played import layers_told
from bncheck.diagnosis.rules.movement import forwards_behind, moved
from bncheck.evidence import CellView
from bncheck.trace import Trace

SAME = 1e-3  # relative: how far the second step may be from the one that the same batch makes
AGAIN = 2  # backwards in which it has to be so


@dataclass(frozen=True)
class Recomputed:
    """``weight``: of the new batch, where each second step is the one that the same batch makes; else None."""

    layer: str
    backwards: int  # in which the statistics moved
    of: int
    first: int  # the event
    weight: float | None


def recomputations(cell: CellView) -> Iterator[Recomputed]:
    """Only where the framework says that its layers move in forwards alone."""
    if cell.trace is None or cell.case.network.model is None or cell.documented.get("update_on") != "forward":
        return
    told = layers_told(cell)
    behind = forwards_behind(cell.trace)
    for layer in cell.trace.layers:
        if told.get(layer, {}).get("own", True):
            continue  # one of the user's may be made so
        mask = moved(cell.trace, layer, "running_mean")
        played = [event for event in behind if event < len(mask)]
        again = [event for event in played if mask[event] and any(mask[forward] for forward in behind[event])]
        if len(again) >= AGAIN:
            steps = [(behind[event][-1], event) for event in again if len(behind[event]) == 1]
            weight = weight_of(cell.trace, layer, steps) if len(steps) == len(again) else None
            yield Recomputed(layer, len(again), len(played), again[0], weight)


def weight_of(trace: Trace, layer: str, steps: list[tuple[int, int]]) -> float | None:
    """Towards the same batch a second step is 1 - weight times the first, in all channels."""
    rows = np.asarray(trace.get(layer, "running_mean"), dtype=np.float64)
    one = np.stack([rows[forward + 1] - rows[forward] for forward, _ in steps])
    two = np.stack([rows[backward + 1] - rows[backward] for _, backward in steps])
    size = float(np.sum(one**2))
    left = float(np.sum(one * two)) / size if size > 0 else 0.0
    same = np.abs(two - left * one).max() <= SAME * np.abs(one).max()
    return round(1 - left, 4) if same and 0 < left < 1 else None
