"""A difference that no rule explains.

Signature: outside the tolerance, larger than rounding can be, and neither a measured convention nor a numeric cause
accounts for it. Where a convention accounts for a part, the finding says how much is left.

The finding leads with the earliest difference and says what it looks like: one factor everywhere, one side that never
moves, and which quantities are right. All other unexplained differences of the same two sides stand in it too. In a
program that was watched: a built-in layer whose statistics, or output, are not what its documentation makes of its
input, in a way that no rule fits.

What to do: rerun with `--isolate cell` to see whether earlier cases leak into this one; `bncheck repro` gives a script
to report. Where conventions were not measured (`--no-probe`), measure them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from bncheck.diagnosis.lived.innocence import NAMES
from bncheck.diagnosis.lived.left_over import LeftOver, left_over
from bncheck.diagnosis.rules import applications
from bncheck.diagnosis.rules.attributed import summary
from bncheck.diagnosis.rules.identifiability import not_identifiable
from bncheck.diagnosis.rules.in_batches import in_batches
from bncheck.diagnosis.rules.leftover import explained_by_conventions
from bncheck.diagnosis.rules.lives.words import Said, count, of_life
from bncheck.diagnosis.rules.onnx_files import file_name, node_ratios, plays
from bncheck.diagnosis.rules.remainder.bn901_rounding import is_rounding
from bncheck.diagnosis.rules.remainder.in_other_batches import odd_one
from bncheck.diagnosis.rules.remainder.resemblance import resemblances
from bncheck.diagnosis.rules.wording import names, number, percent, targets, verb
from bncheck.evidence import CellView, Drift, PairView
from bncheck.finding import NODES, Finding
from bncheck.life import Life

if TYPE_CHECKING:
    from bncheck.diagnosis.bearing import Open

CODE = "BN902"
CAUSE = "unexplained"
WHOLE = 0.9995  # what is written as 100.0 %
EXPLAINS = ()
# What is looked at first where several quantities differ at once.
ORDER = ("running_mean", "running_var", "running_covar", "output", "counter", "gamma", "beta")
LOOKED_AT = ("running_mean", "running_var", "output")


def unexplained(pair: PairView, left: Sequence[Open], order: Mapping[str, int]) -> Iterator[Finding]:
    """One finding for all differences of a pair that no other finding accounts for; none where there are none.

    It leads with the earliest of them, in the layer that comes first, and of those with the largest."""
    if not left:
        return
    lead = min(left, key=lambda item: rank(item.drift, order))
    others = [item for item in sorted(left, key=lambda item: rank(item.drift, order)) if item is not lead]
    drift = lead.drift
    share = explained_by_conventions(pair, drift) or 0.0
    part = f"; measured conventions explain {percent(share)} of it" if share else ", and no rule explains it"
    if share >= WHOLE:
        part = "; all measured conventions together explain it, and none of them was found to be the cause"
    facts = [*resemblances(pair, drift), *wrong(pair, others), *right(pair)]
    odd, other = (pair.a, pair.b) if pair.a.own_layer and not pair.b.own_layer else (pair.b, pair.a)
    yield Finding(
        code=CODE,
        cause=CAUSE,
        kind="unexplained",
        title=f"{names(odd.members)} {verb(odd.members, 'differs', 'differ')} from {names(other.members)} in "
        f"{where(drift)} "
        f"{size(pair, drift)}{part}." + "".join(f" {fact}." for fact in facts),
        targets=targets(pair.a.members, pair.b.members),
        scenario=pair.case.scenario,
        case=pair.case.name,
        layer=drift.layer,
        event=drift.first_event,
        quantity=drift.quantity,
        explained=share or None,
        evidence={
            **summary(drift),
            "max_ulp": drift.max_ulp,
            **{f"also differs: {where(item.drift)}": item.drift.max_abs for item in others},
        },
        advice=what_next(pair),
        not_identifiable=not_identifiable(pair, layer=drift.layer),
        accounts=tuple(item.place for item in others),
    )


def rank(drift: Drift, order: Mapping[str, int]) -> tuple[object, ...]:
    """Earliest event, then the network's order, then states before gradients, then the largest."""
    event = math.inf if drift.first_event is None else drift.first_event
    quantity = ORDER.index(drift.quantity) if drift.quantity in ORDER else len(ORDER)
    return event, order.get(drift.layer, len(order)), quantity, -drift.max_abs if drift.max_abs == drift.max_abs else 0


def where(drift: Drift) -> str:
    if drift.quantity == "events":
        return "what they carry out"
    return f"{drift.quantity} of {drift.layer}" if drift.layer else f"the network's {drift.quantity}"


def size(pair: PairView, drift: Drift) -> str:
    if drift.relation == "nonfinite":
        off = f"by up to {number(drift.max_abs)} " if drift.max_abs > 0 else ""
        return f"{off}({nonfinite(pair, drift)})"
    if drift.relation == "missing":
        return "(only one of them holds it, or for another number of channels)"
    if drift.relation == "refused":
        return f"from event {1 + (drift.first_event or 0)} on"
    return f"by up to {number(drift.max_abs)}"


def nonfinite(pair: PairView, drift: Drift) -> str:
    """ "NaN or Inf in 1 value of torch, in none of mxnet"; the counts belong to the drift's sides, not the pair's."""
    counts = {drift.a: drift.nonfinite_a, drift.b: drift.nonfinite_b}
    known = [
        (next((counts[cell.target] for cell in side.members if cell.target in counts), 0), side)
        for side in (pair.a, pair.b)
    ]
    (most, holder), (least, other) = sorted(known, key=lambda item: -item[0])
    values = f"{most} value{'' if most == 1 else 's'}"
    return f"NaN or Inf in {values} of {names(holder.members)}, in {least or 'none'} of {names(other.members)}"


def wrong(pair: PairView, others: Sequence[Open]) -> Iterator[str]:
    """The other statistics and outputs that differ: grounds of the same mistake, as likely as not."""
    drifts = [item.drift for item in others if item.drift.quantity in LOOKED_AT]
    if drifts:
        found = [f"{where(drift)} {size(pair, drift)}" for drift in drifts]
        yield f"Also off: {'; '.join(found)}"


def right(pair: PairView) -> Iterator[str]:
    """The statistics and outputs that agree, so that nobody looks there."""
    fine = [where(drift) for drift in pair.drifts if drift.quantity in LOOKED_AT and is_rounding(pair, drift)]
    if fine:
        yield f"In order: {' and '.join(filter(None, (', '.join(fine[:-1]), fine[-1])))}"


def what_next(pair: PairView) -> str:
    measured = all(cell.convention is not None for cell in (pair.a, pair.b))
    start = "" if measured else "let the conventions be measured too (without --no-probe); "
    # Only cases of other layers could leak into this one, and an own layer is alone in its run.
    alone = pair.a.own_layer or pair.b.own_layer
    return f"{start}{'' if alone else 'rerun with --isolate cell; '}bncheck repro writes a script that shows it"


def check_cell(cell: CellView) -> Iterator[Finding]:
    """A layer other than BatchNorm that gives a sample another output in another batch, by more than rounding; a node
    of an ONNX file that is off its opset's text, where the file as a whole cannot be compared."""
    yield from applications.found(cell, CODE, CAUSE)
    yield from odd_nodes(cell)
    for found in in_batches(cell):
        odd = odd_one(cell, found)
        if odd is not None:
            yield Finding(
                code=CODE,
                cause=CAUSE,
                kind="unexplained",
                title=f"{names(cell.members)} in eval: {odd.said}.",
                targets=targets(cell.members),
                scenario=cell.case.scenario,
                case=cell.case.name,
                layer=odd.layer,
                event=found.event,
                quantity="output",
                evidence={**found.distances, **odd.evidence},
                advice=odd.advice,
            )


def odd_nodes(cell: CellView) -> Iterator[Finding]:
    for event, notes in plays(cell):
        ratios = node_ratios(notes) if notes.get("no_oracle") else {}
        layer = max(ratios, key=lambda name: ratios[name], default="")
        if not layer or ratios[layer] <= 1:
            continue
        size = f"{number(ratios[layer])} times what rounding may do" if math.isfinite(ratios[layer]) else "NaN or Inf"
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="unexplained",
            title=(
                f"{layer} of {file_name(cell)} on {names(cell.members)} is off the text of its opset, from its own "
                f"input: by {size}, and no rule explains it."
            ),
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=layer,
            event=event,
            quantity="output",
            evidence={"of its rounding bound": number(ratios[layer]), NODES: len(ratios)},
            advice="play that node alone, and compare it with the formula of its opset",
        )
        return


def check_life(life: Life) -> list[Finding]:
    """Built-in layers that broke their documentation where no known rule says how."""
    groups: dict[tuple[str, str], list[LeftOver]] = {}
    for each in left_over(life):
        groups.setdefault((each.quantity, each.mode), []).append(each)
    return of_life(life, CODE, CAUSE, [departed(life, group) for group in groups.values()])


def departed(life: Life, group: Sequence[LeftOver]) -> Said:
    """The layer that departs first, and how many more do."""
    first = min(group, key=lambda each: each.step)
    layers = tuple(each.layer.name for each in [first, *(each for each in group if each is not first)])
    who = NAMES.get(life.framework, life.framework)
    times = f"in {first.moments} of {count(first.of, 'forward')}, from step {first.step} on"
    wide = channels_of(first.channels, first.layer.life.channels)
    if first.quantity == "output":
        used = "the batch" if first.mode == "training" else "the running statistics"
        what = f"The output of {first.layer.name} in {first.mode} is not normalised with {used} as {who} documents"
        much = f"off by up to {number(first.size)} deviations"
    else:
        what = f"{first.quantity} of {first.layer.name} is not what {who}'s rule makes of it and of the batch"
        much = f"off by up to {number(first.largest)}, {number(100 * first.size)} % of the largest step"
    more = f" So do {len(layers) - 1} more layers." if len(layers) > 2 else ""
    more = f" So does {layers[1]}." if len(layers) == 2 else more
    return Said(
        layers=layers,
        title=f"{what}, {times}: {much}, in {wide}. No rule that bncheck knows makes it.{more}",
        advice="look for what writes to the layer or changes its output during its forward (a hook, a patch, a kernel)",
        kind="unexplained",
        quantity=first.quantity,
        step=first.step,
        evidence={"forwards that depart": first.moments, "forwards judged": first.of, "largest": first.largest},
    )


def channels_of(some: int, of: int) -> str:
    return "its one channel" if of == 1 else f"all {of} channels" if some == of else f"{some} of {of} channels"
