"""How a layer scales and shifts what it has normalised, where it is not by gamma and beta as they are held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from bncheck.diagnosis.anatomy.domains import Domains
from bncheck.diagnosis.anatomy.values import Forward, Life
from bncheck.trace import Array

Pair = tuple[Array, Array]
NEAR = 0.05  # of a number, before the rules of the normaliser are known
DAMPED = 0.1  # of a slope that another divisor or eps may leave
FEWEST = 3  # channels of different gamma: fewer do not tell one way from another


@dataclass(frozen=True)
class Affine:
    """``made``: (scale, shift) of held gamma and beta. ``slopes``: derivatives of the scale by gamma and by beta, then
    of the shift by either."""

    says: str
    made: Callable[[Array, Array], Pair]
    slopes: Callable[[Array, Array], tuple[Array, Array, Array, Array]]
    advice = "return gamma * x_hat + beta, one value per channel (torch: weight * y + bias)"


def fixed(a: float, b: float, c: float, d: float) -> Callable[[Array, Array], tuple[Array, Array, Array, Array]]:
    def slopes(gamma: Array, beta: Array) -> tuple[Array, Array, Array, Array]:
        one = np.ones_like(gamma)
        return a * one, b * one, c * one, d * one

    return slopes


def of_gamma(slope: Callable[[Array], Array]) -> Callable[[Array, Array], tuple[Array, Array, Array, Array]]:
    def slopes(gamma: Array, beta: Array) -> tuple[Array, Array, Array, Array]:
        zero = np.zeros_like(gamma)
        return slope(gamma), zero, zero, np.ones_like(gamma)

    return slopes


WAYS = (
    Affine("scales by 1 + gamma, not by gamma", lambda g, b: (1.0 + g, b), fixed(1, 0, 0, 1)),
    Affine("scales by the size of gamma, without its sign", lambda g, b: (np.abs(g), b), of_gamma(np.sign)),
    Affine("scales by exp(gamma), not by gamma", lambda g, b: (np.exp(g), b), of_gamma(np.exp)),
    Affine("scales by the square of gamma", lambda g, b: (g * g, b), of_gamma(lambda g: 2.0 * g)),
    Affine("divides by gamma, instead of scaling by it", lambda g, b: (1.0 / g, b), of_gamma(lambda g: -1.0 / g**2)),
    Affine("scales by beta and shifts by gamma", lambda g, b: (b, g), fixed(0, 1, 1, 0)),
    Affine("subtracts beta, instead of adding it", lambda g, b: (g, -b), fixed(1, 0, 0, -1)),
    Affine(
        "adds beta before it scales by gamma, which scales beta too",
        lambda g, b: (g, g * b),
        lambda g, b: (np.ones_like(g), np.zeros_like(g), b, g),
    ),
)


def as_used(life: Life, way: Affine | Domains | None) -> Life:
    """The same forwards with what scales and shifts in the place of gamma and beta."""
    if way is None:
        return life
    return replace(life, forwards=tuple(changed(one, way) for one in life.forwards))


def changed(forward: Forward, way: Affine | Domains) -> Forward:
    if isinstance(way, Domains):
        return way.changed(forward)
    scale, shift = way.made(forward.gamma, forward.beta)
    return replace(forward, gamma=scale, beta=shift, kept={})


def likely(life: Life) -> Iterator[Affine]:
    """Ways that the lines of whole batches show: one and the same in every channel, and not the usual one."""
    first = next((one for one in life.forwards if one.training), None)
    if first is None or len(np.unique(first.gamma)) < FEWEST:
        return
    with np.errstate(all="ignore"):
        scale, shift = lines(first)
        if near(scale, first.gamma) and near(shift, first.beta):
            return
        for way in WAYS:
            made = way.made(first.gamma, first.beta)
            if near(shift, made[1]) and damped(scale, made[0]):
                yield way


def lines(forward: Forward) -> Pair:
    """What multiplies the normalised values of each channel of a batch, and what is added to them."""
    axes = (0, 2)
    mean = forward.x.mean(axis=axes, keepdims=True)
    h = (forward.x - mean) / forward.x.std(axis=axes, keepdims=True)
    return (h * forward.y).mean(axis=axes), forward.y.mean(axis=axes)


def damped(one: Array, two: Array) -> bool:
    """Whether slopes are those of a way, or smaller: what is added to a variance or a deviation makes them so."""
    zero = two == 0
    share = one[~zero] / two[~zero]
    nothing = np.abs(one[zero]) <= NEAR * np.abs(one).max()
    return bool(nothing.all() and (share > DAMPED).all() and (share < 1.0 + NEAR).all())


def near(one: Array, two: Array) -> bool:
    scale = np.abs(two) + NEAR * np.abs(two).max()
    return bool(np.isfinite(one).all() and np.isfinite(two).all() and (np.abs(one - two) <= NEAR * scale).all())
