"""Random conventions, programs and inputs, and what measurement may say of them: for recovery, attribution, silence."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from planted import arrays_of, case_of

from bncheck.convention import FACETS
from bncheck.scenario import Case, Event

# Other seeds than those that the fit was written with: BNCHECK_SEED=900000 python -m pytest tests/test_recovery.py.
SEED = int(os.environ.get("BNCHECK_SEED", "0"))
TRIALS = int(os.environ.get("BNCHECK_TRIALS", "1000"))
PART = 40


def parts(quick: int) -> list[Any]:
    """A property is tested in parts, which run side by side; those behind the first trials with ``-m slow`` only."""
    return [
        pytest.param(
            range(start, min(start + PART, TRIALS)),
            id=f"{start}-{min(start + PART, TRIALS) - 1}",
            marks=[pytest.mark.slow] if start >= quick else [],
        )
        for start in range(0, TRIALS, PART)
    ]


# A thousandth of a bound of rounding shows first in trial 200 and those after it.
PARTS = parts(240)
OPS = {"F": "train_forward", "B": "backward", "E": "eval_forward", "N": "no_grad_forward", "L": "flush"}
Cell = tuple[Case, dict[str, np.ndarray]]


def pick(rng: np.random.Generator, *values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def random_rules(rng: np.random.Generator) -> dict[str, Any]:
    """Every facet at random; the dtype of the arithmetic too."""
    unusual = rng.random() < 0.5
    return {
        "update_on": pick(rng, "forward", "forward", "backward", "backward", "forward+backward", "forward+eval", "flush", "never"),  # noqa: E501
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
    return program_of(letters, pool)


def program_of(letters: Iterable[str], pool: int) -> tuple[Event, ...]:
    """Events by their letters; every forward takes the next of ``pool`` batches."""
    events, used = [], 0
    for letter in letters:
        events.append(Event(OPS[letter], "main", used % pool if letter in "FEN" else 0))
        used += letter in "FEN"
    return tuple(events)


def random_case(
    rng: np.random.Generator, weight: float | None, eps: float | None
) -> tuple[Case, dict[str, np.ndarray]]:
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


def small_cases(
    rng: np.random.Generator, weight: float | None, eps: float | None
) -> list[tuple[Case, dict[str, np.ndarray]]]:
    """n = 1 and n = 0 with a backward, and nothing set by anybody."""
    initial = {
        "running_mean": (0.7, -1.3),
        "running_var": (1.7, 0.6),
        "gamma": (1.5, 0.8),
        "beta": (0.3, -0.4),
    }
    found = []
    for name, text in (("one", "F B F1 B E"), ("none", "F B F0 B E")):
        case = case_of(text, (6, 2), weight, eps, initial, name=name)
        batches = {
            "main": rng.normal(size=(4, 6, 2)) + 1,
            "one": rng.normal(size=(2, 1, 2)),
            "none": np.zeros((2, 0, 2)),
        }
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
    if rules["train_normaliser"] == "running-after" and "forward" not in on:
        found["train_normaliser"] = "running-before"
    trains = set(on) & {"forward", "backward"}
    if rules["single_value"] == "zero" and rules["train_normaliser"] != "batch":
        # A running variance that is negative (swapped) or NaN after the update gives NaN.
        found["single_value"] = {"running-before": "running", "running-after": ("running", "nan")}.get(
            rules["train_normaliser"], "?"
        )
    if rules["single_value"] == "refuses" or not trains:
        found["single_value_state"] = "unchanged"
    if rules["empty_batch"] != "refuses" and not trains:
        found["empty_batch"] = "unchanged"
    return found


# ------------------------------------------------------------------------------------------------- planted differences

# Facet → the values that are planted. A pair of targets differs in one, two or three of them.
PLANTS: dict[str, tuple[Any, ...]] = {
    "update_on": ("forward", "backward", "forward+backward", "forward+eval", "flush"),
    "update_without_grad": ("yes", "no"),
    "updates_per_event": (1, 2, 3),
    "batch_weight": (0.3, 0.1, 0.7, 0.45),
    "averaging": ("exponential", "cumulative", "debiased"),
    "variance_divisor": ("n-1", "n"),
    "statistic": ("variance", "std", "inverse-std", "second-moment", "swapped"),
    "train_normaliser": ("batch", "running-before", "running-after", "blend", "none"),
    "eval_normaliser": ("running", "batch", "blend", "none"),
    "blend": (0.25, 0.6, 0.85),
    "eps": (0.05, 0.01, 0.2),
    "eps_placement": ("inside", "outside"),
    "single_value": ("zero", "refuses", "nan", "identity", "running"),
    "single_value_state": ("updated", "unchanged", "nan", "mean-only"),
    "empty_batch": ("unchanged", "refuses", "nan", "updated"),
    "counter": ("updates", "forwards", "none"),
    "initial_mean": (0.0, 1.0),
    "initial_var": (1.0, 0.5),
}
BASE = {name: values[0] for name, values in PLANTS.items()} | {"dtype": "float32"}


def plant(rng: np.random.Generator, changes: int) -> tuple[dict[str, Any], dict[str, Any], set[str]]:
    """Two sets of rules that differ in so many facets, and which; a third of the others are unusual on both sides."""
    a = dict(BASE)
    for name, values in PLANTS.items():
        if rng.random() < 0.3:
            a[name] = pick(rng, *values)
    names = {str(name) for name in rng.choice(list(PLANTS), size=changes, replace=False)}
    b = {**a, **{name: pick(rng, *[v for v in PLANTS[name] if v != a[name]]) for name in sorted(names)}}
    return a, b, names


def random_initial(rng: np.random.Generator, channels: int) -> dict[str, tuple[float, ...]]:
    """A state other than (0, 1), and gamma and beta that show whether they are applied."""
    return {
        "running_mean": tuple(rng.normal(size=channels)),
        "running_var": tuple(rng.uniform(0.3, 3.0, channels)),
        "gamma": tuple(rng.uniform(0.5, 2.0, channels) * rng.choice([-1.0, 1.0], channels)),
        "beta": tuple(rng.normal(size=channels)),
    }


def planted_cells(rng: np.random.Generator) -> list[Cell]:
    """What a run holds, with n, channels and program at random: regular batches (twice: once as the probe, once as a
    case of its own), one value, no value, and one case in which nobody sets the state."""
    found = []
    small = " ".join(["F B E", "{} B E F B E"])
    for name, tail in (("regular", ""), ("other", ""), ("one", "F1"), ("none", "F0"), ("default", "F")):
        n, channels = int(2 ** rng.uniform(1, 6)), int(rng.integers(1, 9))
        initial = {} if name == "default" else random_initial(rng, channels)
        case = case_of(small.format(tail), (n, channels), BASE["batch_weight"], BASE["eps"], initial, name=name)
        if not tail:
            letters = ["E", "F", *rng.choice(list("FFFBBBENL"), size=int(rng.integers(8, 30)))]
            case = replace(case, events=program_of(letters, 30))
        scale, shift = 10 ** rng.uniform(-0.5, 0.5, (30, 1, channels)), 2 * rng.normal(size=(30, 1, channels))
        batches = {
            "main": rng.normal(size=(30, n, channels)) * scale + shift,
            "one": rng.normal(size=(2, 1, channels)),
            "none": np.zeros((2, 0, channels)),
        }
        found.append((case, arrays_of(case, batches)))
    return found
