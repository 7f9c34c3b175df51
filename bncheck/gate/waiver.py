"""Waivers: findings that a team accepts, until a day, for a reason. Pure: charges and waivers in, who waives what out.

A waiver names a ``cause`` or ``code`` and may narrow it by ``scenario``, ``case`` and ``targets`` (globs); ``reason``
and ``expires`` are required. An expired waiver fails the run; one that nothing needs any more is reported, so that
the list does not rot. Both are said only of waivers that concern what was run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase

from bncheck.gate.charge import VERSION, Charge

CASE_FREE = ("expectation",)


@dataclass(frozen=True)
class Waiver:
    """``where`` is the file and line it stands in. Of ``targets`` each glob must name one target of the finding,
    with or without its version."""

    cause: str  # or a rule's code; a glob
    reason: str
    expires: date
    scenario: str = "*"
    case: str = "*"
    targets: tuple[str, ...] = ()
    where: str = ""

    @property
    def label(self) -> str:
        narrowed = [self.scenario] if self.scenario != "*" else []
        narrowed += [self.case] if self.case != "*" else []
        narrowed += list(self.targets)
        return self.cause + (f" ({', '.join(narrowed)})" if narrowed else "")

    def expired(self, today: date) -> bool:
        """A waiver still holds on the day it names."""
        return today > self.expires


def matches(waiver: Waiver, charge: Charge) -> bool:
    named = any(fnmatchcase(word.lower(), waiver.cause.lower()) for word in (charge.cause, charge.code) if word)
    here = fnmatchcase(charge.scenario, waiver.scenario)
    # An unmet expectation is about a condition and not about one case: only a waiver for all cases is about it.
    case = waiver.case == "*" if charge.kind in CASE_FREE else fnmatchcase(charge.case, waiver.case)
    return (
        named and here and case and all(any(is_named(name, glob) for name in charge.names) for glob in waiver.targets)
    )


def is_named(name: str, glob: str) -> bool:
    """Brackets stand for themselves: ``keras[jax]`` is a target's name, not a set of letters."""
    pattern = glob.replace("[", "[[]")
    return fnmatchcase(name, pattern) or fnmatchcase(VERSION.sub("", name, count=1), pattern)


def waive(charge: Charge, waivers: Sequence[Waiver], today: date) -> Waiver | None:
    """The first waiver that holds for this charge."""
    return next((waiver for waiver in waivers if not waiver.expired(today) and matches(waiver, charge)), None)


def concerned(waiver: Waiver, played: Mapping[tuple[str, str], set[str]]) -> bool:
    """True if something was run that the waiver is about."""
    return any(
        fnmatchcase(scenario, waiver.scenario)
        and fnmatchcase(case, waiver.case)
        and all(any(is_named(name, glob) for name in names) for glob in waiver.targets)
        for (scenario, case), names in played.items()
    )


def expired(waivers: Iterable[Waiver], played: Mapping[tuple[str, str], set[str]], today: date) -> list[Waiver]:
    return [waiver for waiver in waivers if waiver.expired(today) and concerned(waiver, played)]


def unneeded(
    waivers: Iterable[Waiver], charges: Sequence[Charge], played: Mapping[tuple[str, str], set[str]], today: date
) -> list[Waiver]:
    """Waivers that hold, are about something that was run, and have nothing to waive."""
    return [
        waiver
        for waiver in waivers
        if not waiver.expired(today)
        and concerned(waiver, played)
        and not any(matches(waiver, charge) for charge in charges)
    ]
