"""Whether a convolution is another with the BatchNorm behind it folded in:
``weight·gamma/sqrt(var + eps)`` and ``(bias − mean)·gamma/sqrt(var + eps) + beta``, verified in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bncheck.life import Held
from bncheck.trace import Array

# Roundings of float32 (2⁻²³) that folding takes at most: a square root, a division, two products, one sum.
ROUNDINGS = 16 * 2.0**-23
# In float16 a weight that is folded in its own arithmetic is off by 1.75 units in the last place of its size, a bias by
# 3.25; one that is folded in float32, of numbers that were all rounded to float16 afterwards, by less.
COARSE, FEW = 2.0**-11, 4
SUBNORMAL = FEW * 2.0**-24  # what a float16 below 6e-5 is off by
LARGEST_EPS = 1.0
USUAL_EPS = (1e-5, 1e-3, 1e-6, 1e-4, 2e-5, 1.001e-5, 1e-2, 1e-7, 1e-8, 1e-12, 0.0)


Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Fold:
    """``word``: "folded"; "start" (with mean 0 and variance 1 instead of what is held); "bare" (the convolution is as
    it was, and the BatchNorm is gone); "weights" (the weights are folded, the bias is another); "gain" (folded with
    another factor than gamma/sqrt(var + eps), or along another axis); "ahead" and "ahead, other bias" (the
    convolution lies behind the layer). ``fits`` is every eps that it can have been folded with, ``eps`` the likeliest
    of them."""

    word: str
    eps: float = 0.0
    fits: Range = (0.0, 0.0)
    lacks: str = ""  # of "weights" and "gain": what makes its bias, or its factor
    second: bool = False  # along the second of two axes that both have a number per channel
    outside: bool = False  # of "gain": its eps is added to the root, and not within it
    within: float = ROUNDINGS  # how far its weights may be off, relative, by the rounding of their type


def fold_of(
    weight: Array, bias: Array | None, norm: Held, other: Array, other_bias: Array | None, unit: float = 0.0
) -> Fold | None:
    """What ``other`` is, compared with ``weight`` (C, K) and the layer behind it; None where it is something else.

    ``weight`` and ``other`` have one row per channel; a bias is (C,) or None for 0. ``unit``: the spacing of the
    coarsest type that their numbers had, where it is coarser than that of the arrays (bfloat16 is read as float32)."""
    if weight.shape != other.shape or norm.running_var is None or norm.running_mean is None:
        return None
    slack = tolerance(weight, other, unit=unit)
    ratio = rows_ratio(weight.astype(np.float64), other.astype(np.float64), slack)
    if ratio is None:
        return None
    count = ratio.size
    gamma = np.ones(count) if norm.gamma is None else norm.gamma.astype(np.float64)
    beta = np.zeros(count) if norm.beta is None else norm.beta.astype(np.float64)
    mean, var = norm.running_mean.astype(np.float64), norm.running_var.astype(np.float64)
    before = np.zeros(count) if bias is None else bias.astype(np.float64)
    after = np.zeros(count) if other_bias is None else other_bias.astype(np.float64)
    if any(each.shape != (count,) for each in (gamma, beta, mean, var, before, after)):
        return None
    if np.abs(ratio - 1).max() <= slack and np.abs(after - before).max() <= slack * max(np.abs(before).max(), 1e-30):
        identity = np.abs(gamma / np.sqrt(np.maximum(var, 0) + 1e-5) - 1).max() <= slack
        if not identity:
            return Fold("bare")
    usual = eps_of(ratio, gamma, var, slack)
    wrong = None if usual else wrong_gain(ratio, gamma, var, norm.eps, slack)
    if wrong is not None and wrong.outside:  # next to the eps of a fold that is less exact
        gain = gamma / (np.sqrt(var) + wrong.eps)
        if is_bias(after, (before, mean, beta, gain), slack):
            return wrong
    found: Fold | None = None
    for word, m, v in (("folded", mean, var), ("start", np.zeros(count), np.ones(count))):
        loose = slack if slack > ROUNDINGS else 4 * slack  # of short numbers as much would hide what is wrong
        fits = eps_of(ratio, gamma, v, slack) or eps_of(ratio, gamma, v, loose)
        if fits is None:
            continue
        eps = eps_within(fits, norm.eps)[0]
        gain = gamma / np.sqrt(v + eps)
        if is_bias(after, (before, m, beta, gain), slack):
            return Fold(word, eps, fits, within=slack)
        if word == "folded":
            found = Fold("weights", eps, fits, mistake(after, (before, mean, beta, gain), slack))
    if found is not None or wrong is None:
        return found
    return also_bias(wrong, after, (before, mean, beta, ratio), gamma / np.sqrt(np.maximum(var, 0) + wrong.eps), slack)


def also_bias(wrong: Fold, after: Array, parts: tuple[Array, Array, Array, Array], right: Array, slack: float) -> Fold:
    """Wrong weights, and whether the bias beside them is that of the layer, by their factor or by the right one."""
    before, mean, beta, gain = parts
    either = [(before, mean, beta, each) for each in (right, gain)]
    if any(is_bias(after, each, slack) for each in either):
        return wrong
    what = next(filter(None, (mistake(after, each, slack) for each in either)), "")
    return replace(wrong, lacks=f"{wrong.lacks}, and the bias is wrong as well{f': {what}' if what else ''}")


def ahead_of(
    weight: Array, bias: Array | None, norm: Held, other: Array, other_bias: Array | None, unit: float = 0.0
) -> Fold | None:
    """Whether ``other`` is ``weight`` with the layer in front of it folded in: (O, C, …) both, with a bias of (O,) on
    one side at least, by which the first axis is known to be that of outputs. None where it is not."""
    outputs, count = weight.shape[:2]
    known = [each for each in (bias, other_bias) if each is not None]
    if not known or any(each.shape != (outputs,) for each in known) or norm.running_mean is None:
        return None
    rows = [each.swapaxes(0, 1).reshape(count, -1) for each in (weight, other)]
    fold = fold_of(rows[0], None, norm, rows[1], None, unit)
    if fold is None or fold.word not in ("folded", "weights") or norm.running_var is None:
        return None
    gamma = np.ones(count) if norm.gamma is None else norm.gamma.astype(np.float64)
    gain = gamma / np.sqrt(norm.running_var.astype(np.float64) + fold.eps)
    shift = (0.0 if norm.beta is None else norm.beta.astype(np.float64)) - norm.running_mean.astype(np.float64) * gain
    before, after = (np.zeros(outputs) if each is None else each.astype(np.float64) for each in (bias, other_bias))
    sums = weight.astype(np.float64).reshape(outputs, count, -1)
    slack = tolerance(weight, other, unit=unit)
    size = np.abs(before) + np.abs(sums).sum(2) @ np.abs(shift)
    if (np.abs(after - (before + sums.sum(2) @ shift)) <= slack * size + 1e-12).all():
        return replace(fold, word="ahead", lacks="", within=slack)
    return replace(fold, word="ahead, other bias", lacks="") if outputs != count else None


def is_bias(after: Array, parts: tuple[Array, Array, Array, Array], slack: float) -> bool:
    """Whether (before − mean)·gain + beta is that bias, up to rounding."""
    before, mean, beta, gain = parts
    size = np.abs(before * gain) + np.abs(mean * gain) + np.abs(beta)
    least = SUBNORMAL if slack > ROUNDINGS else 1e-12
    return bool((np.abs(after - ((before - mean) * gain + beta)) <= slack * size + least).all())


def wrong_gain(ratio: Array, gamma: Array, var: Array, own: float | None, slack: float) -> Fold | None:
    """What somebody forgot who made these weights, where one thing alone does make them. Of few factors and coarse
    numbers that is no proof: less than one in 10⁹ random ones may fit by chance."""
    unlike = np.unique(np.round(np.log(np.abs(ratio) + 1e-30) / (4 * slack))).size
    if (2 * slack) ** unlike > 1e-9 or not (var > 0).all():
        return None
    fitting: dict[str, float] = {}
    for eps in (own,) if own is not None else USUAL_EPS:
        root = np.sqrt(var + eps)
        gains = {
            "gamma was left out of the weights": 1 / root,
            "the weights are not divided by sqrt(var + eps)": gamma,
            "the weights are divided by var + eps, and not by its root": gamma / root**2,
            "the weights are multiplied by sqrt(var + eps), and not divided": gamma * root,
            "gamma was taken without its sign": np.abs(gamma) / root,
            "1 + gamma was taken for gamma": (1 + gamma) / root,
        }
        for word, gain in gains.items():
            if (np.abs(ratio - gain) <= slack * np.abs(gain)).all():
                fitting.setdefault(word, eps)
    out = next(
        (eps for eps in dict.fromkeys((own, *USUAL_EPS)) if eps and is_outside(ratio, gamma, var, eps, slack)), 0
    )
    if out:
        fitting[f"the weights are divided by sqrt(var) + {out:g}, and not by sqrt(var + eps)"] = out
    if len(fitting) != 1:
        return None
    ((word, eps),) = fitting.items()
    return Fold("gain", eps, (eps, eps), word, outside=bool(out))


def is_outside(ratio: Array, gamma: Array, var: Array, eps: float, slack: float) -> bool:
    gain = gamma / (np.sqrt(var) + eps)
    return bool((np.abs(ratio - gain) <= slack * np.abs(gain)).all())


def along_inputs(fold: Fold | None) -> Fold | None:
    """A fold that was found with the axes of a weight exchanged, where the first one is known to be that of outputs."""
    if fold is None or fold.word not in ("folded", "start"):
        return None
    lacks = "the factor lies along the input channels, and not along the output channels"
    return replace(fold, word="gain", lacks=lacks)


def mistake(after: Array, parts: tuple[Array, Array, Array, Array], slack: float) -> str:
    """What somebody forgot who made this bias, where one thing alone does make it; "" otherwise."""
    before, mean, beta, gain = parts
    size = np.abs(before) * (1 + np.abs(gain)) + np.abs(mean * gain) + np.abs(beta)
    biases = {
        "the running mean was left out": before * gain + beta,
        "beta was left out": (before - mean) * gain,
        "there is none": 0.0 * beta,
        "the running mean was added, and not subtracted": (before + mean) * gain + beta,
        "beta was subtracted, and not added": (before - mean) * gain - beta,
    }
    if before.any():  # nothing can be wrong with a bias that the convolution does not have
        biases |= {
            "the convolution's own bias was not scaled by gamma/sqrt(var + eps)": before - mean * gain + beta,
            "the convolution's own bias was left out": beta - mean * gain,
            "it is the bias that the convolution had before": before,
            "it is beta alone": beta,
        }
    fitting = [word for word, bias in biases.items() if (np.abs(after - bias) <= slack * size + 1e-12).all()]
    return fitting[0] if len(fitting) == 1 else ""


def tolerance(*arrays: Array, unit: float = 0.0) -> float:
    """What the coarsest of the types allows."""
    units = [max(unit, float(np.finfo(each.dtype).eps)) for each in arrays if each.dtype.kind == "f"]
    return max([(FEW if unit > COARSE else 16) * unit for unit in units], default=ROUNDINGS)


def rows_ratio(weight: Array, other: Array, slack: float) -> Array | None:
    """The factor of each row; None where a row is no multiple of the other."""
    square = (weight * weight).sum(1)
    if not (square > 0).all() or not np.isfinite(other).all():
        return None
    ratio: Array = (weight * other).sum(1) / square
    if not ratio.any():
        return None
    apart = np.abs(other - ratio[:, None] * weight).max(1)
    return ratio if (apart <= slack * np.abs(ratio) * np.abs(weight).max(1) + 1e-30).all() else None


def eps_of(ratio: Array, gamma: Array, var: Array, slack: float) -> Range | None:
    """Every eps with which gamma/sqrt(var + eps) is the ratio, up to rounding: (from, up to). None where there is
    none."""
    alive = (ratio != 0) & (gamma != 0)
    if not alive.any() or (gamma * ratio < 0).any() or ((ratio == 0) != (gamma == 0)).any():
        return None
    square, held = (gamma[alive] / ratio[alive]) ** 2, var[alive]
    low, high = float((square * (1 - 2 * slack) - held).max()), float((square * (1 + 2 * slack) - held).min())
    if low > high or high < 0 or low > LARGEST_EPS:
        return None
    return max(low, 0.0), high


def eps_within(fits: Range, own: float | None) -> tuple[float, ...]:
    """The eps that is meant: the layer's own where it fits, else every usual one that does, else the middle."""
    if own is not None and fits[0] <= own <= fits[1]:
        return (own,)
    return tuple(eps for eps in USUAL_EPS if fits[0] <= eps <= fits[1]) or (0.5 * (fits[0] + fits[1]),)
