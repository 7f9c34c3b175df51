"""One case: what its cells recorded → what is known of each → drifts of each pair → findings. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from bncheck.convention import Convention
from bncheck.diagnosis.anatomy import anatomy_of, seen_through
from bncheck.diagnosis.diagnose import diagnose
from bncheck.diagnosis.documented import Row, documented_facets
from bncheck.diagnosis.drifts import drifts_between
from bncheck.diagnosis.equivalence import held_to_equivalence
from bncheck.diagnosis.fit import measure, settle
from bncheck.diagnosis.replay import attribute, replay
from bncheck.evidence import Anatomy, Attribution, CellView, Deferred, Drift, PairView
from bncheck.finding import Finding
from bncheck.run_folder.results import TargetResult
from bncheck.scenario import Case, Scenario
from bncheck.scenario_files.shapes import layer_path
from bncheck.trace import Place, Trace, unsound

# Backends whose own layer averages the variance of n − 1; the others' takes that of n (docs/conventions.md).
UNBIASED = ("torch", "mlx", "tinygrad")


@dataclass(frozen=True)
class Judged:
    """What one case came to."""

    drifts: tuple[Drift, ...]
    findings: tuple[Finding, ...]


def judge_case(case: Case, scenario: Scenario, views: Sequence[CellView]) -> Judged:
    """Every pair of the case's cells compared, and what rules find in them."""
    pairs = [pair_view(case, scenario, a, b) for a, b in combinations(views, 2)]
    return Judged(
        drifts=tuple(drift for pair in pairs for drift in pair.drifts),
        findings=tuple(held_to_equivalence(diagnose(views, pairs, []), views, case, scenario)),
    )


def explain_cell(
    view: CellView, target: TargetResult, conventions: Mapping[str, Convention], documented: Sequence[Row]
) -> CellView:
    """The cell with its documentation, its convention as it holds in this case, and its replay for the pictures.

    ``conventions`` are the target's, by layer path; without any there is no convention and no replay.
    """
    path, own = layer_path(view.case), bool(view.own_layer)
    asked = any(view.backend in layer.native for layer in view.case.network.layers)
    if (own or asked) and view.trace is not None:
        anatomy = anatomy_of(view.case, view.trace, "n-1" if view.backend in UNBIASED else "n")
        anatomy = anatomy if own else in_parts(anatomy)
        view = replace(view, anatomy=anatomy, trace=seen_through(view.trace, anatomy))
    if not own:
        said = documented_facets(documented, target.version, target.variant, path)
        view = replace(
            view,
            documented={facet: value for facet, (value, _) in said.items()},
            link=next((link for _, link in said.values() if link), ""),
        )
    if view.trace is None or not conventions:
        return view
    if own:
        convention = measure([(view.case, view.trace, view.outcome)], target.name, path)
    else:
        convention = settle(view.case, view.trace, conventions.get(path) or next(iter(conventions.values())))
    return replace(view, convention=convention, replay=replay(view.case, view.trace, convention))


def in_parts(anatomy: Mapping[str, Anatomy]) -> Mapping[str, Anatomy]:
    """Of a framework's own layers those that take other values than the whole batch, as their own keywords ask them to
    (virtual batches): all else that they do shows without taking them apart."""
    found = {}
    for name, one in anatomy.items():
        parts = tuple(part for part in one.departures if part.cause == "value-count")
        if parts:
            found[name] = replace(one, departures=parts)
    return found


def unsound_places(case: Case, trace: Trace) -> tuple[Place, ...]:
    """NaN, Inf and variances below zero in a trace; outputs do not count where the scenario itself put NaN in."""
    poisoned = any(spec.poison for spec in case.inputs.values())
    return tuple(place for place in unsound(trace) if not (poisoned and place[1] == "output"))


def pair_view(case: Case, scenario: Scenario, a: CellView, b: CellView) -> PairView:
    drifts = drifts_between(case, a, b, scenario.tolerance)
    differ = any(drift.relation != "agrees" for drift in drifts)
    found = Deferred(lambda: attribute_pair(case, a, b)) if differ else ()
    return PairView(case=case, a=a, b=b, drifts=drifts, attributions=found, tolerance=scenario.tolerance)


def attribute_pair(case: Case, a: CellView, b: CellView) -> Iterator[Attribution]:
    """What replay says about the drifts of each layer that both recorded; nothing without two measured conventions."""
    if a.trace is None or b.trace is None or a.convention is None or b.convention is None:
        return
    for layer in [name for name in a.trace.layers if name in b.trace.layers]:
        yield from attribute(case, a.trace, a.convention, b.trace, b.convention, layer)
