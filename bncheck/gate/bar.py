"""Does this run fail, and why? Charges, held against ``--fail-on``, waivers and a baseline, make a verdict; so does
what was asked for and did not come.

Pure but for ``write_verdict`` and ``read_verdict``: the verdict lies in the run folder as ``gate.json``, so that every
report made later says the same as the exit code did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from bncheck.bounded import read_bounded
from bncheck.errors import RunFolderError
from bncheck.gate.baseline import Entry, by_place, gone, standing_of
from bncheck.gate.blamed import EXITS
from bncheck.gate.charge import Charge, charges, plain_names, unchecked
from bncheck.gate.shortfall import Shortfall
from bncheck.gate.waiver import Waiver, expired, unneeded, waive
from bncheck.run_folder.whole import Stamp, stamp_of

if TYPE_CHECKING:
    from bncheck.run_folder.results import Results

# --fail-on → the kinds of charge that fail. A crash fails at every level: nothing was found out about that cell.
FAIL_ON: Mapping[str, tuple[str, ...]] = {
    "defect": ("defect", "expectation"),
    "hazard": ("defect", "expectation", "hazard"),
    "convention": ("defect", "expectation", "hazard", "unexplained", "convention"),
    "drift": ("defect", "expectation", "hazard", "unexplained", "convention", "drift"),
    "never": (),
}
LARGEST = 64 * 1024 * 1024


@dataclass(frozen=True)
class Bar:
    """What a run is held against. ``baseline`` None: there is none, everything is new."""

    fail_on: str = "defect"
    baseline: tuple[Entry, ...] | None = None
    waivers: tuple[Waiver, ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """One charge and what became of it: fails, known, waived, below (the level of --fail-on), or unchecked (an
    expectation that this run could not check); ``note`` says why."""

    charge: Charge
    standing: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``expired`` and ``unneeded`` are waivers, ``gone`` what the baseline lists and nothing shows any more; ``missed``
    is what was asked for and did not come."""

    fail_on: str = "defect"
    with_baseline: bool = False
    judged: tuple[Judged, ...] = ()
    expired: tuple[Waiver, ...] = ()
    unneeded: tuple[Waiver, ...] = ()
    gone: tuple[Entry, ...] = ()
    missed: tuple[Shortfall, ...] = ()

    def of(self, standing: str) -> list[Judged]:
        return [item for item in self.judged if item.standing == standing]

    @property
    def exit_code(self) -> int:
        """In this order: 3 where cells crashed, timed out, or could not be played and the user's file is not why; 2
        where a file of the user's is wrong; 3 where not all came that was asked for; 1 for other charges and expired
        waivers; else 0.

        A wrong file may be why something did not come, and is to be corrected first. It is not why another cell crashed
        or bncheck went wrong: that is left when the file is right, so 3 says more than 2."""
        failing = self.of("fails")
        if worst := max((EXITS.get(item.charge.kind, 0) for item in failing), default=0):
            return worst
        if self.missed:
            return 3
        return 1 if failing or (self.expired and self.fail_on != "never") else 0


def hold(results: Results, bar: Bar, today: date, missed: Sequence[Shortfall] = ()) -> Verdict:
    """The verdict on a run."""
    brought, open_ones = charges(results), unchecked(results)
    concerned = (*brought, *(charge for charge, _ in open_ones))
    atol = {scenario.name: scenario.atol for scenario in results.scenarios}
    names = {target.name for target in results.targets}
    played = played_on(results, {name: name for name in names}) if bar.waivers else {}
    known = bar.baseline or ()
    listed = by_place(known)
    return Verdict(
        fail_on=bar.fail_on,
        with_baseline=bar.baseline is not None,
        judged=tuple(
            weigh(charge, bar, listed.get((charge.scenario, charge.case, charge.cause), ()), atol, today)
            for charge in brought
        )
        + tuple(Judged(charge, "unchecked", reason) for charge, reason in open_ones),
        expired=tuple(expired(bar.waivers, played, today)),
        unneeded=tuple(unneeded(bar.waivers, concerned, played, today)),
        gone=tuple(gone(known, concerned, played_on(results, plain_names(names)))) if known else (),
        missed=tuple(missed),
    )


def weigh(charge: Charge, bar: Bar, listed: Sequence[Entry], atol: Mapping[str, float | None], today: date) -> Judged:
    waiver = waive(charge, bar.waivers, today)
    if waiver is not None:
        return Judged(charge, "waived", f"until {waiver.expires}: {waiver.reason} ({waiver.where})")
    if charge.kind not in EXITS and charge.kind not in FAIL_ON[bar.fail_on]:
        return Judged(charge, "below", f"--fail-on {bar.fail_on}")
    if bar.baseline is None:
        return Judged(charge, "fails")
    found = standing_of(charge, listed, atol.get(charge.scenario))
    return Judged(charge, "known", "in the baseline") if found == "known" else Judged(charge, "fails", found)


def played_on(results: Results, names: Mapping[str, str]) -> dict[tuple[str, str], set[str]]:
    """(scenario, case) → names of the targets it ran on, to whatever end. Probes behind the scenes count too."""
    found: dict[tuple[str, str], set[str]] = {}
    for cell in results.cells:
        if cell.outcome not in ("unavailable", "unsupported"):
            found.setdefault((cell.scenario, cell.case), set()).add(names[cell.target])
    return found


# ------------------------------------------------------------------------------------------------- gate.json


LATEST: dict[Stamp, Verdict] = {}  # the one that was last written or read: each report of a run asks for it


def write_verdict(verdict: Verdict, run: Path) -> Path:
    from bncheck.run_folder.results import write_object

    values = {item.name: getattr(verdict, item.name) for item in fields(verdict)}
    path = write_object(run / "gate.json", {"format": 1, "exit_code": verdict.exit_code, **values})
    LATEST.clear()
    LATEST[stamp_of(path)] = verdict
    return path


def read_verdict(run: Path, results: Results) -> Verdict:
    """The verdict as the run's own command reached it; for a run folder without one, that of the defaults."""
    path = run / "gate.json"
    try:
        stamp = stamp_of(path)
    except FileNotFoundError:
        return hold(results, Bar(), date.today())
    if stamp not in LATEST:
        LATEST.clear()
        LATEST[stamp] = parse_verdict(path)
    return LATEST[stamp]


def parse_verdict(path: Path) -> Verdict:
    from pydantic import TypeAdapter, ValidationError

    try:
        raw = read_bounded(path, LARGEST)
        return TypeAdapter(Verdict).validate_json(raw)
    except (OSError, ValidationError) as error:
        raise RunFolderError(f"{path} is damaged or was edited", "delete it, or run again") from error


def between(charge: Charge, a: str, b: str) -> bool:
    return a in charge.names or b in charge.names if len(charge.sides) == 1 else opposite(charge, a, b)


def opposite(charge: Charge, a: str, b: str) -> bool:
    """``names`` lists the first side's targets and then the second's."""
    first = set(charge.names[: len(charge.sides[0])]) if charge.sides else set()
    return a in charge.names and b in charge.names and (a in first) != (b in first)
