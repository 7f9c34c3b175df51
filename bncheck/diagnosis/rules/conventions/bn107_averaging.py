"""The running statistics are different kinds of average.

Signature: the weight of a batch depends on how many came before. Exponential: always a. Cumulative: 1/k at the k-th
update, so that the plain mean of all batches results (torch's momentum=None). Debiased: an exponential average from
zero divided by 1 − (1 − a)^k, so that the first weight is 1 (Haiku, Sonnet). From the second state on the curves
differ even if the long-run weight is the same.

What to do: choose the same average on both sides. An exported model may lose it: momentum=None is written to ONNX as
momentum 1.0, which never updates when training goes on.
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

CODE = "BN107"
CAUSE = "averaging"
EXPLAINS = ("statistics", "outputs")
FOLLOWS_FROM = ("refused",)
NEEDS_CONVENTIONS = True
ADVICE = "choose the same kind of average on both sides, or compare after many more than 1/a updates"


def check_pair(pair: PairView) -> Iterable[Finding]:
    found = list(differing_facets(pair, CODE, CAUSE, ("averaging",), sentence, ADVICE, usual=("exponential",)))
    return found or departing(pair, CODE, CAUSE)


def sentence(x: Side, value: object, y: Side, other: object) -> str:
    return f"{names(x)} {verb(x, 'keeps', 'keep')} a {value} average, {names(y)} {article(other)} {other} one."


def article(word: object) -> str:
    return "an" if str(word)[:1] in "aeiou" else "a"


def check_life(life: Life) -> list[Finding]:
    return about_departures(life, CODE, CAUSE, another_average)


def another_average(found: Departure) -> tuple[str, str]:
    says = (
        f"The running statistics of {{who}} are a {found.value} average, though momentum asks for an exponential one."
    )
    return says, "momentum=None is what asks for a cumulative average"
