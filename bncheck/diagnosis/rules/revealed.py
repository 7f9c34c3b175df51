"""What a forward normalised with, from the mean and inverse std that its output reveals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from bncheck.diagnosis.rules.movement import holds_training
from bncheck.diagnosis.rules.roundoff import arithmetic_dtype, mean_bound, two_pass_bound, unit
from bncheck.evidence import CellView
from bncheck.scenario import DEFAULT_EPS, Case
from bncheck.trace import Array, Trace

# Two sources can be told apart when they lie this many rounding errors apart.
APART = 100.0
# y lies on a straight line over x to within this many times what was put down for rounding; a value far out has more.
STRAIGHT = 4.0


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
    straight: Array  # y is a straight line over x in the channel
    channels: Array  # which ones these are
    of: int

    def expected(self) -> tuple[Array, Array]:
        return self.batch if self.training or not self.tracked else self.before

    def fits(self, source: tuple[Array, Array], mean: Array | None = None, var: Array | None = None) -> bool:
        """True if the source's mean and variance are the revealed ones (or those given) up to rounding."""
        return bool(self.fitting(source, mean, var).all())

    def fitting(self, source: tuple[Array, Array], mean: Array | None = None, var: Array | None = None) -> Array:
        """The channels in which they are."""
        means, variances = self.mean if mean is None else mean, self.var if var is None else var
        return np.asarray(
            (np.abs(means - source[0]) <= self.mean_error) & (np.abs(variances - source[1]) <= self.var_error)
        )


@dataclass(frozen=True)
class Source:
    """An unexpected normaliser: ``weight`` of the batch in it (0: running statistics, 1: the batch's); ``after``: the
    running statistics that this very forward has moved."""

    layer: str
    event: int
    training: bool
    tracked: bool
    weight: float
    residual: float
    after: bool = False


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
        stands = not seen.training and seen.fits(seen.batch) and bool(seen.straight.all())
        return Source(seen.layer, seen.event, False, False, 1.0, 0.0) if stands else None
    if seen.fits(seen.expected()) or affine_ignored(seen):
        return None
    for source, weight in ((seen.before, 0.0), (seen.after, 0.0), (seen.batch, 1.0)):
        if seen.fits(source) and apart(seen, source, seen.expected()):
            return Source(seen.layer, seen.event, seen.training, True, weight, 0.0, after=source is seen.after)
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
    # A weight within 1 % of the expected source is that source, with an error larger than was thought.
    if not 0.01 < weight < 0.99 or not seen.fits((mixed[0], mixed[1])):
        return None
    residual = float(np.abs(seen.mean - mixed[0]).max())
    return Source(seen.layer, seen.event, seen.training, True, weight, residual)


@dataclass(frozen=True)
class Ignored:
    """Which of gamma and beta an output is without: in ``channels``, while it is applied in others; those empty:
    wherever it would show. ``below_zero``: these are the channels in which beta is negative, and no others."""

    parts: str
    channels: tuple[int, ...] = ()
    below_zero: bool = False


def affine_ignored(seen: Revealed) -> Ignored | None:
    """``gamma``, ``beta`` or ``gamma and beta`` where y is right without them and wrong with them.

    y was inverted with the held gamma and beta; undoing that costs 1/r = gamma/slope and a shift of beta/slope. Where y
    is no straight line over x they are applied to some values and not to others, and no line says which.
    """
    right = seen.fitting(seen.expected())
    if right.all() or not seen.straight.all():
        return None
    spread = np.sqrt(seen.var + seen.eps)
    raw_mean = seen.mean - seen.beta * spread / seen.gamma
    raw_var = (seen.var + seen.eps) / seen.gamma**2 - seen.eps
    scaled = bool((np.abs(np.abs(seen.gamma[~right]) - 1) > 1e-3).any())
    shifted = bool((np.abs(seen.beta[~right]) > 1e-3).any())
    for parts, matters, mean, var in (
        ("gamma", scaled, None, raw_var),
        ("beta", shifted, raw_mean, None),
        ("gamma and beta", scaled and shifted, raw_mean, raw_var),
    ):
        without = seen.fitting(seen.expected(), mean, var)
        if matters and (right | without).all():
            return where_ignored(seen, parts, ~right, right & ~without)
    return None


def where_ignored(seen: Revealed, parts: str, lost: Array, applied: Array) -> Ignored:
    if not applied.any():
        return Ignored(parts)
    negative = parts == "beta" and bool((seen.beta[lost] < 0).all() and (seen.beta[applied] > 0).all())
    return Ignored(parts, tuple(map(int, seen.channels[lost])), negative)


def revealed(cell: CellView) -> Iterator[Revealed]:
    """All forwards that reveal another normaliser than the mode asks for: finite data, n > 1, the input varies.

    Whole layers are judged at once, because almost all forwards are as expected: only the others become a Revealed.
    """
    for layer in cell.trace.layers if cell.trace is not None else ():
        table = read_layer(cell, layer)
        if table is None:
            continue
        for event in np.flatnonzero(table.odd()):
            yield table.row(int(event))


@dataclass(frozen=True)
class Table:
    """One layer's forwards, (T, C) each; ``kept`` marks what can be judged, ``training`` is per event."""

    layer: str
    tracked: bool
    training: Array
    eps: Array
    kept: Array
    facts: Mapping[str, Array]

    def odd(self) -> Array:
        """Events in which some channel does not fit what the mode asks for (eval without statistics: all)."""
        f = self.facts
        own = self.training[:, None] | (not self.tracked)
        mean, var = (np.where(own, f[f"batch_{name}"], f[f"before_{name}"]) for name in ("mean", "var"))
        off = (np.abs(f["mean"] - mean) > f["mean_error"]) | (np.abs(f["var"] - var) > f["var_error"])
        if not self.tracked:
            off = off | ~self.training[:, None]
        return np.asarray((off & self.kept).any(axis=1))

    def row(self, event: int) -> Revealed:
        kept, f = self.kept[event], {name: array[event][self.kept[event]] for name, array in self.facts.items()}
        assert kept.any()
        return Revealed(
            layer=self.layer,
            event=event,
            training=bool(self.training[event]),
            tracked=self.tracked,
            eps=float(self.eps[event]),
            mean=f["mean"],
            var=f["var"],
            batch=(f["batch_mean"], f["batch_var"]),
            before=(f["before_mean"], f["before_var"]),
            after=(f["after_mean"], f["after_var"]),
            mean_error=f["mean_error"],
            var_error=f["var_error"],
            gamma=f["gamma"],
            beta=f["beta"],
            straight=f["straight"],
            channels=np.flatnonzero(kept),
            of=len(kept),
        )


def read_layer(cell: CellView, layer: str) -> Table | None:
    """What the outputs of a layer reveal, beside all that they could have been normalised with; None for nothing."""
    found: Table | None = cell.once(("table", layer), lambda: make_table(cell, layer))
    return found


def make_table(cell: CellView, layer: str) -> Table | None:
    trace = cell.trace
    names = ("input_mean", "input_var", "used_mean", "used_invstd", "used_residual", "n")
    rows = [trace.get(layer, name) for name in names] if trace is not None else []
    if trace is None or any(row is None for row in rows):
        return None
    mean, var, used, invstd, residual, counts = (np.asarray(row, dtype=np.float64) for row in rows)
    if mean.ndim != 2 or not mean.size or any(array.shape != mean.shape for array in (var, used, invstd, residual)):
        return None
    modes = [holds_training(trace, layer, event) for event in range(len(mean))]
    states = [state_rows(trace, layer, name, mean) for name in ("running_mean", "running_var")]
    tracked = states[0] is not None and states[1] is not None
    (before_m, after_m), (before_v, after_v) = (state if state is not None else (mean, mean) for state in states)
    gamma, beta = affine_rows(trace, layer, "gamma", mean), affine_rows(trace, layer, "beta", mean)
    eps = eps_rows(cell, layer, len(mean))
    finite = np.isfinite(mean + var + used + invstd + residual + gamma + beta)
    finite &= np.isfinite(before_m + before_v + after_m + after_v) if tracked else True
    usable = np.array([mode is not None for mode in modes]) & (counts >= 2)
    kept = finite & (invstd > 0) & (var > 0) & (gamma != 0) & usable[:, None]
    if not kept.any():
        return None
    u, n = unit(arithmetic_dtype(cell, f"{layer}/running_mean")), counts[:, None]
    # Least squares through rounded y: each y/γ carries u·(|x|·r + |m|·r + |β/γ|). The slope has that over the spread
    # of y, the mean that of the level, and what the slope's error does on the way from the batch's mean to m.
    noise = 16 * u * (1 + (np.abs(mean) + np.sqrt(var) + np.abs(used)) * invstd + np.abs(beta / gamma))
    bend = residual / np.abs(gamma)
    straight = bend <= STRAIGHT * noise
    noise = noise + bend
    slope = noise / (np.sqrt(var) * invstd)
    level = np.maximum(var + eps[:, None], 1.0 / invstd**2)
    return Table(
        layer=layer,
        tracked=tracked,
        training=np.array([bool(mode) for mode in modes]),
        eps=eps,
        kept=kept,
        facts={
            "mean": used,
            "var": 1.0 / invstd**2 - eps[:, None],
            "batch_mean": mean,
            "batch_var": var,
            "before_mean": before_m,
            "before_var": before_v,
            "after_mean": after_m,
            "after_var": after_v,
            "mean_error": mean_bound(mean, var, n, u) + noise / invstd + np.abs(mean - used) * slope,
            "var_error": two_pass_bound(mean, var, n, u) + 4 * slope * level,
            "gamma": gamma,
            "beta": beta,
            "straight": straight,
        },
    )


def state_rows(trace: Trace, layer: str, name: str, like: Array) -> tuple[Array, Array] | None:
    """(before, after) each event, or None where the layer holds no such state."""
    rows = trace.get(layer, name)
    if rows is None or rows.shape != (len(like) + 1, like.shape[1]):
        return None
    wide = np.asarray(rows, dtype=np.float64)
    return wide[:-1], wide[1:]


def affine_rows(trace: Trace, layer: str, name: str, like: Array) -> Array:
    found = state_rows(trace, layer, name, like)
    return np.full_like(like, 1.0 if name == "gamma" else 0.0) if found is None else found[0]


def asked_eps(case: Case, layer: str) -> float:
    """eps as the scenario asks for it, 0 included; the usual one where each target keeps its own, or for a layer of a
    file or a whole model."""
    asked = next((item.eps for item in case.network.layers if item.name == layer), None)
    return DEFAULT_EPS if asked is None else asked


def eps_rows(cell: CellView, layer: str, events: int) -> Array:
    """eps per event: as held, else as measured, else as asked for, else 0."""
    asked = next((item.eps for item in cell.case.network.layers if item.name == layer), None)
    measured = cell.convention.value("eps") if cell.convention is not None else None
    known = float(measured) if isinstance(measured, int | float) else asked or 0.0
    rows = cell.trace.get(layer, "eps") if cell.trace is not None else None
    if rows is None or len(rows) != events + 1:
        return np.full(events, known)
    return np.where(np.isfinite(rows[:-1]), rows[:-1], known)
