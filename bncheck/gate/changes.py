"""What changed from one run to another: new, worse and gone findings. The rule is that of a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

from bncheck.gate.bar import Bar, Verdict, hold
from bncheck.gate.baseline import Entry, record
from bncheck.gate.charge import Charge, charges
from bncheck.run_folder.results import Results


@dataclass(frozen=True)
class Change:
    """``what`` is new, worse or gone; ``cases`` are (scenario, case); ``note`` says how it is worse."""

    what: str
    cause: str
    kind: str
    sides: tuple[tuple[str, ...], ...]
    cases: tuple[tuple[str, str], ...]
    code: str = ""
    sentence: str = ""
    note: str = ""


def held_against(before: Results, after: Results, fail_on: str) -> Verdict:
    """The later run held against all that the earlier one found."""
    return hold(after, Bar(fail_on=fail_on, baseline=record(charges(before))), date.today())


def changes(verdict: Verdict) -> list[Change]:
    """News first; one and the same in several cases is one change."""
    found: dict[tuple[object, ...], list[Change]] = {}
    for item in verdict.of("fails"):
        what = "worse" if item.note.startswith("worse") else "new"
        made = of_charge(item.charge, what, item.note.partition(": ")[2] if what == "worse" else "")
        found.setdefault((what, made.code, made.cause, made.kind, made.sides), []).append(made)
    for entry in verdict.gone:
        made = of_entry(entry)
        found.setdefault(("gone", made.cause, made.kind, made.sides), []).append(made)
    order = ("new", "worse", "gone")
    return sorted((together(group) for group in found.values()), key=lambda change: order.index(change.what))


def of_charge(charge: Charge, what: str, note: str) -> Change:
    return Change(
        what=what,
        cause=charge.cause,
        kind=charge.kind,
        sides=charge.sides,
        cases=((charge.scenario, charge.case),),
        code=charge.code,
        sentence=charge.sentence,
        note=note,
    )


def of_entry(entry: Entry) -> Change:
    case = ((entry.scenario, entry.case),)
    return Change(what="gone", cause=entry.cause, kind=entry.kind, sides=entry.sides, cases=case)


def together(group: Sequence[Change]) -> Change:
    return replace(group[0], cases=tuple(dict.fromkeys(case for change in group for case in change.cases)))
