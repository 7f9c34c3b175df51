"""Two causes at once: outputs that a model gives with another eps *and* run another way, and in neither alone.

A way in which a model was run again is called ``train, eps 0.001`` where two were taken together."""

from __future__ import annotations

from collections.abc import Mapping

from bncheck.diagnosis.held.measured import Measured
from bncheck.diagnosis.held.reading import Reading, Sides

TOGETHER = ", "


# What the first of the two is, before its share.
FIRST = {
    "train": (
        "mode-leak",
        "{b} equals {a} in train mode and with another eps: it normalises by the batch, which makes up {share}.",
        "call model.eval() before you export (torch.onnx.export: training=TrainingMode.EVAL)",
    ),
    "batch": (
        "mode-leak",
        "{b} equals {a} with its BatchNorm layers in train mode and another eps: that it normalises by the batch "
        "makes up {share}.",
        "call model.eval() before you export, and track_running_stats=True where you build",
    ),
    "start": (
        "stale-state",
        "{b} holds the statistics of step 0, and another eps: it equals {a} with running_mean 0, running_var 1 and "
        "that eps. The statistics make up {share}.",
        "load the weights, or train, before you export",
    ),
}


def pairs_named(found: Mapping[str, Measured]) -> list[str]:
    """The pairs that fit within rounding, nearest first; none where one way alone does."""
    if any(one.fits for name, one in found.items() if TOGETHER not in name):
        return []
    fitting = [name for name, one in found.items() if TOGETHER in name and one.fits]
    return sorted(fitting, key=lambda name: found[name].gap)


def pair_readings(sides: Sides, found: Mapping[str, Measured], usual: Measured) -> list[Reading]:
    """Both causes with their shares; [] where no pair makes the outputs, or more than one does."""
    fitting = pairs_named(found)
    ways = {name.partition(TOGETHER)[0] for name in fitting}
    if {"train", "batch"} <= ways:  # nothing but BatchNorm has a training mode here
        fitting = [name for name in fitting if not name.startswith("batch")]
    if len(fitting) != 1:
        return []
    way, _, eps = fitting[0].partition(TOGETHER)
    if way not in found or eps not in found:
        return []
    both, alone, other = found[fitting[0]], found[way], found[eps]
    shares = of_two(usual.gap, alone.gap, other.gap, both.gap)
    cause, words, advice = FIRST[way]
    sizes = {"gap": usual.gap, "gap of both": both.gap}
    own = "another" if sides.eps_a is None else f"{sides.eps_a:g}"
    place = (("", "output"),)
    return [
        Reading(
            cause=cause,
            kind="defect",
            title=words.format(a=sides.a, b=sides.b, share=said(shares, 0)),
            advice=advice,
            places=place,
            departs=sides.b,
            evidence={"explained": shares[0], **sizes},
        ),
        Reading(
            cause="eps",
            kind="hazard",
            title=f"{sides.b} computes with {eps}, {sides.a} with {own}: that makes up {said(shares, 1)}.",
            advice="build both with one eps (PyTorch's default is 1e-5, that of Keras 1e-3)",
            places=place,
            evidence={"explained": shares[1], **sizes},
        ),
    ]


def of_two(nothing: float, one: float, two: float, both: float) -> tuple[float, float]:
    """Shapley shares of what two causes take away from a difference together."""
    first = ((nothing - one) + (two - both)) / 2 / nothing
    second = ((nothing - two) + (one - both)) / 2 / nothing
    return first, second


def said(shares: tuple[float, float], which: int) -> str:
    """A share in words; where one cause alone brings the outputs further apart, neither has a share of its own."""
    part = f"{100 * shares[which]:.3g} %" if min(shares) >= 0 else "a part"
    return f"{part} of the difference of their outputs"
