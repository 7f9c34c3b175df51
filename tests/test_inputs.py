"""Arrays of a case: the same bytes everywhere, batches that differ, exact sums where they are asked for."""

from __future__ import annotations

import time
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import patience

from bncheck.errors import ScenarioError
from bncheck.scenario import Case, Event, InputSpec, Layer, Network
from bncheck.scenario_files.inputs import cast, content_key, make_inputs

FULL = {"gamma": 1.0, "beta": 0.0, "running_mean": 0.0, "running_var": 1.0}
BN = Layer("bn", "batch_norm", channels=3, initial=FULL)


def case(forwards: int = 1, layers: tuple[Layer, ...] = (BN,), backward: bool = False, **spec: Any) -> Case:
    """``forwards`` training forwards on the input "main"."""
    found = InputSpec(**{"shape": (6, 3), **spec})
    same = found.batches == "same"
    events = [Event("train_forward", "main", 0 if same else index) for index in range(forwards)]
    events += [Event("backward", "main", events[-1].batch)] if backward else []
    return Case("s", "base", "base", {}, Network(layers), {"main": found}, tuple(events), found.dtype)


def x(made: Case) -> Any:
    return make_inputs(made)["x/main"]


def key_of(made: Case) -> str:
    return content_key(made, make_inputs(made))


def test_bytes_are_the_same_on_every_machine() -> None:
    # Recorded with NumPy 2.4 on x86-64; integer arithmetic and single roundings leave no freedom.
    assert key_of(case(forwards=2, backward=True)) == "60fff5e6deb08bb5"
    assert key_of(case(fill="exact")) == "49e59cdde2c975fd"
    assert key_of(case(fill="uniform", dtype="float64")) == "c0766b122b8235b3"


def test_arrays_and_their_shapes() -> None:
    arrays = make_inputs(case(forwards=2, backward=True))
    assert {name: array.shape for name, array in arrays.items()} == {
        "x/main": (2, 6, 3),
        "dy/main": (2, 6, 3),
        "param/bn/gamma": (3,),
        "param/bn/beta": (3,),
        "param/bn/running_mean": (3,),
        "param/bn/running_var": (3,),
    }
    assert {array.dtype for array in arrays.values()} == {np.dtype("float32")}


def test_upstream_gradient_only_where_a_backward_goes_and_the_shape_is_known() -> None:
    assert "dy/main" not in make_inputs(case())
    assert "dy/main" not in make_inputs(case(layers=(Layer("mine", "custom"),), backward=True))
    tail = (
        Layer("c", "conv2d", 3, options={"out_channels": 4, "kernel": 3, "stride": 2, "padding": (1, 0)}),
        Layer("bn", "batch_norm", 4, initial=FULL),
        Layer("r", "relu"),
        Layer("f", "flatten"),
        Layer("d", "dense", 4 * 4 * 3, options={"units": 5}),
    )
    arrays = make_inputs(case(layers=tail, backward=True, shape=(2, 3, 8, 7), gradient="ones"))
    assert np.array_equal(arrays["dy/main"], np.ones((1, 2, 5)))
    assert (arrays["param/c/weight"].shape, arrays["param/c/bias"].shape) == ((4, 3, 3, 3), (4,))
    assert arrays["param/d/weight"].shape == (5, 48)
    pooled = (Layer("p", "global_avg_pool"),)
    assert make_inputs(case(layers=pooled, backward=True, shape=(2, 3, 4, 4)))["dy/main"].shape == (1, 2, 3)


def test_what_a_layer_leaves_to_the_framework_has_no_array() -> None:
    arrays = make_inputs(case(layers=(replace(BN, initial={"gamma": (1.0, 2.0, 3.0)}),)))
    assert [name for name in arrays if name.startswith("param/")] == ["param/bn/gamma"]
    assert arrays["param/bn/gamma"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("fill", "value", "expected"), [("ones", 1.0, 1), ("zeros", 0.0, 0), ("constant", 2.5, 2.5)])
def test_constant_fills(fill: str, value: float, expected: float) -> None:
    array = x(case(forwards=5, fill=fill, value=value, batches="same"))
    assert array.shape == (1, 6, 3)
    assert np.all(array == expected)


def test_arange_counts_on_from_batch_to_batch() -> None:
    assert x(case(forwards=2, fill="arange", shape=(2, 2))).tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


def test_shifts_are_added_to_the_parts_of_the_batch_in_order() -> None:
    made = x(case(shape=(4, 3), fill="constant", value=1.0, batches="same", shifts=(0.0, 5.0)))
    assert made[0, :, 0].tolist() == [1.0, 1.0, 6.0, 6.0]


@pytest.mark.parametrize("fill", ["normal", "uniform"])
def test_moments_are_the_wanted_ones_per_channel(fill: str) -> None:
    array = x(case(fill=fill, shape=(20000, 3), mean=(0.0, 5.0, -100.0), std=(1.0, 2.0, 0.5), dtype="float64"))[0]
    # The mean of n values lies within 5·std/sqrt(n) of the wanted one; the std within 2.5 %.
    assert np.all(np.abs(array.mean(0) - [0, 5, -100]) < 5 * np.array([1, 2, 0.5]) / np.sqrt(20000))
    assert np.allclose(array.std(0), [1, 2, 0.5], rtol=0.025)


def test_a_batch_does_not_depend_on_how_many_follow() -> None:
    for fill in ("normal", "uniform"):
        assert np.array_equal(x(case(forwards=5, fill=fill))[:2], x(case(forwards=2, fill=fill)))


def test_seed_and_name_of_the_input_change_the_values() -> None:
    made = case()
    assert not np.array_equal(x(made), x(case(seed=1)))
    both = replace(made, inputs={"main": made.inputs["main"], "other": made.inputs["main"]})
    arrays = make_inputs(both)
    assert not np.array_equal(arrays["x/main"], arrays["x/other"])


@given(
    n=st.integers(1, 40),
    seed=st.integers(0, 2**64 - 1),
    mean=st.integers(-64, 64),
    power=st.integers(-3, 3),
    batches=st.integers(1, 6),
)
def test_exact_fill_sums_exactly_in_any_order(n: int, seed: int, mean: int, power: int, batches: int) -> None:
    array = x(case(batches, fill="exact", shape=(n, 3), seed=seed, mean=float(mean), std=2.0**power))
    for batch in array:
        forth = batch.sum(0, dtype=np.float32)
        back = sum(batch[::-1], np.zeros(3, np.float32))
        true = [sum((Fraction(float(value)) for value in column), Fraction()) for column in batch.T]
        squares = [sum(Fraction(float(value)) ** 2 for value in column) for column in batch.T]
        assert [Fraction(float(value)) for value in forth] == true
        assert [Fraction(float(value)) for value in back] == true
        assert [Fraction(float(value)) for value in np.square(batch).sum(0)] == squares
        steps = [(total / n - mean) / Fraction(2.0**power) for total in true]
        assert all(step.denominator == 1 and -8 <= step <= 8 for step in steps)


def test_exact_fill_keeps_its_channels_on_the_last_axis() -> None:
    first = x(case(2, fill="exact", shape=(2, 3, 4, 5)))
    last = x(case(2, fill="exact", shape=(2, 4, 5, 3), channel_axis=-1))
    assert np.array_equal(np.moveaxis(first, 2, -1), last)
    assert first.mean((1, 3, 4)).tolist() == [[-8, -7, -6], [-7, -6, -5]]


@given(
    fill=st.sampled_from(["normal", "uniform", "exact"]),
    dtype=st.sampled_from(["float64", "float32", "float16", "bfloat16"]),
    shape=st.sampled_from([(1, 1), (1, 3), (2, 1), (6, 3), (2, 3, 2, 2)]),
    seed=st.integers(0, 1000),
)
def test_distinct_batches_are_distinct(fill: str, dtype: str, shape: tuple[int, ...], seed: int) -> None:
    array = x(case(forwards=12, fill=fill, dtype=dtype, shape=shape, seed=seed))
    assert len({batch.tobytes() for batch in array}) == 12


def test_batches_that_cannot_be_kept_apart_are_refused() -> None:
    with pytest.raises(ScenarioError, match="too coarse to keep the 3 batches of input main apart"):
        x(case(forwards=3, dtype="float16", mean=2048.0, std=0.001))
    with pytest.raises(ScenarioError, match="beyond what float16 can hold"):
        x(case(dtype="float16", mean=1e6))
    with pytest.raises(ScenarioError, match="beyond what float32 can hold"):
        x(case(fill="constant", value=1e39, batches="same"))


def test_empty_batches() -> None:
    arrays = make_inputs(case(forwards=3, shape=(0, 3), backward=True))
    assert (arrays["x/main"].shape, arrays["dy/main"].shape) == ((3, 0, 3), (3, 0, 3))
    assert x(case(forwards=2, shape=(0, 3), fill="exact")).shape == (2, 0, 3)


@pytest.mark.parametrize("poison", ["nan", "inf", "-inf"])
def test_poison_is_in_sample_0_of_one_channel(poison: str) -> None:
    array = x(case(forwards=2, shape=(2, 3, 2, 2), poison=poison, poison_channel=1))
    bad = ~np.isfinite(array)
    assert bad[:, 0, 1].all()
    assert bad.sum() == 2 * 4
    assert np.array_equal(array[:, 0, 1], np.full((2, 2, 2), float(poison)), equal_nan=True)
    last = x(case(shape=(2, 2, 3), poison=poison, poison_channel=2, channel_axis=-1))
    assert np.argwhere(~np.isfinite(last)).tolist() == [[0, 0, 0, 2], [0, 0, 1, 2]]


@pytest.mark.parametrize(
    ("value", "held"),
    [
        (1.0, 1.0),
        (1.0 + 2**-8, 1.0),  # halfway, the even neighbour is below
        (1.0 + 3 * 2**-8, 1.0 + 2**-6),  # halfway, the even neighbour is above
        (1.0 + 2**-8 + 2**-20, 1.0 + 2**-7),
        (-3.14159, -3.140625),
        (3.4e38, float("inf")),
    ],
)
def test_bfloat16_rounds_half_to_even(value: float, held: float) -> None:
    assert cast(np.array([value]), "bfloat16").tolist() == [held]


def test_key_stands_for_content_not_for_names() -> None:
    made = case(2)
    arrays = make_inputs(made)
    key = content_key(made, arrays)
    assert len(key) == 16
    assert key == content_key(replace(made, scenario="other", name="n", label="l", matrix={"a": 1}), arrays)
    moved = [replace(made, network=replace(made.network, custom=f"{folder}/mine.py:Norm")) for folder in ("/a", "/b")]
    assert content_key(moved[0], arrays) == content_key(moved[1], arrays) != key
    assert key != content_key(replace(made, events=made.events[:1]), arrays)
    assert key != content_key(replace(made, network=Network((replace(BN, eps=0.1),))), arrays)
    changed = {**arrays, "x/main": arrays["x/main"].copy()}
    changed["x/main"][0, 0, 0] += 1
    assert key != content_key(made, changed)
    wide = {**arrays, "x/main": arrays["x/main"].astype(np.float64)}
    assert key != content_key(made, wide)


def test_small_case_is_quick() -> None:
    """Measured: about 0.1 ms of computing, whatever else the machine does meanwhile."""
    made = case(forwards=3, backward=True)
    make_inputs(made)
    start = time.process_time()
    for _ in range(100):
        make_inputs(made)
    assert (time.process_time() - start) / 100 < patience(2e-3)
