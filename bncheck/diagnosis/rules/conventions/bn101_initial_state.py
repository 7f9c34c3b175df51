"""Two targets start from different statistics or parameters.

Signature: the first recorded point, before any event, differs already. What moves afterwards may follow the same rule:
the difference then shrinks by (1 − a) with each update, and only gamma and beta keep it. A layer whose averages start
from nothing (a sum of 0 over a count of 0) has NaN to normalise with until its first training batch.

What to do: set the initial values on both sides, or load one side's state into the other, before comparing anything
else. Frameworks changed theirs: torch drew gamma uniformly up to 1.1 and sets it to one since.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from bncheck.diagnosis.rules.attributed import Side, differing_facets, summary
from bncheck.diagnosis.rules.departure import departure_of
from bncheck.diagnosis.rules.movement import changed
from bncheck.diagnosis.rules.wording import names, number, targets, verb
from bncheck.evidence import CellView, Drift, PairView
from bncheck.finding import Finding

CODE = "BN101"
CAUSE = "initial-state"
EXPLAINS = ("statistics", "affine", "outputs")
FOLLOWS_FROM = ("order",)
NEEDS_CONVENTIONS = True
FACETS = ("initial_mean", "initial_var", "initial_gamma", "initial_beta")
STATES = {
    "running_mean": "initial_mean",
    "running_var": "initial_var",
    "gamma": "initial_gamma",
    "beta": "initial_beta",
}
ADVICE = "give both sides the same initial state, or load one side's state into the other, before comparing the rest"


def check_pair(pair: PairView) -> Iterable[Finding]:
    said = list(differing_facets(pair, CODE, CAUSE, FACETS, sentence, ADVICE))
    known = {finding.layer for finding in said}
    return [*said, *(item for item in seen_in_traces(pair) if item.layer not in known)]


def check_cell(cell: CellView) -> Iterator[Finding]:
    """Eval before any training on statistics that are still NaN."""
    for layer in cell.trace.layers if cell.trace is not None else ():
        event = evaluated_on_nothing(cell, layer)
        if event is not None:
            yield Finding(
                code=CODE,
                cause=CAUSE,
                kind="hazard",
                title=(
                    f"{names(cell.members)}: the running statistics of {layer} are NaN until its first training "
                    f"batch, and so is what eval returns before it."
                ),
                targets=targets(cell.members),
                scenario=cell.case.scenario,
                case=cell.case.name,
                layer=layer,
                event=event,
                quantity="output",
                evidence={"event": event},
                advice="start from mean 0 and variance 1, or from a count that is not 0",
            )


def evaluated_on_nothing(cell: CellView, layer: str) -> int | None:
    """The first eval whose finite input gave NaN while the statistics were NaN from the start, and later are not."""
    assert cell.trace is not None
    held = [cell.trace.get(layer, name) for name in ("running_mean", "running_var", "input_bad", "output_bad")]
    if any(rows is None for rows in held):
        return None
    mean, var, bad, bad_out = (np.asarray(rows) for rows in held)
    empty = np.isnan(mean).any(axis=1) | np.isnan(var).any(axis=1)
    start = int(np.argmin(empty))  # rows before it are all NaN; 0 when the first is not, or all are
    for event, record in enumerate(cell.trace.events[:start]):
        if record.op == "eval_forward" and record.status == "ok" and not bad[event] and bad_out[event] > 0:
            return event
    return None


def sentence(x: Side, value: object, y: Side, other: object) -> str:
    starts = verb(x, "starts", "start")
    return f"{names(x)} {starts} from {number(value)}, {names(y)} from {number(other)}."


def seen_in_traces(pair: PairView) -> Iterator[Finding]:
    for drift in pair.differing:
        if drift.first_event != -1 or drift.quantity not in STATES:
            continue
        starts = first_values(pair, drift)
        if starts is None or np.isnan(starts).any():
            continue  # not held yet, or poisoned from the start, which is another rule's
        facet = STATES[drift.quantity]
        judged = departure_of(facet, pair.a.members, starts[0], pair.b.members, starts[1])
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind=judged.kind,
            title=(
                f"Before any event {drift.quantity} of {drift.layer} is {number(starts[0])} in "
                f"{names(pair.a.members)} and {number(starts[1])} in {names(pair.b.members)}."
            ),
            targets=targets(pair.a.members, pair.b.members),
            scenario=pair.case.scenario,
            case=pair.case.name,
            layer=drift.layer,
            event=-1,
            quantity=drift.quantity,
            departs=judged.departs,
            departs_from=judged.departs_from,
            evidence=summary(drift),
            advice=ADVICE,
            explained=1.0 if stands_still(pair, drift) else None,
        )


def first_values(pair: PairView, drift: Drift) -> tuple[float, float] | None:
    """Both sides' initial values in the channel with the largest difference; None where one side has none."""
    rows = [cell.trace.get(drift.layer, drift.quantity) for cell in (pair.a, pair.b) if cell.trace is not None]
    starts = [np.asarray(row[0], dtype=np.float64) for row in rows if row is not None and row.size]
    if len(starts) < 2 or starts[0].shape != starts[1].shape:
        return None
    one, two = starts
    gap = np.abs(one - two)
    channel = int(np.argmax(np.where(np.isfinite(gap), gap, 0.0)))
    return float(one[channel]), float(two[channel])


def stands_still(pair: PairView, drift: Drift) -> bool:
    """True if neither side ever moves this state: then the start is all there is to the difference."""
    rows = [cell.trace.get(drift.layer, drift.quantity) for cell in (pair.a, pair.b) if cell.trace is not None]
    return not any(row is not None and changed(np.asarray(row, dtype=np.float64)).any() for row in rows)
