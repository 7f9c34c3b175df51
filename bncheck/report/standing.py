"""How one cell stands to the yardstick, the target that tables compare the others with: a mark, a word, a sentence.

Nothing is judged here: verdicts come from the run's own drifts and findings. The mark belongs to the cell that has the
trouble: a target whose statistics are NaN carries it, also where the yardstick shares that, and one that stays finite
does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bncheck.evidence import Drift
from bncheck.finding import GAIN, KINDS, LOWEST, NAN_IN, NODES, NONFINITE, Finding
from bncheck.gate import blamed
from bncheck.gate.shortfall import played
from bncheck.report.plain_text import amount, one_line, plural, since
from bncheck.run_folder.results import CRASHED, OUR_ERRORS, CellResult, Results
from bncheck.trace import STATISTICS

# Words of a standing → the mark that says the same without colour.
MARKS = {
    "yardstick": "●",
    "agrees": "●",
    "rounding": "○",
    "refused alike": "⊘",
    "convention": "≠",
    "finite": "≠",
    "hazard": "!",
    "unexplained": "?",
    "defect": "✗",
    "differs": "✗",
    "nonfinite": "✗",
    "refused": "⊘",
    "failed": "⊘",
    "unsupported": "–",
    "crashed": "✗",
    "timeout": "✗",
    "unavailable": "–",
    "not run": "–",
    "not compared": "·",
}
# Words that are said in another way where there is room for one word only.
SHORT = {
    "yardstick": "ran",
    "nonfinite": "NaN",
    "finite": "stays finite",
    "refused alike": "refused alike",
    "timeout": "timed out",
}
QUANTITIES = ("running_mean", "running_var", "counter", "output", "gamma", "beta")
MOST_LETTERS = 300  # of what bncheck itself says of somebody's file: a whole sentence, worth its room
RELATIONS = ("nonfinite", "refused", "missing", "differs")
NAN = "NaN or Inf"
NO_GRADIENT = "NaN, Inf or none"  # what is recorded of a backward does not tell which
# Below the tolerance of every dtype: a drift no larger than this is outside of it by NaN or Inf alone.
LEAST_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Standing:
    """``word`` is a key of MARKS; ``text`` the sentence without mark; ``drift`` the one that text speaks of.

    ``against`` says how it counts: "" (not compared), agrees, counter (nothing but a counter differs), differs."""

    word: str
    text: str
    drift: Drift | None = None
    findings: tuple[Finding, ...] = ()
    against: str = ""

    @property
    def mark(self) -> str:
        return MARKS[self.word]

    @property
    def short(self) -> str:
        return SHORT.get(self.word, self.word)

    @property
    def good(self) -> bool:
        return self.word in ("yardstick", "agrees", "rounding", "refused alike")


def standing(results: Results, scenario: str, case: str, target: str) -> Standing:
    """How one cell stands to the yardstick."""
    cell = results.cell_at.get((scenario, case, target))
    if cell is None:
        return Standing("not run", "not run")
    concerned = tuple(f for f in results.findings_at.get((scenario, case), ()) if target in f.targets)
    if target == results.yardstick:
        return replace(alone(results, cell, concerned), findings=concerned)
    return replace(compared(results, cell, concerned), findings=concerned)


def alone(results: Results, cell: CellResult, concerned: Sequence[Finding]) -> Standing:
    """The yardstick's own cell: that it ran, or what is wrong with it."""
    if cell.outcome != "ok":
        return Standing(*unfinished(cell, results))
    others = [target.name for target in results.targets if target.name != cell.target]
    drifts = [d for name in others for d in results.drifts_between(cell.scenario, cell.case, cell.target, name)]
    found = worry(concerned, drifts, cell)
    if found is None:
        return Standing("yardstick", "ran")
    spoiled = spoiled_by(found, drifts, cell.target)
    return Standing(found.kind, spoilt(results, found, spoiled, cell.target) if spoiled else plainly(found))


def compared(results: Results, cell: CellResult, concerned: Sequence[Finding]) -> Standing:
    other = results.cell_at.get((cell.scenario, cell.case, results.yardstick))
    drifts = results.drifts_between(cell.scenario, cell.case, results.yardstick, cell.target)
    if cell.outcome == "raised" and other is not None and alike(cell, other, drifts):
        return refused_alike(results, cell, drifts, concerned)
    if cell.outcome != "ok":
        word, _ = unfinished(cell, results)
        tells = cell.outcome in CRASHED or (word == "refused" and cell.error_type not in OUR_ERRORS)
        against = "differs" if tells and other is not None and played(other) else ""
        return Standing(*unfinished(cell, results), first_to_tell(drifts), against=against)
    if not drifts or (other is not None and unfinished(other, results)[0] == "failed"):
        why = f": {unfinished(other, results)[1]}" if other is not None and other.outcome != "ok" else ""
        nodes = next((f.evidence[NODES] for f in concerned if NODES in f.evidence), 0)
        if nodes:
            said = plural(int(nodes), "BatchNormalization node")
            return Standing("not compared", f"ran; {said} compared alone, not the whole file{why}")
        return Standing("not compared", f"ran; nothing to compare with {results.yardstick or 'it'}{why}")
    return held_against(results, cell, drifts, concerned)


def alike(cell: CellResult, other: CellResult, drifts: Sequence[Drift]) -> bool:
    """Whether both refused the same events of the case, of their own accord."""
    same = other.outcome == cell.outcome and other.event == cell.event and played(cell) and played(other)
    return same and all(drift.relation != "refused" for drift in drifts)


def refused_alike(
    results: Results, cell: CellResult, drifts: Sequence[Drift], concerned: Sequence[Finding]
) -> Standing:
    """It refuses just as the yardstick refuses, which is agreement; unless something else differs."""
    said = f"refused, as {results.yardstick} does"
    rest = held_against(results, cell, drifts, concerned) if drifts else Standing("agrees", "")
    if rest.against == "counter":
        return Standing("refused alike", f"{said}; counter differs", rest.drift, against="counter")
    if rest.against == "differs":
        return replace(rest, text=f"{said}; {rest.text}")
    error = one_line(": ".join(filter(None, (cell.error_type, cell.error))))
    return Standing("refused alike", said + (f" ({error})" if error else ""), against="agrees")


def held_against(results: Results, cell: CellResult, drifts: Sequence[Drift], concerned: Sequence[Finding]) -> Standing:
    """A cell with what differs between it and the yardstick, and with what is wrong with it by itself."""
    base, target, own = results.yardstick, cell.target, worry(concerned, drifts, cell)
    off = [drift for drift in drifts if drift.relation != "agrees"]
    between = [f for f in concerned if f.between(base, target)]
    # Judged alike: on one side of a difference from others, and what is left between them is no finding of its own.
    together = not between and any(on_one_side(f, base, target) for f in concerned if f.of_difference)
    single = [f for f in concerned if not f.of_difference and base not in f.targets]
    rounding = all(f.kind == "rounding" for f in between) if between else together and not single
    if not off or rounding:
        return agreeing(results, target, drifts, own, first_to_tell(off))
    kind = gravest([*between, *single, *filter(None, (own,))] or concerned)
    spoiled = [drift for drift in off if drift.relation == "nonfinite"]
    if spoiled:
        return not_finite(results, target, spoiled, drifts, kind)
    worst = first_to_tell(off)
    assert worst is not None
    against = "counter" if all(drift.quantity == "counter" for drift in off) else "differs"
    text = difference(worst, target, results) + (f" (+{len(off) - 1} more)" if len(off) > 1 else "")
    return Standing(kind or "differs", text, worst, against=against)


def agreeing(
    results: Results, target: str, drifts: Sequence[Drift], own: Finding | None, left: Drift | None
) -> Standing:
    """``left`` is what rounding left between them. What is wrong with the target by itself marks it all the same."""
    if own is not None:
        shared = f", as in {results.yardstick}" if results.yardstick in own.targets else ""
        spoiled = spoiled_by(own, drifts, target)
        if spoiled is not None:
            return Standing(own.kind, spoilt(results, own, spoiled, target) + shared, left, against="agrees")
        wrong = own.kind == "defect" and own.departs_from == "arithmetic"
        said = f"wrong by itself: {own.code} {own.cause}" if wrong else f"agrees; {plainly(own)}"
        return Standing(own.kind, f"{plainly(own)}{shared}" if shared else said, left, against="agrees")
    if left is None:
        return Standing("agrees", "agrees", against="agrees")
    return Standing("rounding", difference(left, target, results), left, against="agrees")


def not_finite(results: Results, target: str, spoiled: Sequence[Drift], drifts: Sequence[Drift], kind: str) -> Standing:
    """NaN on one side only, or in other places: the mark goes to whoever has it."""
    alone_here = [drift for drift in spoiled if bad(drift, target) and not bad(drift, other_of(drift, target))]
    both = [drift for drift in spoiled if drift.quantity in STATISTICS and bad(drift, target)]
    worst = first_to_tell(alone_here or both or spoiled)
    assert worst is not None
    off = sum(drift.relation != "agrees" for drift in drifts)
    text = difference(worst, target, results) + (f" (+{off - 1} more)" if off > 1 else "")
    if alone_here:
        word = "nonfinite"
    elif bad(worst, target):
        word = kind if kind in ("defect", "hazard") else "nonfinite"
    else:
        word = kind if kind in ("defect", "unexplained") else "finite"
        text = text if any(bad(drift, target) for drift in drifts) else text.removeprefix(f"{named(worst)} ")
    return Standing(word, text, worst, against="differs")


def worry(concerned: Sequence[Finding], drifts: Sequence[Drift], cell: CellResult) -> Finding | None:
    """The gravest thing that is wrong with a target by itself, whoever shares it; of equal ones NaN and Inf."""
    found = [
        f for f in concerned if not f.of_difference and f.kind in ("defect", "hazard") and not cleared(f, drifts, cell)
    ]
    return min(found, key=lambda f: (KINDS.index(f.kind), not f.of_nan), default=None)


def cleared(finding: Finding, drifts: Sequence[Drift], cell: CellResult) -> bool:
    """Whether a finding about NaN or Inf names a target that has none where the finding has it, nor a variance below
    zero anywhere."""
    here = [d for d in drifts if (d.layer, d.quantity) == (finding.layer, finding.quantity)]
    return finding.of_nan and bool(here) and not cell.unsound and not any(bad(drift, cell.target) for drift in here)


def gravest(findings: Sequence[Finding]) -> str:
    return next((kind for kind in KINDS if any(f.kind == kind for f in findings)), "")


def bad(drift: Drift, target: str) -> int:
    """How many values of one side are NaN or Inf."""
    return drift.nonfinite_b if drift.b == target else drift.nonfinite_a


def other_of(drift: Drift, target: str) -> str:
    return drift.a if drift.b == target else drift.b


def spoiled_by(finding: Finding, drifts: Sequence[Drift], target: str) -> Drift | None:
    """The drift that shows the NaN or Inf in a target that a finding speaks of: that of its quantity, or, where a batch
    brought it, of a statistic of its layer."""
    spoiled = [drift for drift in drifts if drift.layer == finding.layer and bad(drift, target)]
    statistics = [drift for drift in spoiled if drift.quantity in STATISTICS] if finding.of_nan else []
    return next((drift for drift in spoiled if drift.quantity == finding.quantity), next(iter(statistics), None))


def spoilt(results: Results, finding: Finding, drift: Drift, target: str) -> str:
    """``NaN in running_mean since step 1`` of a target that a finding concerns."""
    what, step = onset_in(results, finding, drift, target)
    return one_line(f"{what} in {named(drift)} {since(step)}").strip()


def plainly(finding: Finding) -> str:
    """What is wrong, in words that need no rule: ``variance below zero, NaN in eval``; other causes by their name."""
    if not finding.of_nan:
        return finding.cause
    known = finding.evidence
    if LOWEST in known:
        return one_line("variance below zero" + (f", NaN in {known[NAN_IN]}" if NAN_IN in known else ""))
    if NONFINITE in known:
        where = f"{finding.layer}.{finding.quantity}" if finding.layer not in ("", "bn") else finding.quantity
        return one_line(f"{known[NONFINITE]} in {where}")
    return one_line("a variance of zero" if GAIN in known else finding.cause)


def onset_in(results: Results, finding: Finding, drift: Drift, target: str) -> tuple[str, int | None]:
    """What a finding calls it, and since when it is in a target. The step is None where that is not known: a finding
    gives the event of the first of its targets, and others share it as far as they agree."""
    first = finding.targets[0]
    same = target == first or any(
        (other.layer, other.quantity, other.relation) == (drift.layer, drift.quantity, "agrees")
        for other in results.drifts_between(finding.scenario, finding.case, first, target)
    )
    step = step_of(results, finding.scenario, finding.case, finding.event) if same else None
    return str(finding.evidence.get(NONFINITE, NAN)), step


def onset_of(results: Results, drift: Drift, target: str) -> tuple[str, int | None]:
    """NaN, Inf or either, and the step since when it is in one of a drift's two targets."""
    here = results.findings_at.get((drift.scenario, drift.case), ())
    for finding in here:
        single = not finding.of_difference and target in finding.targets
        if single and spoiled_by(finding, [drift], target) is not None:
            return onset_in(results, finding, drift, target)
    apart = drift.max_abs > LEAST_TOLERANCE  # they may have parted before one of them was spoilt
    return NAN, None if apart else step_of(results, drift.scenario, drift.case, drift.first_event)


def on_one_side(finding: Finding, base: str, target: str) -> bool:
    return any(base in side and target in side for side in finding.sides)


def unfinished(cell: CellResult, results: Results) -> tuple[str, str]:
    """(word, text) of a cell that did not run to its end."""
    error = one_line(": ".join(filter(None, (cell.error_type, cell.error))))
    if cell.error_type in OUR_ERRORS:
        error = one_line(cell.error, MOST_LETTERS)
    if blamed.own(cell):
        known = blamed.in_a_finding(cell, results)
        return "refused" if known else "failed", one_line(blamed.sentence(cell), MOST_LETTERS)
    step = step_of(results, cell.scenario, cell.case, cell.event)
    where = f" at step {step}" if step else ""
    if cell.outcome == "raised":
        return "refused", f"refused{where}" + (f" ({error})" if error else "")
    if cell.outcome in CRASHED:
        word = "crashed" if cell.outcome == "crashed" else "timed out"
        return cell.outcome, f"{word}{where}" + (f" ({error})" if error else "")
    if cell.outcome in ("unsupported", "unavailable"):
        return cell.outcome, cell.outcome + (f" ({error})" if error else "")
    return "not run", one_line(cell.outcome)


def first_to_tell(drifts: Sequence[Drift]) -> Drift | None:
    """The differing drift that a reader should see: the gravest, then the earliest, then the running mean first."""

    def rank(drift: Drift) -> tuple[int, float, int]:
        gravity = RELATIONS.index(drift.relation) if drift.relation in RELATIONS else len(RELATIONS)
        quantity = QUANTITIES.index(drift.quantity) if drift.quantity in QUANTITIES else len(QUANTITIES)
        return gravity, float("inf") if drift.first_event is None else drift.first_event, quantity

    return min((drift for drift in drifts if drift.relation != "agrees"), key=rank, default=None)


def step_of(results: Results, scenario: str, case: str, event: int | None) -> int | None:
    """The step that an event of that case belongs to; the event's own number when the case is not known."""
    found = results.case_at.get((scenario, case))
    if event is None:
        return None
    return event + 1 if found is None else found.step_of(event)


def named(drift: Drift) -> str:
    return f"{drift.layer}.{drift.quantity}" if drift.layer and drift.layer != "bn" else drift.quantity


def difference(drift: Drift, target: str, results: Results) -> str:
    """``running_mean off by 0.90099 ± 0.20569 since step 1`` and its kin, about ``target``."""
    name, other = named(drift), other_of(drift, target)
    if drift.relation == "nonfinite":
        return one_line(nonfinite_text(drift, target, results)).strip()
    when = since(step_of(results, drift.scenario, drift.case, drift.first_event))
    if drift.relation == "missing":
        return one_line(f"{name} is missing or of another shape on one side")
    cell = results.cell_at.get((drift.scenario, drift.case, other))
    if drift.relation == "refused" and cell is not None and blamed.own(cell):
        return one_line(f"your code went wrong on {other}, {target} went on {when}")
    if drift.relation == "refused":
        return one_line(f"{other} refused, {target} went on {when}")
    return one_line(f"{name} off by {amount(drift.mean_abs, drift.std_abs)} {when}")


def nonfinite_text(drift: Drift, target: str, results: Results) -> str:
    name, other = named(drift), other_of(drift, target)
    what, step = onset_of(results, drift, target if bad(drift, target) else other)
    if drift.quantity.startswith("grad_") and what == NAN:
        what = NO_GRADIENT
    if not bad(drift, target):
        return f"{name} stays finite; {other} is {what} {since(step)}"
    if bad(drift, other):
        return f"{what} in {name}, as in {other}, but not in the same places"
    return f"{what} in {name} {since(step)}"
