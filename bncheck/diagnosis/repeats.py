"""A case that was played twice, first in order and then in reversed order: did it give the same? Pure.

Comparing keeps small records only: what a case gives must not depend on what ran before it.
"""

from __future__ import annotations

from dataclasses import replace

from bncheck.diagnosis.rules.mode_and_state.bn403_order_dependence import difference
from bncheck.evidence import CellView, Repeat
from bncheck.trace import Trace


def compare_again(first: CellView, second: CellView) -> Repeat:
    """What became of a case when it was played a second time; holds no trace."""
    bare = replace(first, trace=None, replay={})
    found = difference(first, second)
    if found is not None:
        return Repeat(bare, *found)
    return Repeat(bare, identical=same_bits(first.trace, second.trace))


def same_bits(one: Trace | None, two: Trace | None) -> bool:
    """True if all recorded arrays are equal to the bit; how long events took does not count."""
    if one is None or two is None:
        return one is two
    names = set(one.arrays) | set(two.arrays)
    return all(
        name in one.arrays and name in two.arrays and one.arrays[name].tobytes() == two.arrays[name].tobytes()
        for name in names
        if name != "event_seconds"
    )
