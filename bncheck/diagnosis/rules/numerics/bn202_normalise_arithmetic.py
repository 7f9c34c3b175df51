"""The statistics are right, but y = (x − mean)/std loses digits on data far from zero.

Signature: running statistics agree, y is off by about u·|mean|/sqrt(var + eps), on a constant channel up to
u·|mean|/sqrt(eps). Folding the layer into x·scale + shift, or rounding the mean to the data's dtype, costs that much;
in float64 it vanishes. If the variance is wrong as well, it is cancellation.

What to do: centre the data before the layer, or compute the layer in a wider dtype. Do not compare such outputs with
the usual tolerance: the data do not determine them any better in this dtype.
"""

import math
from collections.abc import Iterator

import numpy as np

from bncheck.diagnosis.rules.attributed import summary
from bncheck.diagnosis.rules.leftover import batch_facts, explained_by_conventions, within_bounds, within_rounding
from bncheck.diagnosis.rules.revealed import asked_eps
from bncheck.diagnosis.rules.roundoff import unit
from bncheck.diagnosis.rules.wording import names, number, targets
from bncheck.evidence import Drift, PairView
from bncheck.finding import Finding
from bncheck.trace import STATISTICS

CODE = "BN202"
CAUSE = "normalise-arithmetic"
EXPLAINS = ("outputs", "gradients")
FOLLOWS_FROM = ("variance",)
# u·κ of float32 reaches its usual tolerance (1e-5) at κ = |mean|/sqrt(var + eps) of about 170.
SMALLEST_RATIO = 100.0
# y is of size 1. An error of √u is half of its digits; a little more than that is worth a word, less is rounding.
LOST = 8.0


def check_pair(pair: PairView) -> Iterator[Finding]:
    drift = pair.drift("", "output")
    if drift is None or not is_ill_conditioned(pair, drift):
        return
    layer = pair.case.network.batch_norms[0]
    ratio, gap = conditioning(pair, layer), own_gap(pair, drift, layer)
    sides = f"{names(pair.a.members)} and {names(pair.b.members)}"
    yield Finding(
        code=CODE,
        cause=CAUSE,
        kind="hazard",
        title=f"{sides} {beside(pair, layer)} by up to {number(gap)}: {drift.dtype} keeps no more digits at "
        f"mean/sqrt(var + eps) = {number(ratio)}.",
        targets=targets(pair.a.members, pair.b.members),
        scenario=pair.case.scenario,
        case=pair.case.name,
        layer=layer,
        event=drift.first_event,
        quantity="output",
        evidence={**summary(drift), "mean/sqrt(var + eps)": ratio},
        advice="centre the data before the layer, or compute it in a wider dtype",
    )


def is_ill_conditioned(pair: PairView, drift: Drift) -> bool:
    """Outside tolerance, inside the bound of ill-conditioned data, nothing but BatchNorm in front, and nothing is wrong
    with the statistics: they agree, or differ by rounding and conventions alone."""
    plain = all(layer.type in ("batch_norm", "flatten", "relu") for layer in pair.case.network.layers)
    if drift.relation != "differs" or not plain or len(pair.case.network.batch_norms) != 1:
        return False
    layer = pair.case.network.batch_norms[0]
    if conditioning(pair, layer) < SMALLEST_RATIO or not within_bounds(pair, drift):
        return False
    fine = all(
        state.relation == "agrees" or within_rounding(pair, state) or explained_by_conventions(pair, state) == 1.0
        for state in statistics(pair, layer)
    )
    return fine and own_gap(pair, drift, layer) > LOST * math.sqrt(unit(drift.dtype))


def beside(pair: PairView, layer: str) -> str:
    """What the sides do, and what is to be said of the statistics beside it."""
    if agree(pair, layer):
        return f"agree in the statistics of {layer}, but differ in y"
    if all(state.relation == "agrees" or within_rounding(pair, state) for state in statistics(pair, layer)):
        return f"differ only by rounding in the statistics of {layer}, but differ in y"
    return "differ in y in training"


def agree(pair: PairView, layer: str) -> bool:
    return all(state.relation == "agrees" for state in statistics(pair, layer))


def own_gap(pair: PairView, drift: Drift, layer: str) -> float:
    """By how much the outputs differ where the same numbers were normalised with the same statistics: in training alone
    where the running ones differ, for evaluation then shows that as well."""
    a, b = pair.a.trace, pair.b.trace
    if agree(pair, layer) or a is None or b is None:
        return drift.max_abs
    names = [f"output/{event}" for event, item in enumerate(pair.case.events) if item.op == "train_forward"]
    gaps = [
        np.abs(np.asarray(a.arrays[name], dtype=np.float64) - b.arrays[name])
        for name in names
        if name in a.arrays and name in b.arrays and a.arrays[name].shape == b.arrays[name].shape
    ]
    return max((float(np.max(gap, where=np.isfinite(gap), initial=0.0)) for gap in gaps), default=0.0)


def statistics(pair: PairView, layer: str) -> list[Drift]:
    return [state for quantity in STATISTICS if (state := pair.drift(layer, quantity)) is not None]


def conditioning(pair: PairView, layer: str) -> float:
    """The largest |mean|/sqrt(var + eps) of any batch."""
    facts = batch_facts(pair.a, layer) or batch_facts(pair.b, layer)
    if facts is None:
        return 0.0
    mean, var, _ = facts
    spread = np.sqrt(var + asked_eps(pair.case, layer))
    varies = spread > 0  # without eps a channel that does not vary has no y
    return float(np.max(np.abs(mean)[varies] / spread[varies], initial=0.0))
