"""A running statistic overflows on finite data.

Signature: the input is finite, running_var becomes Inf (not NaN), and eval then returns exactly beta, because
1/sqrt(Inf) is 0: a network that answers the same for every input. If the float64 variance fits into the buffer's
dtype, an intermediate sum overflowed, and the implementation is at fault; if it does not, the data are. A file that was
converted to float16 holds Inf where a variance was above 65504.

What to do: scale the input, or keep statistics and their sums in float32 (float64 for float32 data of 1e19 and more).
"""

from collections.abc import Iterator

import numpy as np

from bncheck.diagnosis.rules.born import overflows
from bncheck.diagnosis.rules.holdings import damage
from bncheck.diagnosis.rules.holdings.words import of_holding
from bncheck.diagnosis.rules.lives import spoilt
from bncheck.diagnosis.rules.lives.words import of_life
from bncheck.diagnosis.rules.poison import Poisoning, poisonings
from bncheck.diagnosis.rules.roundoff import LARGEST
from bncheck.diagnosis.rules.wording import names, number, targets
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.life import Holding, Life

CODE = "BN302"
CAUSE = "overflow"
EXPLAINS = ("nan", "statistics", "outputs", "gradients")


def check_cell(cell: CellView) -> Iterator[Finding]:
    for item in poisonings(cell):
        if not overflows_room(cell, item):
            continue
        size, room = largest_statistic(cell, item), room_of(cell, item)
        fits = size < room
        # It happens where the batch is summed, which an output may show before the buffer does.
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="defect" if fits else "hazard",
            title=f"{item.quantity} of {item.layer} in {names(cell.members)} overflows on finite data "
            f"(float64: {number(size)}, the buffer holds up to {number(room)}) {item.aftermath}.",
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=item.layer,
            event=item.forward,
            quantity=item.quantity,
            departs=cell.target if fits else "",
            departs_from="arithmetic" if fits else "",
            evidence={"float64 statistic": size, "largest number": room, "channels": item.channels},
            advice="scale the input, or keep the statistics and their sums in a wider dtype",
        )


def overflows_room(cell: CellView, item: Poisoning) -> bool:
    """Inf out of finite data, or NaN (Inf - Inf), is an overflow only where squares of the data leave the range: a
    division by zero gives an Inf too."""
    if item.event < 0 or item.input_bad or item.n < 2 or item.forward is None:
        return False
    return overflows(cell, item.layer, item.forward) or not largest_statistic(cell, item) < room_of(cell, item)


def largest_statistic(cell: CellView, item: Poisoning) -> float:
    """The largest float64 E[x²] (for the variance) or |mean| of the batch that was taken in."""
    assert cell.trace is not None and item.forward is not None
    means, variances = (cell.trace.get(item.layer, name) for name in ("input_mean", "input_var"))
    if means is None or variances is None:
        return float("nan")
    mean, var = means[item.forward], variances[item.forward]
    value = np.abs(mean) if item.quantity == "running_mean" else var if item.infinite else var + mean * mean
    return float(np.max(value, initial=0.0))


def room_of(cell: CellView, item: Poisoning) -> float:
    assert cell.trace is not None
    return LARGEST.get(cell.trace.dtype_of(f"{item.layer}/{item.quantity}"), LARGEST["float64"])


def check_holding(holding: Holding) -> list[Finding]:
    """A variance of Inf in a buffer of half precision."""
    return of_holding(holding, CODE, CAUSE, [damage.overflow(holding)])


def check_life(life: Life) -> list[Finding]:
    """A finite batch whose squares are beyond the range of the buffer."""
    return of_life(life, CODE, CAUSE, [spoilt.overflow(life)])
