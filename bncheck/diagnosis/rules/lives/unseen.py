"""What the running statistics themselves tell where nobody sees what a layer gets: in compiled code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bncheck.diagnosis.lived.in_place import NEW_BATCH
from bncheck.diagnosis.lived.judged import FORWARDS
from bncheck.diagnosis.rules.gaps import anew
from bncheck.diagnosis.rules.layer_names import named, of_all
from bncheck.diagnosis.rules.lives.reading import at_start, places
from bncheck.diagnosis.rules.lives.words import Said
from bncheck.diagnosis.rules.wording import number, percent
from bncheck.life import LayerLife, Life
from bncheck.trace import Array

MOST = 0.5  # of the start that is left
# How far the batches lie from what eval normalises with, in its deviations, or by what factor theirs are others: in the
# middle of the channels.
FAR, FACTOR = 0.5, 2.0


def never_moved(life: Life) -> Said | None:
    """Training forwards that moved nothing, of which the momentum says why."""
    found = {layer.name: ran for layer in life.layers if (ran := unmoved_by_momentum(layer, life.framework))}
    if not found:
        return None
    names = tuple(found)
    held = float(np.asarray(life.layer(names[0]).get("momentum"))[-1])
    return Said(
        layers=names,
        title=f"None of {found[names[0]]:,} training forwards moved the running statistics of {of_all(names, life)}, "
        f"because momentum is {number(held)}. Eval will normalise with what they started from.",
        advice=f"give momentum its usual value; then {anew(life)}",
        evidence={"training forwards": found[names[0]]},
    )


def unmoved_by_momentum(layer: LayerLife, framework: str) -> int:
    """How many training forwards a new batch of weight 0 left without effect; 0 where that is not so, or not known."""
    runs = [span for span in layer.spans if span.training and span.gradients]
    ran = sum(span.forwards for span in runs)
    still = all(span.moved == 0 for span in runs)
    return ran if still and ran >= FORWARDS and weight_of(layer, framework) == 0 else 0


def weight_of(layer: LayerLife, framework: str) -> float | None:
    """Of a new batch, in a layer whose input nobody sees; None where that is not known, or changes."""
    momentum = layer.get("momentum")
    if layer.get("input_mean") is not None or momentum is None or not len(momentum):
        return None
    weights = np.unique(momentum if framework in NEW_BATCH else 1.0 - np.asarray(momentum))
    return float(weights[0]) if len(weights) == 1 and np.isfinite(weights[0]) else None


@dataclass(frozen=True)
class Left:
    """What an evaluation's statistics still hold of mean 0 and variance 1, and how far the batches lie from them."""

    updates: int
    weight: float
    share: float
    distance: float  # of the means, in deviations that eval divides by
    factor: float  # of the deviations: the batches' over eval's


def start_in_the_state(life: Life) -> Said | None:
    """An evaluation with statistics that hold most of the start: k updates of weight a leave (1 − a)^k of it, and the
    rest is what the batches were."""
    found = {layer.name: left for layer in life.layers if (left := left_in(layer, life.framework)) is not None}
    if not found:
        return None
    names = tuple(found)
    first = found[names[0]]
    off = (
        f"lie {number(round(first.distance, 2))} standard deviations off"
        if first.distance >= FAR
        else f"deviate {number(round(first.factor, 2))} times as much"
        if first.factor > 1
        else f"deviate {number(round(1 / first.factor, 2))} times less"
    )
    return Said(
        layers=names,
        title=f"After {first.updates} updates of weight {number(first.weight)} the running statistics of "
        f"{of_all(names, life)} still hold {percent(first.share)} of what they started from, mean 0 and variance 1, "
        f"and eval normalises with that. By what {named(names[0])} took in, its batches {off}.",
        advice=f"{anew(life)} before you evaluate, train longer, or give a new batch more weight",
        evidence={"updates": first.updates, "share of the start that is left": first.share},
    )


def left_in(layer: LayerLife, framework: str) -> Left | None:
    weight, evaluated = weight_of(layer, framework), places(layer, training=0)
    trained = places(layer, training=1)
    if weight is None or not 0 < weight < 1 or not len(evaluated) or not len(trained):
        return None
    mean, var, index, eps = (layer.get(name) for name in ("mean_before", "var_before", "index", "eps"))
    if mean is None or var is None or index is None or eps is None or not at_start(layer, int(trained[0])):
        return None
    if index[trained[0]] != min(span.first_index for span in layer.spans if span.training):
        return None  # what came before was not kept
    place = int(evaluated[-1])
    runs = [span for span in layer.spans if span.training and span.last_index < index[place]]
    updates = sum(span.moved or 0 for span in runs)
    share = (1.0 - weight) ** updates
    if not updates or share < MOST or any(span.moved != span.forwards for span in runs):
        return None
    return apart(mean[place], var[place], float(eps[place]), updates, weight, share)


def apart(mean: Array, var: Array, eps: float, updates: int, weight: float, share: float) -> Left | None:
    """None where the batches are much like what eval normalises with."""
    batch_mean, batch_var = mean / (1.0 - share), (var - share) / (1.0 - share)
    if not np.isfinite(batch_mean + batch_var).all() or (batch_var < 0).any() or (var + eps <= 0).any():
        return None
    distance = float(np.median(np.abs(batch_mean - mean) / np.sqrt(var + eps)))
    ratio = np.sqrt((batch_var + eps) / (var + eps))
    factor = max(float(np.median(ratio)), 1e-12)
    far = distance >= FAR or not 1 / FACTOR < factor < FACTOR
    return Left(updates, weight, share, distance, factor) if far else None
