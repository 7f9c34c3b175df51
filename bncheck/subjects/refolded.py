"""Whether weights that are folded wrongly are all of a difference: those that the other side folds to are put in their
place, and it is played again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bncheck.diagnosis.held.folding import rows_ratio
from bncheck.diagnosis.held.matching import match
from bncheck.diagnosis.held.measured import Measured
from bncheck.diagnosis.held.outputs import aligned, hold_against, percent
from bncheck.errors import BncheckError
from bncheck.finding import Finding
from bncheck.report.plain_text import plural
from bncheck.subjects.folded import RIGHT, FoldedLayer, Weights, folded_layers, has_own_eps, moved
from bncheck.subjects.played_file import Played
from bncheck.trace import Array

NEARLY = 1e-3  # how far a row may be off a multiple of another: they are of float32, or of less
Play = Callable[[Mapping[str, Array]], Mapping[str, Sequence[Array]]]


def refolded(one: Played, two: Played, play: Play) -> Played:
    """``two`` with its outputs as "refolded", where weights of it are a wrong fold of layers that ``one`` has.
    ``play`` gives the outputs with other weights, by their names."""
    usual = one.plays.get("eval") or one.plays.get("plain") or ()
    other = two.plays.get("plain") or two.plays.get("eval") or ()
    if any(each.fits for way, each in hold_against(one.plays, aligned(usual, other)).items() if way[:3] != "eps"):
        return two
    mine, theirs = one.checkpoint, two.checkpoint
    found = folded_layers(mine, theirs, match(mine.holding, theirs.holding))
    wrong = [each for each in found.layers if each.in_b and not (each.fold.word in RIGHT and has_own_eps(each))]
    weights: dict[str, Array] = {}
    for each in wrong:
        weights |= right_weights(each, Weights(mine), Weights(theirs))
    if not weights or found.left_a:
        return two
    try:
        plays = play(weights)
    except BncheckError:  # what was found stays as it is: not explained by this
        return two
    return replace(two, refolded=plays.get("restored", ()))


def right_weights(each: FoldedLayer, mine: Weights, theirs: Weights) -> dict[str, Array]:
    """What the layer folds into: the weight and the bias under the names of the side that lacks the layer. Nothing
    where its axes are others, or no bias is there to take the mean."""
    layer, (own, other) = each.layer, each.keys
    if own not in mine.checkpoint.tensors or other not in theirs.checkpoint.tensors:
        return {}  # behind an activation it stands there as a product and a sum: no weight of this side goes in
    weight = mine.checkpoint.tensors[own].read().astype(np.float64)
    count = 0 if layer.running_mean is None else layer.running_mean.size
    bias_key = theirs.bias_of(other, count)
    fits = weight.shape == theirs.checkpoint.tensors[other].shape and bool(bias_key)
    axis = (
        axis_of(weight, theirs.checkpoint.tensors[other].read(), count, mine.checkpoint.axes.get(own)) if fits else None
    )
    if axis is None or layer.running_mean is None or layer.running_var is None:
        return {}
    eps = 1e-5 if layer.eps is None else layer.eps
    gain = np.ones(count) if layer.gamma is None else layer.gamma.astype(np.float64)
    with np.errstate(all="ignore"):
        gain = gain / np.sqrt(layer.running_var.astype(np.float64) + eps)
    bias = mine.bias(own, count)
    before = (0.0 if bias is None else bias.astype(np.float64)) - layer.running_mean.astype(np.float64)
    after = before * gain + (0.0 if layer.beta is None else layer.beta.astype(np.float64))
    shape = [1] * weight.ndim
    shape[axis] = -1
    return {other: (weight * gain.reshape(shape)).astype(np.float32), bias_key: after.astype(np.float32)}


def axis_of(weight: Array, other: Array, channels: int, known: int | None) -> int | None:
    """The axis of output channels: the first, or the second of a transposed convolution, where the weights show that
    (each row is a multiple of the other's)."""
    fitting = [axis for axis in (0, 1) if axis < weight.ndim and weight.shape[axis] == channels]
    if known is not None:
        return known if known in fitting else None
    shown = [axis for axis in fitting if rows_ratio(moved(weight, axis), moved(other, axis), NEARLY) is not None]
    return next(iter(shown or fitting), None)


def explained(
    one: Played, two: Played, outputs: Sequence[Finding], held: Sequence[Finding], usual: Measured
) -> tuple[list[Finding], list[Finding]]:
    """Outputs that nothing else explains follow from the folds, where with the right ones they are equal."""
    open_ones = [finding for finding in outputs if finding.kind == "unexplained"]
    # What the next batch weighs and how many there were is nothing that eval shows.
    causes = [each for each in held if each.kind != "rounding" and each.cause not in ("batch-weight", "counter-skew")]
    if not open_ones or not causes or not two.refolded:
        return list(outputs), list(held)
    now = hold_against(one.plays, aligned(one.plays.get("eval") or one.plays["plain"], two.refolded))
    measured = now.get("eval") or now["plain"]
    if not measured.fits:
        return list(outputs), list(held)
    all_of_it = "That is" if len(causes) == 1 else f"Together with {plural(len(causes) - 1, 'other finding')} that is"
    first = replace(
        causes[0],
        title=f"{causes[0].title} {all_of_it} all of the difference of their outputs, {percent(usual.gap)} of the "
        "largest: folded rightly, it gives the same up to rounding.",
        evidence={**causes[0].evidence, "explained": 1.0 - measured.gap / usual.gap, "gap": usual.gap},
        accounts=(*causes[0].accounts, ("", "output")),
    )
    return [each for each in outputs if each not in open_ones], [first if each is causes[0] else each for each in held]
