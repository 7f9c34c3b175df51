"""Attribution: random pairs that differ in one, two or three facets; the named causes are the planted ones.

What counts as right is worked out by the oracle alone: side a's rules with a planted facet swapped in first, and side
b's with it swapped back last, played in float64. A facet without any effect there must not be named; one whose effect
is far above what float32 changes must be, if both conventions know it. Names in between are rounding's to decide.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from diagnosed import findings_between
from planted import play
from random_rules import BASE, OPS, SEED, Cell, parts, plant, planted_cells

from bncheck.convention import Convention
from bncheck.diagnosis.fit import Observation, measure, settle
from bncheck.diagnosis.replay import attribute
from bncheck.diagnosis.replay.sides import REPLAYED
from bncheck.diagnosis.rules.attributed import OF_AVERAGING
from bncheck.diagnosis.rules.movement import moved
from bncheck.evidence import Attribution
from bncheck.scenario import Case
from bncheck.trace import Trace

QUANTITIES = ("running_mean", "running_var", "used_mean", "used_invstd")
# A cause this many times larger than the mean rounding of either side is no rounding.
CLEAR = 50.0
# Planted name → facet; the reference's rule has a shorter name.
FACET = {"blend": "blend_weight"}
Played = Mapping[str, np.ndarray]
# Facet → the cause that a finding gives it.
CAUSES = {
    "update_on": "update-phase", "update_without_grad": "update-phase", "updates_per_event": "update-count",
    "batch_weight": "batch-weight", "averaging": "averaging", "variance_divisor": "variance-divisor",
    "statistic": "wrong-statistic", "train_normaliser": "normaliser-source", "eval_normaliser": "normaliser-source",
    "blend_weight": "normaliser-source", "blend": "normaliser-source", "eps": "eps", "eps_placement": "eps",
    "single_value": "single-value", "single_value_state": "single-value", "empty_batch": "empty-batch",
    "initial_mean": "initial-state", "initial_var": "initial-state", "counter": "counter-skew",
}  # fmt: skip


def quantities(trace: Trace) -> Played:
    return {name: np.asarray(trace.arrays[f"bn/{name}"], dtype=np.float64) for name in QUANTITIES}


def distance(one: Played, two: Played) -> dict[str, float]:
    """Mean |difference| per quantity; a NaN on one side only counts as one."""
    found = {}
    for name in QUANTITIES:
        x, y = one[name], two[name]
        with np.errstate(invalid="ignore"):
            gap = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
        found[name] = float(np.mean(np.where(np.isfinite(gap), gap, 1.0))) if gap.size else 0.0
    return found


class Oracle:
    """Plays of one cell in float64 under any rules, each once."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.kept: dict[tuple[Any, ...], Played] = {}

    def play(self, rules: Mapping[str, Any]) -> Played:
        key = tuple(sorted((name, str(value)) for name, value in rules.items()))
        if key not in self.kept:
            self.kept[key] = quantities(play(*self.cell, {**rules, "dtype": "float64"})[1])
        return self.kept[key]


def effects(oracle: Oracle, a: Mapping[str, Any], b: Mapping[str, Any], rules: set[str]) -> list[dict[str, float]]:
    """What swapping a facet changes, with the rules that are part of it: first, and last."""
    return [
        distance(oracle.play(a), oracle.play({**a, **{name: b[name] for name in rules}})),
        distance(oracle.play(b), oracle.play({**b, **{name: a[name] for name in rules}})),
    ]


def per_event(rules: Mapping[str, Any]) -> float:
    return float(1.0 - (1.0 - rules["batch_weight"]) ** rules["updates_per_event"])


def planted_names(a: Mapping[str, Any], b: Mapping[str, Any], sides: Sequence[Convention]) -> dict[str, set[str]]:
    """Facet → planted rules that it stands for.

    Where a side shows no counter of updates, k updates of weight w are one of 1 - (1 - w)^k: no trace tells them
    apart, and what differs is the weight per event. Where one side's forwards move nothing, those without gradient do
    not either: part of ``update_on``. Whoever refuses a single value keeps its state: part of ``single_value``.
    """
    found = {FACET.get(name, name): {name} for name in a if a[name] != b[name]}
    if "update_on" in found and not all("forward" in rules["update_on"] for rules in (a, b)):
        found["update_on"] |= found.pop("update_without_grad", set())
    if "single_value" in found and "refuses" in (a["single_value"], b["single_value"]):
        found["single_value"] |= found.pop("single_value_state", set())
    quiet = any("forward" not in rules["update_on"] for rules in (a, b))
    if {a["train_normaliser"], b["train_normaliser"]} == {"running-before", "running-after"} and "update_on" in found:
        # Where no forward moves the state, before and after it are the same.
        found["update_on"] |= found.pop("train_normaliser") if quiet else set()
    units = found.keys() & {"updates_per_event", "batch_weight"}
    if units and any(side.value("updates_per_event") is None for side in sides):
        together = set().union(*(found.pop(name) for name in units))
        if per_event(a) != per_event(b):
            found["batch_weight"] = together
    return found


def expected(
    oracle: Oracle, a: Mapping[str, Any], b: Mapping[str, Any], noise: Mapping[str, float], sides: Sequence[Convention]
) -> tuple[set[str], set[str]]:
    """(facets that may be named, those of them that must be)."""
    planted = planted_names(a, b, sides)
    known = {facet for facet in planted if all(side.value(facet) is not None for side in sides)}
    # A rule that one side does not know is never swapped: the others are seen from side a's rule on.
    reached = {**b, **{name: a[name] for facet in planted.keys() - known for name in planted[facet]}}
    may, must = set(), set()
    for facet, rules in planted.items():
        found = effects(oracle, a, b, rules)
        if any(size > 0.0 for effect in found for size in effect.values()):
            may.add(facet)
        found = effects(oracle, a, reached, rules) if facet in known else []
        if any(effect[q] > CLEAR * noise[q] for effect in found for q in QUANTITIES):
            must.add(facet)
    return may, must


def blind(case: Case, sides: Sequence[Convention]) -> bool:
    """Whether a rule that takes part in this case's replay is unknown: then the replay assumed it."""
    return any(side.value(name) is None for side in sides for name in REPLAYED if takes_part(name, case, side))


def takes_part(name: str, case: Case, side: Convention) -> bool:
    """Whether a rule can matter here: events, batches or other rules that call for it are there."""
    ops, inputs = {event.op for event in case.events}, {event.input for event in case.events if event.op == OPS["F"]}
    return {
        "initial_mean": False,  # the replay starts from what was recorded
        "initial_var": False,
        "updates_per_event": False,  # one update of the weight per event is the same
        "update_without_grad": OPS["N"] in ops and "forward" in str(side.value("update_on")),
        "batch_weight": side.value("averaging") != "cumulative",
        "single_value": "one" in inputs,
        "single_value_state": "one" in inputs,
        "empty_batch": "none" in inputs,
        "eval_normaliser": OPS["E"] in ops,
        "blend_weight": "blend" in (side.value("train_normaliser"), side.value("eval_normaliser")),
    }.get(name, True)


def judge(
    cell: Cell, rules: Sequence[Mapping[str, Any]], sides: Sequence[Convention], traces: Sequence[Trace]
) -> tuple[Sequence[Attribution], list[str], set[str], set[str]]:
    """(attributions, what is wrong with them, facets named, facets that had to be)."""
    case, oracle = cell[0], Oracle(cell)
    rounding = [distance(quantities(trace), oracle.play(own)) for trace, own in zip(traces, rules, strict=True)]
    noise = {name: 1e-9 + max(item[name] for item in rounding) for name in QUANTITIES}
    items = attribute(case, traces[0], sides[0], traces[1], sides[1], "bn")
    for item in items if blind(case, sides) else ():
        # A replay that had to assume a rule misses by that rule, and small causes drown in it.
        noise[item.quantity] = max(noise.get(item.quantity, 0.0), item.residual)
    may, must = expected(oracle, *rules, noise, sides)
    named = {name for item in items for name in item.shares}
    wrong = []
    if named - may:
        wrong.append(f"{case.name}: named {sorted(named - may)}, which change nothing; planted {sorted(may)}")
    if must - named:
        wrong.append(f"{case.name}: {sorted(must - named)} not named; named {sorted(named)}")
    drift = distance(quantities(traces[0]), quantities(traces[1]))
    for item in items:
        if item.shares and item.quantity in drift and not blind(case, sides):
            left = 2 * noise[item.quantity] / drift[item.quantity]  # rounding on both sides, which no cause explains
            if item.explained < 0.99 - left:
                wrong.append(f"{case.name}: {item.quantity} explained {item.explained:.4f} by {sorted(item.shares)}")
    return items, wrong, named, must


def finite_drift(traces: Sequence[Trace | None]) -> bool:
    """Whether the statistics differ anywhere where both are numbers."""
    for name in ("bn/running_mean", "bn/running_var"):
        one, two = (np.asarray(trace.arrays[name]) for trace in traces if trace is not None)
        both = np.isfinite(one) & np.isfinite(two)
        if not np.allclose(one[both], two[both], rtol=1e-6, atol=1e-6):
            return True
    return False


def judge_findings(
    observed: Sequence[Observation],
    rules: Sequence[Mapping[str, Any]],
    sides: Sequence[Convention],
    must: set[str],
) -> tuple[list[str], set[str]]:
    """(what is wrong with the findings between the two sides, their causes)."""
    case, (a, b) = observed[0][0], rules
    found = findings_between(observed[0], observed[1], sides, ("float32", "float32"))
    causes = {item.cause for item in found if len(item.sides) == 2 and item.kind != "rounding"}
    planted = {name for name in a if a[name] != b[name]}
    if not all(trace is not None and moved(trace, "bn", "running_mean").any() for _, trace, _ in observed):
        must = must - set(OF_AVERAGING)  # how a batch enters an average that never moves here is no finding
    if not finite_drift([seen[1] for seen in observed]):
        # They are apart in NaN alone, if at all: what brought the NaN is the cause.
        must = must - {*OF_AVERAGING, "update_on", "update_without_grad"}
    may, due = {CAUSES[name] for name in planted}, {CAUSES[name] for name in must}
    if planted & {"update_on", "update_without_grad"}:
        may.add("counter-skew")  # a counter of updates shows them where NaN has taken over both states
    if "update_on" in planted and "flush" in {str(item["update_on"]) for item in rules}:
        may.add("never-updated")  # a program without a flush shows no more than that nothing moves
    if "updates_per_event" in planted:
        # Counters differ with the updates they count; they also tell k updates of w from one of 1 - (1 - w)^k.
        may |= {"counter-skew", "batch-weight"}
        due -= {"batch-weight"}
    if "batch_weight" in planted or "forward+backward" in (a["update_on"], b["update_on"]):
        may.add("update-count")  # a batch that is averaged in forward and in backward is averaged twice
    if any("refuses" in (a[name], b[name]) for name in planted):
        may.add("counter-skew")  # whoever refuses a batch does not count it
    if blind(case, sides):
        may.add("unexplained")
    wrong = [f"{case.name}: finding of {sorted(causes - may)}, planted {sorted(planted)}"] if causes - may else []
    if due - causes:
        wrong.append(f"{case.name}: no finding of {sorted(due - causes)}, only of {sorted(causes)}")
    return wrong, causes


@pytest.mark.parametrize("trials", parts(120))
def test_attribution_names_exactly_the_planted_causes(trials: range, capsys: pytest.CaptureFixture[str]) -> None:
    failures: list[str] = []
    named, due = Counter[str](), Counter[str]()
    least, seconds = 1.0, 0.0
    for trial in trials:
        found, seen, must, share, took = attribution_trial(trial)
        failures += found
        named.update(seen)
        due.update(must)
        least, seconds = min(least, share), seconds + took
    with capsys.disabled():
        print(
            f"\nattribution: {len(trials)} pairs, {sum(named.values())} causes named, {sum(due.values())} due, wrong "
            f"{len(failures)}, least share explained where all is known {least:.6f}, {seconds:.1f} s"
        )
        print("  " + ", ".join(f"{name} {named[name]}" for name in sorted(named)))
    assert not failures, "\n".join(failures[:20])


def attribution_trial(trial: int) -> tuple[list[str], set[str], set[str], float, float]:
    rng = np.random.default_rng(SEED + 10_000 + trial)
    a, b, _ = plant(rng, 1 + trial % 3)
    cells = planted_cells(rng)
    played = [[play(case, inputs, rules) for case, inputs in cells] for rules in (a, b)]
    # "other" is a case like those that the probes explain: it takes no part in the measurement.
    probed = [measure([seen for seen in side if seen[0].name != "other"]) for side in played]
    failures, named, due, least, seconds = [], set(), set(), 1.0, 0.0
    for cell, one, two in zip(cells, *played, strict=True):
        assert one[1] is not None and two[1] is not None
        began = time.perf_counter()
        sides = [settle(cell[0], seen[1], own, "bn") for seen, own in zip((one, two), probed, strict=True)]
        items, wrong, names, must = judge(cell, (a, b), sides, (one[1], two[1]))
        seconds += time.perf_counter() - began
        said, _ = judge_findings((one, two), (a, b), sides, must)
        wrong += said
        failures += [f"trial {trial} {text}: a {diff(BASE, a)} b {diff(a, b)}" for text in wrong]
        named, due = named | names, due | must
        if not blind(cell[0], sides):
            least = min([least, *(item.explained for item in items if item.shares)])
    return failures, named, due, least, seconds


def diff(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    return {name: b[name] for name in b if a[name] != b[name]}
