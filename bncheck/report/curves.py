"""Curves of one case and one layer, taken out of the run folder for drawing. Differences only; no verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from bncheck.diagnosis.drifts import COARSENESS
from bncheck.run_folder.cell import replay_of, trace_of
from bncheck.run_folder.results import CaseResult, Results, ScenarioResult
from bncheck.trace import Array

DRAWN = ("running_mean", "running_var")
# A picture has about 500 pixels across.
POINTS = 400
MOST_CURVES = 8  # more than that are told apart by nobody


@dataclass(frozen=True)
class Curve:
    """One target's states of one layer: quantity → (steps + 1, C) float64; ``replayed`` where there is one."""

    target: str
    label: str
    measured: Mapping[str, Array]
    replayed: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class CaseCurves:
    """Everything one picture shows. ``channel`` is, per quantity, the one where the targets differ most; ``dtypes`` are
    those by which targets were held against the yardstick, the coarsest first."""

    scenario: ScenarioResult
    case: CaseResult
    layer: str
    curves: tuple[Curve, ...]
    yardstick: str
    channel: Mapping[str, int]
    dtypes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return max(len(values) for curve in self.curves for values in curve.measured.values()) - 1

    def of(self, target: str) -> Curve | None:
        return next((curve for curve in self.curves if curve.target == target), None)


def case_curves(
    results: Results, run_folder: Path, scenario: ScenarioResult, case: CaseResult, layer: str = ""
) -> CaseCurves | None:
    """The curves of ``layer`` (else of the one that drifts most), or None when no target recorded statistics."""
    layer = layer or drifting_layer(results, scenario.name, case.name)
    curves = []
    for target in results.targets:
        cell = results.cell_at.get((scenario.name, case.name, target.name))
        trace = trace_of(run_folder, cell, case.ops) if cell is not None else None
        if cell is None or trace is None:
            continue
        layer = layer or next(iter(trace.layers), "")
        measured = states(trace.arrays, layer, case)
        if measured:
            replayed = states(replay_of(run_folder, cell), layer, case)
            curves.append(Curve(target=target.name, label=target.label, measured=measured, replayed=replayed))
    if not curves:
        return None
    if len(curves) > MOST_CURVES:
        curves = told_apart(results, scenario.name, case.name, layer, curves)
    return CaseCurves(
        scenario=scenario,
        case=case,
        layer=layer,
        curves=tuple(curves),
        yardstick=results.yardstick,
        channel=widest_channels(curves),
        dtypes=judging_dtypes(results, scenario.name, case.name, layer),
    )


def told_apart(results: Results, scenario: str, case: str, layer: str, curves: list[Curve]) -> list[Curve]:
    """One curve for all targets that agree in what is drawn: of 20 lie 15 on one line, and each weighs 20 kB."""
    kept: list[Curve] = []
    alike: dict[str, int] = {}
    for curve in curves:
        home = next((one for one in kept if agree(results, scenario, case, layer, one, curve)), None)
        if home is None:
            kept.append(curve)
        else:
            alike[home.target] = alike.get(home.target, 0) + 1
    return [
        replace(one, label=f"{one.label} and {alike[one.target]} alike") if one.target in alike else one for one in kept
    ]


def agree(results: Results, scenario: str, case: str, layer: str, one: Curve, two: Curve) -> bool:
    """By the run's own drifts; a pair that has none was not compared."""
    drifts = [
        drift
        for drift in results.drifts_between(scenario, case, one.target, two.target)
        if drift.layer == layer and drift.quantity in DRAWN
    ]
    return bool(drifts) and all(drift.relation == "agrees" for drift in drifts)


def judging_dtypes(results: Results, scenario: str, case: str, layer: str) -> dict[str, tuple[str, ...]]:
    """A pair is judged by the dtype that its statistics are held in, which is not always the case's."""
    found: dict[str, set[str]] = {}
    for target in results.targets:
        for drift in results.drifts_between(scenario, case, results.yardstick, target.name):
            if drift.layer == layer and drift.quantity in DRAWN and drift.dtype in COARSENESS:
                found.setdefault(drift.quantity, set()).add(drift.dtype)
    return {quantity: tuple(sorted(held, key=COARSENESS.index, reverse=True)) for quantity, held in found.items()}


def states(arrays: Mapping[str, Array], layer: str, case: CaseResult) -> dict[str, Array]:
    found = {name: arrays[f"{layer}/{name}"] for name in DRAWN if f"{layer}/{name}" in arrays}
    return {
        name: np.asarray(value[case.rows(len(value))], dtype=np.float64)
        for name, value in found.items()
        if value.ndim == 2 and value.size and value.dtype.kind in "fiu"
    }


def drifting_layer(results: Results, scenario: str, case: str) -> str:
    """The layer with the largest drift of a drawn quantity against the yardstick, "" when nothing drifts."""
    found = [
        drift
        for target in results.targets
        for drift in results.drifts_between(scenario, case, results.yardstick, target.name)
        if drift.quantity in DRAWN and drift.relation != "agrees"
    ]
    return max(found, key=lambda drift: np.nan_to_num(drift.mean_abs, nan=np.inf)).layer if found else ""


def widest_channels(curves: list[Curve]) -> dict[str, int]:
    """Per quantity the channel whose curves lie furthest apart; 0 where they are alike."""
    found = {}
    for name in DRAWN:
        shapes = [curve.measured[name].shape for curve in curves if name in curve.measured]
        alike = [c.measured[name] for c in curves if name in c.measured and c.measured[name].shape == shapes[0]]
        if len(alike) > 1:
            stack = np.nan_to_num(np.stack(alike), nan=0.0, posinf=0.0, neginf=0.0)
            found[name] = int((stack.max(axis=0) - stack.min(axis=0)).max(axis=0).argmax())
    return found


def difference(curve: Curve, base: Curve, quantity: str) -> Array | None:
    """(T+1,) mean over channels of |curve − base|; None when they cannot be subtracted."""
    a, b = curve.measured.get(quantity), base.measured.get(quantity)
    if a is None or b is None or a.shape != b.shape:
        return None
    with np.errstate(invalid="ignore"):
        gap = np.abs(a - b)
    gap[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0  # equal infinities and NaN in the same place do not drift
    mean: Array = gap.mean(axis=1)
    return mean


def onset(values: Array) -> int | None:
    """The first step whose row holds NaN or Inf."""
    bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    return int(bad[0]) if bad.size else None


def thin(values: Array) -> Array:
    """Indices of at most POINTS steps that keep every spike: the extremes of each stretch, and both ends."""
    if len(values) <= POINTS:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), POINTS // 2, dtype=int)
    filled = np.where(np.isfinite(values), values, np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0))
    kept = {0, len(values) - 1}
    for start, stop in pairwise(edges):
        stretch = filled[start:stop]
        kept |= {int(start + stretch.argmin()), int(start + stretch.argmax())}
    return np.array(sorted(kept))
