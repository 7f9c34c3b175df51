"""Eval still normalises with what the running statistics started from.

Signature: a batch that the layer was trained on comes out of eval as if it were another network's: its own mean and
deviation are far from the running ones, and what separates them is the start. After k updates of weight a an
exponential average holds (1 − a)^k of its initial value: 95 % after five updates of 0.01, 35 % after a hundred. Nothing
is wrong with the layer, and every target has it; training is fine, because it normalises with the batch. In a program
that was watched the average is taken apart: what it started from, and each batch with the weight that it has in it.

What to do: train longer before you evaluate, give new batches more weight, average cumulatively (torch: momentum=None),
or estimate the statistics anew over the training data (torch.optim.swa_utils.update_bn) before you evaluate or export.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bncheck.diagnosis.lived.evaluation import Evaluation
from bncheck.diagnosis.lived.judged import Lived
from bncheck.diagnosis.rules.gaps import Reason, about_gap, anew, weighing
from bncheck.diagnosis.rules.holdings.start import few_updates
from bncheck.diagnosis.rules.holdings.words import of_holding
from bncheck.diagnosis.rules.leftover import batch_weight
from bncheck.diagnosis.rules.lives.unseen import start_in_the_state
from bncheck.diagnosis.rules.lives.words import of_life
from bncheck.diagnosis.rules.movement import holds_training, moved
from bncheck.diagnosis.rules.revealed import eps_rows
from bncheck.diagnosis.rules.roundoff import HALF
from bncheck.diagnosis.rules.wording import names, number, percent, targets
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.life import Holding, Life
from bncheck.scenario import op_of
from bncheck.trace import Array, Trace

CODE = "BN118"
CAUSE = "few-updates"
EXPLAINS = ()
# How many deviations a batch's mean lies off, or by what factor its deviation, before eval gives something else.
FAR, FACTOR = 1.0, 2.0
# The start has to make up most of the gap: what batches differ by among themselves is no matter of updates.
MOST = 0.5


@dataclass(frozen=True)
class Gap:
    """Between what eval normalises a batch with and the batch itself, in units of what eval divides by."""

    event: int
    updates: int
    weight: float
    left: float  # share of the start in the running statistics
    distance: float  # largest |mean of the batch − running mean|, in deviations
    factor: float  # largest factor between the two deviations, either way
    share: float  # of the gap, that goes with the start


def check_cell(cell: CellView) -> Iterator[Finding]:
    for layer in cell.trace.layers if cell.trace is not None else ():
        assert cell.trace is not None
        gap = gap_of(cell, cell.trace, layer)
        if gap is None:
            continue
        off = f"its mean is {number(gap.distance)} deviations off"
        if gap.distance < FAR:
            off = f"its deviation is off by a factor of {number(gap.factor)}"
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="hazard",
            title=(
                f"{names(cell.members)}: after {gap.updates} {'update' if gap.updates == 1 else 'updates'} of weight "
                f"{number(gap.weight)} the running statistics of {layer} still hold {percent(gap.left)} of what they "
                f"started from. Eval sees a batch that {layer} was trained on, and {off}. Without the start "
                f"{percent(gap.share)} of that is gone."
            ),
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=layer,
            event=gap.event,
            quantity="output",
            evidence={
                "updates": gap.updates,
                "weight of a batch": gap.weight,
                "share of the start that is left": gap.left,
                "mean, in deviations": gap.distance,
                "deviation, factor": gap.factor,
                "share of the gap that is the start's": gap.share,
            },
            advice="train longer before you evaluate, average cumulatively, or estimate the statistics anew over the "
            "training data",
        )


def gap_of(cell: CellView, trace: Trace, layer: str) -> Gap | None:
    """The gap at the first evaluation of a batch that was trained on, where the start makes most of it."""
    names_of = ("running_mean", "running_var", "input_mean", "input_var")
    rows = [trace.get(layer, name) for name in names_of]
    weight, event = batch_weight(cell, layer), trained_on_before(cell, trace, layer)
    if event is None or not weight or any(row is None for row in rows) or not averages_once(cell):
        return None
    mean, var, m, v = (np.asarray(row, dtype=np.float64) for row in rows if row is not None)
    if mean.shape[1:] != m.shape[1:]:
        return None
    moves = moved(trace, layer, "running_mean") | moved(trace, layer, "running_var")
    updates = int(moves[:event].sum())
    left = (1.0 - weight) ** updates
    eps = float(eps_rows(cell, layer, len(trace.events))[event])
    measured = apart(m[event], v[event], mean[event], var[event], eps)
    if not updates or left >= 1.0 or measured is None or (measured[0] < FAR and measured[1] < FACTOR):
        return None
    # The average of the batches alone; with it the start's part and the batches' add up to the gap.
    without = ((row[event] - left * row[0]) / (1.0 - left) for row in (mean, var))
    share = 1.0 - remaining(m[event], v[event], mean[event], var[event], *without)
    if not share >= MOST:
        return None
    return Gap(
        event=event,
        updates=updates,
        weight=weight,
        left=left,
        distance=measured[0],
        factor=measured[1],
        share=min(share, 1.0),
    )


def averages_once(cell: CellView) -> bool:
    """Whether an average is the exponential one, moved once per event, or not known to be another."""
    known = [cell.convention.value(name) if cell.convention else None for name in ("averaging", "updates_per_event")]
    return known[0] in (None, "exponential") and known[1] in (None, 1)


def trained_on_before(cell: CellView, trace: Trace, layer: str) -> int | None:
    """The first evaluation of a batch that a training forward took in before; None where there is none."""
    seen: set[tuple[object, int]] = set()
    for event, (asked, record) in enumerate(zip(cell.case.events, trace.events, strict=False)):
        if op_of(record.op).reads != "next" or record.status != "ok":
            continue
        spec = cell.case.inputs.get(asked.input)
        batch = (asked.input, asked.batch if spec is not None and spec.batches == "distinct" else 0)
        if holds_training(trace, layer, event):
            seen.add(batch)
        elif batch in seen and holds_training(trace, layer, event) is False:
            return event
    return None


def apart(m: Array, v: Array, mean: Array, var: Array, eps: float) -> tuple[float, float] | None:
    """(largest distance of the means in deviations that eval divides by, largest factor between deviations) of channels
    whose batch varies; None where eval divides by nothing."""
    spread = var + eps
    varies = v > 1e-6 * (m * m + 1e-300)
    if not np.isfinite(m + v + mean + var).all() or not (spread > 0).all() or not varies.any():
        return None
    ratio = np.sqrt((v + eps) / spread)[varies]
    distance = float((np.abs(m - mean) / np.sqrt(spread))[varies].max())
    return distance, float(np.maximum(ratio, 1.0 / np.maximum(ratio, 1e-300)).max())


def remaining(m: Array, v: Array, mean: Array, var: Array, other_mean: Array, other_var: Array) -> float:
    """Share of the gaps of means and deviations that is left when eval normalises with the other statistics."""

    def gap(at: Array, of: Array) -> float:
        scale = np.sqrt(np.maximum(v, 0.0)) + 1e-300
        means, spreads = np.abs(m - at), np.abs(np.sqrt(np.maximum(of, 0.0)) - np.sqrt(np.maximum(v, 0.0)))
        return float(np.mean((means + spreads) / scale))

    before = gap(mean, var)
    return gap(other_mean, other_var) / before if before > 0 else 1.0


def check_holding(holding: Holding) -> list[Finding]:
    """By count and momentum alone: what a model holds says how much of its start is left."""
    return of_holding(holding, CODE, CAUSE, [few_updates(holding)])


def check_life(life: Life) -> list[Finding]:
    return about_gap(life, CODE, CAUSE, start_left) + of_life(life, CODE, CAUSE, [start_in_the_state(life)])


def start_left(life: Life, layer: Lived, ev: Evaluation) -> Reason:
    assert ev.average is not None and ev.gap is not None
    updates, left = ev.average.updates, ev.average.left
    after = f"After {updates} {'update' if updates == 1 else 'updates'}{weighing(layer)}"
    narrow = layer.record.u_state >= HALF
    exact = (
        f"{after} the running statistics still hold {percent(left)} of what they started from, and that accounts for "
        f"{percent(min(ev.gap.share('start'), 1.0))} of it."
    )
    rounded = (
        f"{after} an average still holds {percent(left)} of what it started from. These statistics are kept in half "
        "precision, where small steps are lost besides: how much each of the two accounts for cannot be told."
    )
    also = ", with the statistics in float32" if narrow else ""
    return Reason(
        says=rounded if narrow else exact,
        advice=f"{anew(life)} before you evaluate, train longer, or give a new batch more weight{also}",
        part="start",
        evidence={"updates": updates, "share of the start that is left": left},
    )
