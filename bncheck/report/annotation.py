"""What GitHub shows beside a job: ``::error title=…::…`` lines, which its runner reads from what a step prints."""

from __future__ import annotations

from collections.abc import Iterator

from bncheck.gate.bar import Verdict
from bncheck.report.plain_text import clean, one_line
from bncheck.report.summary import overdue, place, remarks

SHOWN = 10  # of one kind per step; GitHub drops the others without a word


def annotate(verdict: Verdict, most: int = SHOWN) -> Iterator[str]:
    """GitHub's ``::error title=…::…`` lines. It shows ten of a kind per step, so the last one counts the others."""
    for missed in verdict.missed:
        yield annotation("error", "bncheck", missed.sentence + (f" → {missed.remedy}" if missed.remedy else ""))
    failing = verdict.of("fails")
    for item in failing[: most if len(failing) <= most else most - 1]:
        charge = item.charge
        title = " ".join(filter(None, ("bncheck", charge.code, charge.cause)))
        note = f" ({item.note})" if item.note else ""
        yield annotation("error", title, f"{place(charge.scenario, charge.case)}: {charge.sentence}{note}")
    if len(failing) > most:
        yield annotation("error", "bncheck", f"and {len(failing) - most + 1} more; all of them are in the job summary")
    due = list(overdue(verdict))
    for text in list(remarks(verdict))[:most]:
        yield annotation("error" if text in due and verdict.fail_on != "never" else "warning", "bncheck", text)


def annotation(level: str, title: str, message: str) -> str:
    """As the runner reads it back: % and line ends in both, and : and , in properties."""
    text = clean(message).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    head = one_line(title).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={head}::{text}"
