"""Drifts from literal traces whose difference is plain on sight."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncheck.diagnosis.drifts import coarser, drifts_between, mean_and_deviation, same_program, ulp_of
from bncheck.evidence import CellView, Drift
from bncheck.scenario import Case, Event, InputSpec, Layer, Network, Tolerance
from bncheck.trace import STATISTICS, Array, EventRecord, Trace

BN = Layer("bn", "batch_norm", channels=1)


def make_case(ops: list[str], steps: tuple[int, ...] = ()) -> Case:
    inputs = {"main": InputSpec((4, 1))}
    return Case("s", "base", "base", {}, Network((BN,)), inputs, tuple(Event(op) for op in ops), steps=steps)


def view(case: Case, name: str, arrays: dict[str, Array], statuses: list[str] | None = None, **dtypes: str) -> CellView:
    words = statuses or ["ok"] * len(case.events)
    events = tuple(EventRecord(event.op, status) for event, status in zip(case.events, words, strict=True))
    filled = {"bn/n": np.full(len(case.events), 4), **arrays}
    named = {key.replace("__", "/"): value for key, value in dtypes.items()}
    outcome = "raised" if "raised" in words else "ok"
    return CellView(case, name, name, outcome, Trace(events, filled, named))


def one(drifts: list[Drift], quantity: str) -> Drift:
    found = [drift for drift in drifts if drift.quantity == quantity]
    assert len(found) == 1, [drift.quantity for drift in drifts]
    return found[0]


def column(*values: float, dtype: str = "float32") -> Array:
    return np.array(values, dtype=dtype).reshape(-1, 1)


def test_the_first_report_comes_out_to_the_digit() -> None:
    """One side never moves, the other follows 1 − 0.9^k on all ones: 0.90099 ± 0.20569 over 101 points."""
    case = make_case(["train_forward"] * 100)
    moved = column(*(1 - 0.9**k for k in range(101)), dtype="float64")
    still = column(*[0.0] * 101)
    drift = one(
        drifts_between(case, view(case, "a", {"bn/running_mean": still}), view(case, "b", {"bn/running_mean": moved})),
        "running_mean",
    )
    assert (drift.points, drift.relation, drift.first_event) == (101, "differs", 0)
    assert f"{drift.mean_abs:.5f} ± {drift.std_abs:.5f}" == "0.90099 ± 0.20569"
    assert drift.mean_abs == pytest.approx(0.900992466, abs=1e-9)
    assert drift.std_abs == pytest.approx(0.205689043, abs=1e-9)


def test_states_are_compared_at_the_ends_of_steps() -> None:
    case = make_case(["train_forward", "backward"] * 2, steps=(1, 3))
    in_forward = column(0, 1, 1, 2, 2)
    in_backward = column(0, 0, 1, 1, 2)
    drift = one(
        drifts_between(
            case,
            view(case, "a", {"bn/running_mean": in_forward}),
            view(case, "b", {"bn/running_mean": in_backward}),
        ),
        "running_mean",
    )
    assert (drift.points, drift.max_abs, drift.relation) == (3, 0.0, "agrees")


def test_numbers_of_a_plain_difference() -> None:
    case = make_case(["train_forward"])
    a, b = (
        view(case, "a", {"bn/running_var": column(1, 2)}),
        view(case, "b", {"bn/running_var": column(1, 3)}),
    )
    drift = one(drifts_between(case, a, b), "running_var")
    assert (drift.mean_abs, drift.std_abs, drift.max_abs) == (0.5, 0.5, 1.0)
    assert drift.max_rel == pytest.approx(1 / 3)
    assert drift.max_ulp == 2**22  # 1 in units of 2^-22, the spacing of float32 between 2 and 4


def test_equal_nan_is_no_drift_and_one_sided_nan_is() -> None:
    case = make_case(["train_forward", "train_forward"])
    nan = math.nan
    a = view(case, "a", {"bn/running_mean": column(0, nan, nan), "bn/running_var": column(1, 1, nan)})
    b = view(case, "b", {"bn/running_mean": column(0, nan, nan), "bn/running_var": column(1, 1, 1)})
    drifts = drifts_between(case, a, b)
    assert one(drifts, "running_mean").relation == "agrees"
    assert one(drifts, "running_mean").nonfinite_a == 2
    assert one(drifts, "running_var").relation == "nonfinite"
    assert one(drifts, "running_var").first_event == 1
    assert [(found.nonfinite_a, found.nonfinite_b) for found in (one(drifts, name) for name in STATISTICS)] == [
        (2, 2), (1, 0),
    ]  # fmt: skip


def test_a_refusal_of_one_side_is_a_difference() -> None:
    case = make_case(["eval_forward", "train_forward"])
    state = {"bn/running_mean": column(0, 0, 0)}
    drift = one(drifts_between(case, view(case, "a", state, ["ok", "raised"]), view(case, "b", state)), "events")
    assert (drift.relation, drift.first_event, drift.nonfinite_a, drift.nonfinite_b) == ("refused", 1, 1, 0)


def test_a_refusal_of_both_sides_is_none() -> None:
    case = make_case(["train_forward"])
    state = {"bn/running_mean": column(0, 0)}
    drifts = drifts_between(case, view(case, "a", state, ["raised"]), view(case, "b", state, ["raised"]))
    assert [drift.quantity for drift in drifts] == ["running_mean"]


def test_statistics_that_only_one_side_keeps_are_missing() -> None:
    case = make_case(["train_forward"])
    a, b = view(case, "a", {"bn/running_mean": column(0, 1)}), view(case, "b", {})
    assert one(drifts_between(case, a, b), "running_mean").relation == "missing"


def test_a_counter_that_only_one_side_keeps_is_no_difference() -> None:
    case = make_case(["train_forward"])
    a = view(case, "a", {"bn/counter": np.array([0.0, 1.0])})
    b = view(case, "b", {"bn/counter": np.array([math.nan, math.nan])})
    assert drifts_between(case, a, b) == []


def test_outputs_of_different_size_share_one_drift() -> None:
    case = make_case(["train_forward", "eval_forward"])
    a = view(case, "a", {"output/0": np.zeros((4, 1)), "output/1": np.zeros((2, 1))})
    b = view(case, "b", {"output/0": np.zeros((4, 1)), "output/1": np.ones((2, 1))})
    drift = one(drifts_between(case, a, b), "output")
    assert (drift.points, drift.max_abs, drift.first_event) == (2, 1.0, 1)


def test_rows_of_one_pair_are_not_another_pair_s() -> None:
    """What is worked out of a target's outputs is kept for its other pairs; the third has played less than the two."""
    case = make_case(["train_forward", "eval_forward"])
    a = view(case, "a", {"output/0": np.zeros((4, 1)), "output/1": np.zeros((2, 1))})
    b = view(case, "b", {"output/0": np.zeros((4, 1)), "output/1": np.ones((2, 1))})
    c = view(case, "c", {"output/0": np.ones((4, 1)), "output/1": np.ones((3, 1))})
    pairs = [one(drifts_between(case, *pair), "output") for pair in ((a, b), (a, c), (b, c), (a, b))]
    assert [(drift.points, drift.first_event) for drift in pairs] == [(2, 1), (1, 0), (1, 0), (2, 1)]


@given(st.lists(st.floats(allow_nan=True), max_size=9))
def test_mean_and_deviation_are_numpy_s_to_the_bit(values: list[float]) -> None:
    points = np.array(values)
    known = points[np.isfinite(points)]
    with np.errstate(all="ignore"):
        wanted = (known.mean(), known.std()) if known.size else (np.nan, np.nan) if values else (0.0, 0.0)
        np.testing.assert_array_equal(mean_and_deviation(points), wanted)


def test_gradients_are_compared_at_backward_events() -> None:
    case = make_case(["train_forward", "backward"])
    nan = math.nan
    a = view(case, "a", {"bn/grad_gamma": column(nan, 2, dtype="float64")})
    b = view(case, "b", {"bn/grad_gamma": column(nan, 2.5, dtype="float64")})
    drift = one(drifts_between(case, a, b), "grad_gamma")
    assert (drift.points, drift.mean_abs, drift.first_event) == (1, 0.5, 1)


def test_tolerance_is_the_coarser_side_s_unless_the_scenario_sets_one() -> None:
    case = make_case(["train_forward"])
    a = view(case, "a", {"bn/running_mean": column(0, 1)}, bn__running_mean="bfloat16")
    b = view(case, "b", {"bn/running_mean": column(0, 1.01)})
    assert one(drifts_between(case, a, b), "running_mean").relation == "agrees"
    assert one(drifts_between(case, a, b, Tolerance(rtol=1e-3)), "running_mean").relation == "differs"


def test_a_tolerance_is_its_own_then_another_s_then_the_dtype_s() -> None:
    assert Tolerance().at("float16") == (1e-3, 1e-5)
    assert Tolerance(atol=0.0).at("float64") == (1e-7, 0.0)
    assert Tolerance(atol=0.0).otherwise(Tolerance(0.5, 0.5)).at("float32") == (0.5, 0.0)


def test_cells_without_a_trace_have_no_drift() -> None:
    case = make_case(["train_forward"])
    dead = CellView(case, "b", "b", "crashed", None)
    assert drifts_between(case, view(case, "a", {}), dead) == []


def test_nothing_at_all_is_no_drift() -> None:
    case = make_case([])
    assert [
        d.relation
        for d in drifts_between(
            case,
            view(case, "a", {"bn/running_mean": np.zeros((1, 0))}),
            view(case, "b", {"bn/running_mean": np.zeros((1, 0))}),
        )
    ] == ["agrees"]


@pytest.mark.parametrize(
    ("value", "dtype", "ulp"),
    [
        (1.0, "float32", 2.0**-23),
        (1.99, "float64", 2.0**-52),
        (2.0, "bfloat16", 2.0**-6),
        (1024.0, "float16", 1.0),
        (0.0, "float32", 2.0**-149),
        (1e-42, "float32", 2.0**-149),
    ],
)
def test_ulp_at_known_places(value: float, dtype: str, ulp: float) -> None:
    assert ulp_of(np.array([value]), dtype)[0] == ulp


def test_the_coarser_of_two_dtypes() -> None:
    assert coarser("float64", "float32") == "float32"
    assert coarser("bfloat16", "float16") == "bfloat16"
    assert coarser("int64", "float64") == "float64"


def test_ulps_of_outputs_count_against_the_largest_of_their_event() -> None:
    """1e-7 beside a 1 is about one ULP of float32, also where the element itself cancelled to nothing."""
    case = make_case(["train_forward"])
    a = view(case, "a", {"output/0": np.array([[1.0], [0.0]], dtype="float32")})
    b = view(case, "b", {"output/0": np.array([[1.0], [2.0**-23]], dtype="float32")})
    assert one(drifts_between(case, a, b), "output").max_ulp == 1.0


def test_a_mean_that_is_zero_but_for_rounding_counts_against_its_standard_deviation() -> None:
    """A mean of 0 in real arithmetic: 3e-9 here and 0 there, of values that spread by 2, is no million of ULP."""
    case = make_case(["train_forward"])
    a = view(case, "a", {"bn/running_mean": column(0, 2.0**-28), "bn/running_var": column(4, 4)})
    b = view(case, "b", {"bn/running_mean": column(0, 0), "bn/running_var": column(4, 4)})
    drift = one(drifts_between(case, a, b), "running_mean")
    assert (drift.max_abs, drift.max_rel, drift.max_ulp) == (2.0**-28, 2.0**-29, 2.0**-6)


def test_states_of_different_width_are_missing_not_an_error() -> None:
    case = make_case(["train_forward"])
    a, b = (
        view(case, "a", {"bn/running_mean": np.zeros((2, 3))}),
        view(case, "b", {"bn/running_mean": np.zeros((2, 2))}),
    )
    assert one(drifts_between(case, a, b), "running_mean").relation == "missing"


def test_a_small_statistic_does_not_agree_by_its_size_alone() -> None:
    """A variance that began at 1 and has come to 1e-6: 11e-6 is eleven times as much, and 1e-5 off."""
    case = make_case(["train_forward"])

    def verdict(*held: tuple[float]) -> str:
        sides = [view(case, n, {"bn/running_var": column(1.0, *var)}) for n, var in zip("ab", held, strict=True)]
        return one(drifts_between(case, *sides), "running_var").relation

    assert verdict((1e-6,), (11e-6,)) == "differs"
    assert verdict((1e-6,), (1.000005e-6,)) == "agrees"
    assert verdict((1.0,), (1.00001,)) == "agrees"


def test_a_channel_of_nothing_is_held_against_the_largest_beside_it() -> None:
    case = make_case(["train_forward"])
    held = [np.array([[0.0, 1.0], [value, 1.0]], dtype="float32") for value in (0.0, 1e-7)]
    sides = [view(case, name, {"bn/running_mean": rows}) for name, rows in zip("ab", held, strict=True)]
    assert one(drifts_between(case, *sides), "running_mean").relation == "agrees"


def test_after_an_event_that_one_side_lacks_nothing_is_compared() -> None:
    case = make_case(["train_forward"] * 2)
    both = view(case, "torch", {"bn/running_mean": column(0, 1, 2)})
    lacks = view(case, "mxnet", {"bn/running_mean": column(0, 1, 1)}, ["ok", "unsupported"])
    assert both.trace is not None and lacks.trace is not None
    assert same_program(both.trace, lacks.trace) == 1
    drift = one(drifts_between(case, both, lacks), "running_mean")
    assert (drift.relation, drift.points) == ("agrees", 2)
