"""What gate.json says, arranged for a page: does the run fail, what is new, known or waived, and which waivers rot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bncheck.finding import Finding
from bncheck.gate.bar import Judged, Verdict
from bncheck.gate.baseline import Entry
from bncheck.gate.charge import Charge
from bncheck.gate.shortfall import Shortfall
from bncheck.gate.waiver import Waiver
from bncheck.report.summary import ruling

# Standing → (heading, what it means, whether a reader has to see it at once).
GROUPS: tuple[tuple[str, str, str, bool], ...] = (
    ("fails", "Fails", "At or above the level, and neither known nor waived.", True),
    ("waived", "Waived", "Accepted until a day, for a reason.", True),
    ("known", "Known", "In the baseline, and not worse than there.", False),
    ("unchecked", "Not checked", "Expectations that this run could not check.", True),
    ("below", "Below the level", "Reported, but this level does not fail for it.", False),
)


@dataclass(frozen=True)
class Group:
    """Charges of one standing; ``unfolded`` when they are shown without a click."""

    word: str
    title: str
    means: str
    unfolded: bool
    items: tuple[Judged, ...]


@dataclass(frozen=True)
class Judgement:
    """``word`` is passes, fails, or incomplete (something did not come, or cells crashed or timed out)."""

    word: str
    exit_code: int
    ruling: str
    fail_on: str
    with_baseline: bool
    groups: tuple[Group, ...]
    expired: tuple[Waiver, ...]
    unneeded: tuple[Waiver, ...]
    gone: tuple[Entry, ...]
    missed: tuple[Shortfall, ...] = ()

    @property
    def rot(self) -> int:
        """How many things somebody has to look after: what did not come, waivers, entries of the baseline."""
        return len(self.missed) + len(self.expired) + len(self.unneeded) + len(self.gone)


def arrange(verdict: Verdict) -> Judgement:
    """The page's view of a verdict; groups without charges are left out."""
    groups = tuple(
        Group(word, title, means, unfolded, tuple(found))
        for word, title, means, unfolded in GROUPS
        if (found := verdict.of(word))
    )
    word = {0: "passes", 3: "incomplete"}.get(verdict.exit_code, "fails")
    return Judgement(
        word=word,
        exit_code=verdict.exit_code,
        ruling=ruling(verdict),
        fail_on=verdict.fail_on,
        with_baseline=verdict.with_baseline,
        groups=groups,
        expired=verdict.expired,
        unneeded=verdict.unneeded,
        gone=verdict.gone,
        missed=verdict.missed,
    )


def standings(verdict: Verdict, findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """What became of these findings, as (standing, words): ``("known", "known from the baseline in 3 cases")``.

    What is merely below the level is left out: nobody has decided anything about it.
    """
    keys = {key_of_finding(finding) for finding in findings}
    here = [item for item in verdict.judged if key_of_charge(item.charge) in keys and item.standing != "below"]
    told: Counter[tuple[str, str]] = Counter((item.standing, item.note) for item in here)
    return [(standing, said(standing, note, count, len(keys))) for (standing, note), count in told.items()]


def said(standing: str, note: str, count: int, of: int) -> str:
    """``known from the baseline``, ``waived in 2 of 6 cases until 2027-01-31: …``, ``new in 1 of 6 cases``."""
    where = f" in {count} of {of} cases" if count < of else ""
    if standing == "waived":
        return f"waived{where} {note}"
    return (note or "fails" if standing == "fails" else "known from the baseline") + where


def key_of_finding(finding: Finding) -> tuple[object, ...]:
    sides = finding.sides if finding.of_difference else (finding.targets,)
    names = tuple(dict.fromkeys(name for side in sides for name in side))
    return (finding.code, finding.cause, finding.kind, finding.scenario, finding.case, finding.layer, names)


def key_of_charge(charge: Charge) -> tuple[object, ...]:
    return (charge.code, charge.cause, charge.kind, charge.scenario, charge.case, charge.layer, charge.names)
