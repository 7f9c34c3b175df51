"""Where layers of a life break their documentation and no known rule says how: how often, where, by how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bncheck.diagnosis.lived.departures import claims, departures
from bncheck.diagnosis.lived.in_place import put_in, shown
from bncheck.diagnosis.lived.judged import Lived, lived
from bncheck.life import Life
from bncheck.trace import Array


@dataclass(frozen=True)
class LeftOver:
    """``quantity`` running_mean, running_var or output; ``mode`` "" for statistics. ``size`` is the largest difference
    from what is documented: of a statistic as a share of the largest step of the batches in question, of an output in
    deviations of its input. ``moments`` of ``of`` judged forwards, the first in ``step``; ``channels`` that depart."""

    layer: Lived
    quantity: Literal["running_mean", "running_var", "output"]
    mode: str
    size: float
    largest: float
    moments: int
    of: int
    step: int
    channels: int


def left_over(life: Life) -> tuple[LeftOver, ...]:
    """Of built-in layers; a layer of the user's may average and scale as it likes, and is judged where it is known."""
    found: tuple[LeftOver, ...] = life.once("left over", look)
    return found


def look(life: Life) -> tuple[LeftOver, ...]:
    named = {(each.layer.name, each.mode != "") for each in departures(life)}
    found: list[LeftOver] = []
    with np.errstate(all="ignore"):
        for layer in lived(life):
            if layer.life.own or layer.conduct.innocent or not claims(layer):
                continue
            if layer.conduct.odd_step.any() and (layer.name, False) not in named:
                found.append(of_steps(layer))
            if layer.conduct.odd_output.any() and (layer.name, True) not in named:
                found += of_outputs(layer)
    return tuple(found)


def of_steps(layer: Lived) -> LeftOver:
    """The statistic that is further off, in the forwards that depart."""
    record, odd = layer.record, layer.conduct.odd_step
    a = np.where(record.training, layer.conduct.weight, 0.0)[:, None]
    variance = put_in(record, layer.conduct.divisor or "n-1")
    sizes: dict[Literal["running_mean", "running_var"], tuple[float, Array]] = {}
    for quantity, before, after, batch in (
        ("running_mean", record.m0, record.m1, record.mean),
        ("running_var", record.v0, record.v1, variance),
    ):
        miss = np.abs(after - (1.0 - a) * before - a * batch)[odd]
        step = max(float(np.abs(a * (batch - before))[odd].max()), float(np.abs(after - before)[odd].max()), 1e-300)
        sizes["running_mean" if quantity == "running_mean" else "running_var"] = float(miss.max()) / step, miss
    quantity = max(sizes, key=lambda name: sizes[name][0])
    share, miss = sizes[quantity]
    return made(layer, quantity, "", share, miss, odd, int(layer.conduct.stepped.sum()))


def of_outputs(layer: Lived) -> list[LeftOver]:
    """Training and eval apart: they are normalised with other statistics."""
    record, odd = layer.record, layer.conduct.odd_output
    seen, found = shown(record), []
    for mode, training in (("training", True), ("eval", False)):
        where = odd & (record.training == training)
        if not where.any():
            continue
        mean, var = (record.mean, record.var) if training else (record.m0, record.v0)
        spread = np.sqrt(np.maximum(record.var, 1e-300))
        off = np.maximum(
            np.abs(seen.mean - mean) / spread, np.abs(np.sqrt((var + record.eps[:, None]) / seen.level) - 1.0)
        )
        miss = np.where(seen.kept, off, 0.0)[where]
        judged = int((layer.conduct.revealed & (record.training == training)).sum())
        found.append(made(layer, "output", mode, float(miss.max()), miss, where, judged))
    return found


def made(
    layer: Lived,
    quantity: Literal["running_mean", "running_var", "output"],
    mode: str,
    size: float,
    miss: Array,
    where: Array,
    of: int,
) -> LeftOver:
    channels = (miss > 0.01 * miss.max()).any(axis=0)
    return LeftOver(
        layer=layer,
        quantity=quantity,
        mode=mode,
        size=size,
        largest=float(miss.max()),
        moments=int(where.sum()),
        of=of,
        step=int(layer.record.step[np.flatnonzero(where)[0]]),
        channels=int(channels.sum()),
    )
