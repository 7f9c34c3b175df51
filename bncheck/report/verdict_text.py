"""Why the exit code is what it is, in lines for a terminal."""

from __future__ import annotations

from dataclasses import replace

from bncheck.finding import KINDS
from bncheck.gate.bar import Verdict
from bncheck.gate.blamed import EXITS, REMEDIES
from bncheck.report.plain_text import one_line, plural
from bncheck.report.summary import overdue, place, remarks, ruling

MOST_LINES = 20  # that say what fails; a run can have thousands of drifts


def why(verdict: Verdict) -> str:
    """The reason of an exit code other than 0, in one line: how many, and the first by name."""
    missed = [item.sentence for item in verdict.missed]
    failing = [item.charge for item in verdict.of("fails")]
    first = [
        f"{at(' '.join(filter(None, (item.code, item.cause))), item.scenario, item.case)}: {item.sentence}"
        for item in failing[:1]
    ] or list(overdue(verdict))[:1]
    rest = f"; {ruling(replace(verdict, missed=()))}" if missed and (failing or verdict.expired) else ""
    text = f"{'; '.join(missed)}{rest}" if missed else f"{ruling(verdict)}: {'; '.join(first)}"
    return one_line(f"exit code {verdict.exit_code}: {text}", 1000)


def at(what: str, scenario: str, case: str) -> str:
    """What fails, and where; what the probes show of a target is at no place."""
    return f"{what} in {place(scenario, case)}" if scenario else what


def error_lines(verdict: Verdict) -> list[str]:
    """Cells that were not carried out by nobody's fault but the user's file's or bncheck's: what, where, what now."""
    alike: dict[tuple[str, str], list[str]] = {}
    for item in verdict.of("fails"):
        charge = item.charge
        if charge.kind in REMEDIES:
            where = f"{place(charge.scenario, charge.case)} on {' and '.join(charge.names)}"
            alike.setdefault((charge.kind, charge.sentence), []).append(where)
    found = []
    for (kind, text), places in alike.items():
        more = f" and {plural(len(places) - 1, 'more case')}" if len(places) > 1 else ""
        found.append(f"bncheck: {one_line(places[0], 200)}{more}: {one_line(text, 700)}")
        found.append(f"  → {REMEDIES[kind]} (exit code {EXITS[kind]})")
    return found


def lines(verdict: Verdict) -> list[str]:
    """What the table above them does not say: what fails and is no finding there, what is new, worse, waived or not
    checked, and waivers that are due."""
    others = [item for item in verdict.of("fails") if item.charge.kind not in REMEDIES]  # error_lines has those
    failing = [item for item in others if item.note or item.charge.kind not in KINDS]
    found = []
    for item in failing[:MOST_LINES]:
        what = at(item.charge.cause, item.charge.scenario, item.charge.case)
        said = ": ".join(filter(None, (item.note, item.charge.sentence if item.charge.kind not in KINDS else "")))
        found.append(f" ✗ {what}: {one_line(said, 300)}")
    if len(failing) > MOST_LINES:
        found.append(f" ✗ and {len(failing) - MOST_LINES} more that fail; all of them are in gate.json")
    for item in verdict.of("waived"):
        what = at(item.charge.cause, item.charge.scenario, item.charge.case)
        found.append(f" ~ {what}: waived {one_line(item.note, 200)}")
    for item in verdict.of("unchecked"):
        said = item.charge.sentence.rstrip(".")  # its condition is the charge's case
        found.append(f" – {item.charge.scenario}: {one_line(said, 300)}: {one_line(item.note, 200)}")
    found += [f" ! {one_line(text, 300)}" for text in remarks(verdict)]
    if verdict.with_baseline or found or verdict.exit_code:
        code = f" (exit code {verdict.exit_code})" if verdict.exit_code else ""
        found.append(f" verdict  {ruling(verdict)}{code}")
    return found
