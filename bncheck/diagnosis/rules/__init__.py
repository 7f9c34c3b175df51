"""The rules: one file per cause, in the folder of its family. Nothing is registered; a new file is a new rule.

``conventions/bn103_update_phase.py`` holds literal ``CODE`` and ``CAUSE``, a docstring (its first line is the title,
the rest what ``bncheck explain`` prints) and any of ``check_cell(CellView)``, ``check_pair(PairView)``,
``check_target(TargetView)``, ``check_life(Life)``, ``check_lives(Sequence[Life])``, ``check_holding(Holding)`` (the
last three: what layers of a user's program lived through, in one process and in its ranks; what those of one
thing hold): pure functions that return findings. Files without a number are what rules share: those of one family in
its folder, questions about holdings and lives in ``holdings`` and ``lives``.

``EXPLAINS`` says what else a rule's cause changes, in words (``bearing.py`` holds a difference against them and
against replay): ``statistics``, ``counter``, ``affine``, ``outputs``, ``gradients``, ``events`` (what a side refuses);
``evaluations`` (outputs only where held state makes them: not those of a training batch);
and what only other rules ask for: ``mode``, ``variance``, ``order``, ``refused`` (an event was not carried out),
``nan`` (it says where NaN, Inf or a variance below zero began). ``FOLLOWS_FROM`` names those of these words that,
explained by another finding about the same targets, make this one a consequence: it is then listed under that finding.
Names, contracts and advice explain no number: ``EXPLAINS = ()``.

``NEEDS_CONVENTIONS = True`` says that its checks rest on measured conventions: where nothing was measured (--no-probe),
its silence says nothing.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from bncheck.finding import Finding

# What a rule may look at; the function of that name in its file does.
CHECKS = ("check_cell", "check_pair", "check_target", "check_life", "check_lives", "check_holding")
RULE_FILE = re.compile(r"bn\d{3}_[a-z_]+")
# First digit of a code → the folder of its family, and the family in words.
FOLDERS = {
    "1": "conventions",
    "2": "numerics",
    "3": "nonfinite",
    "4": "mode_and_state",
    "5": "refusals",
    "9": "remainder",
}
FAMILIES = {
    "1": "convention",
    "2": "numerics",
    "3": "NaN and Inf",
    "4": "mode and state",
    "5": "refusals",
    "9": "what is left",
}


@dataclass(frozen=True)
class Rule:
    """One rule file: its code, the cause it names, its docstring, its checks (None where it has none)."""

    code: str
    cause: str
    title: str
    explanation: str
    check_cell: Callable[[Any], Iterable[Finding]] | None = None
    check_pair: Callable[[Any], Iterable[Finding]] | None = None
    check_target: Callable[[Any], Iterable[Finding]] | None = None
    check_life: Callable[[Any], Iterable[Finding]] | None = None
    check_lives: Callable[[Any], Iterable[Finding]] | None = None
    check_holding: Callable[[Any], Iterable[Finding]] | None = None
    explains: frozenset[str] = frozenset()
    follows_from: frozenset[str] = frozenset()
    needs_conventions: bool = False

    @property
    def family(self) -> str:
        return FAMILIES[self.code[2]]


@cache
def load_rules() -> tuple[Rule, ...]:
    """All rules, by code."""
    names = [f"{folder}.{name}" for folder in FOLDERS.values() for name in _files(folder)]
    return tuple(sorted((_read(name) for name in names), key=lambda rule: rule.code))


def _files(folder: str) -> list[str]:
    places = importlib.import_module(f"{__name__}.{folder}").__path__
    return [module.name for module in pkgutil.iter_modules(places) if RULE_FILE.fullmatch(module.name)]


def _read(name: str) -> Rule:
    module = importlib.import_module(f"{__name__}.{name}")
    title, _, explanation = inspect.cleandoc(module.__doc__ or "").partition("\n")
    checks = {check: getattr(module, check, None) for check in CHECKS}
    needs = getattr(module, "NEEDS_CONVENTIONS", False)
    return Rule(
        code=module.CODE,
        cause=module.CAUSE,
        title=title.strip(),
        explanation=explanation.strip(),
        **checks,
        explains=frozenset(module.EXPLAINS),
        follows_from=frozenset(getattr(module, "FOLLOWS_FROM", ())),
        needs_conventions=needs,
    )


@cache
def rule_of(code: str) -> Rule:
    """The rule that made a finding."""
    return next(rule for rule in load_rules() if rule.code == code)
