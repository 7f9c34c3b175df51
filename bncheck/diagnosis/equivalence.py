"""A layer of the user's own stands in the place of the built-in one: it claims to do the same.

Between frameworks two documented rules are a convention. Between an own layer and what it replaces every difference is
a fault of the own layer, explained or not, unless the scenario's author expects that very cause. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from bncheck.diagnosis.expectations import applies
from bncheck.diagnosis.rules.own_advice import in_its_words
from bncheck.evidence import CellView
from bncheck.finding import BUILT_IN, Finding
from bncheck.scenario import Case, Scenario

# Kinds that would let a layer pass that is not equivalent.
LENIENT = ("hazard", "convention", "unexplained")
# No differences of what is computed: an error in the user's own code ends with a code of its own, and state under other
# names computes the same.
OTHER = ("refusal", "crash", "state-mismatch")


def held_to_equivalence(
    findings: Iterable[Finding], cells: Sequence[CellView], case: Case, scenario: Scenario
) -> list[Finding]:
    """The findings of one case; differences between own layers and built-in ones as defects of the own layer."""
    own = {cell.target for cell in cells if cell.own_layer}
    alone = all(cell.target in own for cell in cells)  # nothing to be equivalent to
    expected = {cause for expect in scenario.expect if applies(expect.when, case) for cause in expect.causes}
    backends = {cell.target: cell.backend for cell in cells if cell.own_layer}
    told = (in_its_words(item, [backends[name] for name in item.targets if name in backends]) for item in findings)
    return [
        replace(item, kind="defect", departs=departs, departs_from=BUILT_IN)
        if (departs := "" if alone else not_equivalent(item, own)) and item.cause not in expected
        else item
        for item in told
    ]


def not_equivalent(finding: Finding, own: set[str]) -> str:
    """The own layer's target where a finding sets own layers apart from others, or tells of own layers alone what
    accounts for a difference; "" otherwise."""
    if finding.kind not in LENIENT or finding.cause in OTHER:
        return ""
    if not finding.of_difference:
        return finding.targets[0] if finding.accounts and set(finding.targets) <= own else ""
    one, two = (set(side) for side in finding.sides)
    if one <= own and not two & own:
        return finding.sides[0][0]
    if two <= own and not one & own:
        return finding.sides[1][0]
    return ""
