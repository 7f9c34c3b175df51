"""Statistics that are still those of a new layer, beside what says that the layer is none."""

from __future__ import annotations

import numpy as np

from bncheck.diagnosis.rules.holdings.settings import weight_of
from bncheck.diagnosis.rules.holdings.words import Said, anew, flat, statistics, word
from bncheck.diagnosis.rules.layer_names import of_all, verb
from bncheck.diagnosis.rules.wording import number, percent
from bncheck.life import Held, Holding

MOST = 0.5  # of the start that is left
INSTANCE = "InstanceNorm"  # PyTorch's has a counter, and never moves it
ENOUGH = 4  # channels: fewer may be consistent with any start by chance


def at_start(held: Held) -> bool:
    """A mean of 0 and a variance of 1 in every channel, to the bit."""
    facts = statistics(held)
    return facts is not None and not facts[0].any() and bool((facts[1] == 1).all())


def empty(held: Held) -> bool:
    """Zeros throughout, as an average starts that is divided by its own weights."""
    facts = statistics(held)
    return facts is not None and not facts[0].any() and not facts[1].any()


def trained(held: Held) -> bool:
    """Whether gamma and beta can only come from training. A beta that differs between channels does; a gamma does not
    where beta is 0, for some networks draw gamma around 1 at the start (DCGAN)."""
    gamma, beta = flat(held.gamma), flat(held.beta)
    if beta is not None:
        return bool(np.isfinite(beta).all()) and (len(np.unique(beta)) > 1 or (beta.size == 1 and bool(beta[0])))
    return gamma is not None and bool(np.isfinite(gamma).all()) and len(np.unique(gamma)) > 1


def counted(held: Held) -> bool:
    return held.counter is not None and held.counter > 0


def lost(holding: Holding) -> Said | None:
    """A counter that says how often the layer was trained, beside statistics that say never."""
    reset = [held for held in holding.layers if at_start(held) and counted(held) and held.momentum != 0]
    if not reset:
        return None
    layers = tuple(held.layer for held in reset)
    counts = [held.counter or 0.0 for held in reset]
    return Said(
        layers,
        f"eval does not normalise in {of_all(layers, holding)}, which {verb(layers, 'holds', 'hold')} the statistics "
        f"of a new layer, mean 0 and variance 1, beside a counter of {number(max(counts))}: the statistics were reset "
        f"or lost after training.",
        f"go back to a checkpoint that still has them, or {anew(holding)}",
        evidence={"largest counter": max(counts), "least counter": min(counts)},
    )


def never_updated(holding: Holding) -> Said | None:
    """Trained gamma and beta beside statistics that no batch has reached."""
    asked = [held for held in holding.layers if weight_of(holding, held) != 0]  # else: that is why none does
    new = [held for held in asked if at_start(held) and not counted(held) and trained(held)]
    if not new:
        return None
    layers = tuple(held.layer for held in new)
    named_layers, held_in = of_all(layers, holding), verb(layers, "holds", "hold")
    start = (
        f"the statistics of a new layer, mean 0 and variance 1, beside a trained {word(holding, 'gamma')} and "
        f"{word(holding, 'beta')}"
    )
    betas = [float(np.abs(beta).max()) for held in new if (beta := flat(held.beta)) is not None]
    evidence = {f"largest {word(holding, 'beta')}": max(betas)} if betas else {}
    # FrozenBatchNorm has no counter, and Caffe's networks were converted to it with mean 0 and variance 1.
    if holding.framework == "torch" and all(held.counter is None for held in holding.layers):
        return Said(
            layers,
            f"{named_layers} {held_in} {start}. That is right for a frozen layer (FrozenBatchNorm2d) into which the "
            f"statistics were folded, and for nothing else.",
            f"if it is a BatchNorm layer, {anew(holding)}",
            kind="convention",
            evidence=evidence,
        )
    return Said(
        layers,
        f"eval does not normalise in {named_layers}, which {held_in} {start}: they were never updated, or were lost "
        f"when the model was saved, loaded or averaged.",
        f"save and load buffers together with parameters, or {anew(holding)}",
        evidence=evidence,
    )


def counter_reset(holding: Holding) -> Said | None:
    """A counter of 0 beside statistics that have moved. Converted checkpoints and backbones are so, and only an average
    that divides by the counter minds."""
    held_here = [
        held
        for held in holding.layers
        if held.counter is not None and statistics(held) is not None and INSTANCE not in held.kind
    ]
    reset = [held for held in held_here if held.counter == 0 and not at_start(held) and not empty(held)]
    if not reset:
        return None
    layers = tuple(held.layer for held in reset)
    cumulative = holding.format == "model" and any(held.momentum is None and held.weighed for held in reset)
    others = [held.counter or 0.0 for held in held_here if counted(held)]
    start = f"the counter of {of_all(layers, holding)} is 0, though the running statistics have moved"
    ending = (
        ". With momentum=None the next training batch replaces them."
        if cumulative
        else f"; in other layers it goes up to {number(max(others))}. With momentum=None such a layer would begin anew"
        if others
        else ". Nothing minds but a cumulative average (momentum=None), which would begin anew"
    )
    if not cumulative:
        known = holding.format == "model"  # a file does not tell the classes of its layers
        ending += "." if known else "; an InstanceNorm layer has 0 there for ever, for it never counts."
    return Said(
        layers,
        start + ending,
        "load num_batches_tracked together with the statistics",
        kind="hazard" if cumulative else "convention",
        quantity="counter",
        evidence={"largest counter elsewhere": max(others)} if others else {},
    )


def few_updates(holding: Holding) -> Said | None:
    """Statistics that hold most of their start by the count of their updates and the weight of each, beside a trained
    layer. Variances below what is left of a 1 say that they started from something else (another checkpoint)."""
    if holding.framework != "torch":
        return None
    found = {held.layer: left for held in holding.layers if (left := left_of_start(held)) >= MOST}
    if not found:
        return None
    layers = tuple(found)
    first = next(held for held in holding.layers if held.layer == layers[0])
    count, weight = first.counter or 0.0, first.momentum or 0.0
    return Said(
        layers,
        f"after {number(count)} {'update' if count == 1 else 'updates'} of momentum {number(weight)} the running "
        f"statistics of {of_all(layers, holding)} still hold {percent(found[layers[0]])} of what a new layer starts "
        f"from, mean 0 and variance 1, and eval normalises with that.",
        f"{anew(holding)}, train longer, or give a new batch more weight",
        evidence={"updates": count, "momentum": weight, "share of the start that is left": found[layers[0]]},
    )


def left_of_start(held: Held) -> float:
    """Share of the start in an exponential average; 0 where that is not known, or it started elsewhere."""
    facts, weight = statistics(held), held.momentum
    if facts is None or weight is None or not 0 < weight < 1 or not counted(held) or at_start(held):
        return 0.0
    left = float((1.0 - weight) ** (held.counter or 0.0))
    started = facts[1].size >= ENOUGH and bool((facts[1] >= left * (1.0 - 1e-3)).all())
    return left if started and trained(held) else 0.0
