"""What a run folder says, arranged for reading. Nothing is judged here: verdicts come from the run itself.

A *standing* is how one cell stands to the baseline target (agrees, defect, refused …); a *theme* is one finding
that came up in several cases, so that a reader meets it once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bncheck import blamed
from bncheck.evidence import Drift
from bncheck.finding import KINDS, Finding
from bncheck.report.wording import amount, number, one_line, plural, scalar, since, words
from bncheck.results import CaseResult, CellResult, Results, ScenarioResult

# Words of a standing → the mark that says the same without colour.
MARKS = {
    "baseline": "●", "agrees": "●", "rounding": "○", "convention": "≠", "hazard": "!", "unexplained": "?",
    "defect": "✗", "differs": "✗", "nonfinite": "✗", "refused": "⊘", "failed": "⊘", "unsupported": "–",
    "crashed": "✗", "timeout": "✗", "unavailable": "–", "not run": "–", "not compared": "·",
}  # fmt: skip
QUANTITIES = ("running_mean", "running_var", "counter", "output", "gamma", "beta")
MOST_LETTERS = 300  # of what is said of the user's own file: a whole sentence, worth its room
VERDICTS = ("nonfinite", "refused", "missing", "differs")


@dataclass(frozen=True)
class Standing:
    """``word`` is a key of MARKS; ``text`` the sentence without mark; ``drift`` the one that text speaks of."""

    word: str
    text: str
    drift: Drift | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def mark(self) -> str:
        return MARKS[self.word]

    @property
    def good(self) -> bool:
        return self.word in ("baseline", "agrees", "rounding")


@dataclass(frozen=True)
class Theme:
    """One cause between the same targets, in one or more cases; the first finding speaks for all."""

    first: Finding
    findings: tuple[Finding, ...]

    @property
    def cases(self) -> tuple[tuple[str, str], ...]:
        return tuple(dict.fromkeys((item.scenario, item.case) for item in self.findings))


def rows(results: Results, probes: bool = True) -> list[tuple[ScenarioResult, CaseResult]]:
    """Scenario × case, in the run's order. ``probes`` False leaves out what only served to measure conventions,
    unless nothing else was run."""
    asked = [scenario for scenario in results.scenarios if probes or not scenario.probe]
    return [(scenario, case) for scenario in asked or results.scenarios for case in scenario.cases]


def standing(results: Results, scenario: str, case: str, target: str) -> Standing:
    """How one cell stands to the baseline."""
    cell = results.cell_at.get((scenario, case, target))
    if cell is None:
        return Standing("not run", "not run")
    concerned = tuple(f for f in results.findings_at.get((scenario, case), ()) if target in f.targets)
    if cell.outcome != "ok":
        return Standing(*unfinished(cell, results), findings=concerned)
    if target == results.base:
        return Standing("baseline", "baseline", findings=concerned)
    drifts = results.drifts_between(scenario, case, results.base, target)
    other = results.cell_at.get((scenario, case, results.base))
    if not drifts or (other is not None and unfinished(other, results)[0] == "failed"):
        why = f": {unfinished(other, results)[1]}" if other is not None and other.outcome != "ok" else ""
        text = f"ran; nothing to compare with {results.base or 'it'}{why}"
        return Standing("not compared", text, findings=concerned)
    worst = first_to_tell(drifts)
    if worst is None:
        return Standing("agrees", "agrees", findings=concerned)
    about = tuple(f for f in concerned if sets_apart(f, results.base, target))
    # Judged alike: on one side of a difference from others, and what is left between them is no finding of its own.
    alike = not about and any(len(f.sides) == 2 and on_one_side(f, results.base, target) for f in concerned)
    kind = (
        "rounding" if alike else next((kind for kind in KINDS if any(f.kind == kind for f in about or concerned)), "")
    )
    word = "nonfinite" if worst.verdict == "nonfinite" else (kind or "differs")
    others = len([drift for drift in drifts if drift.verdict != "agrees"]) - 1
    text = difference(worst, target, results) + (f" (+{others} more)" if others else "")
    return Standing(word, text, worst, concerned)


def sets_apart(finding: Finding, base: str, target: str) -> bool:
    """Whether a finding is about this difference: its sides part the two, or it concerns the target alone."""
    if len(finding.sides) == 2:
        return any(base in one and target in two for one, two in (finding.sides, finding.sides[::-1]))
    return base not in finding.targets


def on_one_side(finding: Finding, base: str, target: str) -> bool:
    return any(base in side and target in side for side in finding.sides)


def unfinished(cell: CellResult, results: Results) -> tuple[str, str]:
    """(word, text) of a cell that did not run to its end."""
    error = one_line(": ".join(filter(None, (cell.error_type, cell.error))))
    if cell.error_type in blamed.SENTENCES:
        error = one_line(cell.error, MOST_LETTERS)
    if blamed.own(cell):
        named = blamed.in_a_finding(cell, results)
        return "refused" if named else "failed", one_line(blamed.sentence(cell), MOST_LETTERS)
    step = step_of(results, cell.scenario, cell.case, cell.event)
    where = f" at step {step}" if step else ""
    if cell.outcome == "raised":
        return "refused", f"refused{where}" + (f" ({error})" if error else "")
    if cell.outcome in ("crashed", "timeout"):
        word = "crashed" if cell.outcome == "crashed" else "timed out"
        return cell.outcome, f"{word}{where}" + (f" ({error})" if error else "")
    if cell.outcome in ("unsupported", "unavailable"):
        return cell.outcome, cell.outcome + (f" ({error})" if error else "")
    return "not run", one_line(cell.outcome)


def first_to_tell(drifts: Sequence[Drift]) -> Drift | None:
    """The differing drift that a reader should see: the gravest, then the earliest, then the running mean first."""

    def rank(drift: Drift) -> tuple[int, float, int]:
        gravity = VERDICTS.index(drift.verdict) if drift.verdict in VERDICTS else len(VERDICTS)
        quantity = QUANTITIES.index(drift.quantity) if drift.quantity in QUANTITIES else len(QUANTITIES)
        return gravity, float("inf") if drift.first_event is None else drift.first_event, quantity

    return min((drift for drift in drifts if drift.verdict != "agrees"), key=rank, default=None)


def step_of(results: Results, scenario: str, case: str, event: int | None) -> int | None:
    """The step that an event of that case belongs to; the event's own number when the case is not known."""
    found = results.case_at.get((scenario, case))
    if event is None:
        return None
    return event + 1 if found is None else found.step_of(event)


def difference(drift: Drift, target: str, results: Results) -> str:
    """``running_mean off by 0.90099 ± 0.20569 since step 1`` and its kin, about ``target``."""
    name = f"{drift.layer}.{drift.quantity}" if drift.layer and drift.layer != "bn" else drift.quantity
    other = drift.a if drift.b == target else drift.b
    bad = drift.nonfinite_b if drift.b == target else drift.nonfinite_a
    when = since(step_of(results, drift.scenario, drift.case, drift.first_event))
    if drift.verdict == "nonfinite":
        side = "" if bad else f" on {other} only"
        return one_line(f"NaN or Inf in {name}{side} {when}")
    if drift.verdict == "missing":
        return one_line(f"{name} is there on one side only")
    cell = results.cell_at.get((drift.scenario, drift.case, other))
    if drift.verdict == "refused" and cell is not None and blamed.own(cell):
        return one_line(f"your code went wrong on {other}, {target} went on {when}")
    if drift.verdict == "refused":
        return one_line(f"{other} refused, {target} went on {when}")
    return one_line(f"{name} off by {amount(drift.mean_abs, drift.std_abs)} {when}")


def themes(results: Results) -> list[Theme]:
    """Findings grouped by code, targets and departing side. First what came up in the scenarios that were asked for,
    then what only the probes showed, rounding last; in each the gravest kind first, then the widest spread."""
    probes = {scenario.name for scenario in results.scenarios if scenario.probe}
    grouped: dict[tuple[str, tuple[str, ...], str, str], list[Finding]] = {}
    for finding in results.findings:
        grouped.setdefault((finding.code, finding.targets, finding.departs, finding.kind), []).append(finding)
    # The one of a group that speaks for it: not from a probe, and the best explained.
    found = [
        Theme(group[0], tuple(group))
        for group in (
            sorted(group, key=lambda item: (item.scenario in probes, -(item.explained or 0.0)))
            for group in grouped.values()
        )
    ]
    return sorted(found, key=lambda theme: (*order(theme.first, probes), -len(theme.findings)))


def order(finding: Finding, probes: set[str]) -> tuple[bool, bool, int]:
    return finding.kind == "rounding", finding.scenario in probes, KINDS.index(finding.kind)


def verdict(results: Results) -> str:
    """The run in one sentence."""
    if not results.cells:
        return "Nothing was run."
    shown = rows(results, probes=False)
    places = [(scenario.name, case.name) for scenario, case in shown]
    alike = {place for place in places if refused_alike(results, *place)}
    each = [(place, standing(results, *place, target.name))
            for place in places for target in results.targets if target.status == "ok"]  # fmt: skip
    every, standings = [item for _, item in each], [item for place, item in each if place not in alike]
    silent = ("not compared", "unsupported", "not run", "failed")
    off = sum(not item.good and item.word not in silent for item in standings)
    compared = sum(item.word not in ("baseline", *silent) for item in standings)
    counts = count_kinds(results, {scenario.name for scenario, _ in shown})
    lost = sum(item.word == "failed" for item in every)
    lost_too = f" {plural(lost, 'cell')} could not be played." if lost else ""
    if off:
        cause = f": {', '.join(counts)}" if counts else "; no cause was named"
        differ = f"{off} of {plural(compared, 'cell')} {'differs' if off == 1 else 'differ'}"
        return f"{differ} from {results.base}{cause}.{lost_too}"
    if not compared:
        if lost:
            return f"{plural(lost, 'cell')} could not be played; there is nothing to compare."
        few = sum(target.status == "ok" for target in results.targets) < 2
        why = "Only one target ran" if few else "No two targets ran alike"
        return f"{why}; there is nothing to compare." + (f" Found: {', '.join(counts)}." if counts else "")
    agree = f"All {plural(compared, 'compared cell')} agree with {results.base}.{lost_too}"
    return agree + (f" Still to know: {', '.join(counts)}." if counts else "")


def refused_alike(results: Results, scenario: str, case: str) -> bool:
    """True if no target carried the case out at all (a file that is no good): then nobody differs from anybody."""
    outcomes = {results.cell_at[key].outcome for target in results.targets
                if (key := (scenario, case, target.name)) in results.cell_at and target.status == "ok"}  # fmt: skip
    here = [cell for cell in results.cells if (cell.scenario, cell.case) == (scenario, case)]
    theirs = [cell for cell in here if not blamed.own(cell) and cell.error_type not in blamed.SENTENCES]
    began = any(cell.event is None or cell.event >= 0 for cell in theirs)
    return bool(outcomes) and outcomes <= {"raised", "unsupported"} and not began


def count_kinds(results: Results, scenarios: set[str]) -> list[str]:
    """``2 defects``, ``1 convention`` … of the themes that came up in these scenarios; rounding is none to count."""
    kinds = [theme.first.kind for theme in themes(results) if theme.first.scenario in scenarios]
    return [
        f"{count} unexplained" if kind == "unexplained" else plural(count, kind)
        for kind in KINDS
        if kind != "rounding" and (count := kinds.count(kind))
    ]


SETTLED = re.compile(r"^(?P<why>.*?);?\s*settled by:\s*(?P<how>.+)$", re.S)


def unsettled(finding: Finding) -> list[tuple[str, str, str]]:
    """(facet, why, what settles it) of everything that this case's input cannot tell."""
    found = []
    for facet, text in finding.not_identifiable.items():
        match = SETTLED.match(text)
        why, how = (match["why"], match["how"]) if match else ("", f"bncheck run {text}" if text else "")
        found.append((words(facet), one_line(why, 200), one_line(how, 100)))
    return found


def evidence(finding: Finding) -> list[tuple[str, str]]:
    """The numbers behind a finding as (words, value)."""
    return [(words(key), scalar(value)) for key, value in finding.evidence.items()]


def numbers(drift: Drift) -> list[str]:
    """The figures of one drift in the order of the reports' tables."""
    return [
        amount(drift.mean_abs, drift.std_abs), number(drift.max_abs), number(drift.max_rel),
        f"{drift.max_ulp:.0f}" if abs(drift.max_ulp) < 1e6 else number(drift.max_ulp),
    ]  # fmt: skip
