"""The variance is computed as E[x²] − E[x]² and loses its digits.

Signature: the error of the variance grows as (mean/std)² times the unit roundoff, the mean stays right; a two-pass
variance on the same data does not show it. A variance below zero gives NaN, one clipped to zero gives outputs of the
size std/sqrt(eps). A wrong divisor would follow n/(n − 1) and not depend on the offset.

What to do: centre the data before the layer, switch the fast variance off (use_fast_variance=False), or keep the
statistics in float32 or float64. In an own layer compute the mean first, then the mean of (x − mean)².
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bncheck.diagnosis.rules.leftover import averaging_bound, batch_facts, batch_weight
from bncheck.diagnosis.rules.revealed import eps_rows, revealed
from bncheck.diagnosis.rules.roundoff import arithmetic_dtype, mean_bound, one_pass_bound, unit, welford_bound
from bncheck.diagnosis.rules.wording import names, number, targets, verb
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.scenario_files.inputs import make_inputs
from bncheck.trace import Array

CODE = "BN201"
CAUSE = "cancellation"
EXPLAINS = ("nan", "variance", "statistics", "outputs", "gradients")
NEEDS_CONVENTIONS = True
ADVICE = "centre the data before the layer, or use a two-pass variance (use_fast_variance=False where there is one)"
# Below this mean/std ratio E[x²] − E[x]² is within 100 times of a two-pass variance: nobody would notice.
SMALLEST_RATIO = 10.0
# dx of a channel without variance is dy times one number, to this share: what the rest of it carries is rounding.
STRAIGHT = 1e-3


class Loss(NamedTuple):
    """The worst channel: computed and float64 variance, mean/std, where it was seen. ``event`` is the first in which
    the variance is not that of two passes: a layer that computes it in one pass does so throughout."""

    ratio: float
    computed: float
    exact: float
    event: int
    quantity: str


def check_cell(cell: CellView) -> Iterator[Finding]:
    for layer in cell.trace.layers if cell.trace is not None else ():
        if divides_otherwise(cell, layer):
            continue
        with np.errstate(all="ignore"):
            found = [
                loss
                for loss in (in_state(cell, layer), in_output(cell, layer), in_gradient(cell, layer))
                if loss is not None
            ]
        if not found:
            continue
        worst = max(found, key=lambda loss: abs(loss.computed - loss.exact) / max(loss.exact, 1e-300))
        event = min(loss.event for loss in found)
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="defect",
            title=(
                f"{names(cell.members)} {verb(cell.members, 'loses', 'lose')} the variance of {layer} to cancellation: "
                f"{number(worst.computed)} instead of {number(worst.exact)} at mean/std = {number(worst.ratio)}."
            ),
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=layer,
            event=event,
            quantity=worst.quantity,
            departs=cell.target,
            departs_from="arithmetic",
            evidence={"computed": worst.computed, "float64": worst.exact, "mean/std": worst.ratio},
            advice=ADVICE,
        )


def divides_otherwise(cell: CellView, layer: str) -> bool:
    """Whether a layer of the user's was seen to add another eps, or to divide by n - 1: no digits are lost by that."""
    anatomy = cell.anatomy.get(layer)
    return anatomy is not None and any(part.cause in ("eps", "normaliser-divisor") for part in anatomy.departures)


def in_state(cell: CellView, layer: str) -> Loss | None:
    """running_var is off its replay (in float64, by the target's own convention) as only one-pass arithmetic is."""
    assert cell.trace is not None
    rows, facts = cell.trace.get(layer, "running_var"), batch_facts(cell, layer)
    if rows is None or facts is None:
        return None
    means, variances, counts = facts
    rows = np.asarray(rows, dtype=np.float64)
    replay = cell.replay.get(layer, {}).get("running_var")
    u = unit(arithmetic_dtype(cell, f"{layer}/running_var"))
    ratio = np.sqrt((means**2 / np.maximum(variances, means**2 * u * u + 1e-300)).max(axis=0))
    far = ratio > SMALLEST_RATIO
    if not far.any():  # which is the rule
        return None
    lowest = 4 * one_pass_bound(means, variances, counts, u).max(axis=0)
    lowest = lowest + averaging_bound(cell, layer, np.abs(rows).max(axis=0), len(rows), u)
    negative = (rows < 0) & (rows[0] >= 0) & (-rows <= lowest)  # what is further below zero was never E[x²] − E[x]²
    if replay is not None and np.shape(replay) == rows.shape and is_known(cell):
        floor = 2 * welford_bound(means, variances, counts, u).max(axis=0)
        size = np.maximum(np.abs(rows).max(axis=0), variances.max(axis=0))
        floor = floor + averaging_bound(cell, layer, size, len(rows), u) + unsettled(cell) * size
        ceiling = 4 * one_pass_bound(means, variances, counts, u).max(axis=0) + floor
        gap = np.abs(rows - replay)
        off = (gap > floor + about_a_wrong_mean(cell, layer)) & (gap <= ceiling) & far
        off &= mean_is_right(cell, layer, u)
        exact = np.asarray(replay, dtype=np.float64)
    else:
        off, exact = np.zeros_like(negative), np.broadcast_to(variances.max(axis=0), rows.shape)
    off = off | (negative & far)
    if not off.any():
        return None
    point, channel = (int(place[0]) for place in np.nonzero(off))
    return Loss(
        float(ratio[channel]), float(rows[point, channel]), float(exact[point, channel]), point - 1, "running_var"
    )


def about_a_wrong_mean(cell: CellView, layer: str) -> Array:
    """What the variance is off by where it was taken about a mean that is off by d in each batch: d², of which as much
    is remembered as of the d. (BN207 names that.) Twice, because the batches differ."""
    assert cell.trace is not None
    rows, replay = cell.trace.get(layer, "running_mean"), cell.replay.get(layer, {}).get("running_mean")
    if rows is None or replay is None or np.shape(rows) != np.shape(replay):
        return np.asarray(0.0)
    updates = np.cumsum(np.concatenate([[0], (np.diff(np.asarray(rows, dtype=np.float64), axis=0) != 0).any(axis=1)]))
    remembered = 1.0 - (1.0 - batch_weight(cell, layer)) ** updates[:, None]
    gap = np.asarray(rows, dtype=np.float64) - np.asarray(replay, dtype=np.float64)
    return np.asarray(2.0 * gap**2 / np.where(remembered > 0, remembered, 1.0))


def is_known(cell: CellView) -> bool:
    """A replay judges digits only if every rule that it went by was measured."""
    facets = ("update_on", "batch_weight", "averaging", "variance_divisor", "statistic")
    return cell.convention is not None and all(cell.convention.value(facet) is not None for facet in facets)


def unsettled(cell: CellView) -> float:
    """How far a replay may be off, relatively, because the weight a is only known to ± δ: of an average with weights
    a·(1 − a)^j the sum of |d weight of batch j / da| is at most 2/a."""
    facet = cell.convention.facets.get("batch_weight") if cell.convention is not None else None
    if facet is None or not isinstance(facet.value, float) or not facet.value:
        return 0.0
    return 2.0 * facet.uncertainty / facet.value


def mean_is_right(cell: CellView, layer: str, u: float) -> Array:
    """Per channel: is running_mean where its replay is? If not, something else than the variance is wrong."""
    assert cell.trace is not None
    rows, replay = cell.trace.get(layer, "running_mean"), cell.replay.get(layer, {}).get("running_mean")
    facts = batch_facts(cell, layer)
    if rows is None or replay is None or facts is None or np.shape(rows) != np.shape(replay):
        return np.asarray(False)
    rows = np.asarray(rows, dtype=np.float64)
    bound = 2 * mean_bound(*facts, u).max(axis=0) + averaging_bound(cell, layer, np.abs(rows).max(axis=0), len(rows), u)
    return np.asarray((np.abs(rows - replay) <= bound).all(axis=0))


def in_output(cell: CellView, layer: str) -> Loss | None:
    """A training output that reveals a variance that only one-pass arithmetic gives (needs no replay)."""
    u, first = unit(arithmetic_dtype(cell, f"{layer}/running_mean")), None
    for seen in revealed(cell):
        if seen.layer != layer or not seen.training or ((np.abs(seen.gamma - 1) > 0).any() and not seen.tracked):
            continue
        mean, var = seen.batch
        ratio = np.abs(mean) / np.sqrt(var)
        if not (ratio > SMALLEST_RATIO).any():
            continue
        count = np.asarray(float(row_count(cell, layer, seen.event)))
        gap = np.abs(seen.var - var)
        floor = welford_bound(mean, var, count, u) + seen.var_error
        ceiling = 4 * one_pass_bound(mean, var, count, u) + floor
        near_mean = np.abs(seen.mean - mean) <= seen.mean_error + mean_bound(mean, var, count, u)
        about = 2 * (seen.mean - mean) ** 2  # what a mean that is off does to the variance: see BN207
        lossy = (gap <= ceiling) & (ratio > SMALLEST_RATIO) & near_mean
        if first is None and (lossy & (gap > seen.var_error + about)).any():
            first = seen.event
        off = lossy & (gap > floor + about)
        if off.any():
            worst = int(np.argmax(np.where(off, gap, -1)))
            event = seen.event if first is None else first
            return Loss(float(ratio[worst]), float(seen.var[worst]), float(var[worst]), event, "output")
    return None


def in_gradient(cell: CellView, layer: str) -> Loss | None:
    """A channel that does not vary comes out as beta whatever its variance was taken for; dx = γ·r·(dy − mean(dy))
    reveals it. Only where nothing but this layer stands between x and y."""
    network, trace = cell.case.network, cell.trace
    facts = batch_facts(cell, layer)
    if (
        trace is None
        or facts is None
        or [item.name for item in network.layers] != [layer]
        or len(cell.case.inputs) != 1
    ):
        return None
    (means, variances, counts), u = facts, unit(arithmetic_dtype(cell))
    still = (variances <= (u * means) ** 2).all(axis=0) & (means != 0).all(axis=0)
    names = [name for name in trace.arrays if name.startswith("grad_input/")]
    (source,) = cell.case.inputs
    dys = make_inputs(cell.case).get(f"dy/{source}") if still.any() and names else None
    eps = float(eps_rows(cell, layer, 1)[0])
    for dx, dy, name in zip(map(trace.arrays.get, names), dys if dys is not None else (), names, strict=False):
        if dx is None or dx.shape != dy.shape or dx.ndim != 2 or eps <= 0:
            continue
        given = np.asarray(dy, dtype=np.float64)
        given = given - given.mean(axis=0)
        slope = (given * dx).sum(axis=0) / (given * given).sum(axis=0)
        straight = np.abs(dx - slope * given).max(axis=0) <= STRAIGHT * np.abs(slope * given).max(axis=0)
        mean, var, count = (rows.max(axis=0) for rows in (np.abs(means), variances, counts))
        gamma = trace.get(layer, "gamma")
        scale = np.asarray(gamma[0], dtype=np.float64) if gamma is not None else np.ones_like(mean)
        computed = (scale / slope) ** 2 - eps
        gap, floor = np.abs(computed - var), welford_bound(mean, var, count, u) + 4 * STRAIGHT * (var + eps)
        off = still & straight & (gap > floor) & (gap <= 4 * one_pass_bound(mean, var, count, u) + floor)
        if off.any():
            worst = int(np.argmax(np.where(off, gap, -1)))
            event = int(name.partition("/")[2])
            ratio = float(mean[worst] / np.sqrt(var[worst])) if var[worst] > 0 else np.inf
            return Loss(ratio, float(computed[worst]), float(var[worst]), event, "output")
    return None


def row_count(cell: CellView, layer: str, event: int) -> int:
    counts = cell.trace.get(layer, "n") if cell.trace is not None else None
    return int(counts[event]) if counts is not None else 1
