"""Which layer of one holding belongs to which of another: by name, else by what they hold, else by order and width."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from bncheck.diagnosis.held.likeness import QUANTITIES, array
from bncheck.life import Held, Holding


@dataclass(frozen=True)
class Matching:
    """Pairs of layers, those of one side alone, and ``how`` they were found: "name", "name and weights", "weights" or
    "order"."""

    pairs: tuple[tuple[Held, Held], ...]
    only_a: tuple[Held, ...] = ()
    only_b: tuple[Held, ...] = ()
    how: str = "name"


def match(a: Holding, b: Holding) -> Matching:
    """Names rule where at least half of the shorter side's are known to the other, with or without a prefix in front
    of all of them, and what layers hold for those that are left; between files that name differently it is what layers
    hold, then their order."""
    one, two = a.layers, b.layers
    fewest = min(len(one), len(two))
    by_name = max((named(one, two, cut_a, cut_b) for cut_a, cut_b in prefixes(one, two)), key=len, default=[])
    if by_name and 2 * len(by_name) >= fewest:
        renamed = left_over(one, two, by_name)
        return complete(one, two, [*by_name, *renamed], "name and weights" if renamed else "name")
    by_weight = weighed(one, two)
    if by_weight and 2 * len(by_weight) >= fewest:
        return complete(one, two, between(one, two, by_weight), "weights")
    return complete(one, two, ordered(one, two), "order")


Places = list[tuple[int, int]]


def complete(one: Sequence[Held], two: Sequence[Held], places: Places, how: str) -> Matching:
    left, right = {i for i, _ in places}, {j for _, j in places}
    return Matching(
        pairs=tuple((one[i], two[j]) for i, j in sorted(places)),
        only_a=tuple(layer for i, layer in enumerate(one) if i not in left),
        only_b=tuple(layer for j, layer in enumerate(two) if j not in right),
        how=how,
    )


def prefixes(one: Sequence[Held], two: Sequence[Held]) -> list[tuple[str, str]]:
    """What may stand in front of every name of one side: nothing, or ("backbone.", "")."""
    found = [("", "")]
    for layer in two[:1]:
        found += [(other.layer.removesuffix(layer.layer), "") for other in one if ends(other.layer, layer.layer)]
    for layer in one[:1]:
        found += [("", other.layer.removesuffix(layer.layer)) for other in two if ends(other.layer, layer.layer)]
    return found[:50]


def ends(whole: str, end: str) -> bool:
    return whole != end and whole.endswith((f".{end}", f"/{end}"))


def named(one: Sequence[Held], two: Sequence[Held], cut_a: str, cut_b: str) -> Places:
    places = {layer.layer.removeprefix(cut_b): j for j, layer in enumerate(two)}
    bare = (layer.layer.removeprefix(cut_a) for layer in one)
    return [(i, places[name]) for i, name in enumerate(bare) if name in places]


def weighed(one: Sequence[Held], two: Sequence[Held]) -> Places:
    """Layers that hold the same numbers in a quantity that no other layer of either side holds."""
    found: dict[int, int] = {}
    for what in QUANTITIES:
        keys_a, keys_b = [fingerprint(layer, what) for layer in one], [fingerprint(layer, what) for layer in two]
        for i, key in enumerate(keys_a):
            if key and i not in found and keys_a.count(key) == keys_b.count(key) == 1:
                j = keys_b.index(key)
                if j not in found.values():
                    found[i] = j
    return sorted(found.items())


def left_over(one: Sequence[Held], two: Sequence[Held], known: Places) -> Places:
    """Of the layers that no name has matched, those that hold the same numbers in everything that both hold."""
    rest_a = [i for i in range(len(one)) if i not in {i for i, _ in known}]
    rest_b = [j for j in range(len(two)) if j not in {j for _, j in known}]
    found = weighed([one[i] for i in rest_a], [two[j] for j in rest_b])
    return [(rest_a[i], rest_b[j]) for i, j in found if same_numbers(one[rest_a[i]], two[rest_b[j]])]


def same_numbers(a: Held, b: Held) -> bool:
    return all(
        fingerprint(a, what) == fingerprint(b, what)
        for what in QUANTITIES
        if array(a, what) is not None and array(b, what) is not None
    )


def fingerprint(layer: Held, what: str) -> tuple[float, ...]:
    """The numbers to three digits; nothing where they are all the same, as in a new layer."""
    values = array(layer, what)
    if values is None or values.size < 2 or (values == values[0]).all():
        return ()
    return tuple(float(f"{value:.3g}") for value in values.tolist())


def between(one: Sequence[Held], two: Sequence[Held], known: Places) -> Places:
    """The known places, and those of layers between two of them that are as many, and as wide, on both sides."""
    places = list(known)
    ends_at = [(-1, -1), *known, (len(one), len(two))]
    for (i, j), (k, m) in itertools.pairwise(ends_at):
        inside = [(i + step, j + step) for step in range(1, k - i)]
        if k - i == m - j and all(width(one[x]) == width(two[y]) for x, y in inside):
            places += inside
    return places


def ordered(one: Sequence[Held], two: Sequence[Held]) -> Places:
    """Layers in order where their widths tell which is which: runs of equal widths."""
    widths = [width(layer) for layer in one], [width(layer) for layer in two]
    if widths[0] == widths[1]:
        return [(i, i) for i in range(len(one))]
    blocks = SequenceMatcher(None, *widths, autojunk=False).get_matching_blocks()
    return [(block.a + step, block.b + step) for block in blocks for step in range(block.size) if block.size > 1]


def width(layer: Held) -> int:
    return 0 if layer.running_mean is None else int(layer.running_mean.size)
