"""How BN301 says where something not finite, or a variance that cannot be one, began."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bncheck.diagnosis.rules.born import Birth
from bncheck.diagnosis.rules.leftover import batch_facts
from bncheck.diagnosis.rules.movement import holds_training
from bncheck.diagnosis.rules.nonfinite.birthplace import born_in
from bncheck.diagnosis.rules.numerics.bn201_cancellation import in_output, in_state
from bncheck.diagnosis.rules.poison import Poisoning
from bncheck.diagnosis.rules.roundoff import LARGEST, arithmetic_dtype
from bncheck.diagnosis.rules.wording import SHOWN, channels, names, number, verb
from bncheck.evidence import CellView
from bncheck.finding import GAIN, LOWEST, NAN_IN, NONFINITE, Kind
from bncheck.trace import Array

PLACES = "re-estimate the running statistics on clean data, or load means and variances into their own places"
HEAL = "reset the running statistics and re-estimate them on clean data; no further training heals them"


@dataclass(frozen=True)
class Said:
    kind: Kind
    title: str
    advice: str
    evidence: Mapping[str, float | int | str] = field(default_factory=dict)


def grouped(known: Iterable[Birth]) -> list[list[Birth]]:
    """Causes to be said in one sentence: states of several layers that were damaged alike before any event."""
    groups: dict[tuple[object, ...], list[Birth]] = {}
    for place, birth in enumerate(known):
        alike = (birth.quantity, birth.word, birth.why) if birth.event < 0 else (place,)
        groups.setdefault(alike, []).append(birth)
    return list(groups.values())


def said(cell: CellView, group: list[Birth], lasting: Poisoning | None) -> Said | None:
    first = group[0]
    if first.why == "gain":
        return gain(cell, group)
    if first.word == "below zero":
        return below_zero(cell, group) if first.event < 0 else fell(cell, first)
    if first.why == "held":
        return held(cell, group)
    if first.why in ("cast", "before", "between"):
        return came_in(cell, first, lasting)
    if first.why == "network":
        return unseen(cell, first)
    return made(cell, first)


# --------------------------------------------------------------------------------------------------- states


def held(cell: CellView, group: list[Birth]) -> Said:
    """NaN or Inf that a state holds from the start."""
    first, shown = group[0], shows(cell, group)
    where = in_layers(cell, group)
    title = f"{first.quantity} {where} is {first.word} before any event{shown}."
    advice = HEAL if first.quantity.startswith("running") else f"give the layer a finite {first.quantity}"
    return Said(
        kind="hazard",
        title=title,
        advice=advice,
        evidence={
            "layers": len(group),
            "channels": sum(len(birth.channels) for birth in group),
            NONFINITE: first.word,
        },
    )


def below_zero(cell: CellView, group: list[Birth]) -> Said:
    """A running variance below zero from the start: set by hand, or loaded."""
    first, hint = group[0], resemblance(cell, group)
    bad = [birth for birth in group if birth.shows]
    evidence = {
        "layers": len(group),
        "channels": sum(len(birth.channels) for birth in group),
        LOWEST: lowest(cell, group),
    }
    if len(group) == 1 and bad:
        where = f"{channels(first.channels, first.of)} of {called(first.layer)}"
        return Said(
            kind="hazard",
            title=(
                f"{names(cell.members)} {verb(cell.members, 'gives', 'give')} NaN in {modes(cell, first)} in {where}, "
                f"because running_var is {first_values(cell, first)} there before any event.{hint}"
            ),
            advice=PLACES,
            evidence={**evidence, NAN_IN: modes(cell, first)},
        )
    lifted = all(lowest(cell, [birth]) + eps_of(cell, birth.layer) > 0 for birth in group)
    ending = shows(cell, group) or (
        ": no variance can be, and only eps makes it positive" if lifted else ": eval cannot take the root of that"
    )
    size = first_values(cell, first) if len(group) == 1 else "below zero"
    spot = f" in {channels(first.channels, first.of)}" if len(group) == 1 else ""
    title = f"running_var {in_layers(cell, group)} is {size}{spot} before any event{ending}.{hint}"
    return Said(kind="hazard", title=title, advice=PLACES, evidence=evidence)


def fell(cell: CellView, birth: Birth) -> Said | None:
    """A running variance that an event made less than zero; cancellation is said by its own rule."""
    if cancels(cell, birth.layer):
        return None
    where, size = channels(birth.channels, birth.of), number(birth.value)
    start = (
        f"running_var of {called(birth.layer)} in {names(cell.members)} falls below zero in "
        f"{happened(cell, birth.event)}: {size} in {where}"
    )
    evidence: dict[str, float | int | str] = {LOWEST: lowest(cell, [birth])}
    if birth.why == "event":
        return Said(
            kind="hazard", title=f"{start}. {without_batch(cell, birth.event)}", advice=PLACES, evidence=evidence
        )
    weight, statistic = weight_of(cell, birth.layer), measured(cell, "statistic")
    if weight is not None and not 0 <= weight <= 1:
        said = f"{start}. A batch weighs {number(weight)}, so that the old variance is subtracted."
        return Said(
            kind="hazard",
            title=said,
            advice="give the new batch a weight between 0 and 1",
            evidence={**evidence, "batch weight": weight},
        )
    if statistic not in (None, "variance"):
        return Said(
            kind="hazard",
            title=f"{start}. What is averaged there is not a variance ({statistic}).",
            advice=PLACES,
            evidence=evidence,
        )
    said = f"{start}, although the variance of a finite batch is never negative."
    return Said(kind="defect", title=said, advice="average a variance, not a moment", evidence=evidence)


def cancels(cell: CellView, layer: str) -> bool:
    return in_state(cell, layer) is not None or in_output(cell, layer) is not None


def gain(cell: CellView, group: list[Birth]) -> Said | None:
    """Eval divides by sqrt(eps) alone."""
    group = [birth for birth in group if not cancels(cell, birth.layer)]
    if not group:
        return None
    first = group[0]
    gains, sizes = zip(*(reached(cell, birth) for birth in group), strict=True)
    since = "before any event" if first.event < 0 else f"since {happened(cell, first.event)}"
    spot = f" in {channels(first.channels, first.of)}" if len(group) == 1 else ""
    return Said(
        kind="hazard",
        title=f"running_var {in_layers(cell, group)} is 0{spot} {since}: eval multiplies what varies "
        f"there by {number(max(gains))}, so that normalised values reach {number(max(sizes))}.",
        advice="re-estimate the running statistics on data like those you evaluate, or leave such channels out",
        evidence={"layers": len(group), GAIN: max(gains), "normalised size": max(sizes)},
    )


def reached(cell: CellView, birth: Birth) -> tuple[float, float]:
    """(1/sqrt(var + eps) as revealed, root mean square of what was normalised) in the worst channel."""
    assert cell.trace is not None
    event = birth.shows[0]
    mean, var, invstd = (row(cell, birth.layer, name, event) for name in ("input_mean", "input_var", "used_invstd"))
    centre = row(cell, birth.layer, "running_mean", event)
    size = np.sqrt(var + (mean - centre) ** 2) * np.abs(invstd)
    worst = max(birth.channels, key=lambda channel: float(size[channel]))
    return float(abs(invstd[worst])), float(size[worst])


def row(cell: CellView, layer: str, name: str, place: int) -> Array:
    rows = cell.trace.get(layer, name) if cell.trace is not None else None
    return np.asarray(rows[place] if rows is not None else 0.0, dtype=np.float64)


# ------------------------------------------------------------------------------------------- inputs and outputs


def came_in(cell: CellView, birth: Birth, lasting: Poisoning | None) -> Said:
    """It was there before the first BatchNorm layer that has it: that layer is not to blame."""
    event, layer = happened(cell, birth.event), called(birth.layer)
    what = (
        ""
        if lasting is None
        else (f" {lasting.quantity} of {layer} is {lasting.word} from then on {lasting.aftermath}.")
    )
    evidence: dict[str, float | int | str] = dict(lasting.evidence) if lasting is not None else {}
    if birth.why == "cast":
        return Said(
            kind="hazard",
            title=f"The batch of {event} is not finite in {cell.case.dtype}, before the first BatchNorm layer of "
            f"{names(cell.members)}: it reaches {number(birth.value)}, and {cell.case.dtype} holds up to "
            f"{LARGEST.get(cell.case.dtype, LARGEST['float64']):g}.{what}",
            advice=(
                "scale the input before it is cast, or keep the layers in front in a wider dtype; BatchNorm is not to "
                "blame, and float32 statistics do not help"
            ),
            evidence={**evidence, "largest value of the batch": birth.value},
        )
    title = (
        f"What reaches {layer} in {names(cell.members)} is not finite in {event}, though the batch is: it arises in "
        f"front of that layer{in_front(cell, birth)}, not in BatchNorm.{what}"
    )
    born = born_in(cell)
    return Said(
        kind="hazard",
        title=f"{title} {born}".strip(),
        advice="look there: at the range of what goes in, and at the weights"
        if born
        else "look at what stands in front of that layer: its weights, its range",
        evidence=evidence,
    )


def in_front(cell: CellView, birth: Birth) -> str:
    layers = cell.case.network.layers
    place = next((k for k, item in enumerate(layers) if item.name == birth.layer), 0)
    norms = [k for k in range(place) if layers[k].type == "batch_norm"]
    between = [item.name for item in layers[(norms[-1] + 1 if norms else 0) : place]]
    behind = f" and behind {layers[norms[-1]].name}" if norms and birth.why == "between" else ""
    return behind + (f" ({', '.join(between)})" if between else "")


def unseen(cell: CellView, birth: Birth) -> Said:
    """The network's output alone."""
    assert cell.trace is not None
    event, trace = birth.event, cell.trace
    counts = {layer: trace.get(layer, "n") for layer in trace.layers}
    seen = [layer for layer, rows in counts.items() if rows is not None and rows[event] >= 0]
    op = trace.events[event].op
    rest = (
        f"though the output of every BatchNorm layer that bncheck sees is: it arises behind {seen[-1]}"
        if seen and not cell.case.network.model
        else f"though what {every_layer(len(seen))} returns is: it arises elsewhere"
        if seen
        else f"and {op} looks at no BatchNorm layer on its way"
        if trace.layers
        else "and bncheck sees no BatchNorm layer in it"
    )
    title = f"The network's output on {names(cell.members)} is not finite in {happened(cell, event)}, {rest}."
    title = f"{title} {born_in(cell)}".strip()
    return Said(
        kind="hazard",
        title=title,
        advice="look for a layer that bncheck does not see: one of your own that is no nn.BatchNorm, or one in a "
        "plain list"
        if cell.case.network.model or not trace.layers
        else "look at the layers behind: their weights, their range",
        evidence={"events": len(birth.shows)},
    )


def every_layer(count: int) -> str:
    return "the one BatchNorm layer that bncheck sees" if count == 1 else f"each of the {count} that bncheck sees"


def made(cell: CellView, birth: Birth) -> Said:
    """A layer's output, or a state that does not last, out of a finite input and a finite state."""
    event, layer = happened(cell, birth.event), called(birth.layer)
    if birth.why == "backward":
        return Said(
            "hazard",
            f"The gradients of {names(cell.members)} are not finite in {event}, though every output before it is.",
            "look for a division by zero or a root of zero in what is differentiated",
        )
    word = birth.word or "NaN or Inf"
    what = f"{birth.quantity} of {layer} in {names(cell.members)} becomes {word} in {event}"
    return replace(because(cell, birth, what), evidence={NONFINITE: word})


def because(cell: CellView, birth: Birth, what: str) -> Said:
    """``what`` happened, and why."""
    if birth.why == "event":
        return Said("hazard", f"{what}. {without_batch(cell, birth.event)}", HEAL)
    if birth.why in ("single", "empty"):
        n = "one value per channel" if birth.why == "single" else "no values"
        return Said("hazard", f"{what}: a batch with {n} does that.", f"do not train on a batch with {n}")
    if birth.why == "overflow":
        dtype = arithmetic_dtype(cell, f"{birth.layer}/running_var")
        return Said(
            "hazard",
            f"{what}: its batch is finite, and squares of it are beyond the range of {dtype}.",
            "scale the input, or compute the statistics in a wider dtype",
        )
    if birth.why == "constant":
        return Said(
            "hazard",
            f"{what}: a channel has no variance, and eps is {number(eps_of(cell, birth.layer))}.",
            "give the layer an eps above 0",
        )
    if birth.layer in cell.own_inside:
        return Said(
            "hazard",
            f"{what}, though its input and its state are finite.",
            "look for a division by zero, a root of what is below zero, or a type of too short a range (float16), in "
            "what that layer computes",
        )
    if not settings_known(cell, birth):
        return Said(
            "hazard",
            f"{what}, though its input and its state are finite; whether its momentum and its eps are is not recorded.",
            "look at the layer's momentum and eps",
        )
    return Said(
        "defect",
        f"{what}, though its input and all that it holds are finite.",
        "look for a division by zero, or a root of what is below zero, in what that layer computes",
    )


def settings_known(cell: CellView, birth: Birth) -> bool:
    """Whether momentum and eps are finite: a layer that holds none is recorded as one that holds NaN."""
    asked = next((item for item in cell.case.network.layers if item.name == birth.layer), None)
    for name, value in (("momentum", asked and asked.batch_weight), ("eps", asked and asked.eps)):
        rows = cell.trace.get(birth.layer, name) if cell.trace is not None else None
        if (rows is None or not np.isfinite(rows[birth.event])) and (asked is None or value is None or asked.native):
            return False
    return True


def without_batch(cell: CellView, event: int) -> str:
    assert cell.trace is not None
    record = cell.trace.events[event]
    return "No batch was averaged in it." if record.status == "ok" else f"The event failed ({record.error_type})."


# ---------------------------------------------------------------------------------------------------- words


def happened(cell: CellView, event: int) -> str:
    assert cell.trace is not None
    return f"{cell.trace.events[event].op} (event {event + 1})"


def called(layer: str) -> str:
    """A layer's name; one that is a number, as in an nn.Sequential, says that it is one."""
    return f"layer {layer}" if layer[:1].isdigit() else layer


def in_layers(cell: CellView, group: Sequence[Birth]) -> str:
    """ "of bn in torch", "of 3 layers (a, b, c) in torch"."""
    found = [birth.layer for birth in group]
    if len(found) == 1:
        return f"of {called(found[0])} in {names(cell.members)}"
    named = ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
    return f"of {len(found)} layers ({named}) in {names(cell.members)}"


def first_values(cell: CellView, birth: Birth) -> str:
    values = row(cell, birth.layer, birth.quantity, birth.event + 1).reshape(-1)[list(birth.channels)]
    if len(values) <= SHOWN:
        return " and ".join(filter(None, (", ".join(map(number, map(float, values[:-1]))), number(float(values[-1])))))
    return f"{number(float(values.min()))} to {number(float(values.max()))}"


def lowest(cell: CellView, group: Sequence[Birth]) -> float:
    """The running variance at its lowest, of the state in which it is first below zero."""
    return min(float(np.nanmin(row(cell, birth.layer, "running_var", birth.event + 1))) for birth in group)


def modes(cell: CellView, birth: Birth) -> str:
    assert cell.trace is not None
    training = {holds_training(cell.trace, birth.layer, event) for event in birth.shows}
    return "training" if training == {True} else "eval" if True not in training else "eval and in training"


def shows(cell: CellView, group: Sequence[Birth]) -> str:
    """How many forwards came out bad because of it, as the end of a sentence; the layer with most of them speaks."""
    assert cell.trace is not None
    worst = max(group, key=lambda birth: len(birth.shows))
    counts, bad = (cell.trace.get(worst.layer, name) for name in ("n", "input_bad"))
    if not worst.shows or counts is None or bad is None:
        return ""
    clean = int(((counts > 0) & (bad == 0)).sum())
    whose = "its output" if len(group) == 1 else f"the output of {called(worst.layer)}"
    return f": {whose} is not finite in {len(worst.shows)} of {clean} forwards on finite input"


def resemblance(cell: CellView, group: Sequence[Birth]) -> str:
    """What the damaged variances look like, where the data say so, as a sentence of its own."""
    pairs = [(row(cell, b.layer, "running_mean", 0), row(cell, b.layer, "running_var", 0)) for b in group]
    if not all(mean.shape == var.shape for mean, var in pairs):
        return ""
    if all(np.array_equal(mean, var) for mean, var in pairs):
        return " It holds the very numbers of running_mean."
    seen = [crossed(cell, birth.layer) for birth in group]
    positive = all(bool((mean >= 0).all()) for mean, _ in pairs)
    # A mean is at least 0 in every channel by chance once in 2 to the number of channels, and behind a ReLU always.
    enough = sum(mean.size for mean, _ in pairs) >= 4 and (True in seen or len(group) > 1)
    if positive and enough and False not in seen:
        return " Means and variances seem to have changed places: no mean is below zero."
    return ""


def crossed(cell: CellView, layer: str) -> bool | None:
    """Whether the first state is an average of (0, 1) and a batch's moments with mean and variance exchanged, rather
    than of the moments as they are; None where no batch was seen."""
    facts = batch_facts(cell, layer)
    if facts is None:
        return None
    mean, var = facts[0][0], facts[1][0]
    held = np.concatenate([row(cell, layer, name, 0) for name in ("running_mean", "running_var")])
    none, one = np.zeros_like(mean), np.ones_like(var)
    straight = off_average(held, np.concatenate([none, one]), np.concatenate([mean, var]))
    return off_average(held, np.concatenate([one, none]), np.concatenate([var, mean])) < straight / 2


def off_average(held: Array, start: Array, batch: Array) -> float:
    """Squared distance to the nearest of all averages of a start and a batch."""
    step = batch - start
    share = np.clip(((held - start) * step).sum() / max(float((step * step).sum()), 1e-300), 0.0, 1.0)
    return float(((held - start - share * step) ** 2).sum())


def weight_of(cell: CellView, layer: str) -> float | None:
    asked = next((item.batch_weight for item in cell.case.network.layers if item.name == layer), None)
    known = measured(cell, "batch_weight")
    return float(known) if isinstance(known, int | float) else asked


def measured(cell: CellView, facet: str) -> object:
    return cell.convention.value(facet) if cell.convention is not None else None


def eps_of(cell: CellView, layer: str) -> float:
    rows = cell.trace.get(layer, "eps") if cell.trace is not None else None
    asked = next((item.eps for item in cell.case.network.layers if item.name == layer), None)
    return float(rows[0]) if rows is not None and np.isfinite(rows[0]) else asked or 0.0
