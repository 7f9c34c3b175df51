"""What training forwards put into the running statistics: which values, in how many updates, with which weight."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bncheck.diagnosis.anatomy.averages import RARE, STATISTICS, moved
from bncheck.diagnosis.anatomy.groups import Group, numbered
from bncheck.diagnosis.anatomy.normaliser import moment_errors
from bncheck.diagnosis.anatomy.values import STATE_ROUNDINGS, Forward, Life, moments_of
from bncheck.diagnosis.fit.rows import debiased_weight
from bncheck.trace import Array

Pair = tuple[Array, Array]
OTHER_AVERAGES = ("first-replaces", "debiased", "cumulative")
LEAST_STEPS = 4  # of single channels, that two weights must make
CLEARLY = 30.0  # so many times as near is a rule that takes the place of another
FEW_DIGITS = 1e-6  # relative: how near a weight comes to three digits that are its own
ORDERS = ("each in turn", "their mean", "the first", "the last")
LOGARITHM = 8.0  # times as many roundings: a logarithm's are those of the variance times its size
APART = 1e-3  # relative: two weights nearer than this are one, which rounding has shown twice


@dataclass(frozen=True)
class Memory:
    """``order``: how the groups of one batch go in: "each in turn" (an update each), "their mean" (one update), "the
    first" or "the last" alone. ``divisor``: n, n-1, or "n-1 of all" for a mean of variances. ``statistic``:
    variance, or a word of ``averages.STATISTICS``. ``never``: nothing moves. ``var_weight``: of running_var, where it
    is not ``weight``; 0 moves nothing. ``weights``: of each training forward, where ``averaging`` is "scheduled"."""

    group: Group = Group()
    order: str = "their mean"
    divisor: str = "n-1"
    statistic: str = "variance"
    weight: float = 0.1
    averaging: str = "exponential"  # first-replaces, debiased, cumulative, added (nothing is taken off), scheduled
    never: bool = False
    var_weight: float | None = None
    weights: tuple[float, ...] = ()

    @property
    def usual_values(self) -> bool:
        """Whether the whole batch goes in at once."""
        return self.never or self.group.usual


def put_in(rule: Memory, forward: Forward, life: Life) -> tuple[list[Pair], Pair]:
    """The (mean, variance) pairs per channel that go in, in order, and a bound on their rounding."""
    found = moments_of(rule.group, forward)
    mean_error, var_error = moment_errors(found, life.u)
    var = found.var
    if rule.divisor != "n":
        count = found.count if rule.divisor == "n-1" else np.asarray(forward.x.shape[0] * forward.x.shape[2])
        factor = count / np.maximum(count - 1.0, 1.0)
        var, var_error = var * factor, var_error * factor
    if rule.statistic == "std":
        root = np.sqrt(var)
        with np.errstate(divide="ignore", invalid="ignore"):
            var, var_error = root, np.fmin(var_error / root, np.sqrt(var_error))
    elif rule.statistic == "square":
        var = var + found.mean**2
    elif rule.statistic == "with eps":
        var = var + life.eps
    channels = forward.x.shape[1]
    rows = [by_channel(part, found.channel, channels) for part in (found.mean, var, mean_error, var_error)]
    error = rows[2].max(axis=0), rows[3].max(axis=0)
    each = list(zip(rows[0], rows[1], strict=True))
    if rule.order == "their mean":
        each = [(rows[0].mean(axis=0), rows[1].mean(axis=0))]
    return {"the first": each[:1], "the last": each[-1:]}.get(rule.order, each), error


def by_channel(values: Array, channel: Array, channels: int) -> Array:
    """(groups of a channel, C): groups are numbered channel by channel within each part of the batch. A group over
    several channels counts for each of them."""
    width = len(values) // channels
    if width and len(values) == width * channels and np.array_equal(channel, np.tile(np.arange(channels), width)):
        return values.reshape(width, channels)
    return np.repeat(values[:, None], channels, axis=1)


def weight_at(rule: Memory, count: int, which: int) -> float:
    """Weight of update ``count``, from 1 on, in running_mean (0) or running_var (1)."""
    if which and rule.var_weight is not None:
        return rule.var_weight
    if rule.averaging == "first-replaces" and count == 1:
        return 1.0
    if rule.averaging == "cumulative":
        return 1.0 / count
    if rule.averaging == "scheduled":
        return rule.weights[min(count, len(rule.weights)) - 1]
    if rule.averaging == "debiased":
        return float(debiased_weight(np.array(rule.weight), np.array(float(count))))
    return rule.weight


def step(rule: Memory, before: Pair, forward: Forward, life: Life, count: int) -> tuple[Pair, Pair]:
    """(state after, bound on its rounding) of one training forward; ``count``: updates before it."""
    if rule.never:
        return before, (0.0 * before[0], 0.0 * before[1])
    each, error = put_in(rule, forward, life)
    centre = STATISTICS[rule.statistic].centre if rule.statistic in STATISTICS else None
    after: list[Array] = []
    for which in (0, 1):
        state = before[which]
        for number, pair in enumerate(each, count + 1):
            put = pair[which]
            if which and centre is not None:
                off = pair[0] - (before[0] if centre == "old" else after[0])
                put, error = put + off**2, (error[0], error[1] + 2.0 * np.abs(off) * error[0])
            statistic = rule.statistic if which else "variance"
            state = moved(rule.averaging, statistic, state, put, weight_at(rule, number, which))
        after.append(state)
    sizes = [
        np.abs(a) + np.abs(b) + np.max(np.abs([pair[i] for pair in each]), axis=0)
        for i, (a, b) in enumerate(zip(before, after, strict=True))
    ]
    roundings = STATE_ROUNDINGS * max(1.0, math.sqrt(len(each))) * (LOGARITHM if rule.statistic == "logarithm" else 1.0)
    bounds = [error[i] + roundings * life.u_state * sizes[i] + life.smallest for i in (0, 1)]
    return (after[0], after[1]), (bounds[0], bounds[1])


def reproduces(rule: Memory, life: Life) -> bool:
    """Whether each training forward leaves what the rule makes of what was there before it."""
    for number, forward in enumerate(life.of(True)):
        after, bound = step(rule, forward.before, forward, life, number * updates(rule, forward))
        if not all(np.all(np.abs(a - b) <= e) for a, b, e in zip(after, forward.after, bound, strict=True)):
            return False
    return True


def updates(rule: Memory, forward: Forward) -> int:
    """How many updates one forward makes."""
    if rule.never:
        return 0
    return len(np.unique(numbered(rule.group, forward.x.shape)[1][:, 0])) if rule.order == "each in turn" else 1


def fit(life: Life, groups: Sequence[Group]) -> Memory | None:
    """The first rule that makes every step, over the groups given, the usual one first; None where none does."""
    forwards = life.of(True)
    if not forwards:
        return None
    if all(np.array_equal(a, b) for one in forwards for a, b in zip(one.before, one.after, strict=True)):
        return Memory(never=True)
    for rule in hypotheses(life, groups):
        if fits_first(rule, forwards[0], life) and reproduces(rule, life):
            return rule if asked_for(rule, life) else nearest(rule, life)
    return None


def asked_for(rule: Memory, life: Life) -> bool:
    return rule == Memory(divisor=life.divisor, weight=life.weight)


def nearest(rule: Memory, life: Life) -> Memory:
    """The rule, or one of two weights, or a rare one, that comes nearer by far. Far from zero the bounds are wide, and
    let other rules pass than the one that made the steps."""
    others = [one for one in itertools.chain(weighed_apart(life), rare(life)) if reproduces(one, life)]
    off, best = min(((gap(one, life), one) for one in others), key=lambda item: item[0], default=(math.inf, rule))
    return best if CLEARLY * off < gap(rule, life) else rule


def gap(rule: Memory, life: Life) -> float:
    """How far the variances that it leaves are from those that were left, on the average."""
    gaps = [
        np.abs(step(rule, one.before, one, life, number * updates(rule, one))[0][1] - one.after[1]).mean()
        for number, one in enumerate(life.of(True))
    ]
    return float(np.mean(gaps))


def fits_first(rule: Memory, forward: Forward, life: Life) -> bool:
    after, bound = step(rule, forward.before, forward, life, 0)
    return bool(np.all(np.abs(after[0] - forward.after[0]) <= bound[0]))


def hypotheses(life: Life, groups: Sequence[Group]) -> Iterator[Memory]:
    """With the weight asked for first, whichever values go in; then with the one that the steps show; then with one for
    each statistic."""
    pairs = [(group, order) for group in groups for order in orders(group)]
    for group, order in pairs:
        for averaging in ("exponential", *(OTHER_AVERAGES if group.usual else ())):
            yield from variants(group, order, life.weight, averaging, life.divisor)
    for group, order in pairs:
        weight = fitted_weight(Memory(group=group, order=order), life)
        if weight is not None and weight != life.weight:
            yield from variants(group, order, weight, "exponential", life.divisor)
    yield from weighed_apart(life)
    yield from rare(life)


def rare(life: Life) -> Iterator[Memory]:
    """What hardly anybody means to average, and weights that change: of the whole batch, and of steps enough."""
    if sum(len(one.before[0]) for one in life.of(True)) < LEAST_STEPS:
        return
    shown = [fitted_weight(Memory(), life), added_weight(life)]
    weights = [
        (life.weight, more) if more and abs(more - life.weight) > APART * more else (life.weight,) for more in shown
    ]
    divisors = sorted(("n-1", "n"), key=lambda divisor: divisor != life.divisor)
    for weight, statistic, divisor in itertools.product(weights[0], RARE, divisors):
        yield Memory(statistic=statistic, weight=weight, divisor=divisor)
    for weight, divisor in itertools.product(weights[1], divisors):
        yield Memory(averaging="added", weight=weight, divisor=divisor)
    schedule = scheduled(life)
    if schedule:
        for divisor in divisors:
            yield Memory(averaging="scheduled", weights=schedule, weight=life.weight, divisor=divisor)


def added_weight(life: Life) -> float | None:
    """The weight with which batches are added to the running mean, from which nothing is taken off."""
    pairs = [(put_in(Memory(), one, life)[0][0][0], one.after[0] - one.before[0]) for one in life.of(True)]
    top, bottom = (sum(float(np.sum(put * each[at])) for each in pairs for put in each[:1]) for at in (1, 0))
    weight = top / bottom if bottom > 0 else 0.0
    return few_digits(weight) if 0.0 < weight <= 1.0 else None


def scheduled(life: Life) -> tuple[float, ...]:
    """The weight of the new batch in the running mean, forward by forward; () where it is one, or none shows."""
    found = []
    for forward in life.of(True):
        put = put_in(Memory(), forward, life)[0][0][0]
        gap, step = put - forward.before[0], forward.after[0] - forward.before[0]
        weight = float(np.sum(gap * step)) / max(float(np.sum(gap**2)), 1e-300)
        found.append(few_digits(weight))
    steady = max(found) - min(found) <= APART * max(found)
    return () if steady or min(found) <= 0.0 or max(found) > 1.0 + FEW_DIGITS else tuple(found)


def orders(group: Group) -> Sequence[str]:
    return ("their mean",) if group.usual or group.taken != "all" else ORDERS


def variants(group: Group, order: str, weight: float, averaging: str, usual: str) -> Iterator[Memory]:
    for statistic in ("variance", "std"):
        more = ("n-1 of all",) if order == "their mean" and not group.usual else ()
        for divisor in (*sorted(("n-1", "n"), key=lambda divisor: divisor != usual), *more):
            yield Memory(group, order, divisor, statistic, weight, averaging)


def fitted_weight(base: Memory, life: Life) -> float | None:
    """The weight that the running mean's steps show, where one update is made of each batch."""
    weight = shown_weight(base, life, 0) if base.order != "each in turn" else 0.0
    return weight if 0.0 < weight <= 1.0 else None


def shown_weight(base: Memory, life: Life, which: int) -> float:
    """The weight that the steps of running_mean (0) or running_var (1) show."""
    top = bottom = 0.0
    for forward in life.of(True):
        put, *_ = put_in(base, forward, life)[0]
        gap = put[which] - forward.before[which]
        top += float(np.sum(gap * (forward.after[which] - forward.before[which])))
        bottom += float(np.sum(gap**2))
    return few_digits(top / bottom if bottom > 0 else 0.0)


def few_digits(weight: float) -> float:
    near = float(f"{weight:.4g}")
    return near if abs(near - weight) < 1e-6 else weight


def weighed_apart(life: Life) -> Iterator[Memory]:
    """The whole batch goes into the mean with one weight and into the variance with another, which may be 0. A step or
    two are made by any weights. Of a large batch either divisor makes the steps, each with its own weight: a weight of
    few digits is the one that somebody wrote."""
    forwards = life.of(True)
    if sum(len(one.before[0]) for one in forwards) < LEAST_STEPS:
        return
    found = []
    for rule in variants(Group(), "their mean", life.weight, "exponential", life.divisor):
        one, two = (shown_weight(rule, life, which) for which in (0, 1))
        shown = all(steps_told_apart(rule, life, which) > 1 for which in (0, 1))
        if shown and abs(one - two) > APART * max(one, two) and min(one, two) >= 0.0 and max(one, two) <= 1.0:
            found.append((abs(float(f"{two:.3g}") - two) > FEW_DIGITS * two, replace(rule, weight=one, var_weight=two)))
    yield from (rule for _, rule in sorted(found, key=lambda item: item[0]))


def steps_told_apart(base: Memory, life: Life, which: int) -> int:
    """How many steps of channels differ in how far the batch is from running_mean (0) or running_var (1)."""
    gaps = [put_in(base, forward, life)[0][0][which] - forward.before[which] for forward in life.of(True)]
    return len({float(f"{gap:.3g}") for forward in gaps for gap in np.ravel(forward)})
