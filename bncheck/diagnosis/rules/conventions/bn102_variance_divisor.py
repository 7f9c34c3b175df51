"""The running variance averages Σ(x − mean)²/n on one side and Σ(x − mean)²/(n − 1) on the other.

Signature: running means agree, running variances differ by the factor n/(n − 1), which shrinks as n grows (2 at n = 2,
1.0001 at n = 10,000). Both sides normalise the training batch with the divisor n. A precision problem does not follow
that ratio. An own layer that takes n as all elements of the batch (numel) instead of one channel's has N/(N − 1) with
N = n·channels there.

What to do: nothing if n is large. Otherwise multiply one side's batch variance by n/(n − 1) when you port statistics.
torch, mlx, cuDNN and TensorFlow's fused kernel divide by n − 1; MXNet on CPU, Keras 3, Flax, Paddle and ONNX by n.
"""

from collections.abc import Iterable, Iterator

from bncheck.diagnosis.lived.departures import Departure
from bncheck.diagnosis.rules.attributed import Side, differing_facets
from bncheck.diagnosis.rules.conventions.element_count import wrong_counts
from bncheck.diagnosis.rules.departing import about_departures
from bncheck.diagnosis.rules.dissected import departing
from bncheck.diagnosis.rules.wording import names, number, targets, verb
from bncheck.evidence import CellView, PairView
from bncheck.finding import Finding
from bncheck.life import Life

CODE = "BN102"
CAUSE = "variance-divisor"
EXPLAINS = ("statistics", "outputs")
FOLLOWS_FROM = ("refused",)
NEEDS_CONVENTIONS = True
USUAL = "that is averaged"
WITHIN = {
    "std": "whose root is averaged",
    "inverse-std": "of which one over the root is averaged",
    "second-moment": "within the E[x²] that is averaged",
}
ADVICE = "expect running variances that differ by n/(n - 1): 5 % at 20 values per channel, 0.1 % at 1,000"
OWN = (
    "normalise the batch with x.var(dims, unbiased=False), and average x.var(dims, unbiased=True) into running_var, as "
    "PyTorch's layer does"
)


def check_pair(pair: PairView) -> Iterable[Finding]:
    found = list(differing_facets(pair, CODE, CAUSE, ("variance_divisor",), sentence, ADVICE, own_advice=OWN))
    return found or departing(pair, CODE, CAUSE)


def check_cell(cell: CellView) -> Iterator[Finding]:
    for found in wrong_counts(cell):
        total = found.values * found.channels
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="defect",
            title=(
                f"{names(cell.members)} {verb(cell.members, 'corrects', 'correct')} the variance of {found.layer} "
                f"with the "
                f"wrong element count: {number(found.ratio)} is {total}/{total - 1}, of all {total} elements, where "
                f"{found.values}/{found.values - 1} is due, of the {found.values} values per channel."
            ),
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=found.layer,
            event=found.event,
            quantity="running_var",
            departs=cell.target,
            departs_from="arithmetic",
            evidence={"averaged / biased variance": found.ratio, "values per channel": found.values, "elements": total},
            advice="n is x.numel() / x.shape[1], the number of values of one channel",
        )


def sentence(x: Side, value: object, y: Side, other: object) -> str:
    divides, (one, two) = verb(x, "divides", "divide"), (averaged_by(x), averaged_by(y))
    rest = "" if one == two else f" the variance {two}"
    return f"{names(x)} {divides} the variance {one} by {value}, {names(y)}{rest} by {other}."


def averaged_by(side: Side) -> str:
    """Which variance it is: what is averaged may be another statistic that holds it."""
    statistics = {str(cell.convention.value("statistic")) for cell in side if cell.convention is not None}
    return WITHIN.get(statistics.pop(), USUAL) if len(statistics) == 1 else USUAL


def check_life(life: Life) -> list[Finding]:
    return about_departures(life, CODE, CAUSE, biased)


def biased(found: Departure) -> tuple[str, str]:
    says = f"{{who}} average{{s}} the variance with the divisor {found.value}, where {found.due} is due."
    return says, ADVICE
