"""The layers count differently, while their statistics moved alike.

Signature: the counters differ, the running statistics do not. It is harmless as long as nothing divides by the counter
and bites with a cumulative average (momentum None) or a debiased one, where the next weight is 1/(counter + 1): a
counter that also counts refused, empty or evaluated batches makes that weight too small.

What to do: if you use a cumulative or debiased average, reset or restore the counter together with the statistics.
"""

from collections.abc import Iterable, Iterator

from bncheck.evidence import PairView
from bncheck.finding import Finding
from bncheck.rules.attributed import Side, differing_facets, summary
from bncheck.rules.counting import advances
from bncheck.rules.departure import judge
from bncheck.rules.movement import STATISTICS
from bncheck.rules.wording import names, number, targets, verb

CODE = "BN105"
CAUSE = "counter-skew"
ADVICE = "keep counter and statistics together: save, load and reset both, above all with a cumulative average"


def check_pair(pair: PairView) -> Iterable[Finding]:
    found = list(differing_facets(pair, CODE, CAUSE, ("counter",), sentence, ADVICE))
    known = {item.layer for item in found}
    return [*found, *(item for item in seen_in_traces(pair) if item.layer not in known)]


def sentence(x: Side, value: object, y: Side, other: object) -> str:
    return f"{names(x)} {verb(x, 'counts', 'count')} {value}, {names(y)} {other}."


def seen_in_traces(pair: PairView) -> Iterator[Finding]:
    for drift in pair.differing:
        states = [pair.drift(drift.layer, quantity) for quantity in STATISTICS]
        alike = all(state is not None and state.verdict == "agrees" for state in states)
        counts = advances(pair, drift.layer)
        if drift.quantity != "counter" or not alike or counts is None or counts[0] == counts[1]:
            continue
        values = [
            side.convention.value("counter") if side.convention is not None else None for side in (pair.a, pair.b)
        ]
        judged = judge("counter", pair.a.members, values[0] or "", pair.b.members, values[1] or "")
        yield Finding(
            CODE, CAUSE, judged.kind if all(values) else "convention",
            f"The counter of {drift.layer} grew by {number(counts[0])} in {names(pair.a.members)} and by "
            f"{number(counts[1])} in {names(pair.b.members)}, while the statistics moved alike.",
            targets(pair.a.members, pair.b.members), pair.case.scenario, pair.case.name, drift.layer, drift.first_event,
            "counter", departs=judged.departs if all(values) else "",
            departs_from=judged.departs_from if all(values) else "", evidence=summary(drift), advice=ADVICE,
        )  # fmt: skip
