"""How far honest arithmetic of a dtype may be off: derived bounds, not thresholds picked by eye.

u is the unit roundoff. A sum of n terms in any order errs by at most n·u·Σ|x|. Where the data vary by more than the
last digit of their partial sums the roundings are independent, and the error exceeds 8·√n·u·Σ|x| with a probability
below 1e-14. Data far from zero vary by less than that: adding them one after the other then errs the same way every
time (measured up to 7 times that bound at 70,000 values and mean/std 4e4; 22 standard deviations in a kernel of
torch). Sums in pairs or in blocks keep to it there too. So beyond it a sum has lost digits, which is a cause of its
own (BN207) and not rounding; and within it where more than half of the digits beside the mean are gone.
"""

from __future__ import annotations

import numpy as np

from bncheck.evidence import CellView
from bncheck.trace import Array

UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
HALF = UNIT_ROUNDOFF["float16"]
# Terms of a sum in half precision that are not added in a wider dtype, at most.
WIDER = 8.0
LARGEST = {"float64": 1.797e308, "float32": 3.4028e38, "float16": 65504.0, "bfloat16": 3.3895e38}


def unit(dtype: str) -> float:
    """u of a dtype; of anything that is no float the finest, so that nothing is excused by an odd name."""
    return UNIT_ROUNDOFF.get(dtype, UNIT_ROUNDOFF["float64"])


def coarsest(*dtypes: str) -> str:
    return max(dtypes, key=unit)


def summation(n: Array, u: float) -> Array:
    """Factor on u for a mean of n values (see the module's text); 8 more for the division and the rest.

    Half precision is summed in float32 wherever it is (measured on every target that takes it), and what is left is
    the rounding of each result: with its u of 4e-3 a sum of 1,024 values would excuse a sign that is wrong."""
    count = np.maximum(np.asarray(n, dtype=np.float64), 1.0)
    terms = np.minimum(count, 8.0 * np.sqrt(count))
    return np.minimum(terms, WIDER) + 8.0 if u >= HALF else terms + 8.0


def arithmetic_dtype(cell: CellView, *quantities: str) -> str:
    """The coarsest dtype that takes part: the case's, and the buffers' own. The reference says what it computes in."""
    own = str(cell.environment.get("accumulates") or cell.case.dtype)
    held = [cell.trace.dtype_of(name) for name in quantities if cell.trace is not None and name in cell.trace.arrays]
    return max([own, *held], key=unit)


def in_pairs(n: Array) -> Array:
    """The same for a sum in pairs, as NumPy and most frameworks add: log2(n) roundings, and some 16 in each end block
    of one by one. 8 more as above."""
    return np.asarray(np.log2(np.maximum(np.asarray(n, dtype=np.float64), 1.0)) + 24.0)


def visible(u: float) -> float:
    """Share of a standard deviation above which a mean has lost half of the digits that it had beside it."""
    return float(8.0 * np.sqrt(u))


def pairs_bound(mean: Array, var: Array, n: Array, u: float) -> Array:
    """|computed mean − mean| of a sum in pairs."""
    return np.asarray(u * np.minimum(in_pairs(n), summation(n, u)) * np.sqrt(mean * mean + var))


def pairs_variance_bound(mean: Array, var: Array, n: Array, u: float) -> Array:
    """|computed variance − variance| of Σ(x − m)²/n with sums in pairs."""
    own = 2 * u * np.minimum(in_pairs(n), summation(n, u)) * var
    return np.asarray(own + pairs_bound(mean, var, n, u) ** 2)


def one_by_one_bound(mean: Array, var: Array, n: Array, u: float) -> Array:
    """|computed mean − mean| of the worst way to add: nothing correct is further off."""
    return np.asarray(u * (np.asarray(n, dtype=np.float64) + 8.0) * np.sqrt(mean * mean + var))


def mean_bound(mean: Array, var: Array, n: Array, u: float) -> Array:
    """|computed mean − mean|: the mean of |x| is at most √(μ² + σ²)."""
    return np.asarray(u * summation(n, u) * np.sqrt(mean * mean + var))


def two_pass_bound(mean: Array, var: Array, n: Array, u: float) -> Array:
    """|computed variance − variance| of Σ(x − m)²/n: m·u of itself, plus the square of the mean's error."""
    return np.asarray(2 * u * summation(n, u) * var + mean_bound(mean, var, n, u) ** 2)


def one_pass_bound(mean: Array, var: Array, n: Array, u: float) -> Array:
    """The same for E[x²] − E[x]²: two numbers of size μ² + σ² are subtracted, which is κ² = μ²/σ² times worse."""
    return np.asarray(4 * u * summation(n, u) * (mean * mean + var))


def average_bound(largest: Array, updates: int, weight: float, u: float) -> Array:
    """Rounding of s ← (1 − a)·s + a·v over T updates: 3 u·|s| each, of which the last 1/a are remembered."""
    remembered = min(float(updates), 1.0 / weight if weight > 0 else float(updates))
    return np.asarray(3.0 * u * (remembered + 1.0) * largest)


def debiasing_bound(largest: Array, weight: float, u: float) -> Array:
    """Rounding of the division by 1 − (1 − a)^k of a zero-debiased average: the power errs by up to k + 1 roundings of
    itself and the difference is k·a at first, so the quotient is off by at most 3 u/a relatively."""
    return np.asarray(3.0 * u / max(weight, u) * largest)


def welford_bound(mean: Array, var: Array, n: Array, u: float) -> Array:
    """The same for one running pass (Welford, Chan): m·u·κ of itself, between two passes and E[x²] − E[x]²."""
    return np.asarray(two_pass_bound(mean, var, n, u) + 2 * u * summation(n, u) * np.sqrt(var * (mean * mean + var)))
