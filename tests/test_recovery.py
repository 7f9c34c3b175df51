"""Recovery: random conventions planted in the reference, each facet measured or reported not identifiable."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from planted import play
from random_rules import PARTS, SEED, pick, random_case, random_rules, small_cases, truth

from bncheck.convention import FACETS, Convention
from bncheck.diagnosis.fit import measure


def wrong_facets(rules: Mapping[str, Any], expected: Mapping[str, Any], found: Convention) -> list[str]:
    """Identified facets whose value is not the planted one."""
    wrong = []
    for name, facet in found.facets.items():
        if not facet.identifiable:
            continue
        right = expected[name]
        if name in ("batch_weight", "default_batch_weight") and not counted(name, found, rules):
            right = 1.0 - (1.0 - right) ** rules["updates_per_event"]
        if isinstance(right, float):
            assert isinstance(facet.value, float), (name, facet)
            good = abs(facet.value - right) <= facet.uncertainty + 1e-12
        else:
            good = facet.value in (right if isinstance(right, tuple) else (right,))
        if not good:
            wrong.append(f"{name}: {facet.value} ± {facet.uncertainty:.2g}, planted {right}")
    return wrong


def counted(name: str, found: Convention, rules: Mapping[str, Any]) -> bool:
    """Whether the weight is that of one update; the default's layers have a counter of their own."""
    if name == "batch_weight":
        return found.value("updates_per_event") is not None
    return bool(rules["counter"] == "updates")


@pytest.mark.parametrize("trials", PARTS)
def test_recovery_of_random_conventions(trials: range, capsys: pytest.CaptureFixture[str]) -> None:
    known: Counter[str] = Counter()
    failures = []
    for trial in trials:
        rng = np.random.default_rng(SEED + trial)
        rules = random_rules(rng)
        asked, eps = float(pick(rng, 0.1, 0.3, 0.5, 0.9)), float(pick(rng, 1e-5, 1e-3, 0.05))
        cells = [random_case(rng, asked, eps)]
        if rng.random() < 0.5:
            cells += small_cases(rng, asked, eps)
        observed = [play(case, inputs, rules) for case, inputs in cells]
        found = measure(observed, "planted")
        known.update(name for name, facet in found.facets.items() if facet.identifiable)
        failures += [f"trial {trial} {text}" for text in wrong_facets(rules, truth(rules, asked, eps), found)]
    with capsys.disabled():
        total = sum(known.values())
        print(
            f"\nrecovery: {len(trials)} conventions, {total} facets recovered, "
            f"{len(trials) * len(FACETS) - total} not identifiable, wrong {len(failures)}"
        )
        print("  " + ", ".join(f"{name} {known[name]}" for name in FACETS))
    assert not failures, "\n".join(failures[:30])
    assert math.isfinite(total) and total > 5 * len(trials)
