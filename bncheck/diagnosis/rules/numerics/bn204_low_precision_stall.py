"""A running statistic stops short of its target: its steps are too small for the digits it has.

Signature: the buffer is bfloat16 or float16, the statistic freezes while the batch's value is still far away, and
a·|batch − state| is below half a unit in the last place of the state. Keeping at 16.25 with batches of mean 30 (weight
0.01, bfloat16) is an example. Stale statistics freeze at an earlier value from some event on, whatever the step. A
checkpoint with statistics in bfloat16 or float16 beside float32 parameters will do it when it is trained on.

What to do: keep running statistics in float32, whatever the rest of the network computes in.
"""

from collections.abc import Iterator

import numpy as np

from bncheck.diagnosis.rules.holdings import settings
from bncheck.diagnosis.rules.holdings.words import of_holding
from bncheck.diagnosis.rules.leftover import batch_weight
from bncheck.diagnosis.rules.lives import reach
from bncheck.diagnosis.rules.lives.words import of_life
from bncheck.diagnosis.rules.movement import forwards, holds_training, moved
from bncheck.diagnosis.rules.roundoff import unit
from bncheck.diagnosis.rules.wording import names, number, targets
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.life import Holding, Life

CODE = "BN204"
CAUSE = "low-precision-stall"
EXPLAINS = ("statistics", "evaluations")
# So many last steps must have had no effect.
STEPS = 3


def check_cell(cell: CellView) -> Iterator[Finding]:
    for layer in cell.trace.layers if cell.trace is not None else ():
        found = stalled(cell, layer)
        if found is None:
            continue
        event, held, target, step = found
        dtype = cell.trace.dtype_of(f"{layer}/running_mean") if cell.trace is not None else ""
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="hazard",
            title=f"running_mean of {layer} in {names(cell.members)} stalls at {number(held)} while the "
            f"batches' mean is {number(target)}: a step of {number(step)} is lost in rounding to {dtype}.",
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=layer,
            event=event,
            quantity="running_mean",
            evidence={"held": held, "batch mean": target, "step": step, "dtype": dtype},
            advice="keep the running statistics in float32",
        )


def stalled(cell: CellView, layer: str) -> tuple[int, float, float, float] | None:
    """(first event without effect, held, batch mean, step) of the channel furthest from its target; None if none."""
    assert cell.trace is not None
    rows, means = cell.trace.get(layer, "running_mean"), cell.trace.get(layer, "input_mean")
    weight = batch_weight(cell, layer)
    dtype = cell.trace.dtype_of(f"{layer}/running_mean") if rows is not None else "float64"
    if rows is None or means is None or not weight or unit(dtype) < unit("float16"):
        return None
    trained = [t for t in np.flatnonzero(forwards(cell.trace, layer)) if holds_training(cell.trace, layer, int(t))]
    if len(trained) <= STEPS or not moved(cell.trace, layer, "running_mean").any():
        return None
    states = np.asarray(rows, dtype=np.float64)[np.array(trained)]
    batches = means[np.array(trained)]
    held, target = states[-1], batches[-STEPS:]
    gap = np.abs(target - held).min(axis=0)
    still = (states[-STEPS:] == held).all(axis=0) & (np.asarray(rows, dtype=np.float64)[-1] == held)
    # Both products, their sum and 1 - a itself round, each by up to u·|s|. Measured on torch in bfloat16: it stops at
    # 16.25 below a batch mean of 30, where a step would be 1.1 ULP.
    short = weight * np.abs(target - held).max(axis=0) <= 4 * unit(dtype) * np.abs(held)
    lost = still & short & (gap > 8 * unit(dtype) * np.abs(held)) & np.isfinite(gap)
    if not lost.any():
        return None
    channel = int(np.argmax(np.where(lost, gap, -1)))
    frozen = np.flatnonzero(states[:, channel] != held[channel])
    first = trained[int(frozen[-1]) + 1] if len(frozen) else trained[0]
    return int(first), float(held[channel]), float(target[-1, channel]), float(weight * gap[channel])


def check_holding(holding: Holding) -> list[Finding]:
    """Running statistics in fewer digits than the parameters beside them."""
    return of_holding(holding, CODE, CAUSE, [settings.narrow(holding)])


def check_life(life: Life) -> list[Finding]:
    """Statistics in half precision that stand still."""
    return of_life(life, CODE, CAUSE, [reach.standing_still(life), reach.narrow(life)])
