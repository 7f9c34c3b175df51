"""Play a layer's program again by the rules found, or by some of them: outputs, states, gradients. Float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from bncheck.diagnosis.anatomy import memory, normaliser
from bncheck.diagnosis.anatomy.activations import Activation
from bncheck.diagnosis.anatomy.affine import Affine, as_used, changed
from bncheck.diagnosis.anatomy.domains import Domains
from bncheck.diagnosis.anatomy.values import Forward, Life
from bncheck.diagnosis.fit.stream import SUM_LAMBDA
from bncheck.trace import Array

Pair = tuple[Array, Array]


@dataclass(frozen=True)
class Parts:
    """What a layer does, as far as it is known. ``training`` and ``evaluating`` are None where no forward of that mode
    was played, ``memory`` where no rule that is tried makes its steps."""

    activation: Activation
    training: normaliser.Normaliser | None
    evaluating: normaliser.Normaliser | None
    memory: memory.Memory | None
    by_gradients: bool = False  # whether forwards with gradients are its training ones, whatever mode it is in
    affine: Affine | Domains | None = None  # None: gamma and beta as they are held


@dataclass(frozen=True)
class Played:
    """Outputs forward by forward, and the state after each."""

    outputs: tuple[Array, ...]
    states: tuple[Pair, ...]


def play(parts: Parts, life: Life) -> Played:
    """The state goes on from where the layer's own began; where its steps have no rule, it is as recorded."""
    outputs, states, held, count = [], [], life.forwards[0].before, 0
    averaging = parts.memory
    life = as_used(life.by_gradients if parts.by_gradients else life, parts.affine)
    if not life.tracked:  # BatchNorm in its place would keep them
        averaging, held = memory.Memory(weight=life.weight), (np.zeros_like(held[0]), np.ones_like(held[1]))
    for forward in life.forwards:
        after = held
        if averaging is None:
            held, after = forward.before, forward.after
        elif forward.training:
            after, _ = memory.step(averaging, held, forward, life, count)
            count += memory.updates(averaging, forward)
        rule = parts.training if forward.training else parts.evaluating
        assert rule is not None
        outputs.append(normaliser.output(rule, parts.activation, replace(forward, before=held, after=after), life)[0])
        states.append(after)
        held = after
    return Played(tuple(outputs), tuple(states))


def gradients(
    parts: Parts, life: Life, recorded: Mapping[str, Array], behind: Mapping[int, list[int]]
) -> dict[str, bool]:
    """grad_gamma, grad_beta → whether they are what these outputs make of the dy of each backward; those left out of
    which no dy is known."""
    made = {forward.event: of_forward(parts, life, forward) for forward in life.forwards if forward.dy is not None}
    found: dict[str, bool] = {}
    for event, forwards in behind.items():
        if not forwards or any(one not in made for one in forwards):
            return {}
        for which, name in enumerate(("grad_gamma", "grad_beta")):
            rows = recorded.get(name)
            if rows is None or event >= len(rows) or rows.shape[1:] != life.forwards[0].gamma.shape:
                continue
            value, bound = (sum(made[one][which][part] for one in forwards) for part in (0, 1))
            near = bool(np.all(np.abs(value - np.asarray(rows[event], dtype=np.float64)) <= bound))
            found[name] = found.get(name, True) and near
    return found


def of_forward(parts: Parts, life: Life, forward: Forward) -> tuple[Pair, Pair]:
    """(dgamma, its bound), (dbeta, its bound) of one forward."""
    rule = parts.training if (forward.graded if parts.by_gradients else forward.training) else parts.evaluating
    assert rule is not None and forward.dy is not None
    way = parts.affine
    gamma, beta = (forward if way is None else changed(forward, way)).affine
    use = normaliser.taken(rule, forward, life)
    h = (forward.x - use.mean) * normaliser.inverse(rule, use.var)
    z = gamma * h + beta
    small = 1e-6 * (1.0 + np.abs(z))
    dz = forward.dy * (parts.activation(z + small) - parts.activation(z - small)) / (2.0 * small)
    if isinstance(way, Domains):
        dz = dz * way.of_held(forward)
    n = forward.x.shape[0] * forward.x.shape[2]
    unit = 8.0 * life.u * (min(n, SUM_LAMBDA * np.sqrt(n)) + 8.0) + 1e-6
    sums = [
        (part.sum(axis=(0, 2)), unit * np.abs(part).sum(axis=(0, 2)) + unit * np.abs(forward.dy).sum(axis=(0, 2)))
        for part in (dz * h, dz)
    ]
    return by_what_is_held(sums[0], sums[1], None if isinstance(way, Domains) else way, forward)


def by_what_is_held(scale: Pair, shift: Pair, way: Affine | None, forward: Forward) -> tuple[Pair, Pair]:
    """Gradients of held gamma and beta, with their bounds, from those of what scales and shifts."""
    if way is None:
        return scale, shift
    a, b, c, d = way.slopes(forward.gamma, forward.beta)
    gamma, beta = (
        (p * scale[0] + q * shift[0], np.abs(p) * scale[1] + np.abs(q) * shift[1]) for p, q in ((a, c), (b, d))
    )
    return gamma, beta
