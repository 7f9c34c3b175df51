"""What the rules say of one thing by itself: a life that was watched, a holding that was read. No partner, no I/O."""

from __future__ import annotations

from collections.abc import Sequence

from bncheck.diagnosis.rules import load_rules
from bncheck.finding import KINDS, Finding
from bncheck.life import Holding, Life


def judge_life(life: Life) -> tuple[Finding, ...]:
    """Findings about one process, gravest first."""
    return ordered([found for rule in load_rules() if rule.check_life for found in rule.check_life(life)])


def judge_lives(lives: Sequence[Life]) -> tuple[Finding, ...]:
    """Findings about all processes of one command, gravest first: each by itself, and its ranks side by side. What is
    said of several ranks alike is said once, of the first."""
    own = {(found.code, found.layer, found.kind): found for life in reversed(lives) for found in judge_life(life)}
    both = [found for rule in load_rules() if rule.check_lives for found in rule.check_lives(lives)]
    return ordered([*own.values(), *both])


def judge_holding(holding: Holding) -> tuple[Finding, ...]:
    """Findings about what one thing holds, gravest first."""
    return ordered([found for rule in load_rules() if rule.check_holding for found in rule.check_holding(holding)])


def ordered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda found: (KINDS.index(found.kind), found.code)))
