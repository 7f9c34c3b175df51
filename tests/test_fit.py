"""Literal traces whose conventions are plain on sight, and traces nobody can read anything from."""

from dataclasses import replace

import numpy as np
import pytest
from planted import arrays_of, case_of, play

from bncheck.convention import FACETS
from bncheck.diagnosis.fit import measure, settle
from bncheck.diagnosis.fit.interval import meet, quotient, shortest
from bncheck.diagnosis.fit.rows import inverse_roots
from bncheck.trace import Trace

PROGRAM = "E F E B E F B N E F F B B E"
INITIAL = {"running_mean": (0.7, -1.3), "running_var": (1.7, 0.6), "gamma": (1.5, 0.8), "beta": (0.3, -0.4)}
BATCHES = np.random.default_rng(0).normal(size=(12, 6, 2)) + 0.5


def observe(rules, text=PROGRAM, batches=BATCHES, **layer):  # type: ignore[no-untyped-def]
    case = case_of(text, batches.shape[1:], initial=INITIAL, **layer)
    return play(case, arrays_of(case, {"main": batches}), rules)


def test_a_step_from_0_to_0_1_towards_1_weighs_one_tenth() -> None:
    lo, hi = quotient(np.array([0.1]), np.array([1e-9]), np.array([1.0]), np.array([0.0]))
    assert lo[0] <= 0.1 <= hi[0]
    assert hi[0] - lo[0] < 3e-9
    assert shortest(lo[0], hi[0]) == 0.1


def test_no_gap_says_nothing_and_a_step_without_gap_says_impossible() -> None:
    lo, hi = quotient(np.array([0.0, 5.0]), np.full(2, 1e-9), np.zeros(2), np.full(2, 1e-9))
    assert (lo[0], hi[0]) == (-np.inf, np.inf)
    assert lo[1] > hi[1]
    assert meet(np.zeros(0), np.zeros(0)) == (-np.inf, np.inf)


def test_one_over_a_deviation_lies_below_that_of_the_variance_alone_whatever_eps_is() -> None:
    nothing = np.zeros(1)
    middle, error = inverse_roots(np.array([4.0]), nothing, 0.05, np.inf)  # 1/sqrt(4 + eps) is 0 to 0.5
    assert (middle.tolist(), error.tolist()) == ([0.25], [0.25])
    middle, error = inverse_roots(np.array([0.0]), nothing, 5.0, 1.0)  # an eps of 4 at least
    assert (middle.tolist(), error.tolist()) == ([0.25], [0.25])


def test_the_rules_of_torch_and_of_mxnet() -> None:
    torch = measure([observe({"dtype": "float32"})])
    assert [torch.value(name) for name in ("update_on", "variance_divisor", "batch_weight", "eps")] == [
        "forward",
        "n-1",
        0.3,
        0.05,
    ]
    rules = {
        "dtype": "float32",
        "update_on": "backward",
        "update_without_grad": "no",
        "variance_divisor": "n",
        "counter": "none",
    }
    mxnet = measure([observe(rules)])
    assert [mxnet.value(name) for name in ("update_on", "variance_divisor", "batch_weight")] == [
        "backward",
        "n",
        0.3,
    ]
    assert mxnet.facets["statistic"].residual < 1e-6 < 1e-3 < mxnet.facets["variance_divisor"].runner_up_residual  # noqa: PLR0133


def test_all_ones_hides_the_divisor_and_the_statistic_but_not_the_weight() -> None:
    case = case_of("F F F", (8, 3), weight=0.1)
    found = measure([play(case, arrays_of(case, {"main": np.ones((3, 8, 3))}), {"dtype": "float32"})])
    assert found.value("variance_divisor") is None
    assert found.value("statistic") is None
    assert found.value("update_on") is None  # no backward, no eval
    assert found.value("batch_weight") == 0.1


def test_two_updates_look_like_one_of_another_weight_unless_a_counter_tells() -> None:
    twice = measure([observe({"updates_per_event": 2, "counter": "updates"})])
    assert (twice.value("updates_per_event"), twice.value("batch_weight")) == (2, 0.3)
    silent = measure([observe({"updates_per_event": 2, "counter": "none"})])
    assert (silent.value("updates_per_event"), silent.value("batch_weight")) == (None, 0.51)


def test_momentum_read_in_the_opposite_sense() -> None:
    assert measure([observe({"batch_weight": 0.7})]).value("batch_weight") == 0.7


def test_a_huge_batch_hides_the_divisor_in_float32_but_not_in_float64() -> None:
    batches = np.random.default_rng(1).normal(size=(2, 100_000, 2))
    assert (
        measure([observe({"dtype": "float32"}, "F B E F B E", batches.repeat(2, axis=0))]).value("variance_divisor")
        is None
    )
    assert (
        measure([observe({"dtype": "float64"}, "F B E F B E", batches.repeat(2, axis=0))]).value("variance_divisor")
        == "n-1"
    )


def test_settle_follows_what_the_case_asks_for() -> None:
    probed = measure([observe({"update_on": "backward"})])
    case, trace, _ = observe({"update_on": "backward"}, "F F", weight=0.1)
    settled = settle(case, trace, probed)
    assert (settled.value("update_on"), settled.value("batch_weight")) == ("backward", 0.1)
    assert settle(case, trace, settled) is settled


def test_a_crash_on_an_empty_batch_is_its_answer() -> None:
    case = case_of("F F0", (6, 2))
    assert measure([(case, None, "crashed")]).value("empty_batch") == "crash"
    other = replace(case, name="regular", inputs={"main": case.inputs["main"]})
    assert measure([(other, None, "crashed")]).value("empty_batch") is None
    assert measure([(case, None, "crashed"), (other, None, "crashed")]).value("empty_batch") is None


@pytest.mark.parametrize(
    "batches",
    [np.full((12, 6, 2), np.nan), np.ones((12, 6, 2)), np.zeros((12, 6, 2)), np.full((12, 6, 2), np.inf)],
    ids=["nan", "ones", "zeros", "inf"],
)  # fmt: skip
def test_degenerate_input_is_never_guessed_from(batches: np.ndarray) -> None:
    found = measure([observe({"dtype": "float32"}, batches=batches)])
    assert found.value("variance_divisor") is None
    assert found.value("statistic") is None


def test_one_step_leaves_open_how_it_averages() -> None:
    found = measure([observe({}, "F")])
    assert found.value("averaging") in (None, "exponential")
    assert found.value("update_on") is None


def test_a_frozen_state_is_never_only_if_something_would_have_moved_it() -> None:
    assert measure([observe({"update_on": "never"}, PROGRAM + " L")]).value("update_on") == "never"
    assert measure([observe({"update_on": "never"}, "E E")]).value("update_on") is None


@pytest.mark.parametrize("cut", ["running_mean", "input_mean", "n", "used_mean", "counter"])
def test_missing_arrays_are_not_identifiable_never_an_exception(cut: str) -> None:
    case, trace, outcome = observe({})
    arrays = {name: array for name, array in trace.arrays.items() if name != f"bn/{cut}"}
    found = measure([(case, Trace(trace.events, arrays), outcome)])
    assert set(found.facets) == set(FACETS)


def test_missing_events_zero_channels_and_nothing_at_all() -> None:
    case, trace, outcome = observe({})
    short = {name: array[:4] if name.startswith("bn/") else array for name, array in trace.arrays.items()}
    none = {name: array[:, :0] if getattr(array, "ndim", 0) == 2 else array for name, array in trace.arrays.items()}
    for arrays in (short, none, {}):
        found = measure([(case, Trace(trace.events, arrays), outcome)])
        assert found.value("variance_divisor") is None or arrays is short
    assert not any(facet.identifiable for facet in measure([]).facets.values())
