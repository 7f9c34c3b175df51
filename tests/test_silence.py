"""Silence: equal conventions and only rounding between two targets give no name and no finding above rounding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from diagnosed import findings_between
from planted import arrays_of, case_of, play, reference
from random_rules import BASE, PARTS, SEED, Cell, pick, random_case, random_initial, random_program, random_rules

from bncheck.convention import Facet
from bncheck.diagnosis.fit import measure
from bncheck.diagnosis.replay import attribute

# Sizes of large batches, (n, channels): sums of a million float32 numbers, many channels, and both.
LARGE = ((1_000_000, 1), (300_000, 4), (100_000, 16), (20_000, 64), (256, 2048))
LARGE_EVERY = 40
# How the float32 side of a pair adds up a batch; the other side adds in pairs, or works in float64.
ORDERS = ("shuffled", "one by one", "backwards", "in blocks", "float64")


class Summed(reference.BatchNorm):  # type: ignore[misc, name-defined]
    """The reference's layer with sums in another order."""

    def moments(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n = rows.shape[1]
        if not n or self.rules["order"] in ("in pairs", "float64"):
            return super().moments(rows)  # type: ignore[no-any-return]
        mean = self.total(rows) / rows.dtype.type(n)
        return mean, self.total((rows - mean[:, None]) ** 2) / rows.dtype.type(n)

    def total(self, rows: np.ndarray) -> np.ndarray:
        if self.rules["order"] == "shuffled":
            return rows[:, np.random.default_rng(rows.shape[1]).permutation(rows.shape[1])].sum(axis=1)  # type: ignore[no-any-return]
        if self.rules["order"] == "in blocks":
            starts = range(0, rows.shape[1], 257)
            rows = np.stack([np.cumsum(rows[:, start : start + 257], axis=1)[:, -1] for start in starts], axis=1)
        if self.rules["order"] == "backwards":
            rows = rows[:, ::-1]
        return np.cumsum(rows, axis=1)[:, -1]  # NumPy's cumsum adds one by one, its sum in pairs


def large_case(rng: np.random.Generator, trial: int) -> Cell:
    n, channels = LARGE[(trial // LARGE_EVERY) % len(LARGE)]
    case = case_of("F", (n, channels), 0.3, 1e-5, random_initial(rng, channels))
    case = replace(case, events=random_program(rng, 4, 2))
    data = rng.normal(size=(2, n, channels)).astype("f4")
    return case, arrays_of(case, {"main": data * np.float32(2.0) + rng.normal(size=channels).astype("f4")})


def ordinary_rules(rng: np.random.Generator) -> dict[str, Any]:
    """Rules that frameworks have: nothing is to be said about one of their cells alone either."""
    return {
        **BASE,
        "update_on": pick(rng, "forward", "backward"),
        "averaging": pick(rng, "exponential", "exponential", "cumulative", "debiased"),
        "variance_divisor": pick(rng, "n", "n-1"),
        "counter": pick(rng, "none", "forwards", "updates"),
        "batch_weight": None,  # as asked for: another one would be a defect of its own
        "eps": None,
    }


@pytest.mark.parametrize("trials", PARTS)
def test_rounding_alone_names_nothing(
    trials: range, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(reference.KINDS, "batch_norm", Summed)
    failures: list[str] = []
    said = Counter[str]()
    for trial in trials:
        found, kinds = silence_trial(trial)
        failures += found
        said.update(kinds)
    with capsys.disabled():
        large = sum(trial % LARGE_EVERY == 0 for trial in trials)
        print(
            f"\nsilence: {len(trials)} pairs with equal conventions ({large} with up to 1e6 values a channel or 2048 "
            f"channels), named, read differently or found {len(failures)}"
        )
        print("  said between the sides: " + (", ".join(f"{kind} {said[kind]}" for kind in sorted(said)) or "nothing"))
    assert not failures, "\n".join(failures[:20])


def silence_trial(trial: int) -> tuple[list[str], list[str]]:
    """(what is wrong, the kinds of findings between the two sides)."""
    rng = np.random.default_rng(SEED + 20_000 + trial)
    ordinary = rng.random() < 0.5
    rules = ordinary_rules(rng) if ordinary else random_rules(rng)
    asked, eps = float(pick(rng, 0.1, 0.3, 0.9)), float(pick(rng, 1e-5, 1e-3, 0.05))
    case, inputs = large_case(rng, trial) if trial % LARGE_EVERY == 0 else random_case(rng, asked, eps)
    order = pick(rng, *ORDERS)
    dtypes = ("float32", "float64" if order == "float64" else "float32")
    one = play(case, inputs, {**rules, "dtype": dtypes[0], "order": "in pairs"})
    other = play(case, inputs, {**rules, "dtype": dtypes[1], "order": order})
    probed = measure([one]), measure([other])
    assert one[1] is not None and other[1] is not None
    failures = []
    names = {name for item in attribute(case, one[1], probed[0], other[1], probed[1], "bn") for name in item.shares}
    if names:
        failures.append(f"named {sorted(names)}")
    different = [name for name, facet in probed[0].facets.items() if not same(name, facet, probed[1].facets[name])]
    if different:
        failures.append(f"read differently {different}")
    findings = findings_between(one, other, probed, dtypes)
    between = [item for item in findings if len(item.sides) == 2]
    about = between if not ordinary else findings
    # That a start is still in an average is no matter of rounding, and true of both sides.
    about = [item for item in about if item.kind != "rounding" and item.cause != "few-updates"]
    loud = [f"{item.code} {item.kind} {item.title}" for item in about]
    if loud:
        failures.append(f"found {loud}")
    context = f"trial {trial} {order} n {case.inputs['main'].shape}"
    return [f"{context} {text}: {described(rules)}" for text in failures], [item.kind for item in between]


def described(rules: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in rules.items() if value != reference.RULES.get(name)}


def same(name: str, one: Facet, two: Facet) -> bool:
    """Equal as far as both know; two numbers within both their uncertainties."""
    if not one.identifiable or not two.identifiable:
        return True
    if isinstance(one.value, float) and isinstance(two.value, float):
        return abs(one.value - two.value) <= one.uncertainty + two.uncertainty + 1e-12
    return one.value == two.value
