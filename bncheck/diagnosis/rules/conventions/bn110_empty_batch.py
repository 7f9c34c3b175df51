"""An empty batch (n = 0) in a training forward, and no common answer to it.

Signature: a batch axis of 0. Some refuse, some leave the statistics alone (torch since 1.5, Paddle 3), some average the
mean of nothing, which is NaN for ever (Keras, Flax, ONNX Runtime, torch up to 1.4). A counter may advance although
nothing was averaged.

What to do: skip empty batches before they reach the layer; after one, check the running statistics for NaN.
"""

from collections.abc import Iterable, Iterator

from bncheck.diagnosis.rules.attributed import Side, differing_facets
from bncheck.diagnosis.rules.few_values import differences
from bncheck.diagnosis.rules.poison import poisonings
from bncheck.diagnosis.rules.wording import names, targets
from bncheck.evidence import CellView, PairView
from bncheck.finding import Finding

CODE = "BN110"
CAUSE = "empty-batch"
EXPLAINS = ("nan", "statistics", "counter", "outputs", "gradients", "events")
NEEDS_CONVENTIONS = True
FACETS = ("empty_batch",)
ADVICE = "skip empty batches before they reach the layer"


def check_pair(pair: PairView) -> Iterable[Finding]:
    found = list(differences(pair, CODE, CAUSE, 0, FACETS, "an empty batch", ADVICE))
    return found or differing_facets(pair, CODE, CAUSE, FACETS, sentence, ADVICE)


def sentence(x: Side, value: object, y: Side, other: object) -> str:
    return f"With an empty batch it is {value} in {names(x)}, {other} in {names(y)}."


def check_cell(cell: CellView) -> Iterator[Finding]:
    for item in poisonings(cell):
        if item.n != 0:
            continue
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="hazard",
            title=f"An empty batch turns {item.quantity} of {item.layer} in {names(cell.members)} into {item.word} "
            f"{item.aftermath}.",
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=item.layer,
            event=item.event,
            quantity=item.quantity,
            evidence=item.evidence,
            advice=f"{ADVICE}; reset the running statistics",
        )
