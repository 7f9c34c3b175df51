"""One event moves the running statistics more than once.

Signature: the effective weight of a batch is a = 1 − (1 − m)^k on one kind of event, and the counter (where there is
one) advances k per step. Without checkpointing, micro-batches or the second forward a is m again. A wrong momentum
looks the same in the numbers, but holds on every event and leaves the counter right: checkpointed m = 0.3 and plain
m = 0.51 are the same curve.

What to do: update once. Exclude BatchNorm from gradient checkpointing, or let only one of the forwards of a step
update (momentum 0, or eval mode, in the others); for k micro-batches set the weight to 1 − (1 − m)^(1/k).
"""

from collections.abc import Iterable, Iterator

from bncheck.evidence import PairView
from bncheck.finding import Finding
from bncheck.rules.attributed import Side, attributed_layers, differing_facets, summary
from bncheck.rules.counting import advances, repeated_weight
from bncheck.rules.wording import names, number, targets, verb

CODE = "BN104"
CAUSE = "update-count"
ADVICE = "make one forward per step update the statistics; with checkpointing, keep BatchNorm out of what is recomputed"


def check_pair(pair: PairView) -> Iterable[Finding]:
    found = list(differing_facets(pair, CODE, CAUSE, ("updates_per_event",), sentence, ADVICE, usual=(1, 1.0)))
    weights = differing_facets(pair, CODE, CAUSE, ("batch_weight",), sentence_weight, ADVICE)
    found += [item for item in weights if repeated_weight(pair, item.layer)]
    known = {item.layer for item in found} | attributed_layers(pair, "running_mean")
    return [*found, *(item for item in seen_in_counters(pair) if item.layer not in known)]


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
        mean = pair.drift(drift.layer, "running_mean")
        counts = advances(pair, drift.layer)
        if drift.quantity != "counter" or mean is None or mean.verdict != "differs" or counts is None:
            continue
        low, high = sorted(counts)
        if low <= 0 or high % low:
            continue
        a, b = (
            f"{names(side)} {number(count)}"
            for side, count in zip((pair.a.members, pair.b.members), counts, strict=True)
        )
        yield Finding(
            CODE, CAUSE, "convention",
            f"{a} updates, {b}: the running statistics of {drift.layer} moved {times(int(high // low))} per step "
            f"on one side.",
            targets(pair.a.members, pair.b.members), pair.case.scenario, pair.case.name, drift.layer, drift.first_event,
            "running_mean", evidence=summary(mean), advice=ADVICE,
        )  # fmt: skip
