"""What is averaged into the running variance is not the variance.

Signature: with a well-chosen input (state not (0, 1), distinct batches, small n) one of standard deviation, inverse
standard deviation, E[x²], or mean and variance swapped fits to rounding, and the variance does not by decades. On
all-ones input everything fits, so nothing is claimed there: most reports of "swapped" statistics are update-phase.

What to do: convert before you load the statistics elsewhere (square it; 1/s² − eps; subtract the squared mean), or
correct the implementation. Auxiliary outputs called "var" often hold 1/sqrt(var + eps).
"""

from collections.abc import Iterable

from bncheck.diagnosis.lived.departures import Departure
from bncheck.diagnosis.rules.attributed import Side, differing_facets
from bncheck.diagnosis.rules.departing import about_departures
from bncheck.diagnosis.rules.dissected import departing
from bncheck.diagnosis.rules.wording import names, verb
from bncheck.evidence import PairView
from bncheck.finding import Finding
from bncheck.life import Life

CODE = "BN108"
CAUSE = "wrong-statistic"
EXPLAINS = ("statistics", "outputs")
FOLLOWS_FROM = ("refused",)
NEEDS_CONVENTIONS = True
ADVICE = "convert the statistic before loading it elsewhere, or correct the implementation"
WORDS = {
    "variance": "the variance",
    "std": "the standard deviation",
    "inverse-std": "the inverse standard deviation",
    "second-moment": "E[x²]",
    "swapped": "the mean into running_var and the variance into running_mean",
}


def check_pair(pair: PairView) -> Iterable[Finding]:
    found = list(differing_facets(pair, CODE, CAUSE, ("statistic",), sentence, ADVICE, usual=("variance",)))
    return found or departing(pair, CODE, CAUSE)


def sentence(x: Side, value: object, y: Side, other: object) -> str:
    words = [WORDS.get(str(item), str(item)) for item in (value, other)]
    if {value, other} == {"variance", "swapped"}:
        words = [each if each == WORDS["swapped"] else "each into its own" for each in words]
    return f"{names(x)} {verb(x, 'averages', 'average')} {words[0]}, {names(y)} {words[1]}."


STATISTICS = {
    "std": "the deviation",
    "inverse-std": "one over the deviation",
    "second-moment": "the mean of x²",
    "swapped": "the mean, and the variance into running_mean",
}


def check_life(life: Life) -> list[Finding]:
    return about_departures(life, CODE, CAUSE, not_the_variance)


def not_the_variance(found: Departure) -> tuple[str, str]:
    what = STATISTICS.get(str(found.value), str(found.value))
    return f"{{who}} average{{s}} {what} into running_var, not the variance.", "average the variance of the batch"
