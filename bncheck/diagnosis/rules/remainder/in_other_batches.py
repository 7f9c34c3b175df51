"""What BN902 says of the same samples in other batches: who gives them another output, by more than rounding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from bncheck.diagnosis.rules.in_batches import InBatches, dependent, is_beyond_rounding, rounding_bound
from bncheck.diagnosis.rules.wording import number
from bncheck.evidence import CellView


@dataclass(frozen=True)
class Odd:
    layer: str  # "" where the difference enters behind all that is seen
    said: str
    advice: str = "look at what that layer computes over the batch axis"
    evidence: Mapping[str, float | int] = field(default_factory=dict)


def odd_one(cell: CellView, found: InBatches) -> Odd | None:
    """A layer other than BatchNorm (those are BN111's), one that gives NaN in one batch alone, or nobody seen."""
    known = dependent(cell, found)
    odd = [place for place in known if not found.norms[place]]
    lost = [place for place in found.one_sided if place not in known]
    if odd:
        own = found.own[:, odd[0]]
        size = float(own[np.isfinite(own)].max())
        said = (
            f"{found.named(odd[0])} gives the same input bits another output in another batch, by up to "
            f"{number(size)}, and no rule explains it"
        )
        return Odd(found.layers[odd[0]], said, evidence={"layers": len(odd), "own difference": size})
    if lost:
        said = (
            f"{found.named(lost[0])} gives the same input bits a finite output in one batch and NaN or Inf in "
            f"another, and no rule explains it"
        )
        return Odd(found.layers[lost[0]], said, evidence={"layers": len(lost)})
    return nobody(cell, found) if not known and is_beyond_rounding(cell, found) else None


def nobody(cell: CellView, found: InBatches) -> Odd:
    """The outputs differ by more than rounding, and every layer that is seen acquits itself."""
    bound, worst, many = rounding_bound(cell, found), found.worst, len(found.layers)
    first = found.first_beyond(bound)
    seen = f"Each of the {many} modules that bncheck sees" if many > 1 else "The one module that bncheck sees"
    where = "behind the last of them" if first is None else f"before {found.named(first)}"
    return Odd(
        layer="" if first is None else found.layers[first],
        said=(
            f"the same samples lie L1 {number(float(found.l1[worst]))} apart between batches of {found.sizes[worst]} "
            f"and {found.largest}; rounding makes {number(bound * found.size)} at most. {seen} agrees with itself in "
            f"both, so the difference enters {where}, where bncheck sees no module"
        ),
        advice=(
            "look for a layer in a plain Python list, which eval() does not reach, and for what forward() computes "
            "over the batch axis"
        ),
        evidence={"rounding bound": bound * found.size, "L1 of the output": found.size},
    )
