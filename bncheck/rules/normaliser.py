"""What a forward normalised with, from the mean and inverse std that its output reveals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bncheck.evidence import CellView
from bncheck.rules.leftover import arithmetic_dtype
from bncheck.rules.movement import holds_training
from bncheck.rules.roundoff import mean_bound, two_pass_bound, unit
from bncheck.scenario import Layer
from bncheck.trace import Array

# Two sources can be told apart when they lie this many rounding errors apart.
APART = 100.0


@dataclass(frozen=True)
class Revealed:
    """One forward of one layer, varying channels only. ``mean_error`` and ``var_error`` are rounding bounds."""

    layer: str
    event: int
    training: bool
    tracked: bool
    eps: float
    mean: Array  # what the output reveals
    var: Array
    batch: tuple[Array, Array]
    before: tuple[Array, Array]
    after: tuple[Array, Array]
    mean_error: Array
    var_error: Array
    gamma: Array
    beta: Array
    residual: Array
    conditioning: Array  # (|mean| + std) times the inverse std

    def expected(self) -> tuple[Array, Array]:
        return self.batch if self.training or not self.tracked else self.before

    def fits(self, source: tuple[Array, Array], mean: Array | None = None, var: Array | None = None) -> bool:
        """True if the source's mean and variance are the revealed ones (or those given) up to rounding."""
        means, variances = self.mean if mean is None else mean, self.var if var is None else var
        return bool(
            (np.abs(means - source[0]) <= self.mean_error).all()
            and (np.abs(variances - source[1]) <= self.var_error).all()
        )


@dataclass(frozen=True)
class Source:
    """An unexpected normaliser: ``weight`` of the batch in it (0: running statistics, 1: the batch's)."""

    layer: str
    event: int
    training: bool
    tracked: bool
    weight: float
    residual: float


def sources(cell: CellView) -> Iterator[Source]:
    """The first unexpected source per layer and mode; eval of a layer without running statistics counts as one."""
    said = set()
    for seen in revealed(cell):
        if (seen.layer, seen.training) in said:
            continue
        found = unexpected(seen)
        if found is not None:
            said.add((seen.layer, seen.training))
            yield found


def unexpected(seen: Revealed) -> Source | None:
    """Which source was used, if it was not the expected one and can be told from it; None otherwise."""
    if not seen.tracked:
        stands = not seen.training and seen.fits(seen.batch)
        return Source(seen.layer, seen.event, False, False, 1.0, 0.0) if stands else None
    if seen.fits(seen.expected()) or affine_ignored(seen):
        return None
    for source, weight in ((seen.before, 0.0), (seen.after, 0.0), (seen.batch, 1.0)):
        if seen.fits(source) and apart(seen, source, seen.expected()):
            return Source(seen.layer, seen.event, seen.training, True, weight, 0.0)
    return blend(seen)


def apart(seen: Revealed, one: tuple[Array, Array], two: tuple[Array, Array]) -> bool:
    gaps = np.abs(one[0] - two[0]) / seen.mean_error, np.abs(one[1] - two[1]) / seen.var_error
    return bool(max(gap.max(initial=0.0) for gap in gaps) > APART)


def blend(seen: Revealed) -> Source | None:
    """Solve mean = w·batch + (1 − w)·running for one w over all channels; None unless that fits to rounding."""
    gap = seen.batch[0] - seen.before[0]
    scale = 1.0 / seen.mean_error
    if not apart(seen, (seen.batch[0], seen.before[1]), (seen.before[0], seen.before[1])):
        return None
    weight = float(((seen.mean - seen.before[0]) * gap * scale**2).sum() / (gap * gap * scale**2).sum())
    mixed = tuple(weight * new + (1 - weight) * old for new, old in zip(seen.batch, seen.before, strict=True))
    # One channel always fits one weight by its mean alone; the variance then has to agree as well, which fits() asks.
    if not 0.0 < weight < 1.0 or not seen.fits((mixed[0], mixed[1])):
        return None
    residual = float(np.abs(seen.mean - mixed[0]).max())
    return Source(seen.layer, seen.event, seen.training, True, weight, residual)


def affine_ignored(seen: Revealed) -> str:
    """``gamma``, ``beta`` or ``gamma and beta`` when y is right without them and wrong with them; else empty.

    y was inverted with the held gamma and beta; undoing that costs 1/r = gamma/slope and a shift of beta/slope.
    """
    if seen.fits(seen.expected()):
        return ""
    spread = np.sqrt(seen.var + seen.eps)
    raw_mean = seen.mean - seen.beta * spread / seen.gamma
    raw_var = (seen.var + seen.eps) / seen.gamma**2 - seen.eps
    scaled, shifted = bool((np.abs(np.abs(seen.gamma) - 1) > 1e-3).any()), bool((np.abs(seen.beta) > 1e-3).any())
    if scaled and seen.fits(seen.expected(), var=raw_var):
        return "gamma"
    if shifted and seen.fits(seen.expected(), mean=raw_mean):
        return "beta"
    both = scaled and shifted and seen.fits(seen.expected(), mean=raw_mean, var=raw_var)
    return "gamma and beta" if both else ""


def revealed(cell: CellView) -> Iterator[Revealed]:
    """All forwards whose output reveals a normaliser: finite data, more than one value, the input varies."""
    if cell.trace is None:
        return
    for layer in cell.trace.layers:
        for event in range(len(cell.trace.events)):
            found = reveal(cell, layer, event)
            if found is not None:
                yield found


def reveal(cell: CellView, layer: str, event: int) -> Revealed | None:
    assert cell.trace is not None
    training = holds_training(cell.trace, layer, event)
    names = ("input_mean", "input_var", "used_mean", "used_invstd", "used_residual")
    rows = [row_of(cell, layer, name, event) for name in names]
    count = row_of(cell, layer, "n", event)
    if training is None or count is None or count < 2 or any(row is None for row in rows):
        return None
    mean, var, used_mean, invstd, residual = (np.asarray(row, dtype=np.float64) for row in rows)
    asked = next((item for item in cell.case.network.layers if item.name == layer), None)
    states = [[row_of(cell, layer, name, event + late) for name in ("running_mean", "running_var")] for late in (0, 1)]
    tracked = all(row is not None for pair in states for row in pair)
    known = [
        [np.asarray(row if row is not None else mean * np.nan, dtype=np.float64) for row in pair] for pair in states
    ]
    gamma, beta = (affine_of(cell, layer, name, event, len(mean)) for name in ("gamma", "beta"))
    arrays = [mean, var, used_mean, invstd, residual, gamma, beta, *(known[0] + known[1] if tracked else [])]
    if any(array.shape != mean.shape for array in arrays):
        return None
    kept = np.isfinite(np.stack(arrays)).all(axis=0) & (invstd > 0) & (var > 0) & (gamma != 0)
    if not kept.any():
        return None
    eps = eps_of(cell, asked, layer, event)
    mean, var, used_mean, invstd, residual, gamma, beta = (array[kept] for array in arrays[:7])
    u, n = unit(arithmetic_dtype(cell, f"{layer}/running_mean")), np.asarray(float(count))
    level = np.maximum(var + eps, 1.0 / invstd**2)
    conditioning = (np.abs(mean) + np.sqrt(var) + np.abs(used_mean)) * invstd
    # Least squares through rounded y: each y carries u·(|x|·r + |y|), and β is subtracted from it.
    noise = 16 * u * (1 + conditioning + np.abs(beta / gamma)) + residual / np.abs(gamma)
    return Revealed(
        layer, event, training, tracked, eps, used_mean, 1.0 / invstd**2 - eps, (mean, var),
        (known[0][0][kept], known[0][1][kept]), (known[1][0][kept], known[1][1][kept]),
        mean_bound(mean, var, n, u) + noise / invstd,
        two_pass_bound(mean, var, n, u) + 4 * noise * level, gamma, beta, residual, conditioning,
    )  # fmt: skip


def row_of(cell: CellView, layer: str, name: str, event: int) -> Array | None:
    rows = cell.trace.get(layer, name) if cell.trace is not None else None
    return rows[event] if rows is not None and event < len(rows) else None


def affine_of(cell: CellView, layer: str, name: str, event: int, channels: int) -> Array:
    row = row_of(cell, layer, name, event)
    plain = 1.0 if name == "gamma" else 0.0
    return np.full(channels, plain) if row is None else np.asarray(row, dtype=np.float64)


def eps_of(cell: CellView, asked: Layer | None, layer: str, event: int) -> float:
    """eps as measured, else as held, else as asked for, else 0."""
    measured = cell.convention.value("eps") if cell.convention is not None else None
    held = row_of(cell, layer, "eps", event)
    if held is not None and np.isfinite(held):
        return float(held)
    if isinstance(measured, int | float):
        return float(measured)
    return float(asked.eps) if asked is not None and asked.eps is not None else 0.0
