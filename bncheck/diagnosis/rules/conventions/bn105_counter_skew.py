"""The layers count differently, while their statistics agree.

Signature: the counters differ, the running statistics do not. It is harmless as long as nothing divides by the counter
and bites with a cumulative average (momentum None) or a debiased one, where the next weight is 1/(counter + 1): a
counter that also counts refused, empty or evaluated batches makes that weight too small. There the statistics differ
too, and on both sides each batch enters with one over that side's own counter. A user's own network may also come with
a counter of 0 beside statistics that have moved: it was not loaded with them. Checkpoints that were converted from
another framework have it in all layers, which no exponential average minds. Or a function that was called with the
model changed the counter alone.

What to do: if you use a cumulative or debiased average, reset or restore the counter together with the statistics.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from bncheck.diagnosis.rules import applications, handed_over
from bncheck.diagnosis.rules.attributed import Side, differing_facets, summary
from bncheck.diagnosis.rules.counters import advances
from bncheck.diagnosis.rules.departure import departure_of
from bncheck.diagnosis.rules.holdings import start
from bncheck.diagnosis.rules.holdings.words import of_holding
from bncheck.diagnosis.rules.movement import moved
from bncheck.diagnosis.rules.wording import names, number, targets, verb
from bncheck.evidence import CellView, PairView
from bncheck.finding import Finding
from bncheck.life import Holding
from bncheck.trace import STATISTICS

CODE = "BN105"
CAUSE = "counter-skew"
EXPLAINS = ("counter", "statistics", "evaluations")
FOLLOWS_FROM = ("counter",)
NEEDS_CONVENTIONS = True
SLACK = 1e-5  # some ULP of float32: one step of an average
ADVICE = "keep counter and statistics together: save, load and reset both, above all with a cumulative average"


def check_cell(cell: CellView) -> Iterator[Finding]:
    """A user's own network as it was handed over, or after a function of the user's."""
    yield from handed_over.found(cell, CODE, CAUSE, handed_over.counter_reset)
    yield from applications.found(cell, CODE, CAUSE)


def check_pair(pair: PairView) -> Iterable[Finding]:
    found = list(differing_facets(pair, CODE, CAUSE, ("counter",), sentence, ADVICE))
    found += [item for item in divided_by(pair) if item.layer not in {known.layer for known in found}]
    known = {item.layer for item in found}
    return [*found, *(item for item in seen_in_traces(pair) if item.layer not in known)]


def sentence(x: Side, value: object, y: Side, other: object) -> str:
    return f"{names(x)} {verb(x, 'counts', 'count')} {value}, {names(y)} {other}."


def divided_by(pair: PairView) -> Iterator[Finding]:
    """Cumulative averages that differ, each of them exactly the one that its own counter makes."""
    for drift in pair.differing:
        counter = pair.drift(drift.layer, "counter")
        if drift.quantity != "running_mean" or counter is None or counter.relation != "differs":
            continue
        counts = advances(pair, drift.layer)
        if counts is None or not all(follows_counter(cell, drift.layer) for cell in (pair.a, pair.b)):
            continue
        if all(counts_moves(cell, drift.layer) for cell in (pair.a, pair.b)):
            continue  # both count what they average: they averaged different batches, which is not the counter's doing
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="hazard",
            title=f"{names(pair.a.members)} {verb(pair.a.members, 'counts', 'count')} {number(counts[0])} batches, "
            f"{names(pair.b.members)} {number(counts[1])}, and a cumulative average divides by the count: "
            f"{drift.quantity} of {drift.layer} is off by up to {number(drift.max_abs)}.",
            targets=targets(pair.a.members, pair.b.members),
            scenario=pair.case.scenario,
            case=pair.case.name,
            layer=drift.layer,
            event=counter.first_event,
            quantity=drift.quantity,
            explained=1.0,
            evidence={
                **summary(drift),
                f"counter of {pair.a.target}": counts[0],
                f"counter of {pair.b.target}": counts[1],
            },
            advice=ADVICE,
        )


def counts_moves(cell: CellView, layer: str) -> bool:
    """True if the counter says how many events moved the running mean, and nothing else."""
    rows = cell.trace.get(layer, "counter") if cell.trace is not None else None
    return cell.trace is not None and rows is not None and rows[-1] == moved(cell.trace, layer, "running_mean").sum()


def follows_counter(cell: CellView, layer: str) -> bool:
    """True if every change of the running mean is s + (u - s)/c, c the layer's own counter after the event."""
    if cell.trace is None:
        return False
    rows, counts = cell.trace.get(layer, "running_mean"), cell.trace.get(layer, "counter")
    means = cell.trace.get(layer, "input_mean")
    if rows is None or counts is None or means is None:
        return False
    events = np.flatnonzero(moved(cell.trace, layer, "running_mean"))
    before, after = (np.asarray(rows, dtype=np.float64)[events + shift] for shift in (0, 1))
    with np.errstate(all="ignore"):
        expected = before + (means[events] - before) / counts[events + 1][:, None]
        slack = SLACK * np.maximum(np.abs(before), np.abs(means[events]))
        averaged = np.abs(after - expected) <= slack
    # With one weight throughout, nothing was divided by a counter.
    return bool(averaged.all()) and len(np.unique(counts[events + 1])) > 1


def grown(pair: PairView, layer: str, counts: tuple[float, float], alike: bool) -> str:
    return (
        f"The counter of {layer} grew by {number(counts[0])} in {names(pair.a.members)} and by "
        f"{number(counts[1])} in {names(pair.b.members)}{', while the statistics agree' if alike else ''}."
    )


def seen_in_traces(pair: PairView) -> Iterator[Finding]:
    for drift in pair.differing:
        states = [pair.drift(drift.layer, quantity) for quantity in STATISTICS]
        alike = all(state is not None and state.relation == "agrees" for state in states)
        counts = advances(pair, drift.layer)
        values = [
            side.convention.value("counter") if side.convention is not None else None for side in (pair.a, pair.b)
        ]
        apart = all(values) and values[0] != values[1]
        if drift.quantity != "counter" or counts is None or (counts[0] == counts[1] and not apart):
            continue
        judged = departure_of("counter", pair.a.members, values[0] or "", pair.b.members, values[1] or "")
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind=judged.kind if all(values) else "convention",
            title=grown(pair, drift.layer, counts, alike)
            if counts[0] != counts[1]
            else f"The counter of {drift.layer} counts {values[0]} in {names(pair.a.members)} and {values[1]} in "
            f"{names(pair.b.members)}: as many in the end, but not at the same events.",
            targets=targets(pair.a.members, pair.b.members),
            scenario=pair.case.scenario,
            case=pair.case.name,
            layer=drift.layer,
            event=drift.first_event,
            quantity="counter",
            departs=judged.departs if all(values) else "",
            departs_from=judged.departs_from if all(values) else "",
            evidence=summary(drift),
            advice=ADVICE,
        )


def check_holding(holding: Holding) -> list[Finding]:
    """A counter of 0 beside statistics that have moved."""
    return of_holding(holding, CODE, CAUSE, [start.counter_reset(holding)])
