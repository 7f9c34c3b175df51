"""Layers that begin with another layer's running statistics, though other data reach them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from bncheck.diagnosis.rules.layer_names import together
from bncheck.diagnosis.rules.lives.reading import at_start
from bncheck.diagnosis.rules.lives.words import Said
from bncheck.life import LayerLife, Life

ENOUGH = 4  # channels: statistics of fewer may be equal by chance
# What reaches the two lies this many deviations apart in some channel: data that were the same once still are. Means of
# few samples do by chance: so many standard deviations of the difference of two of them are let pass.
APART, BY_CHANCE = 0.5, 4.0
WIDER = np.log(3.0)  # or one's variance is this many times the other's


def taken_over(life: Life) -> Said | None:
    """Equal statistics come of equal data. Two layers that begin with the very same trained ones, and are passed by
    unlike data in one call of the model, hold one layer's: they were loaded into the wrong place."""
    known: dict[bytes, list[LayerLife]] = {}
    for layer in life.layers:
        if (key := begins_with(layer)) is not None:
            known.setdefault(key, []).append(layer)
    groups = [group for group in known.values() if len(group) > 1]
    strange = [group for group in groups if not meant(group, groups, life) and apart(group)]
    if not strange:
        return None
    first = strange[0]
    layers = tuple(layer.name for layer in first)
    others = "other" if len(layers) == 2 else "others"
    more = "" if len(strange) == 1 else f" So do {len(strange) - 1} more groups of layers."
    return Said(
        layers,
        f"{together(layers)} begin with the same running statistics, to the last bit, though unlike data reach them: "
        f"they are those of one layer at most, and eval is wrong in the {others}.{more}",
        "load each layer's own statistics: look for keys that were renamed, or a loop that loads one layer twice",
        evidence={"groups": len(strange)},
    )


def begins_with(layer: LayerLife) -> bytes | None:
    """The statistics before a layer's first forward; None where they were not kept, or any layer might hold them."""
    mean, var, index = layer.get("mean_before"), layer.get("var_before"), layer.get("index")
    if mean is None or var is None or index is None or not len(mean) or not layer.spans:
        return None
    if int(index[0]) != min(span.first_index for span in layer.spans) or at_start(layer, 0):
        return None
    if not np.isfinite(mean[0]).all() or not np.isfinite(var[0]).all() or len(np.unique(mean[0])) < ENOUGH:
        return None
    key: bytes = mean[0].tobytes() + var[0].tobytes()
    return key


def apart(group: Sequence[LayerLife]) -> bool:
    """Whether unlike data reach any two of them in their first call."""
    return all(unlike(one, two) for one, two in combinations(group, 2))


def unlike(one: LayerLife, two: LayerLife) -> bool:
    """False where the data are one and the same, or as near as samples come, or the calls of the model are two."""
    both = [[layer.get(word) for word in ("input_mean", "input_var", "call", "samples")] for layer in (one, two)]
    if any(rows is None for each in both for rows in each):
        return False
    (m1, v1, c1, n1), (m2, v2, c2, n2) = ([np.asarray(rows)[0] for rows in each] for each in both)
    if c1 != c2 or not all(np.isfinite(part).all() for part in (m1, v1, m2, v2)):
        return False
    varies = (v1 > 0) & (v2 > 0)
    if not varies.any():
        return False
    chance = BY_CHANCE * np.sqrt(2.0 / max(min(n1, n2), 1))
    shift = np.abs(m1 - m2)[varies] / np.sqrt(np.maximum(v1, v2))[varies]
    wider = np.abs(np.log(v1[varies] / v2[varies]))
    return bool(shift.max() > max(APART, chance) or wider.max() > max(WIDER, 2.0 * chance))


# ------------------------------------------------------------------------------------------- what is meant so


def meant(group: Sequence[LayerLife], groups: Sequence[Sequence[LayerLife]], life: Life) -> bool:
    """A layer inside another, siblings such as one for each domain, copies of a branch or of a block: these begin alike
    by design."""
    names = {layer.name for layer in life.layers}
    equal = {frozenset(pair) for each in groups for pair in combinations([layer.name for layer in each], 2)}
    for one, two in combinations(group, 2):
        a, b = one.name, two.name
        if a.startswith(f"{b}.") or b.startswith(f"{a}.") or siblings(a, b):
            return True
        twins = [frozenset(pair) in equal for pair in counterparts(a, b, names)]
        # Of a copied branch some layers may have been made anew; a block of one layer is copied with its parameters.
        if sum(twins) * 2 >= len(twins) if twins else same_parameters(one, two):
            return True
    return False


def same_parameters(one: LayerLife, two: LayerLife) -> bool:
    pairs = [(one.get(name), two.get(name)) for name in ("gamma", "beta")]
    return all(a is None or b is None or np.array_equal(a[0], b[0]) for a, b in pairs)


def siblings(one: str, two: str) -> bool:
    """bn_source and bn_target of one block, bns.0 and bns.1 of a list: no other module can stand between those. bn1 and
    bn2 follow each other."""
    parent, last = one.rpartition(".")[::2]
    other, end = two.rpartition(".")[::2]
    if last.isdigit() and end.isdigit():
        return parent == other and abs(int(last) - int(end)) == 1
    return parent == other and last.rstrip("0123456789") != end.rstrip("0123456789")


def counterparts(one: str, two: str, names: set[str]) -> Iterator[tuple[str, str]]:
    """Other layers of the branches that two layers belong to, in pairs: teacher.a.bn beside student.a.bn."""
    first, second = one.split("."), two.split(".")
    while first and second and first[-1] == second[-1]:
        first.pop()
        second.pop()
    start, target = ".".join(first), ".".join(second)
    if not start or not target:
        return
    for name in sorted(names):
        if name.startswith(f"{start}.") and name != one:
            pair = f"{target}{name[len(start) :]}"
            if pair in names:
                yield name, pair
