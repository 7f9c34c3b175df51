"""Which side departs, and from what: its documentation, itself on another device or version, or nothing.

A difference of two targets that each do what they document is a convention. Calling it a defect gets reports
closed and readers used to ignoring the tool.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bncheck.evidence import CellView
from bncheck.finding import Kind
from bncheck.scenario import TARGET_NAME


@dataclass(frozen=True)
class Departure:
    """``kind`` of a finding, the target that departs, and a half-sentence that says so."""

    kind: Kind
    departs: str = ""
    departs_from: str = ""
    said: str = ""
    link: str = ""


def same(one: Any, two: Any) -> bool:
    """Equal as rules: numbers within 1e-3 (documented 0.1, measured 0.1000001), words exactly or as one of several that
    are left open ("running-after or blend")."""
    if one == two:
        return True  # words too: "nan" is one, and no number equals it
    if isinstance(two, str) and " or " in two:
        return any(same(one, word) for word in two.split(" or "))
    try:
        return math.isclose(float(one), float(two), rel_tol=1e-3, abs_tol=1e-12)
    except (TypeError, ValueError):
        return str(one) == str(two)


def departure_of(facet: str, a: Sequence[CellView], value_a: Any, b: Sequence[CellView], value_b: Any) -> Departure:
    """Judge one facet of two sides (groups of cells that agree) from what their members document."""
    known = 0
    for side, value in ((a, value_a), (b, value_b)):
        for cell in side:
            documented = cell.documented.get(facet)
            if documented is None:
                continue
            known += 1
            if not same(documented, value):
                said = f"{cell.backend} documents {facet.replace('_', ' ')} = {documented}"
                return Departure(
                    kind="defect", departs=cell.target, departs_from="documentation", said=said, link=cell.link
                )
    twins = [(x, y) for x in a for y in b if other_self(x, y)]
    if twins:
        one, two = twins[0]
        # Nobody documents it: the device that is not the CPU, or else the later-named version, is the odd one.
        odd = one if _device(one) != "cpu" and _device(two) == "cpu" else two
        return Departure(
            kind="defect",
            departs=odd.target,
            departs_from="itself",
            said=f"{one.target} and {two.target} are the same framework",
        )
    said = "each as documented" if known >= len(a) + len(b) else "neither contradicts its own documentation"
    return Departure("convention", said=said, link=next((cell.link for cell in (*a, *b) if cell.link), ""))


def other_self(x: CellView, y: CellView) -> bool:
    """The same framework and variant on another device or version (variants may be different layers by design)."""
    if x.backend != y.backend or x.backend == "reference":
        return False
    return _variant(x) == _variant(y) and x.target != y.target


def _variant(cell: CellView) -> str:
    match = TARGET_NAME.fullmatch(cell.target)
    return (match["variant"] or "") if match else ""


def _device(cell: CellView) -> str:
    match = TARGET_NAME.fullmatch(cell.target)
    return (match["device"] or "cpu") if match else "cpu"
