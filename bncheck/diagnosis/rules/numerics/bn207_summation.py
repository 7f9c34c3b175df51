"""The mean itself loses its digits: one value is added after the other, in the data's own dtype.

Signature: data far from zero and many values per channel; the batch's mean is off by more than pairwise summation can
be, up to n·u·|mean| (u: the dtype's relative rounding error), and the variance by the square of that. Once the partial
sum is large, it rounds every further value the same way. In float64, or in a layout whose kernel adds in pairs or
blocks, the error vanishes. A variance that is off while the mean is
right is cancellation.

What to do: centre the data before the layer, give the layer the layout whose kernel is right (torch: contiguous(),
not channels_last), or compute it in float64.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bncheck.diagnosis.rules.leftover import averaging_bound, batch_facts
from bncheck.diagnosis.rules.numerics.bn201_cancellation import is_known, unsettled
from bncheck.diagnosis.rules.revealed import read_layer
from bncheck.diagnosis.rules.roundoff import arithmetic_dtype, mean_bound, one_by_one_bound, pairs_bound, unit, visible
from bncheck.diagnosis.rules.wording import names, number, targets, verb
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.trace import Array

CODE = "BN207"
CAUSE = "summation"
EXPLAINS = ("nan", "variance", "statistics", "outputs", "gradients")
ADVICE = (
    "centre the data before the layer, or give it another memory layout (torch: x.contiguous() instead of "
    "channels_last), or compute it in float64"
)
# Nearer to zero the roundings of a sum are independent, and lose no digit that anybody would miss.
SMALLEST_RATIO = 10.0


class Loss(NamedTuple):
    """The worst channel: how far the mean is off, in standard deviations; computed and float64 mean; n; the event."""

    off: float
    computed: float
    exact: float
    values: int
    beyond: bool  # more than roundings of a sum in blocks can be, in whatever order
    event: int
    quantity: str


def check_cell(cell: CellView) -> Iterator[Finding]:
    for layer in cell.trace.layers if cell.trace is not None else ():
        with np.errstate(all="ignore"):
            found = [loss for loss in (in_state(cell, layer), in_output(cell, layer)) if loss is not None]
        if not found:
            continue
        worst = max(found, key=lambda loss: (loss.beyond, loss.off))
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="defect" if worst.beyond else "hazard",
            title=(
                f"{names(cell.members)} {verb(cell.members, 'loses', 'lose')} digits of the mean of {layer} in a sum "
                f"of {worst.values} values: {number_beside(worst.computed, worst.exact)} instead of "
                f"{number_beside(worst.exact, worst.computed)}, {number(worst.off)} standard deviations off."
            ),
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=layer,
            event=worst.event,
            quantity=worst.quantity,
            departs=cell.target,
            departs_from="arithmetic",
            evidence={
                "computed": worst.computed,
                "float64": worst.exact,
                "standard deviations off": worst.off,
                "values": worst.values,
            },
            advice=ADVICE,
        )


def number_beside(value: float, other: float) -> str:
    """As many digits as tell it from the other."""
    digits = next((d for d in range(4, 17) if f"{value:.{d}g}" != f"{other:.{d}g}"), 16)
    return f"{value:.{digits + 1}g}"


def in_state(cell: CellView, layer: str) -> Loss | None:
    """running_mean is off its replay (in float64, by the target's own convention)."""
    assert cell.trace is not None
    rows, facts = cell.trace.get(layer, "running_mean"), batch_facts(cell, layer)
    replay = cell.replay.get(layer, {}).get("running_mean")
    if rows is None or facts is None or replay is None or np.shape(replay) != rows.shape or not is_known(cell):
        return None
    rows, exact = np.asarray(rows, dtype=np.float64), np.asarray(replay, dtype=np.float64)
    mean, var, n = facts
    nearest, std = np.abs(mean).min(axis=0), np.sqrt(var.max(axis=0))
    if not far_off(nearest, std).any():
        return None
    u = unit(arithmetic_dtype(cell, f"{layer}/running_mean"))
    size = np.maximum(np.abs(rows).max(axis=0), np.abs(mean).max(axis=0))
    noise = averaging_bound(cell, layer, size, len(rows), u) + unsettled(cell) * size
    bounds = Bounds(*(noise + bound(mean, var, n, u).max(axis=0) for bound in ORDERS))
    place = worst_place(np.abs(rows - exact), std, nearest, bounds, u)
    if place is None:
        return None
    return loss_at(place, rows, exact, std, bounds, int(n.max()), place[0] - 1, "running_mean")


def in_output(cell: CellView, layer: str) -> Loss | None:
    """A training output normalised with a mean so far off, and with the variance about that mean (needs no replay)."""
    table = read_layer(cell, layer)
    if table is None or cell.trace is None:
        return None
    f, u = table.facts, unit(arithmetic_dtype(cell, f"{layer}/running_mean"))
    mean, var = f["batch_mean"], f["batch_var"]
    if not far_off(np.abs(mean), np.sqrt(var)).any():
        return None
    n = np.asarray(cell.trace.get(layer, "n"), dtype=np.float64)[:, None]
    gap = np.abs(f["mean"] - mean)
    about = np.abs(f["var"] - var - gap**2) <= f["var_error"] + 0.5 * gap**2
    seen = table.kept & table.training[:, None] & about
    bounds = Bounds(*(f["mean_error"] - mean_bound(mean, var, n, u) + bound(mean, var, n, u) for bound in ORDERS))
    place = worst_place(np.where(seen, gap, 0.0), np.sqrt(var), np.abs(mean), bounds, u)
    if place is None:
        return None
    return loss_at(place, f["mean"], mean, np.sqrt(var), bounds, int(n[place[0], 0]), place[0], "output")


class Bounds(NamedTuple):
    """How far a mean may be off, (C,) or (T, C): added in pairs, in blocks, and one by one."""

    pairs: Array
    blocks: Array
    one_by_one: Array


ORDERS = (pairs_bound, mean_bound, one_by_one_bound)


def far_off(mean: Array, std: Array) -> Array:
    """Where a sum can lose digits at all."""
    return np.asarray((std > 0) & (mean > SMALLEST_RATIO * std))


def worst_place(gap: Array, std: Array, mean: Array, bounds: Bounds, u: float) -> tuple[int, int] | None:
    """(row, channel) of the mean that lost most: further off than a sum in pairs, no further than any sum."""
    lost = (gap > bounds.pairs) & (gap <= bounds.one_by_one) & (gap > visible(u) * std)
    lost &= far_off(mean, std)
    if not lost.any():
        return None
    row, channel = np.unravel_index(int(np.argmax(np.where(lost, gap / np.where(std > 0, std, 1.0), -1.0))), gap.shape)
    return int(row), int(channel)


def loss_at(
    place: tuple[int, int],
    rows: Array,
    exact: Array,
    std: Array,
    bounds: Bounds,
    values: int,
    event: int,
    quantity: str,
) -> Loss:
    gap = np.abs(rows - exact)
    limit, width = (float(np.broadcast_to(array, gap.shape)[place]) for array in (bounds.blocks, std))
    return Loss(
        float(gap[place]) / width,
        float(rows[place]),
        float(exact[place]),
        values,
        float(gap[place]) > limit,
        event,
        quantity,
    )
