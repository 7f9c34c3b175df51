"""What the differences of two holdings mean. Each reading explains some quantities of some layers and takes them away;
what none explains is said last, as unexplained."""

from __future__ import annotations

from collections.abc import Sequence

from bncheck.diagnosis.held.likeness import Pair
from bncheck.diagnosis.held.matching import Matching
from bncheck.diagnosis.held.misplaced import (
    alone,
    below_zero,
    misshaped,
    nonfinite,
    shifted,
    swapped,
)
from bncheck.diagnosis.held.moved import another_step, counters, earlier, factored, kept, rest, started
from bncheck.diagnosis.held.reading import (
    Reader,
    Reading,
    Sides,
    finding_of,
)
from bncheck.diagnosis.held.settings import modes, other_tensors, roundings, settings
from bncheck.diagnosis.held.transformed import raised, reordered, scaled
from bncheck.finding import Finding

READERS: tuple[Reader, ...] = (
    nonfinite,
    misshaped,
    swapped,
    shifted,
    reordered,
    started,
    below_zero,
    factored,
    raised,
    scaled,
    earlier,
    counters,
    another_step,
    kept,
    rest,
)


def name_differences(sides: Sides, pairs: Sequence[Pair], matching: Matching) -> list[Finding]:
    """Findings about all that differs, in the order of what explains more."""
    left = {pair.name: set(pair.differing()) for pair in pairs}
    found: list[Reading] = list(alone(sides, matching))
    for reader in READERS:
        for reading in reader(sides, [pair for pair in pairs if left[pair.name]], left):
            found.append(reading)
            for layer, quantity in reading.places:
                left.get(layer, set()).discard(quantity)
    found += settings(sides, pairs)
    found += modes(sides, pairs)
    found += other_tensors(sides, pairs, found)
    found += roundings(sides, pairs)
    return [finding_of(sides, reading) for reading in found]
