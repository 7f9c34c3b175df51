"""One event moves the running statistics more than once.

Signature: the effective weight of a batch is a = 1 − (1 − m)^k on one kind of event, and the counter (where there is
one) advances k per step. Without checkpointing, micro-batches or the second forward a is m again. A wrong momentum
looks the same in the numbers, but holds on every event and leaves the counter right: checkpointed m = 0.3 and plain m =
0.51 are the same curve. Or one step runs several forwards of unlike data (a discriminator's real and fake batches): the
running variance is then the mean variance of single batches, far below that of all data, and eval fits no kind. A
function that was called with the model (a visualiser, a summary, a tracer) ran training forwards of its own. In a
program that was watched recomputation needs no guess: the second forward runs inside a backward.

What to do: update once. Exclude BatchNorm from gradient checkpointing, or let only one of the forwards of a step update
(momentum 0, or eval mode, in the others); for k micro-batches set the weight to 1 − (1 − m)^(1/k).
"""

from collections.abc import Iterable, Iterator

import numpy as np

from bncheck.diagnosis.lived.departures import Departure
from bncheck.diagnosis.rules import applications
from bncheck.diagnosis.rules.attributed import Side, differing_facets, summary
from bncheck.diagnosis.rules.conventions.mixture import mixtures
from bncheck.diagnosis.rules.counters import advances, repeated_weight
from bncheck.diagnosis.rules.departing import about_departures
from bncheck.diagnosis.rules.dissected import departing
from bncheck.diagnosis.rules.leftover import explained_by_conventions
from bncheck.diagnosis.rules.lives import repeats
from bncheck.diagnosis.rules.lives.words import of_life
from bncheck.diagnosis.rules.movement import moved
from bncheck.diagnosis.rules.recomputed import recomputations
from bncheck.diagnosis.rules.wording import names, number, targets, verb
from bncheck.evidence import CellView, PairView
from bncheck.finding import Finding
from bncheck.life import Life

CODE = "BN104"
CAUSE = "update-count"
EXPLAINS = ("statistics", "counter", "outputs")
FOLLOWS_FROM = ("mode", "refused")
NEEDS_CONVENTIONS = True
EXPLAINED = 0.99  # what is left then is rounding
SLACK = 1e-5  # some ULP of float32: one step of an average
ADVICE = "make one forward per step update the statistics; with checkpointing, keep BatchNorm out of what is recomputed"


def check_pair(pair: PairView) -> Iterable[Finding]:
    found = list(differing_facets(pair, CODE, CAUSE, ("updates_per_event",), sentence, ADVICE, usual=(1, 1.0)))
    weights = differing_facets(pair, CODE, CAUSE, ("batch_weight",), sentence_weight, ADVICE)
    found += [item for item in weights if repeated_weight(pair, item.layer)]
    known = {item.layer for item in found} | explained_layers(pair)
    found += [item for item in seen_in_counters(pair) if item.layer not in known]
    return found or departing(pair, CODE, CAUSE)


def explained_layers(pair: PairView) -> set[str]:
    """Layers whose running mean measured conventions account for: nothing is left for a repeated update."""
    drifts = {drift.layer: drift for drift in pair.differing if drift.quantity == "running_mean"}
    shares = {layer: explained_by_conventions(pair, drift) for layer, drift in drifts.items()}
    return {layer for layer, share in shares.items() if share is not None and share >= EXPLAINED}


def check_cell(cell: CellView) -> Iterator[Finding]:
    """Training forwards that leave the statistics alone before others that move them (every second step)."""
    yield from applications.found(cell, CODE, CAUSE)
    yield from unlike_data(cell)
    yield from inside_backward(cell)
    if cell.trace is None or cell.case.network.custom is None:
        return  # frameworks' own layers never do that by themselves
    for layer in cell.trace.layers:
        mask, counts = moved(cell.trace, layer, "running_mean"), cell.trace.get(layer, "n")
        records = zip(cell.trace.events, mask, strict=False)
        steps = [(t, bool(yes)) for t, (record, yes) in enumerate(records) if record.op == "train_forward"]
        steps = [(t, yes) for t, yes in steps if cell.trace.events[t].status == "ok"]
        taken = [t for t, yes in steps if yes]
        skipped = [t for t, yes in steps if not yes and taken and t < taken[-1]]
        if not skipped or counts is None or not varied(cell, layer, skipped):
            continue
        first = sum(t <= taken[-1] for t, _ in steps)  # those behind the last that moves them are not judged
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="convention",
            title=f"{names(cell.members)}: {len(skipped)} of the first {first} training forwards "
            f"{'leaves' if len(skipped) == 1 else 'leave'} the running statistics of {layer} as they are, and later "
            "ones move them.",
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=layer,
            event=skipped[0],
            quantity="running_mean",
            evidence={"forwards that move": len(taken), "forwards that do not": len(skipped)},
            advice="update in every step: skipping was reported to hurt training",
        )


def unlike_data(cell: CellView) -> Iterator[Finding]:
    """A step of several forwards, of data that lie far apart: what eval normalises with fits none of them."""
    for found in mixtures(cell):
        kinds = " and ".join(f"{name} (mean {number(mean)})" for name, mean in found.means.items())
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="hazard",
            title=(
                f"{names(cell.members)}: batches of {kinds} move {found.layer} in turn, {found.forwards} times in "
                f"all. Its "
                f"running variance is {number(found.running)}, that of all data together {number(found.pooled)}: "
                f"eval fits neither kind."
            ),
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=found.layer,
            event=found.first,
            quantity="running_var",
            evidence={
                "running_var at the end": found.running,
                "mean variance of a batch": found.within,
                "variance of all data": found.pooled,
                "forwards": found.forwards,
                **{f"mean of {name}": mean for name, mean in found.means.items()},
            },
            advice="keep the statistics of each kind apart, put both kinds into one batch, or let one of them update",
        )


def inside_backward(cell: CellView) -> Iterator[Finding]:
    """A layer in a whole network of the user's, under gradient checkpointing, say."""
    for found in recomputations(cell):
        as_if = ""
        if found.weight is not None:
            twice = number(1 - (1 - found.weight) ** 2)
            as_if = f" It takes the same batch in again: a weight of {number(found.weight)} acts as {twice}."
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="hazard",
            title=f"{names(cell.members)}: the running statistics of {found.layer} move in {found.backwards} of "
            f"{found.of} backwards, too: a forward runs inside them once more, as under gradient checkpointing.{as_if}",
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=found.layer,
            event=found.first,
            quantity="running_mean",
            evidence={
                "backwards that move": found.backwards,
                **({} if found.weight is None else {"weight of the new batch": found.weight}),
            },
            advice="keep BatchNorm out of what is checkpointed, or give it the weight 1 - sqrt(1 - weight)",
        )


def varied(cell: CellView, layer: str, events: list[int]) -> bool:
    """True if the batches that changed nothing had another mean than the running one: there was something to move."""
    assert cell.trace is not None
    means, held = cell.trace.get(layer, "input_mean"), cell.trace.get(layer, "running_mean")
    if means is None or held is None:
        return False
    gaps = [np.abs(means[t] - held[t]).max() > 1e-3 * (np.abs(held[t]).max() + 1e-3) for t in events]
    return all(map(bool, gaps))


def sentence(x: Side, value: object, y: Side, other: object) -> str:
    moves = verb(x, "moves its", "move their")
    return f"{names(x)} {moves} running statistics {times(value)} per event, {names(y)} {times(other)}."


def sentence_weight(x: Side, value: object, y: Side, other: object) -> str:
    return (
        f"A batch weighs {number(value)} in {names(x)} and {number(other)} in {names(y)}: one is 1 - (1 - m)^k of the "
        f"other, and the counters say that it counts k times."
    )


def times(value: object) -> str:
    return {1: "once", 2: "twice"}.get(value if isinstance(value, int) else -1, f"{number(value)} times")


def seen_in_counters(pair: PairView) -> Iterator[Finding]:
    """No attribution, but counters and running means both differ, and one counter is a multiple of the other."""
    for drift in pair.differing:
        again = {name for item in pair.case.network.layers if item.same_as for name in (item.name, item.same_as)}
        if "@" in drift.layer or drift.layer in again:
            continue  # a replica, a copy or a layer at two places counts what reaches it: BN402, BN407 and BN408 tell
        mean = pair.drift(drift.layer, "running_mean")
        counts = advances(pair, drift.layer)
        if drift.quantity != "counter" or mean is None or mean.relation != "differs" or counts is None:
            continue
        if count_other_things(pair):
            continue
        low, high = sorted(counts)
        if low <= 0 or high % low or high == low:
            continue
        many = pair.a if counts[0] > counts[1] else pair.b
        repeats = takes_batches_again(many, drift.layer)
        if not repeats and not (move_together(pair, drift.layer) and counts_moves(many, drift.layer)):
            continue  # they moved in other events, or the counter did: what is counted there are not repetitions
        few = pair.b if many is pair.a else pair.a
        doing = verb(many.members, "counts", "count")
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="hazard" if recomputes(many) else "convention",
            title=f"{names(many.members)} {doing} {number(high)} updates of the running statistics of "
            f"{drift.layer}, {names(few.members)} {number(low)}: {number(high // low)} for each of these.",
            targets=targets(pair.a.members, pair.b.members),
            scenario=pair.case.scenario,
            case=pair.case.name,
            layer=drift.layer,
            event=drift.first_event,
            quantity="running_mean",
            explained=1.0 if repeats else None,
            evidence=summary(mean),
            advice=ADVICE,
        )


def count_other_things(pair: PairView) -> bool:
    """True if one side is known to count forwards and the other updates: that says nothing of repetitions."""
    known = {cell.convention.value("counter") for cell in (pair.a, pair.b) if cell.convention is not None} - {None}
    return len(known) == 2


def move_together(pair: PairView, layer: str) -> bool:
    """True if the same events move the running mean on both sides."""
    masks = [moved(cell.trace, layer, "running_mean") for cell in (pair.a, pair.b) if cell.trace is not None]
    return len(masks) == 2 and np.array_equal(masks[0], masks[1])


def counts_moves(cell: CellView, layer: str) -> bool:
    """True if the counter moves only in events that move the running mean."""
    if cell.trace is None:
        return False
    counted, means = (moved(cell.trace, layer, name) for name in ("counter", "running_mean"))
    return not bool((counted & ~means).any())


def recomputes(cell: CellView) -> bool:
    return any(event.op == "checkpointed_forward" for event in cell.case.events)


def takes_batches_again(cell: CellView, layer: str) -> bool:
    """True if every move of the running mean, in whatever event, takes in the latest forward's batch, and some of them
    one that had been taken in before."""
    spec = next((item for item in cell.case.network.layers if item.name == layer), None)
    rows, means = (
        cell.trace.get(layer, name) if cell.trace is not None else None for name in ("running_mean", "input_mean")
    )
    if cell.trace is None or rows is None or means is None or spec is None or spec.batch_weight is None:
        return False
    batch, fresh, again = None, False, False
    for t, moves in enumerate(moved(cell.trace, layer, "running_mean")):
        if np.isfinite(means[t]).all():
            batch, fresh = means[t], True
        if not moves:
            continue
        again, fresh = again or not fresh, False
        before, after = (np.asarray(rows[t + shift], dtype=np.float64) for shift in (0, 1))
        if batch is None or before.shape != batch.shape:
            return False
        gap = np.abs(before + spec.batch_weight * (batch - before) - after)
        if not (gap <= SLACK * np.maximum(np.abs(before), np.abs(batch))).all():
            return False
    return again


def check_life(life: Life) -> list[Finding]:
    """Recomputation that moves the statistics again; the same batch twice in a step."""
    said = of_life(life, CODE, CAUSE, [repeats.recomputed(life), repeats.same_batch(life)])
    return [*said, *about_departures(life, CODE, CAUSE, several_times)]


def several_times(found: Departure) -> tuple[str, str]:
    times, due = int(found.value), float(found.due)
    return (
        f"One training forward moves the running statistics of {{who}} {times} times: a weight of {number(due)} acts "
        f"as {number(1 - (1 - due) ** times)}.",
        "update once per forward",
    )
