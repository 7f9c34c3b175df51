"""Pairs that answer n = 1 or n = 0 differently: one refuses, or both go on in different ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bncheck.diagnosis.rules.departure import departure_of
from bncheck.diagnosis.rules.held_states import states_of
from bncheck.diagnosis.rules.movement import holds_training, moving_ops
from bncheck.diagnosis.rules.refused import origin_at, own_name, refused_events, values_per_channel
from bncheck.diagnosis.rules.wording import names, targets, verb
from bncheck.evidence import CellView, PairView
from bncheck.finding import Finding
from bncheck.scenario import RECORDING

# Events in which a batch enters the average at once.
PLAIN = frozenset({*RECORDING, "backward"})
# What normalises any batch → what y is with one value.
IMPLIED = {"batch": {"zero"}, "running-before": {"running"}, "running-after": {"running", "nan"}}


def differences(
    pair: PairView, code: str, cause: str, n: int, facets: Sequence[str], what: str, advice: str
) -> Iterator[Finding]:
    """At most one finding per pair: the first training event with ``n`` values per channel that went differently."""
    found = next(refusals(pair, n, what), None) or next(answers(pair, n, what), None)
    if found is None:
        return
    event, title, values, quantity = found
    judged = departure_of(facets[0], pair.a.members, values[0], pair.b.members, values[1])
    known = all(cell.documented.get(facets[0]) is not None for cell in (pair.a, pair.b))
    defect = judged.kind == "defect" and (known or judged.departs_from == "itself")
    yield Finding(
        code=code,
        cause=cause,
        kind="defect" if defect else "convention",
        title=title,
        targets=targets(pair.a.members, pair.b.members),
        scenario=pair.case.scenario,
        case=pair.case.name,
        event=event,
        quantity=quantity,
        departs=judged.departs if defect else "",
        departs_from=judged.departs_from if defect else "",
        evidence={pair.a.target: values[0], pair.b.target: values[1], "n": n},
        advice=advice,
        link=judged.link,
    )


Found = tuple[int, str, tuple[str, str], str]


def refusals(pair: PairView, n: int, what: str) -> Iterator[Found]:
    for refuser, other, event in refused_events(pair):
        if values_per_channel(pair, event) != n:
            continue
        says, runs = verb(refuser.members, "refuses", "refuse"), verb(other.members, "goes", "go")
        who = own_name(refuser) if origin_at(refuser, event) == "subject" else ""
        says = "refuses" if who else says
        goes_on = f"{names(other.members)} {runs} on with {answer(other, event)}"
        title = f"{who or names(refuser.members)} {says} {what}, {goes_on}."
        values = tuple("refuses" if cell is refuser else answer(other, event) for cell in (pair.a, pair.b))
        yield event, title, (values[0], values[1]), "events"


def answers(pair: PairView, n: int, what: str) -> Iterator[Found]:
    """Both ran the event, and what they answered reads differently."""
    if pair.a.trace is None or pair.b.trace is None or not pair.differing or not meets(pair.a, n):
        return
    for event, (one, two) in enumerate(zip(pair.a.trace.events, pair.b.trace.events, strict=False)):
        if (
            one.status != "ok"
            or two.status != "ok"
            or values_per_channel(pair, event) != n
            or not trains(pair.a, event)
        ):
            continue
        said = answer(pair.a, event), answer(pair.b, event)
        if said[0] != said[1] and not follows_from_elsewhere(pair, event, said, n):
            title = f"With {what} {names(pair.a.members)} {verb(pair.a.members, 'has', 'have')} {said[0]}, "
            yield event, f"{title}{names(pair.b.members)} {said[1]}.", said, "output"


def follows_from_elsewhere(pair: PairView, event: int, said: tuple[str, str], n: int) -> bool:
    """Whether other rules alone make these answers: what moves the statistics, and what a training forward normalises
    with. A side whose forwards and backwards move nothing leaves a small batch out as it does a large one, and one that
    normalises with running statistics does so with one value too. A NaN that a side answers out of a state that was
    spoilt before is due to that state; so is what becomes of statistics that were no numbers any more."""
    cells = (pair.a, pair.b)
    (y_a, _, state_a), (y_b, _, state_b) = (text.partition(", ") for text in said)
    states = state_a == state_b or not all(takes_in(cell) for cell in cells)
    states = states or any(is_spoilt(cell, event, finite=False) for cell in cells)
    usual = n != 1 or all(as_usual(cell) for cell in cells)
    outputs = y_a == y_b or (n == 1 and (usual or bool(single_values(pair.a) & single_values(pair.b))))
    outputs = outputs or any("NaN" in y and is_spoilt(cell, event) for y, cell in zip((y_a, y_b), cells, strict=True))
    return states and outputs


def is_spoilt(cell: CellView, event: int, finite: bool = True) -> bool:
    """Whether a layer holds NaN, Inf or, where ``finite`` numbers count, a variance below zero before the event."""
    assert cell.trace is not None
    held = [state for layer in cell.trace.layers for _, state in states_of(cell, layer)]
    return any(bool((state.spoilt & (finite | ~np.isfinite(state.rows)))[event].any()) for state in held)


def single_values(cell: CellView) -> set[Any]:
    """What one value per channel may be answered with, as measured."""
    facet = cell.convention.facets.get("single_value") if cell.convention is not None else None
    if facet is None:
        return set()
    return {facet.value} if facet.identifiable else set(facet.standing)


def takes_in(cell: CellView) -> bool:
    """Whether a training forward, or the backward behind it, moves the statistics on batches of a usual size."""
    update_on = cell.convention.value("update_on") if cell.convention is not None else None
    if update_on is not None:
        return any(word in str(update_on).split("+") for word in ("forward", "backward"))
    assert cell.trace is not None
    regular = [large(cell, layer) for layer in cell.trace.layers]
    return not any(regular) or any(moving_ops(cell, layer) & PLAIN for layer in cell.trace.layers)


def large(cell: CellView, layer: str) -> bool:
    assert cell.trace is not None
    counts = cell.trace.get(layer, "n")
    trained = [record.op in PLAIN for record in cell.trace.events]
    return counts is not None and bool(((counts > 1) & np.array(trained, dtype=bool)).any())


def as_usual(cell: CellView) -> bool:
    """Whether one value is normalised as more are: to beta by its own mean, else by what normalises any batch."""
    if cell.convention is None:
        return False
    facet, single = cell.convention.facets.get("train_normaliser"), cell.convention.value("single_value")
    if facet is None:
        return False
    sources = (facet.value,) if facet.identifiable else facet.standing
    implied = set[str]().union(*(IMPLIED.get(str(source), set()) for source in sources))
    return bool(sources) and (single is None or single in implied)


def meets(cell: CellView, n: int) -> bool:
    """Does any layer ever see n values per channel?"""
    assert cell.trace is not None
    rows = [cell.trace.get(layer, "n") for layer in cell.trace.layers]
    return any(row is not None and bool((row == n).any()) for row in rows)


def trains(cell: CellView, event: int) -> bool:
    assert cell.trace is not None
    return any(holds_training(cell.trace, layer, event) for layer in cell.trace.layers)


def answer(cell: CellView, event: int) -> str:
    """Output and state after the event, and after a backward that follows it, in words that can be compared."""
    assert cell.trace is not None
    trace = cell.trace
    late = event + 1
    if late < len(trace.events) and trace.events[late].op == "backward":
        late += 1
    y = output_word(cell, event)
    words = []
    for quantity in ("running_mean", "running_var"):
        kinds = {
            state_word(cell, layer, quantity, event, late if late > event + 1 else event + 1) for layer in trace.layers
        }
        words.append(f"{quantity} {' and '.join(sorted(kinds))}")
    return f"{y}, {', '.join(words)}"


def output_word(cell: CellView, event: int) -> str:
    """What y is: NaN, beta or x where that can be told (one BatchNorm, one value per channel), else just finite."""
    assert cell.trace is not None
    bad, out = cell.trace.arrays.get("network_bad"), cell.trace.output(event)
    if bad is not None and event < len(bad) and bad[event] > 0:
        return "a NaN output"
    layer = next(iter(cell.trace.layers), "")
    x, counts = cell.trace.get(layer, "input_mean"), cell.trace.get(layer, "n")
    alone = all(item.type in ("batch_norm", "flatten") for item in cell.case.network.layers)
    if not alone or out is None or x is None or counts is None or counts[event] != 1 or out.size != x.shape[1]:
        return "a finite output"
    beta = cell.trace.get(layer, "beta")
    for word, value in (("y = beta", beta[event] if beta is not None else x[event] * 0), ("y = x", x[event])):
        # One ULP of float16 apart at most: the words are for eyes, the drift table has the numbers.
        if np.allclose(out.reshape(-1), value, rtol=1e-3, atol=1e-3):
            return word
    return "a finite output"


def state_word(cell: CellView, layer: str, quantity: str, before: int, after: int) -> str:
    rows = cell.trace.get(layer, quantity) if cell.trace is not None else None
    if rows is None or after >= len(rows):
        return "not held"
    if not np.isfinite(rows[after]).all():
        return "NaN"
    return "unchanged" if np.array_equal(rows[before], rows[after]) else "updated"
