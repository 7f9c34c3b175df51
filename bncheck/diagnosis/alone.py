"""What the rules say of one thing by itself: a life that was watched, a holding that was read. No partner, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bncheck.diagnosis.rules import load_rules
from bncheck.finding import GAP, KINDS, Consequence, Finding
from bncheck.life import Holding, Life


def judge_life(life: Life) -> tuple[Finding, ...]:
    """Findings about one process, gravest first."""
    found = [item for rule in load_rules() if rule.check_life for item in rule.check_life(life)]
    return ordered(with_consequences(found))


def judge_lives(lives: Sequence[Life]) -> tuple[Finding, ...]:
    """Findings about all processes of one command, gravest first: each by itself, and its ranks side by side. What is
    said of several ranks alike is said once, of the first."""
    own = {(found.code, found.layer, found.quantity): found for life in reversed(lives) for found in judge_life(life)}
    both = [found for rule in load_rules() if rule.check_lives for found in rule.check_lives(lives)]
    return ordered(with_consequences([*own.values(), *both]))


def with_consequences(findings: Sequence[Finding]) -> list[Finding]:
    """The findings, where a gap of layers that something else is wrong with follows from that."""
    causes = [found for found in findings if GAP not in found.evidence and found.kind in ("defect", "hazard")]
    kept = [found for found in findings if GAP not in found.evidence]
    for gap in (found for found in findings if GAP in found.evidence):
        layers = layers_of(gap)
        cause = next((found for found in causes if layers <= layers_of(found)), None)
        if cause is None:
            kept.append(gap)
            continue
        item = Consequence(title=gap.title, targets=gap.targets, places=tuple(gap.places))
        place = next(place for place, found in enumerate(kept) if found is cause or found.title == cause.title)
        kept[place] = replace(kept[place], follows=(*kept[place].follows, item))
    return kept


def layers_of(found: Finding) -> frozenset[str]:
    return frozenset(layer for layer, _ in found.places)


def judge_holding(holding: Holding) -> tuple[Finding, ...]:
    """Findings about what one thing holds, gravest first."""
    return ordered([found for rule in load_rules() if rule.check_holding for found in rule.check_holding(holding)])


def ordered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda found: (KINDS.index(found.kind), found.code)))
