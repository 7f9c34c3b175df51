"""What forwards of one mode normalise with: whose moments, which divisor, which eps, and where it is added.

A hypothesis is a group (``groups.py``) and a source. Lines give m and r of each group; m has to be the source's mean
within rounding, and 1/r² − v (or 1/r − √v) one and the same eps everywhere. What stands is then replayed: every
output has to come out within its bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bncheck.diagnosis.anatomy.activations import Activation
from bncheck.diagnosis.anatomy.groups import Group, Moments, moments
from bncheck.diagnosis.anatomy.lines import Lines, Shown, solution
from bncheck.diagnosis.anatomy.twists import TWISTS
from bncheck.diagnosis.anatomy.values import OUTPUT_ROUNDINGS, Forward, Life, moments_of
from bncheck.diagnosis.fit.interval import known, meet, quotient, shortest
from bncheck.diagnosis.fit.stream import SUM_LAMBDA
from bncheck.trace import Array

TRAIN_SOURCES = ("batch", "running", "running-after", "blend", "mean-square")
EVAL_SOURCES = ("running", "running-std", "batch", "blend", "mean-square", "began", "first-eval", "running-square")
ODD = ("began", "first-eval", "running-square")  # nothing but all of it tells these from another eps
# A source with numbers of its own to fit needs more lines than those.
FEWEST_LINES = {"blend": 3, "renorm": 6, "within": 3}
SIGNS = (-1.0, 1.0)
NO_LIMIT = 1e6  # of what a renormalisation is clipped to: beyond it nothing was


@dataclass(frozen=True)
class Normaliser:
    """``source``: batch (the group's own moments), running (before the forward), running-after, blend (``shares``: the
    weight of the batch), mean-square (nothing is subtracted), running-std (a deviation is held), running-square (the
    mean of the squares is held), began (the statistics before any forward), first-eval (those before the first of
    eval), renorm (``shares``: the limits of r and d), mixture (``shares``: instance, layer and batch of the mean, then
    of the variance), within (the batch's mean, and the mean of the variances of each ``within``: how their means differ
    is left out). ``twist``: what is done to them by mistake, a word of ``twists.py``."""

    group: Group = Group()
    source: str = "batch"
    within: Group = Group()
    shares: tuple[float, ...] = ()
    divisor: str = "n"
    eps: float = 0.0
    placement: str = "inside"
    twist: str = ""


@dataclass(frozen=True)
class Taken:
    """Mean and variance that normalise each value (broadcast to x), and bounds on their rounding."""

    mean: Array
    var: Array
    mean_error: Array
    var_error: Array


def moment_errors(found: Moments, u: float) -> tuple[Array, Array]:
    """Bounds on each group's mean and variance, as of ``Stream.moment_errors``."""
    count = np.maximum(found.count, 1.0)
    g = u * (np.minimum(count, SUM_LAMBDA * np.sqrt(count)) + 8.0)
    return g * np.sqrt(found.square), 3.0 * g * found.square


def of_groups(rule: Normaliser, forward: Forward, found: Moments, life: Life) -> Taken:
    """What a rule normalises with, one number per group."""
    if rule.twist:
        return twisted(rule, of_groups(replace(rule, twist=""), forward, found, life))
    if rule.source == "within":
        return within_groups(rule, moments(rule.within, forward.x), forward.x.shape[1], life)
    mean_error, var_error = moment_errors(found, life.u)
    var = found.var
    if rule.divisor == "n-1":
        factor = found.count / np.maximum(found.count - 1.0, 1.0)
        var, var_error = var * factor, var_error * factor
    held = forward.after if rule.source == "running-after" else forward.before
    rm, rv = (part[found.channel] for part in held)
    if rule.source == "batch":
        return Taken(found.mean, var, mean_error, var_error)
    if rule.source in ("began", "first-eval"):
        first = next(one for one in life.forwards if rule.source == "began" or not one.training)
        rm, rv = (part[found.channel] for part in first.before)
    if rule.source in ("running", "running-after", "began", "first-eval"):
        return Taken(rm, rv, life.u * np.abs(rm), life.u * np.abs(rv))
    if rule.source == "running-std":
        return Taken(rm, rv**2, life.u * np.abs(rm), 2.0 * life.u * rv**2)
    if rule.source == "running-square":
        return Taken(rm, rv - rm**2, life.u * np.abs(rm), life.u * (np.abs(rv) + 2.0 * rm**2))
    if rule.source == "mean-square":
        return Taken(np.zeros_like(found.mean), found.square, np.zeros_like(found.mean), var_error)
    if rule.source == "renorm":
        return renormed(rule, found, (rm, rv), (mean_error, var_error))
    w = rule.shares[0]
    return Taken(
        w * found.mean + (1 - w) * rm,
        w * var + (1 - w) * rv,
        mean_error + life.u * (np.abs(rm) + np.abs(found.mean)),
        var_error + life.u * (np.abs(rv) + var),
    )


def twisted(rule: Normaliser, use: Taken) -> Taken:
    """With the bounds on rounding that the twist makes of those of the statistics."""
    made = TWISTS[rule.twist].made
    mean, var = made(use.mean, use.var, rule.eps)
    others = [made(use.mean + s * use.mean_error, use.var + t * use.var_error, rule.eps) for s in SIGNS for t in SIGNS]
    off = [np.max([np.abs(other[which] - at) for other in others], axis=0) for which, at in enumerate((mean, var))]
    return Taken(mean, var, *off)


def within_groups(rule: Normaliser, found: Moments, channels: int, life: Life) -> Taken:
    """The means of the groups' means and of their variances, one of each per channel."""
    mean_error, var_error = moment_errors(found, life.u)
    factor = found.count / np.maximum(found.count - 1.0, 1.0) if rule.divisor == "n-1" else 1.0
    rows = (found.mean, found.var * factor, mean_error, var_error * factor)
    mean, var, *errors = (part.reshape(-1, channels).mean(axis=0) for part in rows)
    return Taken(mean, var, errors[0], errors[1])


def renormed(rule: Normaliser, found: Moments, held: tuple[Array, Array], errors: tuple[Array, Array]) -> Taken:
    """(x − μ)/σ·r + d with r = σ/σ' and d = (μ − μ')/σ' clipped, as one mean and one variance (eps left out again)."""
    most_r, most_d = rule.shares
    own, other = np.sqrt(found.var + rule.eps), np.sqrt(held[1] + rule.eps)
    r = np.clip(own / other, 1.0 / most_r, most_r)
    d = np.clip((found.mean - held[0]) / other, -most_d, most_d)
    return Taken(found.mean - d * own / r, (own / r) ** 2 - rule.eps, 4.0 * errors[0], 4.0 * errors[1])


def mixed(rule: Normaliser, forward: Forward, life: Life) -> Taken:
    """A mixture of the moments of each sample and channel, of each sample, and of the batch (in eval what is held)."""
    means, variances = zip(*parts_of_mixture(forward), strict=True)
    mean = sum(w * part for w, part in zip(rule.shares[:3], means, strict=True))
    var = sum(w * part for w, part in zip(rule.shares[3:], variances, strict=True))
    size = forward.x.shape[2] * forward.x.shape[1]
    g = life.u * (min(size, SUM_LAMBDA * math.sqrt(size)) + 16.0)
    square = np.maximum(var + mean**2, (forward.x**2).mean())
    return Taken(mean, var, 4.0 * g * np.sqrt(square), 8.0 * g * square)


def parts_of_mixture(forward: Forward) -> list[tuple[Array, Array]]:
    """(mean, variance) of each sample and channel, of each sample, and of the batch, for each value."""
    found = []
    for kind in ("sample", "layer", "batch"):
        if kind == "batch" and not forward.training:
            rm, rv = (np.broadcast_to(part[None, :, None], forward.x.shape) for part in forward.before)
            found.append((rm, rv))
        else:
            part = moments(Group(kind), forward.x)
            found.append((part.spread(part.mean), part.spread(part.var)))
    return found


def taken(rule: Normaliser, forward: Forward, life: Life) -> Taken:
    """What normalises each value."""
    if rule.source == "mixture":
        return mixed(rule, forward, life)
    found = moments_of(rule.group, forward)
    each = of_groups(rule, forward, found, life)
    return Taken(*(found.spread(part) for part in (each.mean, each.var, each.mean_error, each.var_error)))


def inverse(rule: Normaliser, var: Array) -> Array:
    sign = sign_of(rule)
    with np.errstate(all="ignore"):
        return sign / (np.sqrt(var) + rule.eps) if rule.placement == "outside" else sign / np.sqrt(var + rule.eps)


def sign_of(rule: Normaliser) -> float:
    return TWISTS[rule.twist].sign if rule.twist else 1.0


def output(rule: Normaliser, activation: Activation, forward: Forward, life: Life) -> tuple[Array, Array]:
    """(y, bound on its rounding) of a forward under a rule."""
    use = taken(rule, forward, life)
    gamma, beta = forward.affine
    with np.errstate(all="ignore"):
        r = inverse(rule, use.var)
        h = (forward.x - use.mean) * r
        z = gamma * h + beta
        y = activation(z)
        unit = OUTPUT_ROUNDINGS * life.u
        size = np.abs(gamma * r)
        bound = unit * (size * (np.abs(forward.x) + np.abs(use.mean)) + np.abs(beta) + np.abs(z))
        bound += size * use.mean_error
        bound += np.abs(gamma * h) * np.minimum(r**2 * use.var_error, 1.0)
    return y, bound


def reproduces(rule: Normaliser, activation: Activation, forwards: Sequence[Forward], life: Life) -> bool:
    """Whether every output comes out within its bound; NaN as NaN."""
    for forward in forwards:
        y, bound = output(rule, activation, forward, life)
        if not np.all((np.abs(y - forward.y) <= bound) | (np.isnan(y) & np.isnan(forward.y))):
            return False
    return True


def hypotheses(
    shown: Sequence[Shown], group: Group, source: str, life: Life, within: Group | None = None, twist: str = ""
) -> Iterator[Normaliser]:
    """The rules of one group and source that stand before the replay, the most usual first."""
    if len(shown) * shown[0].forward.x.shape[1] < FEWEST_LINES.get(source, 1):
        return
    base = Normaliser(group=group, source=source, within=within or Group(), eps=life.eps, twist=twist)
    if not begins(base, shown[0], life):
        return
    found = [moments_of(group, one.forward) for one in shown]
    lines = [turned(base, solution(one, part, life.u)) for one, part in zip(shown, found, strict=True)]
    if not all(line.straight and line.known.any() for line in lines):
        return
    if source == "blend":
        weight = blend_weight(shown, found, lines, life)
        if weight is None:
            return
        base = replace(base, shares=(weight,))
    if source == "renorm":
        base = replace(base, shares=limits(shown, found, lines, life))
    pairs = list(zip(shown, found, lines, strict=True))
    stands = []
    for divisor in ("n", "n-1") if source in ("batch", "blend", "within") else ("n",):
        rule = replace(base, divisor=divisor)
        each = [(line, of_groups(rule, one.forward, part, life)) for one, part, line in pairs]
        if not all(means_fit(line, use) for line, use in each):
            return
        for placement in ("inside", "outside"):
            for eps in common_eps(each, placement, life.eps):
                stands.append(replace(rule, placement=placement, eps=eps))
    if twist or source in ODD:
        stands = [rule for rule in stands if (rule.eps, rule.placement) == (life.eps, "inside")]
    yield from sorted(stands, key=lambda rule: departures(rule, life))


def begins(rule: Normaliser, first: Shown, life: Life) -> bool:
    """Whether the first forward allows it: most hypotheses fall here, before any other forward is looked at."""
    found = moments_of(rule.group, first.forward)
    line = solution(first, found, life.u)
    if not (line.straight and line.known.any()):
        return False
    fitted = rule.source in FEWEST_LINES
    return fitted or means_fit(line, of_groups(rule, first.forward, found, life))


def turned(rule: Normaliser, line: Lines) -> Lines:
    """As it reads where the sign of all is reversed."""
    return replace(line, r=sign_of(rule) * line.r)


def departures(rule: Normaliser, life: Life) -> int:
    return (rule.divisor != "n") + (rule.placement != "inside") + (rule.eps != life.eps)


def means_fit(line: Lines, use: Taken) -> bool:
    good = line.known
    gap = np.abs(line.m - use.mean)[good]
    return bool(np.isfinite(gap).all() and np.all(gap <= 2.0 * (line.m_error + use.mean_error)[good]))


def common_eps(each: Sequence[tuple[Lines, Taken]], placement: str, asked: float) -> list[float]:
    """What the one eps of all groups can be: the one asked for, 0, and as measured, in few digits and in all."""
    low, high = -math.inf, math.inf
    for line, use in each:
        good = line.known & (line.r > 0) & (use.var >= 0)
        if not good.all() and not (line.r[line.known] > 0).all():
            return []
        r, relative, var, error = line.r[good], line.r_error[good], use.var[good], use.var_error[good]
        if placement == "inside":
            middle, slack = 1.0 / r**2 - var, 2.0 * (2.0 * relative / r**2 + error)
        else:
            root = np.sqrt(var)
            middle = 1.0 / r - root
            slack = 2.0 * (relative / r + np.fmin(error / np.maximum(root, 1e-300), np.sqrt(error)))
        lo, hi = meet(middle - slack, middle + slack)
        low, high = max(low, float(lo)), min(high, float(hi))
    if not low <= high or high < 0:
        return []
    middle_one = 0.5 * (low + high)
    # A number of few digits at the edge of what the lines allow may miss by a rounding what the middle makes.
    measured = (shortest(low, high), middle_one) if known(low, high) else (middle_one,)
    return list(dict.fromkeys(eps for eps in (asked, 0.0, *measured) if low <= eps <= high))


def one_factor(rule: Normaliser, shown: Sequence[Shown], life: Life) -> tuple[float, float]:
    """From where to where one factor can lie that makes all lines of 1/√(variance + the eps that was asked for); low
    above high: none does."""
    low, high = 0.0, math.inf
    for one in shown:
        found = moments_of(rule.group, one.forward)
        line, use = solution(one, found, life.u), of_groups(rule, one.forward, found, life)
        good = line.known & (line.r > 0) & (use.var + life.eps > 0)
        due = use.var[good] + life.eps
        factor = 1.0 / (line.r[good] ** 2 * due)
        slack = factor * 2.0 * (2.0 * line.r_error[good] + use.var_error[good] / due)
        lo, hi = meet(factor - slack, factor + slack) if good.any() else (low, high)
        low, high = max(low, float(lo)), min(high, float(hi))
    return low, high


def blend_weight(shown: Sequence[Shown], found: Sequence[Moments], lines: Sequence[Lines], life: Life) -> float | None:
    """Weight of the batch in m = w·batch + (1 − w)·running; None where there is no one weight between 0 and 1."""
    low, high = -math.inf, math.inf
    for one, part, line in zip(shown, found, lines, strict=True):
        good = line.known
        rm = one.forward.before[0][part.channel]
        error = moment_errors(part, life.u)[0] + life.u * np.abs(rm)
        lo, hi = quotient(
            (line.m - rm)[good], 2.0 * (line.m_error + error)[good], (part.mean - rm)[good], 2.0 * error[good]
        )
        lo, hi = meet(lo, hi)
        low, high = max(low, float(lo)), min(high, float(hi))
    if not low <= high or not low > 0.0 or not high < 1.0:
        return None
    return shortest(low, high)


def limits(shown: Sequence[Shown], found: Sequence[Moments], lines: Sequence[Lines], life: Life) -> tuple[float, float]:
    """The limits that r and d of a renormalisation are clipped to: the largest that are seen; beyond any where none
    is at its limit."""
    most_r, most_d, clipped_r, clipped_d = 1.0, 0.0, False, False
    for one, part, line in zip(shown, found, lines, strict=True):
        good = line.known & (line.r > 0)
        rm, rv = (state[part.channel][good] for state in one.forward.before)
        own, other = np.sqrt(part.var[good] + life.eps), np.sqrt(np.maximum(rv + life.eps, 1e-300))
        r, d = line.r[good] * own, (part.mean[good] - line.m[good]) * line.r[good]
        slack = 1e-3
        clipped_r |= bool(np.any(np.abs(np.log(r)) < np.abs(np.log(own / other)) - slack))
        clipped_d |= bool(np.any(np.abs(d) < np.abs(part.mean[good] - rm) / other - slack))
        most_r = max(most_r, float(np.max(np.maximum(r, 1.0 / r), initial=1.0)))
        most_d = max(most_d, float(np.max(np.abs(d), initial=0.0)))
    return (rounded(most_r) if clipped_r else NO_LIMIT), (rounded(most_d) if clipped_d else NO_LIMIT)


def rounded(value: float) -> float:
    """A limit that somebody wrote has few digits."""
    near = float(f"{value:.3g}")
    return near if abs(near - value) <= 1e-4 * max(abs(value), 1e-3) else value


def mixture(shown: Sequence[Shown], life: Life) -> Iterator[Normaliser]:
    """Weights of instance, layer and batch statistics (in eval of what is held), by least squares over all lines."""
    rows_m, rows_v, m, v = [], [], [], []
    for one in shown:
        part = moments(Group("sample"), one.forward.x)
        line = solution(one, part, life.u)
        good = line.known & (line.r > 0)
        if not line.straight or good.sum() < 6:
            return
        first = np.unique(part.ids, return_index=True)[1]
        parts = parts_of_mixture(one.forward)
        rows_m.append(np.stack([mean.ravel()[first][good] for mean, _ in parts], axis=1))
        rows_v.append(np.stack([var.ravel()[first][good] for _, var in parts], axis=1))
        m.append(line.m[good])
        v.append(1.0 / line.r[good] ** 2 - life.eps)
    shares = [weights(np.concatenate(a), np.concatenate(b)) for a, b in ((rows_m, m), (rows_v, v))]
    if all(one is not None for one in shares):
        yield Normaliser(source="mixture", shares=(*(shares[0] or ()), *(shares[1] or ())), eps=life.eps)


def weights(rows: Array, wanted: Array) -> tuple[float, float, float] | None:
    """Three weights that are not negative and sum to 1; None where the best ones are none."""
    if not (np.isfinite(rows).all() and np.isfinite(wanted).all()):
        return None  # no line is mixed of what is not finite, and LAPACK gives up on it
    found, _, rank, _ = np.linalg.lstsq(rows, wanted, rcond=None)
    if rank < 3 or abs(found.sum() - 1.0) > 1e-3 or (found < -1e-3).any() or (found > 0.999).any():
        return None
    near = np.round(found, 4)
    best = near if abs(near.sum() - 1.0) < 1e-9 and np.abs(near - found).max() < 2e-5 else found
    return float(best[0]), float(best[1]), float(best[2])
