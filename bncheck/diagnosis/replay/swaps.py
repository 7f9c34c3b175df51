"""One side replayed with subsets of the other's rules, and what each rule is worth by that: its Shapley value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from typing import Any

import numpy as np

from bncheck.diagnosis.replay.conduct import Rules, Score, perform
from bncheck.diagnosis.replay.sides import proxy
from bncheck.trace import Array

# What goes along with a rule where it is no cause of its own: see ``differing``.
PARTS = (
    ("update_on", "update_without_grad"),
    ("update_on", "backward_order"),
    ("averaging", "batch_weight"),
    ("single_value", "single_value_state"),
)
QUANTITIES = ("running_mean", "running_var", "used_mean", "used_invstd", "output")
EXACT = 5
ORDERS = 12


class Game:
    """Replays of side a with subsets of side b's facets, made together and kept."""

    def __init__(self, play: Score, a: Rules, b: Rules, facets: Sequence[str]) -> None:
        self.play, self.a, self.b = play, a, b
        self.facets = list(facets)
        self.separate = frozenset(facets)
        self.idle: list[str] = []
        self.kept: dict[frozenset[str], dict[str, Array]] = {}

    def rules(self, subset: frozenset[str]) -> dict[str, Any]:
        found = {name: (self.b if name in subset else self.a)[name] for name in self.a}
        for rule, part in PARTS:
            if rule in subset and part not in self.separate:
                found[part] = self.b[part]
        return found

    def ensure(self, subsets: Sequence[frozenset[str]]) -> None:
        missing = [subset for subset in dict.fromkeys(subsets) if subset not in self.kept]
        if not missing:
            return
        found = perform(self.play, [self.rules(subset) for subset in missing])
        found["output"] = proxy(found["used_mean"], found["used_invstd"], self.play.input_mean, self.play.input_var)
        for i, subset in enumerate(missing):
            self.kept[subset] = {name: array[i] for name, array in found.items()}

    def replay(self, subset: frozenset[str]) -> dict[str, Array]:
        if subset not in self.kept:
            self.ensure([subset])
        return self.kept[subset]

    def drop_idle(self, sizes: Mapping[str, Array]) -> None:
        """Set aside facets whose swap changes nothing beyond rounding, first alone and last."""
        everything = frozenset(self.facets)
        singles = [frozenset({name}) for name in self.facets]
        lasts = [everything - one for one in singles]
        self.ensure([frozenset(), everything, *singles, *lasts])
        for name, one, rest in zip(list(self.facets), singles, lasts, strict=True):
            alike = self.alike(frozenset(), one, sizes) and self.alike(rest, everything, sizes)
            if alike:
                self.idle.append(name)
        self.facets = [name for name in self.facets if name not in self.idle]

    def alike(self, one: frozenset[str], two: frozenset[str], sizes: Mapping[str, Array]) -> bool:
        x, y = self.replay(one), self.replay(two)
        return all(bool((gaps(x[q], y[q]) <= sizes[q]).all()) for q in QUANTITIES)

    def swaps(self, name: str) -> tuple[tuple[frozenset[str], frozenset[str]], ...]:
        """Subsets before and after a facet is swapped: alone, and last."""
        everything = frozenset(self.facets)
        pairs = (frozenset[str](), frozenset({name})), (everything - {name}, everything)
        self.ensure([subset for pair in pairs for subset in pair])
        return pairs

    def shapley(self, worth: Mapping[frozenset[str], float]) -> dict[str, float]:
        """Each facet's marginal worth averaged over orders."""
        share = dict.fromkeys(self.facets, 0.0)
        orders = self.orders()
        for order in orders:
            before: frozenset[str] = frozenset()
            for name in order:
                after = before | {name}
                share[name] += (worth[after] - worth[before]) / len(orders)
                before = after
        return share

    def orders(self) -> list[tuple[str, ...]]:
        if len(self.facets) <= EXACT:
            return list(permutations(self.facets))
        rng = np.random.default_rng(0)
        drawn = [tuple(self.facets[i] for i in rng.permutation(len(self.facets))) for _ in range(ORDERS)]
        return [order for one in drawn for order in (one, one[::-1])]

    def subsets(self) -> list[frozenset[str]]:
        if len(self.facets) <= EXACT:
            return [frozenset(c) for size in range(len(self.facets) + 1) for c in combinations(self.facets, size)]
        return [frozenset(order[:size]) for order in self.orders() for size in range(len(order) + 1)]


def gaps(one: Array, two: Array) -> Array:
    """|difference| elementwise; 0 where equal, the largest finite size where only one is finite. Whether a lost number
    is NaN or Inf hangs on how an average is written (old + w·(new − old) makes NaN of Inf), and on no convention."""
    found: Array = np.abs(one - two)
    if math.isfinite(found.sum()):  # which is the rule
        return found
    same = (one == two) | (~np.isfinite(one) & ~np.isfinite(two))
    found = np.where(same, 0.0, found)
    lost = ~np.isfinite(found)
    if lost.any():
        finite = [np.abs(part[np.isfinite(part)]) for part in (one, two)]
        found[lost] = max(1.0, *(float(np.max(part, initial=0.0)) for part in finite))
    return found


def mean_gap(one: Array, two: Array) -> float:
    found = gaps(one, two)
    # What ndarray.mean works out, to the bit, in a third of its time.
    return float(np.add.reduce(found, axis=None) / found.size) if found.size else 0.0


def worst(one: Array, two: Array) -> float:
    return float(np.max(gaps(one, two), initial=0.0))
