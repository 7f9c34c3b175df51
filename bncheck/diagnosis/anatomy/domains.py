"""Parts of a training batch that are scaled and shifted by another layer's gamma and beta, as one layer for each kind
of data does (clean and adversarial samples, source and target): what they are shows in the outputs alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bncheck.diagnosis.anatomy.values import Forward, Life
from bncheck.trace import Array

Pair = tuple[Array, Array]
MOST_PARTS = 4
STEADY = 1e-4  # of gamma: one layer's does not change from step to step


@dataclass(frozen=True)
class Domains:
    """``others``: (gamma, beta) of each part of a training batch behind the first, whose own are those held."""

    others: tuple[Pair, ...]
    advice = (
        "nothing, if the parts of a batch are data of different kinds, in this order: eval then takes all for the "
        "first kind; otherwise send the whole batch through one BatchNorm"
    )

    @property
    def says(self) -> str:
        if len(self.others) == 1:
            return "scales and shifts the second half of a training batch by another gamma and beta than those it holds"
        return (
            f"scales and shifts each of {len(self.others) + 1} parts of a training batch by a gamma and beta of its own"
        )

    def changed(self, forward: Forward) -> Forward:
        """With gamma and beta of each sample, (N, K)."""
        if not forward.training:
            return forward
        held = (forward.gamma, forward.beta)
        which = part_of(len(forward.x), len(self.others) + 1)
        gamma, beta = (np.stack([each[place] for each in (held, *self.others)])[which] for place in (0, 1))
        return replace(forward, gamma=gamma, beta=beta, kept={})

    def of_held(self, forward: Forward) -> Array:
        """(N, 1, 1) the samples that are scaled by what is held."""
        if not forward.training:
            return np.ones((len(forward.x), 1, 1), dtype=bool)
        return np.asarray(part_of(len(forward.x), len(self.others) + 1) == 0)[:, None, None]


def part_of(samples: int, parts: int) -> Array:
    """(N,) the part that each sample is in."""
    return np.arange(samples) // max(samples // parts, 1)


def likely(life: Life) -> Iterator[Domains]:
    """Ways in which the first of equal parts is scaled by what is held, and each other one by what stays the same."""
    training = life.of(True)
    if len(training) < 2:
        return
    for parts in range(2, MOST_PARTS + 1):
        if any(len(one.x) % parts or len(one.x) // parts < 2 for one in training):
            continue
        seen = [[scaled_by(one, part, parts, life.eps) for part in range(parts)] for one in training]
        held = [(one.gamma, one.beta) for one in training]
        if not all(near(one[0], own) for one, own in zip(seen, held, strict=True)):
            continue
        others = [steady([one[part] for one in seen]) for part in range(1, parts)]
        known = [each for each in others if each is not None]
        if len(known) == parts - 1 and not all(near(each, held[0]) for each in known):
            yield Domains(tuple(known))


def scaled_by(forward: Forward, part: int, parts: int, eps: float) -> Pair:
    """(gamma, beta) of a part that is normalised by its own mean and variance."""
    chosen = part_of(len(forward.x), parts) == part
    x, y = forward.x[chosen], forward.y[chosen]
    mean, var = x.mean(axis=(0, 2), keepdims=True), x.var(axis=(0, 2), keepdims=True)
    with np.errstate(all="ignore"):
        h = (x - mean) / np.sqrt(var + eps)
        return (h * y).mean(axis=(0, 2)) / (h * h).mean(axis=(0, 2)), y.mean(axis=(0, 2))


def steady(found: Sequence[Pair]) -> Pair | None:
    """The one gamma and beta of all steps, in few digits where they are such numbers; None where they change."""
    first = found[0]
    if not all(near(one, first) for one in found):
        return None
    gamma, beta = (np.mean([one[place] for one in found], axis=0) for place in (0, 1))
    return shortest(gamma), shortest(beta)


def near(one: Pair, two: Pair) -> bool:
    size = np.abs(two[0]) + np.abs(two[1]).max() + 1e-3
    return all(
        bool(np.isfinite(a).all() and (np.abs(a - b) <= STEADY * size).all()) for a, b in zip(one, two, strict=True)
    )


def shortest(values: Array) -> Array:
    few = np.round(values, 4)
    return np.where(np.abs(few - values) <= 1e-6, few, values)
