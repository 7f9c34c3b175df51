"""Averages that nobody means: what goes into one beside a batch's variance, and weights that change from step to step.

Pure; ``memory.py`` asks here for one update, and for what there is to try where no usual average makes the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bncheck.trace import Array

MOST_SHOWN = 5  # weights of a schedule that a sentence says
ALIKE = 1e-4  # relative: two weights nearer than this are one


@dataclass(frozen=True)
class Statistic:
    """What is put in the place of the variance, in words. ``centre``: which running mean, "old" or "new" (before and
    after its own update), the squares are taken around; None for the batch's own. ``of_n``: its divisor needs no word.
    """

    says: str
    cause: str = "wrong-statistic"
    centre: str | None = None
    of_n: bool = False


STATISTICS: Mapping[str, Statistic] = {
    "std": Statistic("averages the standard deviation"),
    "logarithm": Statistic("averages the logarithm of the variance, which makes a geometric mean of it"),
    "square": Statistic("averages the mean of the squares, without subtracting the square of the mean", of_n=True),
    "with eps": Statistic("adds eps to the variance that it averages", cause="eps"),
    "around new": Statistic("averages the squares around running_mean, not around the batch's own mean", centre="new"),
    "around old": Statistic(
        "averages the squares around the running_mean of before, not around the batch's own mean", centre="old"
    ),
}
RARE = tuple(name for name in STATISTICS if name != "std")


def moved(averaging: str, statistic: str, state: Array, put: Array, weight: float) -> Array:
    """One update. ``statistic``: of what is averaged, "variance" for a mean as well."""
    if averaging == "added":
        return state + weight * put
    if statistic == "logarithm":
        with np.errstate(all="ignore"):
            return np.asarray(np.exp((1.0 - weight) * np.log(state) + weight * np.log(put)))
    return (1.0 - weight) * state + weight * put


def one_late(asked: float, k: int) -> float:
    return 1.0 / max(k - 1, 1)


def one_more(asked: float, k: int) -> float:
    return 1.0 / (k + 1)


def no_less(asked: float, k: int) -> float:
    return max(asked, 1.0 / k)


def warmed_up(asked: float, k: int) -> float:
    return 1.0 - min(1.0 - asked, k / (9.0 + k))


def warmed_up_late(asked: float, k: int) -> float:
    return warmed_up(asked, k + 1)


SCHEDULES: Sequence[tuple[Callable[[float, int], float], str]] = (
    (one_late, "1/(k - 1), as if batch k were the one before it"),
    (one_more, "1/(k + 1), as if what its statistics began with were a batch"),
    (no_less, "1/k, but no less than {asked:.4g}"),
    (warmed_up, "1 - k/(9 + k), but no less than {asked:.4g}"),
    (warmed_up_late, "1 - (1 + k)/(10 + k), but no less than {asked:.4g}"),
)


def formula(weights: Sequence[float], asked: float) -> str:
    """The words of the schedule that these are, of batch 1, 2, …; "" for none, or where two are alike."""
    found = [
        says.format(asked=asked)
        for made, says in SCHEDULES
        if all(near(weight, made(asked, k)) for k, weight in enumerate(weights, 1))
    ]
    return found[0] if len(found) == 1 else ""


def said_of_schedule(weights: Sequence[float], asked: float) -> str:
    more = ", …" if len(weights) > MOST_SHOWN else ""
    listed = ", ".join(f"{weight:.3g}" for weight in weights[:MOST_SHOWN]) + more
    known = formula(weights, asked)
    if known:
        return f"gives batch k a weight of {known} ({listed}), instead of {asked:.4g}"
    return f"gives each batch another weight ({listed}), instead of {asked:.4g}"


def near(one: float, two: float) -> bool:
    return abs(one - two) <= ALIKE * max(one, two)
