"""One value per channel (n = 1) in a training forward, and no common answer to it.

Signature: a batch of one sample after Flatten, n = 1. torch and MLX refuse; an operator without that guard divides by
n − 1 = 0, so running_var becomes NaN although y is finite, and every later eval is NaN; MXNet, Keras, Flax and ONNX
give y = beta and shrink the variance; Paddle passes x through and updates nothing.

What to do: never train on a batch of one after Flatten: drop the last incomplete batch (drop_last), or run it in eval
mode. If a running_var is NaN already, reset it and re-estimate the statistics.
"""

from collections.abc import Iterable, Iterator

from bncheck.diagnosis.rules.attributed import Side, differing_facets
from bncheck.diagnosis.rules.few_values import differences
from bncheck.diagnosis.rules.lives import spoilt
from bncheck.diagnosis.rules.lives.words import of_life
from bncheck.diagnosis.rules.poison import poisonings
from bncheck.diagnosis.rules.wording import names, targets, verb
from bncheck.evidence import CellView, PairView
from bncheck.finding import Finding
from bncheck.life import Life

CODE = "BN109"
CAUSE = "single-value"
EXPLAINS = ("nan", "statistics", "counter", "outputs", "gradients", "events")
NEEDS_CONVENTIONS = True
FACETS = ("single_value", "single_value_state")
ADVICE = "do not train on one value per channel: drop the last incomplete batch, or run it in eval mode"


def check_pair(pair: PairView) -> Iterable[Finding]:
    found = list(differences(pair, CODE, CAUSE, 1, FACETS, "one value per channel", ADVICE))
    return found or differing_facets(pair, CODE, CAUSE, FACETS, sentence, ADVICE)


def sentence(x: Side, value: object, y: Side, other: object) -> str:
    return f"With one value per channel it is {value} in {names(x)}, {other} in {names(y)}."


def check_cell(cell: CellView) -> Iterator[Finding]:
    for item in poisonings(cell):
        if item.n != 1 or item.input_bad:
            continue
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="hazard",
            title=f"One value per channel turns {item.quantity} of {item.layer} in {names(cell.members)} into "
            f"{item.word} {item.aftermath}.",
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=item.layer,
            event=item.event,
            quantity=item.quantity,
            evidence=item.evidence,
            advice=f"{ADVICE}; reset {verb(cell.members, 'its', 'their')} running statistics",
        )


def check_life(life: Life) -> list[Finding]:
    """Training forwards with one value per channel, or never more than two."""
    return of_life(life, CODE, CAUSE, [spoilt.refused(life) or spoilt.few_values(life)])
