"""Two networks, or two places of one network, hold the very same running statistics.

Signature: training a copy moves the statistics of the original (or the other way round), in an event that runs only one
of them; or two layers that see different batches hold equal statistics after every event, which are an average of both
layers' batches in turn. A copy that merely stopped following has old statistics; these are never apart. In a
checkpoint: statistics, gamma and beta of two layers are equal to the last bit; equal statistics alone come of equal
inputs. In a program that was watched: one layer under two names, and in each step unlike batches reach it. In a model
that is checked, or run as a whole: one layer that runs behind one module and before another, and elsewhere between two
others; where one of the two is the same each time, a whole part of the model runs more than once, and is meant to.

What to do: copy, do not alias: deepcopy a model before you export or adapt it, load a state dict without assign=True.
Give each place (and each kind of data that passes it) a BatchNorm layer of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from bncheck.diagnosis.rules.holdings import parts
from bncheck.diagnosis.rules.holdings.words import of_holding
from bncheck.diagnosis.rules.lives import reach
from bncheck.diagnosis.rules.lives.words import of_life
from bncheck.diagnosis.rules.mode_and_state.averages import averaged, roundoff, share, weight_of
from bncheck.diagnosis.rules.movement import moved
from bncheck.diagnosis.rules.wording import names, number, percent, targets
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.life import Holding, Life
from bncheck.scenario import OPS
from bncheck.trace import STATISTICS, Array, Trace

CODE = "BN408"
CAUSE = "shared-state"
EXPLAINS = ("statistics", "counter", "evaluations")
ORIGINAL = tuple(op.name for op in OPS if "state" in op.changes)
ON_THE_COPY = tuple(op.name for op in OPS if op.runs == "copy")
WAYS = {
    "export": "its exported program",
    "assign": "a network that was loaded with assign=True",
    "state_dict": "a network that was loaded from its state dict",
    "deepcopy": "its deep copy",
}


def check_cell(cell: CellView) -> Iterator[Finding]:
    if cell.trace is None:
        return
    for layer in cell.trace.layers:
        found = through_copy(cell, layer)
        if found is not None:
            event, quantity, size, sentence = found
            yield Finding(
                code=CODE,
                cause=CAUSE,
                kind="hazard",
                title=f"{names(cell.members)}: {sentence}",
                targets=targets(cell.members),
                scenario=cell.case.scenario,
                case=cell.case.name,
                layer=layer,
                event=event,
                quantity=quantity,
                explained=1.0,
                evidence={"moved by": size, "events": count(cell, layer)},
                advice="deepcopy the model first: the copy and the original then have buffers of their own",
            )
    for one, two in combinations([name for name in cell.trace.layers if "@" not in name], 2):
        yield from one_layer(cell, one, two)


def through_copy(cell: CellView, layer: str) -> tuple[int, str, float, str] | None:
    """(event, quantity, size, sentence) of the first event in which running one network moves the other."""
    assert cell.trace is not None
    base, _, copy = layer.partition("@")
    if f"{base}@copy" not in cell.trace.layers:
        return None
    strange = ORIGINAL if copy else ON_THE_COPY
    for quantity in STATISTICS:
        mask, rows = moved(cell.trace, layer, quantity), cell.trace.get(layer, quantity)
        for event, record in enumerate(cell.trace.events):
            if rows is None or record.op not in strange or record.status != "ok" or not mask[event : event + 1].any():
                continue
            size = float(np.abs(np.float64(rows[event + 1]) - np.float64(rows[event])).max())
            second = WAYS.get(cell.case.network.copied or "", "its copy")
            mode = evaluated(cell.trace, base, event)
            run, stays = f"running {second}", f"in the original{mode}"
            if copy:
                run, stays = "training the original", f"in {second}"
            said = f"{run} moves {quantity} of {base} {stays} by {number(size)}: both hold the same buffers."
            return event, quantity, size, said
    return None


def evaluated(trace: Trace, layer: str, event: int) -> str:
    flags = trace.get(layer, "training")
    return ", which is in eval," if flags is not None and event < len(flags) and flags[event] == 0 else ""


def count(cell: CellView, layer: str) -> int:
    """Events that run the other network and move this one."""
    assert cell.trace is not None
    strange = ORIGINAL if "@" in layer else ON_THE_COPY
    mask = moved(cell.trace, layer, "running_mean")
    return sum(bool(yes) and event.op in strange for event, yes in zip(cell.trace.events, mask, strict=False))


def one_layer(cell: CellView, one: str, two: str) -> Iterator[Finding]:
    """Two layers that are one: equal statistics all along, of batches that are not."""
    assert cell.trace is not None
    steps = shared_steps(cell.trace, one, two)
    rows, weight = cell.trace.get(one, "running_mean"), weight_of(cell, one)
    if not steps or rows is None:
        return
    first, second = (np.asarray(cell.trace.get(name, "input_mean"))[steps] for name in (one, two))
    held = rows.astype(np.float64)[[steps[0], *(t + 1 for t in steps)]]
    evidence: dict[str, float | int | str] = {
        f"mean that reaches {one}": float(first.mean()),
        f"mean that reaches {two}": float(second.mean()),
        "running_mean at the end": float(held[-1].mean()),
    }
    explained, said = None, ""
    if weight is not None:
        turns = averaged(held[0], [batch for pair in zip(first, second, strict=True) for batch in pair], weight)[::2]
        apart = averaged(held[0], list(first), weight)
        explained, drift, spread = share(held, turns, apart)
        fits = float(np.abs(turns - held).max()) <= roundoff(rows, float(np.abs(held).max())) * len(held)
        explained = min(max(explained, 0.0), 1.0) if fits else None
        evidence |= {"points": len(held), "mean_abs": drift, "std_abs": spread} if fits else {}
        said = (
            f"Averaging both in turn explains {percent(explained)} of the difference." if explained is not None else ""
        )
    yield Finding(
        code=CODE,
        cause=CAUSE,
        kind="hazard",
        title=(
            f"{names(cell.members)}: {one} and {two} are one layer: equal statistics after every event, though "
            f"different "
            f"batches reach them (mean {number(float(first.mean()))} and {number(float(second.mean()))}). They fit "
            f"neither place."
        ),
        proof=said,
        targets=targets(cell.members),
        scenario=cell.case.scenario,
        case=cell.case.name,
        layer=one,
        event=steps[0],
        quantity="running_mean",
        explained=explained,
        evidence=evidence,
        advice="give each place a BatchNorm layer of its own; other weights may be shared",
        accounts=tuple((layer, state) for layer in (one, two) for state in (*STATISTICS, "counter")),
    )


def shared_steps(trace: Trace, one: str, two: str) -> list[int]:
    """Training steps of two layers that hold equal statistics all along and see different batches; none otherwise."""
    for quantity in STATISTICS:
        a, b = trace.get(one, quantity), trace.get(two, quantity)
        if a is None or b is None or a.shape != b.shape or not np.array_equal(a, b):
            return []
    means: list[Array | None] = [trace.get(name, "input_mean") for name in (one, two)]
    if any(item is None for item in means):
        return []
    mask = moved(trace, one, "running_mean")
    first, second = (np.asarray(item) for item in means)
    steps = [t for t in np.flatnonzero(mask).tolist() if np.isfinite(first[t]).all() and np.isfinite(second[t]).all()]
    return steps if any(not np.allclose(first[t], second[t], rtol=1e-4, atol=1e-6) for t in steps) else []


def check_holding(holding: Holding) -> list[Finding]:
    """Layers that hold the very same trained numbers."""
    return of_holding(holding, CODE, CAUSE, [parts.twins(holding)])


def check_life(life: Life) -> list[Finding]:
    """One layer at two places that unlike batches reach."""
    return of_life(life, CODE, CAUSE, [reach.at_two_places(life)])
