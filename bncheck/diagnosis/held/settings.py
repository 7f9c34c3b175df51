"""eps, the weight of a new batch, other tensors, and what differs by rounding alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from bncheck.diagnosis.held.likeness import Pair
from bncheck.diagnosis.held.reading import (
    NEW_BATCH,
    Reading,
    Sides,
    f64,
    joined,
    layers_in,
)
from bncheck.diagnosis.rules.layer_names import listed
from bncheck.diagnosis.rules.wording import number
from bncheck.finding import Kind
from bncheck.trace import Place


def settings(sides: Sides, pairs: Sequence[Pair]) -> Iterable[Reading]:
    """eps and the weight of a new batch, where both files say them."""
    groups: dict[tuple[float, float], list[Pair]] = {}
    weights: dict[tuple[float, float], list[Pair]] = {}
    for pair in pairs:
        one, two = pair.a.eps, pair.b.eps
        if one is not None and two is not None and abs(one - two) > 1e-6 * max(abs(one), abs(two)):
            groups.setdefault((one, two), []).append(pair)
        new = new_batch(pair.a.momentum, sides.framework_a), new_batch(pair.b.momentum, sides.framework_b)
        if new[0] is not None and new[1] is not None and abs(new[0] - new[1]) > 1e-6:
            weights.setdefault((new[0], new[1]), []).append(pair)
    kind: Kind = "convention" if sides.framework_a != sides.framework_b else "hazard"
    for (one, two), chosen in groups.items():
        gain = max(gain_of(pair, one, two) for pair in chosen)
        yield Reading(
            cause="eps",
            kind=kind,
            title=f"eps is {one:g} in {sides.a} and {two:g} in {sides.b}, in {layers_in(pairs, chosen)}: it changes a "
            f"channel's gain by up to {100 * gain:.2g} %.",
            advice="build both with one eps (PyTorch's default is 1e-5, that of Keras 1e-3)",
            places=tuple((pair.name, "eps") for pair in chosen),
            evidence={"largest change of gain": gain},
        )
    for (one, two), chosen in weights.items():
        own = f"momentum {number(chosen[0].a.momentum)} and {number(chosen[0].b.momentum)}"
        yield Reading(
            cause="batch-weight",
            kind=kind,
            title=f"A new batch weighs {number(one)} in {sides.a} and {number(two)} in {sides.b} ({own} in their own "
            f"words), in {layers_in(pairs, chosen)}; eval is the same until they are trained on.",
            advice="PyTorch's momentum 0.1 is 0.9 in Keras, Paddle, MXNet, Flax and ONNX",
            places=tuple((pair.name, "momentum") for pair in chosen),
        )


def other_tensors(sides: Sides, pairs: Sequence[Pair], found: Sequence[Reading]) -> Iterable[Reading]:
    """Weights that differ beside normalising layers that do not: no finding about a layer speaks of them."""
    if sides.others is not None and sides.others.different and not found:
        names = sides.others.different
        equal = f"BatchNorm is equal in all {len(pairs)} layers; " if pairs else ""
        yield Reading(
            cause="unexplained",
            kind="unexplained",
            title=f"{equal}{len(names)} of {sides.others.total} {'other ' if pairs else ''}tensors differ "
            f"({listed(names)}).",
            advice="nothing that BatchNorm holds accounts for a difference between the two",
            places=(("", "weights"),),
        )


def modes(sides: Sides, pairs: Sequence[Pair]) -> Iterable[Reading]:
    """Nodes of an ONNX file in training mode: the mode is part of the file, unlike that of a saved model."""
    for name, framework, side in ((sides.a, sides.framework_a, "a"), (sides.b, sides.framework_b, "b")):
        chosen = [pair for pair in pairs if framework == "onnx" and getattr(pair, side).training]
        both = sides.framework_a == sides.framework_b and all(pair.a.training == pair.b.training for pair in chosen)
        if chosen and not both:
            yield Reading(
                cause="mode-leak",
                kind="defect",
                title=f"The BatchNormalization nodes of {name} are in training mode, in {layers_in(pairs, chosen)}: "
                "they normalise by the batch.",
                advice="call model.eval() before you export (torch.onnx.export: training=TrainingMode.EVAL)",
                places=tuple((pair.name, "training") for pair in chosen),
                departs=name,
            )


def new_batch(momentum: float | None, framework: str) -> float | None:
    if momentum is None or not framework:
        return None
    return momentum if framework in NEW_BATCH else 1 - momentum


def gain_of(pair: Pair, one: float, two: float) -> float:
    var = f64(pair.a, "running_var")
    good = var[(var + one > 0) & (var + two > 0)]
    return float(np.abs(np.sqrt((good + one) / (good + two)) - 1).max(initial=0.0))


def roundings(sides: Sides, pairs: Sequence[Pair]) -> Iterable[Reading]:
    """What differs by rounding alone, by the type that rounded it."""
    groups: dict[str, list[Place]] = {}
    for pair in pairs:
        for what, found in pair.quantities.items():
            if found.word in ("rounding", "narrowed"):
                groups.setdefault(found.detail, []).append((pair.name, what))
    for dtype, where in groups.items():
        layers = list(dict.fromkeys(layer for layer, _ in where))
        quantities = list(dict.fromkeys(what for _, what in where))
        how = f"equal to the bit in {dtype}" if dtype else "equal up to rounding"
        yield Reading(
            cause="reduced-precision" if dtype else "rounding",
            kind="rounding",
            title=f"{joined(quantities)} are {how}, in {listed(layers)}."
            if len(quantities) > 1
            else f"{quantities[0]} is {how}, in {listed(layers)}.",
            advice="",
            places=tuple(where),
        )
