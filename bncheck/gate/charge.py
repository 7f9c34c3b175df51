"""What speaks against a run: findings, crashed cells, expectations that did not come true, drifts nobody explains.

A *charge* has what baselines and waivers match on. Versions are left out of its targets' names (``torch==2.13.0`` is
``torch``), so that an upgrade does not make everything new; where one run holds two versions, they keep them.
Pure: results in, charges out. Rounding is no charge.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bncheck.evidence import DAMAGED
from bncheck.gate.blamed import KINDS, sentence, unnamed
from bncheck.run_folder.results import CRASHED

if TYPE_CHECKING:
    from bncheck.evidence import Drift
    from bncheck.finding import Finding
    from bncheck.run_folder.results import Expectation, Results

VERSION = re.compile(r"==[^@\s]+")


@dataclass(frozen=True, slots=True)
class Charge:
    """``kind`` is a finding's, or crashed, timeout, one of ``blamed.KINDS``, expectation, drift. ``sides`` are the
    groups of targets that differ (one group when it is about targets one by one); ``names`` are the targets as the run
    calls them.

    ``size`` is the mean absolute drift (NaN: not finite; None: nothing was measured)."""

    kind: str
    code: str
    cause: str
    scenario: str
    case: str
    sides: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    sentence: str
    layer: str = ""
    quantity: str = ""
    size: float | None = None
    explained: float | None = None
    departs: str = ""  # as of a finding

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for side in self.sides for name in side))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Every two targets on different sides; a target with itself where there is one side."""
        if len(self.sides) == 1:
            return tuple((name, name) for name in self.sides[0])
        return tuple(
            (a, b) for place, one in enumerate(self.sides) for two in self.sides[place + 1 :] for a in one for b in two
        )


def charges(results: Results) -> tuple[Charge, ...]:
    """Everything that speaks against the run, findings first, in the run's order."""
    plain = plain_names(target.name for target in results.targets)
    return (
        *(of_finding(item, results, plain) for item in results.findings if item.kind != "rounding" and not crash(item)),
        *of_crashes(results, plain),
        *of_errors(results, plain),
        *of_expectations(results, plain),
        *of_drifts(results, plain),
    )


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Name → name without its version, unless two targets would then have the same one.

    >>> plain_names(["torch==2.13.0@cuda", "mxnet==1.7.0", "mxnet==1.9.1"])
    {'torch==2.13.0@cuda': 'torch@cuda', 'mxnet==1.7.0': 'mxnet==1.7.0', 'mxnet==1.9.1': 'mxnet==1.9.1'}
    """
    short = {name: VERSION.sub("", name, count=1) for name in names}
    count = Counter(short.values())
    return {name: text if count[text] == 1 else name for name, text in short.items()}


def crash(finding: Finding) -> bool:
    """A finding that only says what a crashed cell says already."""
    return finding.cause == "crash"


def of_finding(finding: Finding, results: Results, plain: Mapping[str, str]) -> Charge:
    sides = finding.sides if finding.of_difference else (finding.targets,)
    names = tuple(dict.fromkeys(name for side in sides for name in side))
    return Charge(
        kind=finding.kind,
        code=finding.code,
        cause=finding.cause,
        scenario=finding.scenario,
        case=finding.case,
        sides=tuple(tuple(sorted(plain.get(name, name) for name in side)) for side in sides),
        names=names,
        sentence=finding.sentence,
        layer=finding.layer,
        quantity=finding.quantity,
        size=size_of(finding, results),
        explained=finding.explained,
        departs=finding.departs,
    )


def size_of(finding: Finding, results: Results) -> float | None:
    """Largest mean absolute drift of the finding's quantity between its sides; NaN once one side is not finite."""
    pairs = [(a, b) for a in finding.sides[0] for b in finding.sides[1]] if finding.of_difference else []
    sizes = [
        math.nan if drift.relation == "nonfinite" else drift.mean_abs
        for a, b in pairs
        for drift in results.drifts_between(finding.scenario, finding.case, a, b)
        if (drift.layer, drift.quantity) == (finding.layer, finding.quantity)
    ]
    if not sizes:
        said = finding.evidence.get("mean_abs")
        return float(said) if isinstance(said, (int, float)) else None
    return max(sizes) if all(math.isfinite(size) for size in sizes) else math.nan


def of_crashes(results: Results, plain: Mapping[str, str]) -> Iterator[Charge]:
    for cell in results.cells:
        if cell.outcome in CRASHED:
            first = (cell.error or cell.error_type).strip().split("\n")[0]
            words = "crashed" if cell.outcome == "crashed" else "ran out of time"
            words = "has no result that can be read" if cell.error_type in DAMAGED else words
            yield Charge(
                kind=cell.outcome,
                code="BN502",
                cause="crash",
                scenario=cell.scenario,
                case=cell.case,
                sides=((plain.get(cell.target, cell.target),),),
                names=(cell.target,),
                sentence=f"{cell.target} {words}" + (f": {first}" if first else "."),
            )


def of_errors(results: Results, plain: Mapping[str, str]) -> Iterator[Charge]:
    """Errors that are no framework's, each once for all targets that have it in a case."""
    alike: dict[tuple[str, str, str, str], list[str]] = {}
    for cell in unnamed(results):
        alike.setdefault((KINDS[cell.origin], cell.scenario, cell.case, sentence(cell)), []).append(cell.target)
    for (kind, scenario, case, text), names in alike.items():
        side = tuple(sorted(plain.get(name, name) for name in names))
        yield Charge(
            kind=kind,
            code="",
            cause="refusal",
            scenario=scenario,
            case=case,
            sides=(side,),
            names=tuple(names),
            sentence=text,
        )


def of_expectations(results: Results, plain: Mapping[str, str]) -> Iterator[Charge]:
    for scenario in results.scenarios:
        for item in scenario.expectations:
            if item.met is False:
                found = f"found {', '.join(item.found)}" if item.found else "found nothing named"
                yield of_expectation(scenario.name, item, f"; {found}.", plain)


def unchecked(results: Results) -> list[tuple[Charge, str]]:
    """Expectations between targets that were there, and that this run could not check all the same, with the reason."""
    plain = plain_names(target.name for target in results.targets)
    return [
        (of_expectation(scenario.name, item, "; not checked.", plain), item.reason)
        for scenario in results.scenarios
        for item in scenario.expectations
        if item.met is None and item.reason
    ]


def of_expectation(scenario: str, item: Expectation, end: str, plain: Mapping[str, str]) -> Charge:
    """``case`` holds the condition under which it was expected: one sentence, however many cases that covers."""
    a, b = item.between
    wanted = "agree" if item.agree else f"show {', '.join(item.causes)}"
    when = ", ".join(f"{key} = {value}" for key, value in item.when.items())
    return Charge(
        kind="expectation",
        code="",
        cause="expectation",
        scenario=scenario,
        case=when,
        sides=((plain.get(a, a),), (plain.get(b, b),)),
        names=(a, b),
        sentence=f"{a} and {b} were expected to {wanted}{f' when {when}' if when else ''}{end}",
        quantity="agree" if item.agree else ",".join(item.causes),
    )


def of_drifts(results: Results, plain: Mapping[str, str]) -> Iterator[Charge]:
    """Drifts outside tolerance between two targets that no finding above rounding is about."""
    for drift in results.drift_table.differing():
        here = results.findings_at.get((drift.scenario, drift.case), ())
        if any(item.kind != "rounding" and item.concerns(drift.a, drift.b) for item in here):
            continue
        yield Charge(
            kind="drift",
            code="",
            cause="drift",
            scenario=drift.scenario,
            case=drift.case,
            sides=((plain.get(drift.a, drift.a),), (plain.get(drift.b, drift.b),)),
            names=(drift.a, drift.b),
            sentence=said(drift),
            layer=drift.layer,
            quantity=drift.quantity,
            size=math.nan if drift.relation != "differs" else drift.mean_abs,
        )


def said(drift: Drift) -> str:
    what = f"{drift.layer}.{drift.quantity}" if drift.layer else drift.quantity
    if drift.relation == "differs":
        return f"{what} of {drift.a} and {drift.b} is off by {drift.mean_abs:.3g} ± {drift.std_abs:.3g}."
    why = {"nonfinite": "is NaN or Inf on one side", "missing": "is there on one side only", "refused": "was refused"}
    return f"{what} of {drift.a} and {drift.b} {why.get(drift.relation, drift.relation)}."
