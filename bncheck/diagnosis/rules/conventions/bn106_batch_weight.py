"""A new batch has a different weight in the running average.

Signature: mean and variance both approach the batch's values at another rate, after every kind of event, and counters
agree. If the two weights add up to 1, momentum was read in the opposite sense: in torch and MLX momentum is the weight
of the new batch (0.1), in Keras, Flax, MXNet, Paddle and ONNX that of the old average (0.9). If one weight is
1 − (1 − m)^k of the other and the counters say k, see update-count. In a user's own network a weight of a half and
more, or of 0, is said of it alone; so is one of a model that was handed over, in its framework's own
sense. In a program that was watched it is also measured: where the steps of a layer show another weight than it holds,
and where a weight near 1 leaves the chance of the last batches in the statistics and eval is far off by that. A layer
of your own may give a new batch one weight in the running mean and another in the running variance.

What to do: convert momentum when you port it: torch 0.1 is Keras 0.9. A weight of 0.99 forgets everything but the
last batch, a weight of 0 never learns.
"""

from collections.abc import Iterable

import numpy as np

from bncheck.diagnosis.lived.departures import Departure
from bncheck.diagnosis.lived.evaluation import Evaluation
from bncheck.diagnosis.lived.in_place import NEW_BATCH
from bncheck.diagnosis.lived.judged import Lived, lived
from bncheck.diagnosis.rules import handed_over
from bncheck.diagnosis.rules.attributed import Side, differing_facets
from bncheck.diagnosis.rules.counters import repeated_weight
from bncheck.diagnosis.rules.departing import about_departures
from bncheck.diagnosis.rules.dissected import departing
from bncheck.diagnosis.rules.gaps import Reason, about_gap, anew, weight_of
from bncheck.diagnosis.rules.holdings import settings
from bncheck.diagnosis.rules.holdings.words import of_holding
from bncheck.diagnosis.rules.layer_names import of_all
from bncheck.diagnosis.rules.lives.words import Said, of_life
from bncheck.diagnosis.rules.wording import names, number, percent
from bncheck.evidence import CellView, PairView
from bncheck.finding import Finding
from bncheck.life import Holding, Life

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


def check_holding(holding: Holding) -> list[Finding]:
    """A momentum that reads like another framework's, or cannot work."""
    return of_holding(holding, CODE, CAUSE, settings.odd_weights(holding))


def check_life(life: Life) -> list[Finding]:
    """A weight that is not the one that is held; one that leaves only chance in the statistics; one that reads like
    another framework's word."""
    found = about_departures(life, CODE, CAUSE, another_weight) + about_gap(life, CODE, CAUSE, of_the_last_batches)
    return found or of_life(life, CODE, CAUSE, [reads_like_the_other(life)])


def reads_like_the_other(life: Life) -> Said | None:
    """A weight of 0.9 and more, but not 1, which is set on purpose, in all training forwards with gradients."""
    layers = [layer for layer in lived(life) if forgets(layer)]
    if not layers:
        return None
    held, names_ = float(layers[0].record.momentum[-1]), tuple(layer.name for layer in layers)
    other = "Keras" if life.framework in NEW_BATCH else "PyTorch"
    return Said(
        layers=names_,
        title=f"momentum of {of_all(names_, life)} is {number(held)}: after each batch "
        f"{number(100 * (1 - (weight_of(layers[0]) or 0.0)))} % of the old average is left. A momentum of "
        f"{number(held)} in {other} is {number(1 - held)} here.",
        advice=f"set momentum to {number(1 - held)}, then {anew(life)}",
        quantity="momentum",
        evidence={"momentum": held},
    )


def forgets(layer: Lived) -> bool:
    record, weight = layer.record, weight_of(layer)
    trains = record.training & record.gradients & np.isfinite(record.momentum)
    return weight is not None and 0.9 <= weight < 1 and not layer.life.own and int(trains.sum()) >= 3


def of_the_last_batches(life: Life, layer: Lived, ev: Evaluation) -> Reason:
    assert ev.gap is not None
    weight = weight_of(layer)
    much = "much" if weight is None else number(weight)
    return Reason(
        says=(
            f"A new batch weighs {much} in the running average, so that the statistics are those of the last batches, "
            f"chance included; that accounts for {percent(ev.gap.share('noise'))} of it."
        ),
        advice=f"give a new batch less weight (0.1 is usual), or {anew(life)}",
        part="noise",
        quantity="momentum",
        evidence={"weight of a new batch": weight} if weight is not None else {},
    )


def another_weight(found: Departure) -> tuple[str, str]:
    weighs = f"A new batch weighs {number(found.value)} in the running average of {{who}}"
    return f"{weighs}; momentum says {number(found.due)}.", OWN
