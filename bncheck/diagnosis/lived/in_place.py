"""Each moment of a layer replayed where it stands: did it do what the layer's framework documents?

The statistics after a forward follow from those before it and from its input; what the output reveals is the batch in
training and the running statistics in eval. A moment departs only beyond what rounding of its dtype can do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bncheck.diagnosis.fit.stream import STEP_ROUNDINGS
from bncheck.diagnosis.lived.fitted import fit
from bncheck.diagnosis.lived.record import Record
from bncheck.diagnosis.rules.roundoff import mean_bound, two_pass_bound, unit, welford_bound
from bncheck.trace import Array

# A step that departs misses by more than twice what rounding can do: bound and measurement are each within one.
MARGIN = 2.0
SMALLEST = 2.0**-149
# Where momentum is the weight of the new batch; elsewhere it is that of the old average.
NEW_BATCH = ("torch", "mlx")
# It moves its statistics in backward: a forward that nobody goes back through leaves them, as behind a frozen part.
IN_BACKWARD = ("mxnet",)
# The divisor of the variance that is averaged, where a framework documents one for every device.
DIVISORS = {"torch": ("n-1",)}


@dataclass(frozen=True)
class Conduct:
    """How many moments could be judged in a layer, and which of them departed: (K,) bool each."""

    stepped: Array  # the running statistics could be judged
    revealed: Array  # what the output reveals could be
    odd_step: Array
    odd_output: Array
    weight: Array  # of the new batch, as documented or, in a custom layer, as its steps say; NaN: not known
    divisor: str = ""  # of the variance that is averaged, where the steps tell

    @property
    def judged(self) -> bool:
        return bool((self.stepped | self.revealed).any())

    @property
    def innocent(self) -> bool:
        return not bool((self.odd_step | self.odd_output).any())


def conduct(record: Record, framework: str, synchronised: bool = False) -> Conduct:
    """A layer against the documented rules; ``synchronised``: its batch is larger than the one that was recorded."""
    own = record.life.own
    divisors = ("n-1", "n") if own else DIVISORS.get(framework, ("n-1", "n"))
    with np.errstate(all="ignore"):
        judged = record.sound & record.tracked & ~(record.training & synchronised)
        slack = unsure(record, framework)
        tried = [
            (odd_steps(record, weight, name, slack) & judged & (np.isfinite(weight) | ~record.training), weight, name)
            for weight in (senses(record) if own else [weights(record, framework)])
            for name in divisors
        ]
        odd_step, weight, divisor = min(tried, key=lambda item: int(item[0].sum()))
        revealed, odd_output = odd_outputs(record)
    revealed &= ~(record.training & synchronised)
    if own and record.life.get("gamma") is None and (odd_output & revealed).any():
        revealed = np.zeros_like(revealed)  # it may hold gamma and beta under other names
    stepped = judged & (np.isfinite(weight) | ~record.training)
    told = sum(not odd.any() for odd, _, _ in tried) == 1 or len(divisors) == 1
    return Conduct(
        stepped=stepped,
        revealed=revealed,
        odd_step=odd_step,
        odd_output=odd_output & revealed,
        weight=weight,
        divisor=divisor if told and stepped.any() else "",
    )


def senses(record: Record) -> list[Array]:
    """What the weight of the new batch may be in a custom layer: its momentum in either sense, one over the
    count, or what its steps say."""
    counted = weights(record, "torch")
    other = np.where(np.isfinite(record.momentum), 1.0 - record.momentum, counted)
    measured = fit(record).get("batch_weight")
    value = measured.value if measured is not None and measured.identifiable else None
    free = [np.full(len(record), float(value))] if isinstance(value, int | float) else []
    return [counted, other, *free]


def weights(record: Record, framework: str) -> Array:
    """(K,) weight of the new batch as documented: from momentum as held, or one over the count where there is none."""
    held = record.momentum if framework in NEW_BATCH else 1.0 - record.momentum
    if framework in IN_BACKWARD and not record.life.own:
        held = np.where(record.gradients & record.moved, held, 0.0)
    counted = np.where(record.counter >= 1, 1.0 / np.maximum(record.counter, 1.0), np.nan)
    return np.where(np.isfinite(record.momentum), held, counted)


def batch_errors(record: Record) -> tuple[Array, Array]:
    """(K, C) how far the layer's own mean and variance of a batch may be from the recorded ones."""
    n = record.n[:, None]
    return (
        mean_bound(record.mean, record.var, n, record.u_sums),
        welford_bound(record.mean, record.var, n, record.u_sums),
    )


def put_in(record: Record, divisor: str) -> Array:
    """(K, C) the variance of each batch as it is averaged."""
    n = record.n[:, None]
    return record.var * np.where(n > 1, n / np.maximum(n - 1.0, 1.0), 1.0) if divisor == "n-1" else record.var


def unsure(record: Record, framework: str) -> Array:
    """(K,) how far the weight of the new batch may be off where it is one minus a momentum that a kernel takes in
    float32: 1 − 0.999 is 0.00100005 there."""
    if framework in NEW_BATCH and not record.life.own:
        return np.zeros(len(record))
    return np.nan_to_num(unit("float32") * np.abs(record.momentum))


def odd_steps(record: Record, weight: Array, divisor: str, unsure: Array) -> Array:
    """(K,) bool: the statistics after are not those that the rule makes of the ones before and the input."""
    a = np.where(record.training, weight, 0.0)[:, None]
    variance, odd = put_in(record, divisor), np.zeros(len(record), dtype=bool)
    factor = variance / np.maximum(record.var, 1e-300)
    errors = batch_errors(record)
    for before, after, batch, error in (
        (record.m0, record.m1, record.mean, errors[0]),
        (record.v0, record.v1, variance, errors[1] * np.maximum(factor, 1.0)),
    ):
        due = (1.0 - a) * before + a * batch
        # The weight of a cumulative average is rounded too, and times the whole step.
        rounding = STEP_ROUNDINGS * (record.u_state * (np.abs(before) + np.abs(after) + a * np.abs(batch)) + SMALLEST)
        rounding = rounding + np.where(a > 0, unsure[:, None] * np.abs(batch - before), 0.0)
        odd |= (np.abs(after - due) > MARGIN * (rounding + a * error)).any(axis=1)
    return odd


@dataclass(frozen=True)
class Shown:
    """What outputs reveal: mean and variance plus eps, how far they may be off, and where that can be judged (K, C)."""

    mean: Array
    level: Array  # variance and eps
    mean_error: Array
    level_error: Array
    kept: Array


def shown(record: Record) -> Shown:
    """Least squares through a rounded y: each y/γ carries u·(|x|·r + |m|·r + |β/γ|), see rules/revealed.py."""
    m, r, spread = record.used_mean, record.used_invstd, np.sqrt(record.var)
    usable = np.isfinite(m + r) & (record.var > 0) & (r != 0) & (record.gamma != 0) & record.sound[:, None]
    safe = np.where(usable, record.gamma, 1.0)
    size = np.abs(r)
    noise = 16 * record.u_output * (1 + (np.abs(record.mean) + spread + np.abs(m)) * size + np.abs(record.beta / safe))
    reach = np.abs(safe) * size * (np.abs(record.mean - m) + np.minimum(np.sqrt(record.n), 10.0)[:, None] * spread)
    largest = np.max(np.where(usable, reach, 0.0), axis=1, initial=0.0)
    bend = np.nan_to_num(record.used_residual, nan=np.inf)[:, None] * largest[:, None] / np.abs(safe)
    noise = noise + bend
    slope = noise / (spread * size)
    level = 1.0 / r**2
    n = record.n[:, None]
    return Shown(
        mean=m,
        level=level,
        mean_error=mean_bound(record.mean, record.var, n, record.u_output)
        + noise / size
        + np.abs(record.mean - m) * slope,
        level_error=two_pass_bound(record.mean, record.var, n, record.u_output)
        + 4 * slope * np.maximum(record.var, level),
        # A slope that is off by a fifth says nothing.
        kept=usable & (slope < 0.2),
    )


def with_eps(record: Record) -> Record:
    """A layer that holds no eps under a name (a literal in its forward) with the one that its outputs agree on: all of
    them, or those in one mode, with either divisor of the batch's variance. The record as it is where they agree on
    none, and where it holds one."""
    if np.isfinite(record.eps).any():
        return record
    with np.errstate(all="ignore"):
        seen = shown(record)
        own = (record.training | ~np.isfinite(record.m0 + record.v0).any(axis=1))[:, None]
        rounding = np.where(own, 0.0, np.nan_to_num(4 * record.u_state * np.abs(record.v0)))
        room = MARGIN * (seen.level_error + rounding)
        trains, everything = record.training, np.ones_like(record.training)
        for divisor, mode in (("n", everything), ("n", trains), ("n", ~trains), ("n-1", trains)):
            left = seen.level - np.where(own, put_in(record, divisor), record.v0)
            kept = seen.kept & mode[:, None] & np.isfinite(left + room)
            low = max(float(np.max((left - room)[kept], initial=-np.inf)), 0.0)
            high = float(np.min((left + room)[kept], initial=np.inf))
            if kept.any() and low <= high:
                return replace(record, eps=np.full(len(record), (low + high) / 2))
    return record


def odd_outputs(record: Record) -> tuple[Array, Array]:
    """(K,) bool each: forwards whose output can be judged, and those that did not use what the mode asks for."""
    seen = shown(record)
    held = np.isfinite(record.m0 + record.v0).any(axis=1)  # NaN in one channel is no layer without statistics
    kept = seen.kept & np.isfinite(record.eps)[:, None]
    own = (record.training | ~held)[:, None]
    mean, var = np.where(own, record.mean, record.m0), np.where(own, record.var, record.v0)
    rounding = 4 * record.u_state * np.abs(np.stack([record.m0, record.v0]))
    rounding = np.where(own, 0.0, np.nan_to_num(rounding))
    off = np.abs(seen.mean - mean) > MARGIN * (seen.mean_error + rounding[0])
    off |= np.abs(seen.level - var - record.eps[:, None]) > MARGIN * (seen.level_error + rounding[1])
    return np.asarray(kept.any(axis=1)), np.asarray((off & kept).any(axis=1))
