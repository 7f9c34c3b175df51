"""A new batch has a different weight in the running average.

Signature: mean and variance both approach the batch's values at another rate, after every kind of event, and counters
agree. If the two weights add up to 1, momentum was read in the opposite sense: in torch and MLX momentum is the weight
of the new batch (0.1), in Keras, Flax, MXNet, Paddle and ONNX that of the old average (0.9). If one weight is
1 − (1 − m)^k of the other and the counters say k, see update-count. In a user's own network a weight of a half and
more, or of 0, is said of it alone.

What to do: convert momentum when you port it: torch 0.1 is Keras 0.9. A weight of 0.99 forgets everything but the
last batch, a weight of 0 never learns.
"""

from collections.abc import Iterable

from bncheck.diagnosis.rules import handed_over
from bncheck.diagnosis.rules.attributed import Side, differing_facets
from bncheck.diagnosis.rules.counters import repeated_weight
from bncheck.diagnosis.rules.dissected import departing
from bncheck.diagnosis.rules.wording import names, number
from bncheck.evidence import CellView, PairView
from bncheck.finding import Finding

CODE = "BN106"
CAUSE = "batch-weight"
EXPLAINS = ("statistics", "outputs")
FOLLOWS_FROM = ("refused",)
NEEDS_CONVENTIONS = True
FACETS = ("batch_weight", "default_batch_weight")
ADVICE = "set the same weight on both sides; momentum is the new batch's weight in torch, the old average's in Keras"
OWN = "PyTorch's update is running = (1 - momentum) * running + momentum * batch, with momentum from the constructor"


def check_cell(cell: CellView) -> Iterable[Finding]:
    """A user's own network as it was handed over."""
    return handed_over.found(cell, CODE, CAUSE, handed_over.odd_weight)


def check_pair(pair: PairView) -> Iterable[Finding]:
    found = differing_facets(pair, CODE, CAUSE, FACETS, sentence, ADVICE, own_advice=OWN)
    repeated = {item.layer for item in departing(pair, "BN104", "update-count")}
    kept = [item for item in found if not (item.layer in repeated or repeated_weight(pair, item.layer))]
    return kept or departing(pair, CODE, CAUSE)


def sentence(x: Side, value: object, y: Side, other: object) -> str:
    text = f"A new batch weighs {number(value)} in {names(x)} and {number(other)} in {names(y)}"
    return (
        f"{text}: momentum read in the opposite sense ({number(value)} + {number(other)} = 1)."
        if opposite(value, other)
        else f"{text}."
    )


def opposite(value: object, other: object) -> bool:
    """Weights that add up to 1 and are not both one half."""
    if not isinstance(value, int | float) or not isinstance(other, int | float):
        return False
    return abs(value + other - 1.0) < 1e-3 and abs(value - other) > 1e-3
