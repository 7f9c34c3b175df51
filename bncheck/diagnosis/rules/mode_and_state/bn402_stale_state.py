"""The statistics that are read, loaded or evaluated are old ones.

Signature: a flush alone changes what is read (an asynchronous engine had not finished), or statistics fall back to
their initial values, or an earlier snapshot, on reload, or in a copy (a teacher, an averaged model) that was brought up
to date and is used with them. The mode is right and the rule of the update too, only the values are not the latest. Or
a function that was called with the model put them back to the start. In a checkpoint: a mean of 0 and a variance of 1
in every channel, beside a counter that says how often it was trained. In a program that was watched: such statistics
are evaluated after a load that lacked them, after a reset, or in a copy whose weights follow the original's; or
averaged weights are evaluated with the statistics of those that were averaged, and outputs are off; or the
inputs of a layer move faster than its average follows, and replay shows that the latest training batches are far from
it.

What to do: wait for the engine (waitall, synchronize) before reading; save buffers together with parameters, and copy
them into averaged or teacher models as well. Where they lag behind the weights, estimate them anew before you evaluate.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from bncheck.diagnosis.lived.evaluation import Evaluation
from bncheck.diagnosis.lived.judged import Lived
from bncheck.diagnosis.rules import applications
from bncheck.diagnosis.rules.gaps import Reason, about_gap, anew, weight_of
from bncheck.diagnosis.rules.holdings import start
from bncheck.diagnosis.rules.holdings.words import of_holding
from bncheck.diagnosis.rules.lives import averages, behind
from bncheck.diagnosis.rules.lives.words import of_life
from bncheck.diagnosis.rules.movement import moved
from bncheck.diagnosis.rules.wording import names, number, percent, targets
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.life import Holding, Life
from bncheck.trace import STATISTICS, Array

CODE = "BN402"
CAUSE = "stale-state"
EXPLAINS = ("statistics", "counter", "evaluations")
ANOTHER, AT_FIRST = "another value", "still what it was at first"
SLACK = 1e-5  # some ULP of float32


def check_cell(cell: CellView) -> Iterator[Finding]:
    yield from applications.found(cell, CODE, CAUSE)
    for layer in cell.trace.layers if cell.trace is not None else ():
        found = next(lapses(cell, layer), None)
        if found is None:
            continue
        event, quantity, said, advice = found
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="hazard" if cell.case.events[event].arguments.get("drop") else "defect",
            title=f"{names(cell.members)}: {said}.",
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=layer,
            event=event,
            quantity=quantity,
            departs=cell.target,
            departs_from="itself",
            advice=advice,
        )
    yield from left_behind(cell)


def left_behind(cell: CellView) -> Iterator[Finding]:
    """A copy that was brought up to date is used with other statistics, or another counter, than the original's."""
    for layer in cell.trace.layers if cell.trace is not None else ():
        found = [item for quantity in (*STATISTICS, "counter") if (item := apart(cell, layer, quantity)) is not None]
        if not found:
            continue
        updates, first = found[0][0], found[0]
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="hazard",
            title=(
                f"{names(cell.members)}: after {len(updates)} updates the copy's {first[1]} of {layer} is {first[2]}: "
                f"{number(first[3])} where the original has {number(first[4])}."
            ),
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=f"{layer}@copy",
            event=updates[-1],
            quantity=first[1],
            explained=1.0 if first[2] != ANOTHER else None,
            evidence={
                "updates": len(updates),
                **{
                    f"{quantity} of {side}": value
                    for _, quantity, _, *values in found
                    for side, value in zip(("the copy", "the original"), values, strict=True)
                },
            },
            advice="copy buffers as they are whenever you average parameters, or estimate them anew for the copy",
            accounts=tuple((f"{layer}@copy", item[1]) for item in found),
        )


def apart(cell: CellView, layer: str, quantity: str) -> tuple[list[int], str, str, float, float] | None:
    """(updates, quantity, what the copy holds in words, its value, the original's) where the copy is used last, or at
    the end. A copy that trains on batches of its own has statistics of its own; what counts is what it is used with."""
    assert cell.trace is not None
    rows, second = cell.trace.get(layer, quantity), cell.trace.get(f"{layer}@copy", quantity)
    played = [(t, item.op) for t, item in enumerate(cell.trace.events) if item.status == "ok"]
    updates = [t for t, op in played if op == "update_copy"]
    if rows is None or second is None or not updates:
        return None
    own, copy = np.asarray(rows, np.float64), np.asarray(second, np.float64)
    trained = [t for t, op in played if op == "train_copy"]
    moves = any(not np.array_equal(copy[t], copy[t + 1], equal_nan=True) for t in trained)
    used = [t for t, op in played if op == "eval_copy" and t > updates[0]]
    for point in [*used[-1:], len(copy) - 1]:
        last = max(t for t in updates if t < point) + 1
        held = kept(own, copy[point], [t for t in updates if t < last], copy[0])
        if not differ(own, copy[point], own[last]) or not differ(own, copy[point], own[point]):
            continue
        if moves and (held != AT_FIRST or any(last <= t < point for t in trained)):
            continue
        return updates, quantity, held, float(copy[point].mean()), float(own[last].mean())
    return None


def differ(own: Array, one: Array, two: Array) -> bool:
    return bool(np.abs(one - two).max() > SLACK * (np.abs(two).max() + np.abs(own[0]).max()))


def kept(own: Array, held: Array, updates: Sequence[int], first: Array) -> str:
    """What the copy holds, in words."""
    if np.array_equal(held, first):
        return AT_FIRST
    snapshots = np.stack([own[t + 1] for t in updates])
    scale = float(np.abs(snapshots).max())
    mean = snapshots.mean(axis=0)
    if np.abs(mean - held).max() <= SLACK * scale or np.array_equal(np.floor(mean), held):
        return f"the average of the original's {len(updates)} at each update"
    return ANOTHER


def lapses(cell: CellView, layer: str) -> Iterator[tuple[int, str, str, str]]:
    assert cell.trace is not None
    updates = str(cell.convention.value("update_on") or "") if cell.convention is not None else ""
    for quantity in (*STATISTICS, "counter"):
        rows = cell.trace.get(layer, quantity)
        for event in np.flatnonzero(moved(cell.trace, layer, quantity)) if rows is not None else ():
            record = cell.trace.events[event]
            if record.op == "flush" and "flush" not in updates:
                said = f"a flush alone changes {quantity} of {layer}: what was read before it was old"
                yield int(event), quantity, said, "wait for the engine before you read the statistics"
            if record.op == "reload" and record.status == "ok":
                said = f"{quantity} of {layer} is {_which(np.asarray(rows), int(event))} after save and reload"
                yield int(event), quantity, said, "save and load the buffers together with the parameters"


def _which(rows: Array, event: int) -> str:
    """Which earlier snapshot the state after the event equals, in words."""
    same = [point for point in range(event + 1) if np.array_equal(rows[point], rows[event + 1])]
    if not same:
        return "another value"
    return "its initial value again" if same[0] == 0 else f"what it was after event {same[0] - 1}"


def check_holding(holding: Holding) -> list[Finding]:
    """A counter that says trained, beside the statistics of a new layer."""
    return of_holding(holding, CODE, CAUSE, [start.lost(holding)])


def check_life(life: Life) -> list[Finding]:
    """Evaluations with statistics that were not loaded, were reset, or did not follow the weights."""
    causes = (behind.lost_on_load, behind.back_to_start, behind.left_behind, behind.new_beside_trained, averages.unlike)
    said = of_life(life, CODE, CAUSE, [cause(life) for cause in causes])
    return [*said, *about_gap(life, CODE, CAUSE, lagging)]


def lagging(life: Life, layer: Lived, ev: Evaluation) -> Reason:
    assert ev.gap is not None
    weight = weight_of(layer)
    span = f" average about {number(round(1 / weight))} batches and" if weight and weight < 1 else ""
    return Reason(
        says=(
            f"The weights before it move faster than its running statistics, which{span} lag behind; that accounts for "
            f"{percent(ev.gap.share('lag'))} of it."
        ),
        advice=f"{anew(life)} before you evaluate, give a new batch more weight, or lower the learning rate towards "
        f"the end",
        part="lag",
        evidence={"weight of a new batch": weight} if weight is not None else {},
    )
