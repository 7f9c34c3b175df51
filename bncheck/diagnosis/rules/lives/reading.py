"""Questions about one layer's life that several rules ask. A span may lie between the forwards of another one: a
recorder goes on with it where the same line calls again a few forwards later."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bncheck.life import Happening, LayerLife, Life, Span
from bncheck.trace import Array


def moves(span: Span) -> bool:
    return bool(span.moved)


def trains(span: Span) -> bool:
    """Forwards of training: in training mode, with gradients, and not a second time inside a backward."""
    return span.training is True and span.gradients and not span.in_backward


def spans(layer: LayerLife, wanted: Callable[[Span], bool]) -> list[Span]:
    return [span for span in layer.spans if wanted(span)]


def trained(layer: LayerLife) -> list[Span]:
    """Spans of training forwards that moved the statistics."""
    return spans(layer, lambda span: trains(span) and moves(span))


def overlap(one: Span, two: Span) -> bool:
    return one.first_index <= two.last_index and two.first_index <= one.last_index


def step_behind(life: Life, layer: LayerLife, span: Span) -> int:
    """How many steps there had been when the layer ran next, or, where it does not, when the step of a span's last
    forward was over: the program may have ended before that one."""
    later = [other.first_step for other in layer.spans if other.first_index > span.last_index]
    return min(later, default=min(life.steps, span.last_step + 1))


def places(layer: LayerLife, first: int = 0, last: int | None = None, **flags: int) -> Array:
    """Moments between two indices of forwards (both included) whose flags are these."""
    index = layer.get("index")
    if index is None:
        return np.zeros(0, dtype=int)
    kept = index >= first
    if last is not None:
        kept &= index <= last
    for name, value in flags.items():
        rows = layer.get(name)
        if rows is None:
            return np.zeros(0, dtype=int)
        kept &= rows == value
    found: Array = np.flatnonzero(kept)
    return found


def at_start(layer: LayerLife, place: int) -> bool:
    """Whether a moment begins with a mean of 0 and a variance of 1 in every channel."""
    mean, var = layer.get("mean_before"), layer.get("var_before")
    return mean is not None and var is not None and not mean[place].any() and bool((var[place] == 1).all())


def parameters_move(layer: LayerLife, where: Array) -> bool | None:
    """Whether gamma or beta is another at the end of some moments than at their beginning; None: it is not known."""
    rows = [found for name in ("gamma", "beta") if (found := layer.get(name)) is not None]
    if len(where) < 2 or not rows:
        return None
    return any(not np.array_equal(found[where[0]], found[where[-1]], equal_nan=True) for found in rows)


def lessons(layer: LayerLife, where: Array) -> int:
    """How often gamma or beta is another at a moment than at the one before it, among some moments."""
    rows = [found[where] for name in ("gamma", "beta") if (found := layer.get(name)) is not None]
    if len(where) < 2 or not rows:
        return 0
    changed = [(np.diff(found, axis=0) != 0).any(axis=1) for found in rows]
    return int(np.logical_or.reduce(changed).sum())


def statistics_move(layer: LayerLife, where: Array) -> bool:
    """Whether the running mean or variance is another at the end of some moments than at their beginning."""
    rows = [found for name in ("mean_after", "var_after") if (found := layer.get(name)) is not None]
    return len(where) > 1 and any(not np.array_equal(found[where[0]], found[where[-1]]) for found in rows)


def parameters_are_trained(layer: LayerLife, place: int) -> bool:
    """Whether beta differs between channels, which no usual start does."""
    beta = layer.get("beta")
    return beta is not None and beta.shape[1] > 1 and len(np.unique(beta[place])) > 1


def concerns(happening: Happening, layer: LayerLife) -> bool:
    return not happening.layers or layer.name in happening.layers


def alone(happening: Happening, layer: LayerLife) -> bool:
    """Whether it was done to a normalising layer by itself, and not to a network that holds it."""
    return str(happening.detail.get("module", "")) in (layer.kind, layer.name)


def last(life: Life, layer: LayerLife, before: int, *what: str) -> Happening | None:
    """The last happening of some kinds that concerns a layer, up to an index of forwards."""
    found = [each for each in life.happenings if each.what in what and each.index <= before and concerns(each, layer)]
    return found[-1] if found else None
