"""Recovery, attribution and silence on random conventions planted in the reference; see the summary lines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from planted import arrays_of, case_of, play

from bncheck.convention import FACETS, Convention
from bncheck.fit import measure
from bncheck.scenario import Case, Event

pytestmark = pytest.mark.timeout(600)
TRIALS = 1000
OPS = {"F": "train_forward", "B": "backward", "E": "eval_forward", "N": "no_grad_forward", "L": "flush"}


def pick(rng: np.random.Generator, *values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def random_rules(rng: np.random.Generator) -> dict[str, Any]:
    """Every facet at random; the dtype of the arithmetic too."""
    unusual = rng.random() < 0.5
    return {
        "update_on": pick(rng, "forward", "forward", "backward", "backward", "forward+backward", "forward+eval", "flush", "never"),
        "update_without_grad": pick(rng, "yes", "no"),
        "updates_per_event": pick(rng, 1, 1, 2, 3),
        "batch_weight": pick(rng, None, None, float(rng.uniform(0.02, 0.95))),
        "averaging": pick(rng, "exponential", "exponential", "cumulative", "debiased"),
        "variance_divisor": pick(rng, "n", "n-1"),
        "statistic": pick(rng, "variance", "std", "inverse-std", "second-moment", "swapped") if unusual else "variance",
        "train_normaliser": pick(rng, "batch", "batch", "running-before", "running-after", "blend", "none"),
        "eval_normaliser": pick(rng, "running", "running", "batch", "blend", "none"),
        "blend": float(rng.uniform(0.05, 0.95)),
        "eps": pick(rng, None, None, float(10 ** rng.uniform(-5, -1))),
        "eps_placement": pick(rng, "inside", "inside", "outside"),
        "single_value": pick(rng, "refuses", "nan", "zero", "identity", "running"),
        "single_value_state": pick(rng, "unchanged", "updated", "nan", "mean-only"),
        "empty_batch": pick(rng, "refuses", "nan", "unchanged", "updated"),
        "counter": pick(rng, "none", "forwards", "updates"),
        "default_batch_weight": pick(rng, 0.1, 0.01, 0.001, 0.9),
        "default_eps": pick(rng, 1e-5, 1e-3),
        "initial_mean": pick(rng, 0.0, 1.0),
        "initial_var": pick(rng, 1.0, 0.0),
        "initial_gamma": pick(rng, 1.0, 0.5),
        "initial_beta": pick(rng, 0.0, 0.25),
        "dtype": pick(rng, "float32", "float64"),
    }  # fmt: skip


def random_program(rng: np.random.Generator, length: int, pool: int) -> tuple[Event, ...]:
    letters = rng.choice(list("FFFBBENL"), size=length)
    letters[0] = "F"
    events, used = [], 0
    for letter in letters:
        events.append(Event(OPS[letter], "main", used % pool if letter in "FEN" else 0))
        used += letter in "FEN"
    return tuple(events)


def random_case(rng: np.random.Generator, weight: float | None, eps: float | None) -> tuple[Case, dict[str, np.ndarray]]:
    channels = int(2 ** rng.uniform(0, 6.01))
    n = int(2 ** rng.uniform(1, 12.01))
    length = int(3 * (200 / 3) ** rng.random())
    pool = int(max(1, min(length, 24, 300_000 // (n * channels))))
    initial = {
        "running_mean": tuple(rng.normal(size=channels)),
        "running_var": tuple(rng.uniform(0.3, 3.0, channels)),
        "gamma": tuple(rng.uniform(0.5, 2.0, channels)),
        "beta": tuple(rng.normal(size=channels)),
    }
    case = case_of("F", (n, channels), weight, eps, initial)
    case = replace(case, events=random_program(rng, length, pool))
    scale, shift = 10 ** rng.uniform(-1, 0.5, (pool, 1, channels)), rng.normal(size=(pool, 1, channels))
    return case, arrays_of(case, {"main": rng.normal(size=(pool, n, channels)) * scale + shift})


def small_cases(rng: np.random.Generator, weight: float | None, eps: float | None) -> list[tuple[Case, dict[str, np.ndarray]]]:
    """n = 1 and n = 0 with a backward, and nothing set by anybody."""
    initial = {"running_mean": (0.7, -1.3), "running_var": (1.7, 0.6), "gamma": (1.5, 0.8), "beta": (0.3, -0.4)}
    found = []
    for name, text in (("one", "F B F1 B E"), ("none", "F B F0 B E")):
        case = case_of(text, (6, 2), weight, eps, initial, name=name)
        batches = {"main": rng.normal(size=(4, 6, 2)) + 1, "one": rng.normal(size=(2, 1, 2)), "none": np.zeros((2, 0, 2))}
        found.append((case, arrays_of(case, batches)))
    case = case_of("F B E F B E F B E", (6, 3), None, None, name="default")
    scale = np.array([1.0, 0.02, 0.002])
    found.append((case, arrays_of(case, {"main": rng.normal(size=(6, 6, 3)) * scale + 0.5 * scale})))
    return found


def truth(rules: Mapping[str, Any], asked: float | None, eps: float | None) -> dict[str, Any]:
    """What measurement may say about planted rules: rules without effect are what their absence looks like."""
    on = [word for word in ("forward", "backward", "flush", "eval") if word in rules["update_on"]]
    found = {name: rules[name] for name in FACETS if name in rules}
    found["update_on"] = "+".join(on) or "never"
    found["update_without_grad"] = rules["update_without_grad"] if "forward" in on else "no"
    found["batch_weight"] = asked if rules["batch_weight"] is None else rules["batch_weight"]
    if rules["batch_weight"] is not None:
        found["default_batch_weight"] = rules["batch_weight"]
    found["eps"] = eps if rules["eps"] is None else rules["eps"]
    found["default_eps"] = found["eps"] if rules["eps"] is not None else rules["default_eps"]
    found["blend_weight"] = rules["blend"]
    found["initial_gamma"] = "ones" if rules["initial_gamma"] == 1.0 else rules["initial_gamma"]
    found["initial_beta"] = "zeros" if rules["initial_beta"] == 0.0 else rules["initial_beta"]
    trains = set(on) & {"forward", "backward"}
    if rules["single_value"] == "zero" and rules["train_normaliser"] != "batch":
        # A running variance that is negative (swapped) or NaN after the update gives NaN.
        found["single_value"] = {"running-before": "running", "running-after": ("running", "nan")}.get(rules["train_normaliser"], "?")
    if rules["single_value"] == "refuses" or not trains:
        found["single_value_state"] = "unchanged"
    if rules["empty_batch"] != "refuses" and not trains:
        found["empty_batch"] = "unchanged"
    return found


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


def test_recovery_of_random_conventions(capsys: pytest.CaptureFixture[str]) -> None:
    known: Counter[str] = Counter()
    failures = []
    for trial in range(TRIALS):
        rng = np.random.default_rng(trial)
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
        print(f"\nrecovery: {TRIALS} conventions, {total} facets recovered, {TRIALS * len(FACETS) - total} not identifiable, wrong {len(failures)}")
        print("  " + ", ".join(f"{name} {known[name]}" for name in FACETS))
    assert not failures, "\n".join(failures[:30])
    assert math.isfinite(total) and total > 5 * TRIALS
