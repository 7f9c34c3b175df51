"""How a difference grows along an axis of a scenario (conditioning, values per channel, batch size): curves as data.

An axis is a key of the matrix with at least three numbers, as values or as labels (``1e3``; ``4096, 4-D`` is the number
4096 in the group "4-D"). Statistics are drawn as relative errors, outputs and gradients (of order one) as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bncheck.report.plain_text import clean, scalar
from bncheck.run_folder.results import CaseResult, Results, ScenarioResult

NUMBER = re.compile(r"(?P<number>[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?:,\s*(?P<rest>.+))?", re.IGNORECASE)
# Quantity → (words, field of a drift, what the field is).
DRAWN: Mapping[str, tuple[str, str, str]] = {
    "running_mean": ("running mean", "max_rel", "largest relative error"),
    "running_var": ("running variance", "max_rel", "largest relative error"),
    "output": ("output", "mean_abs", "mean |difference|"),
    "grad_input": ("gradient of the input", "mean_abs", "mean |difference|"),
}
LEAST = 3  # points that make a curve
MOST_PANELS = 3


@dataclass(frozen=True)
class Point:
    """One case on the axis; ``value`` None where nothing could be measured, ``mark`` then says why."""

    value: float | None
    mark: str = ""  # NaN, refused


@dataclass(frozen=True)
class Sweep:
    """One axis in one group of cases: ``curves`` maps (target, quantity) to a point per number of ``xs``."""

    scenario: ScenarioResult
    axis: str
    group: str
    xs: tuple[str, ...]
    cases: tuple[CaseResult, ...]
    curves: Mapping[tuple[str, str], tuple[Point, ...]]

    @property
    def name(self) -> str:
        words = "-".join(filter(None, (self.axis, self.group)))
        return f"{self.scenario.name}--sweep-{re.sub(r'[^A-Za-z0-9._-]+', '-', words)}"[:160]

    @property
    def quantities(self) -> list[str]:
        return [name for name in DRAWN if any(quantity == name for _, quantity in self.curves)]


@dataclass(frozen=True)
class SweepSheet:
    """All that the picture of a sweep shows; ``labels`` and ``looks`` (the numbers of their colours) are of targets."""

    sweep: Sweep
    labels: Mapping[str, str]
    looks: Mapping[str, int]
    yardstick: str
    version: str  # of bncheck
    created: str

    @property
    def name(self) -> str:
        return self.sweep.name

    @property
    def quantities(self) -> list[str]:
        return self.sweep.quantities[:MOST_PANELS]

    @property
    def caption(self) -> str:
        sweep = self.sweep
        group = f", {sweep.group}" if sweep.group else ""
        what = ", ".join(DRAWN[quantity][0] for quantity in self.quantities)
        return clean(
            f"Difference from {self.yardstick} in {what} against {sweep.axis}{group} in {sweep.scenario.name}."
        )


def lay_out(results: Results, sweep: Sweep) -> SweepSheet:
    others = [target for target in results.targets if target.name != results.yardstick]
    drawn = {name for name, _ in sweep.curves}
    return SweepSheet(
        sweep=sweep,
        labels={target.name: target.label for target in others if target.name in drawn},
        looks={target.name: number for number, target in enumerate(others)},
        yardstick=results.yardstick,
        version=results.version,
        created=results.created,
    )


def sweeps(results: Results, scenario: ScenarioResult) -> list[Sweep]:
    """Every axis of the scenario that has enough numbers, group by group."""
    axes = dict.fromkeys(key for case in scenario.cases for key in case.matrix)
    return [sweep for axis in axes for sweep in along(results, scenario, axis)]


def along(results: Results, scenario: ScenarioResult, axis: str) -> Iterator[Sweep]:
    groups: dict[str, list[tuple[float, str, CaseResult]]] = {}
    for case in scenario.cases:
        value = case.matrix.get(axis)
        number = isinstance(value, str | int | float) and not isinstance(value, bool)
        found = NUMBER.fullmatch(scalar(value)) if number else None
        if found is not None:
            others = [f"{key} {scalar(value)}" for key, value in case.matrix.items() if key != axis]
            group = ", ".join(filter(None, (found["rest"], *others)))
            groups.setdefault(group, []).append((float(found["number"]), found["number"], case))
    for group, members in groups.items():
        members.sort(key=lambda item: item[0])
        if len({number for number, _, _ in members}) < LEAST:
            continue
        cases = tuple(case for _, _, case in members)
        curves = dict(curves_of(results, scenario, cases))
        if curves:
            yield Sweep(
                scenario=scenario,
                axis=short(axis),
                group=group,
                xs=tuple(text for _, text, _ in members),
                cases=cases,
                curves=curves,
            )


def short(axis: str) -> str:
    """``input.shape.0`` is the batch size; of other dotted keys the last word says enough."""
    return {"input.shape.0": "batch size"}.get(axis, axis.rpartition(".")[2])


def curves_of(
    results: Results, scenario: ScenarioResult, cases: Sequence[CaseResult]
) -> Iterator[tuple[tuple[str, str], tuple[Point, ...]]]:
    """Every target's curve of every drawn quantity that it differs in or agrees in, somewhere on the axis."""
    for target in results.targets:
        for quantity in DRAWN if target.name != results.yardstick else ():
            points = tuple(point(results, scenario.name, case.name, target.name, quantity) for case in cases)
            if any(item.value is not None for item in points):
                yield (target.name, quantity), points


def point(results: Results, scenario: str, case: str, target: str, quantity: str) -> Point:
    """The worst of all layers."""
    cell = results.cell_at.get((scenario, case, target))
    base = results.cell_at.get((scenario, case, results.yardstick))
    if cell is not None and cell.outcome == "raised":
        return Point(None, "refused")
    here = [d for d in results.drifts_between(scenario, case, results.yardstick, target) if d.quantity == quantity]
    if any(drift.relation == "nonfinite" for drift in here):
        return Point(None, "NaN")
    sizes = [float(getattr(drift, DRAWN[quantity][1])) for drift in here]
    finite = [size for size in sizes if math.isfinite(size)]
    if finite and (base is None or base.outcome != "raised"):
        return Point(max(finite))
    return Point(None)
