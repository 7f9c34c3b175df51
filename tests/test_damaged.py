"""Damaged traces: nothing between trace and finding raises, nothing is guessed, no cause is named without its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from diagnosed import findings_between
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from planted import arrays_of, case_of, play
from random_rules import BASE, pick, plant, program_of, random_initial, truth
from test_attribution import CAUSES
from test_recovery import wrong_facets

from bncheck.diagnosis.fit import Observation, measure
from bncheck.diagnosis.replay import attribute, replay, rounding_bound
from bncheck.trace import Array, Trace

STATES = ("running_mean", "running_var", "gamma", "beta")
OPTIONAL = ("counter", "training", "momentum", "eps", "gamma", "beta", "used_mean", "used_invstd", "used_residual")
# What a state that never moved, or was NaN from the start, cannot tell.
OF_MOVEMENT = ("batch_weight", "averaging", "statistic", "variance_divisor", "updates_per_event")
CAUSES_OF_RULES = frozenset(CAUSES.values())
Change = Callable[[Trace, np.random.Generator], Trace]


def observe(
    seed: int, rules: Mapping[str, Any], letters: str, channels: int = 3, constant: bool = False
) -> Observation:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 12))
    case = case_of("F", (n, channels), 0.3, 0.05, random_initial(rng, channels))
    case = replace(case, events=program_of(letters, 8))
    data = rng.normal(size=(8, n, channels)) * 2 + rng.normal(size=(8, 1, channels))
    if constant:
        data = np.broadcast_to(data[:, :1], data.shape).copy()
    return play(case, arrays_of(case, {"main": data}), rules)


def with_arrays(trace: Trace, arrays: Mapping[str, Array]) -> Trace:
    return replace(trace, arrays=dict(arrays))


# ---------------------------------------------------------------- damage that takes data away and leaves the rest true


def drop_optional(trace: Trace, rng: np.random.Generator) -> Trace:
    gone = {f"bn/{name}" for name in OPTIONAL if rng.random() < 0.4}
    return with_arrays(trace, {name: array for name, array in trace.arrays.items() if name not in gone})


def drop_outputs(trace: Trace, rng: np.random.Generator) -> Trace:
    return with_arrays(trace, {k: v for k, v in trace.arrays.items() if not k.startswith(("output/", "grad_input/"))})


def drop_state(trace: Trace, rng: np.random.Generator) -> Trace:
    gone = f"bn/{pick(rng, *STATES[:2])}"
    return with_arrays(trace, {name: array for name, array in trace.arrays.items() if name != gone})


def cut_short(trace: Trace, rng: np.random.Generator) -> Trace:
    """The first events only, as a worker that was killed leaves them."""
    events = len(trace.events)
    kept = int(rng.integers(1, events + 1))
    arrays = {}
    for name, array in trace.arrays.items():
        head, _, number = name.partition("/")
        if head in ("output", "grad_input"):
            if int(number) < kept:
                arrays[name] = array
        elif len(array) == events:
            arrays[name] = array[:kept]
        elif len(array) == events + 1:
            arrays[name] = array[: kept + 1]
    return Trace(trace.events[:kept], arrays)


def hide_outputs(trace: Trace, rng: np.random.Generator) -> Trace:
    """What normalised is not known in some events."""
    lost = rng.random(len(trace.events)) < 0.5
    names = ("bn/used_mean", "bn/used_invstd", "bn/used_residual")
    hidden = {
        name: np.where(lost[:, None], np.nan, trace.arrays[name])
        for name in names
        if name in trace.arrays and trace.arrays[name].dtype.kind == "f"
    }
    return with_arrays(trace, {**trace.arrays, **hidden})


REMOVALS: tuple[Change, ...] = (drop_optional, drop_outputs, drop_state, cut_short, hide_outputs)


# ------------------------------------------------------------------------------------------ damage that makes it false


def spoil_states(trace: Trace, rng: np.random.Generator) -> Trace:
    start, value = int(rng.integers(0, len(trace.events) + 1)), pick(rng, np.nan, np.inf, -np.inf, 1e300)
    names = [f"bn/{pick(rng, *STATES[:2])}"] if rng.random() < 0.5 else [f"bn/{name}" for name in STATES[:2]]
    spoilt = {}
    for name in names:
        spoilt[name] = trace.arrays[name].astype(np.float64)
        spoilt[name][start:] = value
    return with_arrays(trace, {**trace.arrays, **spoilt})


def spoil_inputs(trace: Trace, rng: np.random.Generator) -> Trace:
    name = pick(rng, "bn/input_mean", "bn/input_var", "bn/used_mean", "bn/used_invstd")
    array = np.array(trace.arrays[name], dtype=np.float64)
    array[rng.random(array.shape) < 0.5] = pick(rng, np.nan, np.inf, 0.0, -1.0, 1e300)
    return with_arrays(trace, {**trace.arrays, name: array})


def misshape(trace: Trace, rng: np.random.Generator) -> Trace:
    name = pick(rng, *sorted(trace.arrays))
    array = trace.arrays[name]
    odd = pick(rng, array[..., :0], array[:0], array.ravel(), array[None], array.astype(str), array[:1], array[::-1])
    return with_arrays(trace, {**trace.arrays, name: odd})


def forget_records(trace: Trace, rng: np.random.Generator) -> Trace:
    return Trace(trace.events[: int(rng.integers(0, len(trace.events)))], trace.arrays)


def miscount(trace: Trace, rng: np.random.Generator) -> Trace:
    counts = trace.arrays["bn/n"].copy()
    counts[rng.random(len(counts)) < 0.5] = pick(rng, -1, 0, 1, 10**12)
    return with_arrays(trace, {**trace.arrays, "bn/n": counts})


def freeze(trace: Trace, rng: np.random.Generator) -> Trace:
    names = [f"bn/{name}" for name in STATES[:2]]
    still = {name: np.broadcast_to(trace.arrays[name][:1], trace.arrays[name].shape).copy() for name in names}
    return with_arrays(trace, {**trace.arrays, **still})


FALSITIES: tuple[Change, ...] = (spoil_states, spoil_inputs, misshape, forget_records, miscount, freeze)
LETTERS = st.text(alphabet="FFFBBENL", min_size=1, max_size=14)
SEEDS = st.integers(0, 2**32 - 1)
MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def chosen_rules(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    a, b, _ = plant(np.random.default_rng(seed), 2)
    return a, b


@MANY
@example(seed=1204712, letters="EF", changes=[drop_optional])  # averages one over the deviation, by an eps of 0.2
@given(seed=SEEDS, letters=LETTERS, changes=st.lists(st.sampled_from(REMOVALS), min_size=1, max_size=3))
def test_what_is_missing_is_not_identifiable_and_never_wrong(seed: int, letters: str, changes: list[Change]) -> None:
    rules, _ = chosen_rules(seed)
    case, trace, outcome = observe(seed, rules, letters)
    for number, change in enumerate(changes):
        trace = change(trace, np.random.default_rng([seed, number]))
    found = measure([(case, trace, outcome)], "planted")
    gone = [name for name in ("counter", "gamma", "beta") if f"bn/{name}" not in trace.arrays]
    expected = truth({**rules, "initial_gamma": 1.0, "initial_beta": 0.0, **SET}, 0.3, 0.05)
    wrong = [text for text in wrong_facets(rules, expected, found) if text.split(":")[0] not in gone]
    assert not wrong, (wrong, rules)


def test_a_forward_without_gradient_that_moves_nothing_does_not_tell_before_from_after() -> None:
    """Other forwards of such a target move its statistics, and normalise with them before or after that."""
    rules = {**BASE, "update_without_grad": "no", "train_normaliser": "running-after"}
    found = measure([observe(7, rules, "N")], "planted").facets["train_normaliser"]
    assert (found.identifiable, set(found.standing)) == (False, {"running-before", "running-after"})


def test_without_states_a_first_batch_does_not_tell_itself_from_the_average_that_it_replaces() -> None:
    rules = {**BASE, "averaging": "cumulative", "variance_divisor": "n", "train_normaliser": "running-after"}
    case, trace, outcome = observe(7, rules, "F")
    assert trace is not None
    trace = with_arrays(trace, {name: rows for name, rows in trace.arrays.items() if name != f"bn/{STATES[1]}"})
    found = measure([(case, trace, outcome)], "planted").facets["train_normaliser"]
    assert (found.identifiable, set(found.standing)) == (False, {"batch", "running-after"})


# Not planted here: every case sets its weight, eps and state.
SET = {"default_batch_weight": 0.3, "default_eps": 0.05}


@MANY
@given(seed=SEEDS, letters=LETTERS, changes=st.lists(st.sampled_from(REMOVALS), min_size=1, max_size=3))
def test_equal_rules_with_data_missing_on_one_side_name_no_rule(seed: int, letters: str, changes: list[Change]) -> None:
    rules, _ = chosen_rules(seed)
    whole = observe(seed, rules, letters)
    assert whole[1] is not None
    trace = whole[1]
    for number, change in enumerate(changes):
        trace = change(trace, np.random.default_rng([seed, number]))
    part = (whole[0], trace, whole[2])
    conventions = measure([whole], "one"), measure([part], "two")
    named = {
        n for item in attribute(whole[0], whole[1], conventions[0], trace, conventions[1], "bn") for n in item.shares
    }
    assert not named, named
    found = findings_between(whole, part, conventions, ("float32", "float32"))
    causes = {item.cause for item in found if len(item.sides) == 2 and item.kind != "rounding"}
    assert not causes & CAUSES_OF_RULES, [(item.cause, item.title) for item in found]


@MANY
@given(
    seed=SEEDS,
    letters=LETTERS,
    changes=st.lists(st.sampled_from(REMOVALS + FALSITIES), min_size=1, max_size=4),
    channels=st.integers(0, 3),
    constant=st.booleans(),
)
def test_no_damage_raises(seed: int, letters: str, changes: list[Change], channels: int, constant: bool) -> None:
    a, b = chosen_rules(seed)
    one, two = (observe(seed, rules, letters, channels, constant) for rules in (a, b))
    trace = two[1]
    assert trace is not None and one[1] is not None
    for number, change in enumerate(changes):
        try:
            trace = change(trace, np.random.default_rng([seed, number]))
        except (KeyError, IndexError, ValueError):
            continue  # damage that does not apply to what is left
    case, hurt = two[0], (two[0], trace, pick(np.random.default_rng(seed), "ok", "raised", "crashed"))
    conventions = measure([one], "one"), measure([hurt], "two")
    for observed, convention in ((one, conventions[0]), (hurt, conventions[1])):
        assert observed[1] is not None
        replay(case, observed[1], convention)
        for quantity in ("running_mean", "running_var", "used_mean", "output"):
            assert rounding_bound(case, observed[1], "bn", quantity) >= 0
    for x, y in (((one, conventions[0]), (hurt, conventions[1])), ((hurt, conventions[1]), (one, conventions[0]))):
        attribute(case, x[0][1], x[1], y[0][1], y[1], "bn")  # type: ignore[arg-type]
        findings_between(x[0], y[0], (x[1], y[1]), ("float32", "float32"))


@pytest.mark.parametrize("change", ["frozen", "nan from the start", "one step", "no channels", "constant"])
def test_states_that_tell_nothing(change: str) -> None:
    rng = np.random.default_rng(0)
    constant, channels = change == "constant", 0 if change == "no channels" else 3
    case, trace, outcome = observe(1, BASE, "F" if change == "one step" else "FBEFBE", channels, constant)
    assert trace is not None
    if change == "frozen":
        trace = freeze(trace, rng)
    if change == "nan from the start":
        nan = {f"bn/{name}": np.full(trace.arrays[f"bn/{name}"].shape, np.nan) for name in STATES[:2]}
        trace = with_arrays(trace, {**trace.arrays, **nan})
    found = measure([(case, trace, outcome)])
    known = {name for name in OF_MOVEMENT if found.value(name) is not None}
    reasons = [found.facets[name].reason for name in OF_MOVEMENT if name not in known]
    # One step tells everything if its weight is neither 1 nor unknown; constant batches still have a mean.
    allowed = {"one step": set(OF_MOVEMENT), "constant": {"batch_weight", "averaging", "updates_per_event"}}
    assert known <= allowed.get(change, set()), known
    assert all(reasons), found
