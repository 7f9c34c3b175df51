"""A statistic is NaN, Inf or a variance below zero, or an output is not finite: where that began.

Signature: one batch with NaN or Inf, and the running statistics of those channels are not finite from then on, however
many clean batches follow; a running variance below zero, set by hand or loaded into the wrong place, and eval is NaN in
exactly its channels; a running variance of 0, and eval multiplies by 1/sqrt(eps). What a layer only got from another
one is listed there. NaN in the data alone passes with its batch; one value per channel (n = 1) hits all channels;
cancellation spoils y as well. An existing ONNX file may hold such a variance from the start, or an epsilon that takes
variance + epsilon to zero or below. In a checkpoint or a model that was handed over the same is looked for in every
layer: NaN, Inf, a variance below zero, a variance of 0 in all channels of a layer (a few channels with 0 died, or
were pruned), a mean so large beside its deviation that float32 has no digit left for x - mean. Or a function that was
called with the model put it there.

What to do: check batches before they reach the layer, after their cast too. Once it happened no further training heals
it: reset the running statistics (mean 0, variance 1) and re-estimate them on clean data, or go back to an earlier
checkpoint. Load means and variances into their own places. An epsilon has to be above zero.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from bncheck.diagnosis.rules import applications
from bncheck.diagnosis.rules.born import Birth, births
from bncheck.diagnosis.rules.holdings import damage
from bncheck.diagnosis.rules.holdings.words import of_holding
from bncheck.diagnosis.rules.lives import spoilt
from bncheck.diagnosis.rules.lives.words import of_life
from bncheck.diagnosis.rules.nonfinite.bn302_overflow import overflows_room
from bncheck.diagnosis.rules.nonfinite.born_words import HEAL, Said, grouped, said
from bncheck.diagnosis.rules.onnx_files import file_facts, file_name, no_variances
from bncheck.diagnosis.rules.poison import Poisoning, listed, poisonings
from bncheck.diagnosis.rules.wording import names, number, targets, verb
from bncheck.evidence import CellView, PairView
from bncheck.finding import KINDS, Finding
from bncheck.life import Holding, Life

LASTS = " and stays so: "  # behind it stands what the later forwards show: a sentence of its own
CODE = "BN301"
CAUSE = "poisoned-state"
EXPLAINS = ("nan", "statistics", "affine", "outputs", "gradients")


def check_cell(cell: CellView) -> Iterator[Finding]:
    yield from applications.found(cell, CODE, CAUSE)
    yield from file_without_variance(cell)
    lost = {item.layer for item in no_variances(cell)}
    lasting = {item.layer: item for item in poisonings(cell)}
    known = [birth for birth in births(cell) if birth.layer not in lost and not held_by_file(cell, birth)]
    yield from one_per_layer(
        [finding for group in grouped(known) if (finding := about(cell, group, lasting)) is not None]
    )


def held_by_file(cell: CellView, birth: Birth) -> bool:
    """A variance that an ONNX file holds is judged with its eps, by the file's own sentence."""
    return file_facts(cell) is not None and birth.event < 0 and birth.quantity == "running_var"


def about(cell: CellView, group: list[Birth], lasting: Mapping[str, Poisoning]) -> Finding | None:
    """What is to be said of one cause; nothing where another rule says it, or where the scenario's own bad batch left
    nothing behind."""
    first = group[0]
    item = lasting.get(first.layer) if len(group) == 1 else None
    if item is not None and first.event >= 0 and elsewhere(cell, item):
        return None
    if item is not None and first.quantity in (item.quantity, "input") and first.why in ("held", "input"):
        return finding(cell, first, Said("hazard", remembered(cell, item), HEAL), {**item.evidence})
    if first.why in ("input", "unheld"):  # BN101 speaks of statistics that do not exist yet
        return None
    words = said(cell, group, item)
    return (
        None if words is None else finding(cell, first, words, {**words.evidence, **listed(first.layer, first.follows)})
    )


def elsewhere(cell: CellView, item: Poisoning) -> bool:
    """True if the rule of single values, of empty batches or of overflow says it."""
    return not item.input_bad and item.event >= 0 and (item.n in (0, 1) or overflows_room(cell, item))


def remembered(cell: CellView, item: Poisoning) -> str:
    start = f"{item.quantity} of {item.layer} in {names(cell.members)} is {item.word} before any event"
    if item.event >= 0:
        values = "1 bad value" if item.input_bad == 1 else f"{item.input_bad} bad values"
        start = (
            f"{item.quantity} of {item.layer} in {names(cell.members)} becomes {item.word} through one batch with "
            f"{values}"
        )
    return f"{start} {item.aftermath}."


def finding(cell: CellView, birth: Birth, words: Said, evidence: Mapping[str, float | int | str]) -> Finding:
    defect = words.kind == "defect"
    start, lasts, later = words.title.partition(LASTS)
    return Finding(
        code=CODE,
        cause=CAUSE,
        kind=words.kind,
        title=f"{start}{LASTS.rstrip(': ')}." if lasts else words.title,
        proof=later[:1].upper() + later[1:],
        targets=targets(cell.members),
        scenario=cell.case.scenario,
        case=cell.case.name,
        layer=birth.layer,
        event=birth.event,
        quantity=birth.quantity,
        departs=cell.target if defect else "",
        departs_from="arithmetic" if defect else "",
        evidence=evidence,
        advice=words.advice,
    )


def check_pair(pair: PairView) -> Iterator[Finding]:
    """A layer of the user's own that is finite where the built-in one is not: it does not do the same, even if what it
    does is what its author wants."""
    own, other = (pair.a, pair.b) if pair.a.own_layer else (pair.b, pair.a)
    if not own.own_layer or other.own_layer or own.trace is None or other.trace is None:
        return
    bad = [cell.trace.arrays.get("network_bad") for cell in (own, other) if cell.trace is not None]
    if bad[0] is None or bad[1] is None or bad[0].shape != bad[1].shape:
        return
    heals = np.flatnonzero((bad[0] == 0) & (bad[1] > 0))
    if not len(heals):
        return
    event = int(heals[0])
    yield Finding(
        code=CODE,
        cause=CAUSE,
        kind="hazard",
        title=(
            f"{names(own.members)} {verb(own.members, 'gives', 'give')} finite outputs in "
            f"{own.trace.events[event].op} (event {event + 1}), {names(other.members)} "
            f"{verb(other.members, 'gives', 'give')} NaN or Inf there: the own layer does "
            f"not take in what is not finite."
        ),
        targets=targets(own.members, other.members),
        scenario=pair.case.scenario,
        case=pair.case.name,
        layer=next(iter(own.trace.layers), ""),
        event=event,
        quantity="output",
        evidence={"events": len(heals), "values that are not finite": int(bad[1][event])},
        advice="say so in the layer's documentation, or expect this cause in the scenario, if it is meant",
    )


def one_per_layer(findings: list[Finding]) -> Iterator[Finding]:
    """The gravest of a layer's findings; what else begins there stands in its evidence."""
    for layer in dict.fromkeys(item.layer for item in findings):
        here = sorted((item for item in findings if item.layer == layer), key=lambda item: KINDS.index(item.kind))
        besides = {f"besides {place}": item.title for place, item in enumerate(here[1:], 1)}
        yield replace(here[0], evidence={**here[0].evidence, **besides})


def file_without_variance(cell: CellView) -> Iterator[Finding]:
    for item in no_variances(cell):
        shown, many = ", ".join(map(number, item.values)), f"{item.channels} of {item.of} channels of {item.layer}"
        said = f"holds a running variance that cannot be one in {many} ({shown})"
        advice = "re-estimate the running statistics on clean data and export again; nothing heals the file"
        if item.by_eps:
            said = f"has an epsilon of {number(item.eps)}, and variance + epsilon is not above zero in {many}"
            said = f"{said} (variance {shown})"
            advice = f"set the attribute epsilon of {item.layer} to a number above zero; its default is 1e-05"
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="defect",
            title=(
                f"{file_name(cell)} {said}: {item.bad} of {item.forwards} forwards on {names(cell.members)} give NaN "
                f"or Inf there."
            ),
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=item.layer,
            event=-1,
            quantity="running_var",
            departs=cell.target,
            departs_from="arithmetic",
            evidence={"channels": item.channels, "forwards": item.forwards, "of them not finite": item.bad},
            advice=advice,
        )


def check_holding(holding: Holding) -> list[Finding]:
    """NaN, Inf, variances below zero, or of zero in a whole layer."""
    return of_holding(holding, CODE, CAUSE, damage.poisoned(holding))


def check_life(life: Life) -> list[Finding]:
    """Where NaN or Inf began."""
    return of_life(life, CODE, CAUSE, spoilt.poisoned(life))
