"""Arithmetic, BN2xx: an input that fires each rule, and a near neighbour that must not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rule_views import make_case, make_cell, make_pair, make_trace, rule

from bncheck.convention import Convention, Facet
from bncheck.diagnosis.diagnose import diagnose
from bncheck.diagnosis.rules import leftover
from bncheck.diagnosis.rules.numerics import bn201_cancellation, bn206_gradient
from bncheck.diagnosis.rules.numerics.bn202_normalise_arithmetic import conditioning
from bncheck.evidence import TargetView
from bncheck.finding import KINDS
from bncheck.scenario import Layer
from bncheck.scenario_files.inputs import make_inputs

F = "train_forward"
B = "backward"
E = "eval_forward"


# -------------------------------------------------------------------------------------------------------- cancellation


def known(**values: Any) -> Convention:
    return Convention("flax", "", {name: Facet(value) for name, value in values.items()})


@pytest.mark.parametrize(
    ("mean", "held", "causes"),
    [
        # mean/std = 1e4 and 256 values: E[x²] − E[x]² in float32 may be off by 30, two passes by 0.1 at most.
        (1e4, 5.0, ["cancellation"]),
        (1e4, 1.0 + 1e-5, []),
        (0.0, 5.0, []),  # the same error without an offset is something else
    ],
)
def test_cancellation_needs_an_offset(mean: float, held: float, causes: Any):
    trace = make_trace(
        (F,), input_mean=[mean], input_var=[1.0], n=[256], running_mean=[mean, mean], running_var=[1, held]
    )
    convention = known(
        update_on="forward", batch_weight=1.0, averaging="exponential", variance_divisor="n", statistic="variance"
    )
    replay = {"bn": {"running_mean": np.array([[mean], [mean]]), "running_var": np.array([[1.0], [1.0]])}}
    cell = make_cell(make_case((F,)), "flax", trace, convention=convention, replay=replay)
    assert [f.cause for f in rule("cancellation").check_cell(cell)] == causes
    unmeasured = make_cell(make_case((F,)), "flax", trace, replay=replay)
    assert not list(rule("cancellation").check_cell(unmeasured))


@pytest.mark.parametrize(("held", "causes"), [(-1e-3, ["cancellation"]), (-0.7, ["poisoned-state"])])
def test_a_variance_is_no_further_below_zero_than_cancellation_takes_it(held: float, causes: list[str]) -> None:
    """Four values at 100 in float32: E[x²] − E[x]² is off by some 1e-2 at most. A flipped sign is something else."""
    trace = make_trace((F,), input_mean=[100.0], input_var=[1e-6], n=[4], running_mean=[0, 50], running_var=[1, held])
    cell = make_cell(make_case((F,)), "torch", trace)
    assert [item.cause for item in diagnose([cell], [], [])] == causes


@pytest.mark.parametrize(("computed", "causes"), [(9.54e-6, ["cancellation"]), (-2.86e-6, ["cancellation"]), (0.0, [])])
def test_a_channel_that_never_varies_shows_its_variance_in_dx(computed: float, causes: list[str]) -> None:
    """dx = (dy - mean(dy))/sqrt(var + eps): y is beta whatever the variance was. Measured on flax: 9.54e-6."""
    ops = ("train_forward", "backward")
    case = make_case(ops, shape=(6, 1), eps=1e-5)
    dy = make_inputs(case)["dy/main"][0].astype(np.float64)
    dx = (dy - dy.mean(axis=0)) / np.sqrt(computed + 1e-5)
    facts = {"input_mean": [1000.0, np.nan], "input_var": [0.0, np.nan], "n": [6, -1], "gamma": [1.0, 1.0, 1.0]}
    states = {"running_mean": [0.0, 500.0, 500.0], "running_var": [1.0, 0.5, 0.5]}
    cell = make_cell(case, "flax", make_trace(ops, **facts, **states, grad_input__1=dx))
    found = [item for item in (bn201_cancellation.in_gradient(cell, "bn"),) if item is not None]
    assert [bn201_cancellation.CAUSE for _ in found] == causes
    assert all(abs(item.computed - computed) < 1e-8 for item in found)


# ------------------------------------------------------------------------------------------------ normalise-arithmetic


def test_an_eps_of_zero_that_was_asked_for_is_no_usual_one():
    """|mean|/sqrt(var + eps) of 1 and 1e-8; where eps is left to the targets it is the usual 1e-5."""
    for eps, ratio in ((0.0, 1e4), (None, 316.07)):
        case = make_case((F,), eps=eps)
        cells = [
            make_cell(case, target, make_trace((F,), input_mean=[1.0], input_var=[1e-8])) for target in ("one", "two")
        ]
        assert conditioning(make_pair(*cells), "bn") == pytest.approx(ratio, rel=1e-4)
    still = make_cell(make_case((F,)), "one", make_trace((F,), input_mean=[1.0], input_var=[0.0]))
    assert conditioning(make_pair(still, still), "bn") == 0.0
    assert leftover.conditioning(still, "bn", 2.0**-24) == 0.0


def test_a_small_variance_without_eps_makes_more_of_rounding_than_beside_the_usual_one():
    """An error of x is divided by sqrt(1e-8) without eps, by sqrt(1e-8 + 1e-5) where each target has its own."""
    trace = make_trace((F,), input_mean=[1.0], input_var=[1e-8])
    bounds = [leftover.conditioning(make_cell(make_case((F,), eps=eps), "one", trace), "bn", 2.0**-24)
              for eps in (0.0, None)]  # fmt: skip
    assert bounds[0] / bounds[1] == pytest.approx(np.sqrt(1001), rel=1e-2)


@pytest.mark.parametrize(
    ("mean", "off", "causes"),
    [(1000.0, 0.01, ["normalise-arithmetic"]), (1000.0, 1.0, ["unexplained"]), (0.0, 0.01, ["unexplained"])],
)
def test_normalise_arithmetic_on_a_constant_channel(mean: float, off: float, causes: Any):
    """A constant 1000 has u·1000/sqrt(1e-5) = 0.019 to lose in float32, a constant 0 nothing."""
    case = make_case((F,), eps=1e-5)
    facts = {"input_mean": [mean], "input_var": [0.0], "running_mean": [0, 1], "running_var": [1, 1]}
    cells = [
        make_cell(case, name, make_trace((F,), output__0=np.float32([y]), **facts))
        for name, y in (("torch", 0), ("x", off))
    ]
    assert [f.cause for f in diagnose(cells, [make_pair(*cells)], [])] == causes


# ------------------------------------------------------------------------------ reduced-precision, low-precision-stall


def test_reduced_precision_by_dtype_and_by_digits():
    case, generic = make_case((F,) * 20), np.linspace(0, 1.7, 21)
    short = (generic.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    for held, found in ((short, ["reduced-precision"]), (generic, [])):
        trace = make_trace((F,) * 20, running_mean=held)
        cell = make_cell(case, "torch", trace, replay={"bn": {"running_mean": generic[:, None]}})
        assert [f.cause for f in rule("reduced-precision").check_cell(cell)] == found


def test_low_precision_stall_needs_a_low_precision_buffer():
    # 16.25 in bfloat16 has an ULP of 0.125; a step of 0.01 * (22 - 16.25) = 0.0575 is below half of it.
    rows = [0, 8, 16.25, 16.25, 16.25, 16.25, 16.25]
    trace = make_trace((F,) * 6, running_mean=rows, input_mean=[22.0] * 6, input_var=[1.0] * 6)
    case = make_case((F,) * 6, batch_weight=0.01)
    low = make_cell(case, "torch", type(trace)(trace.events, trace.arrays, {"bn/running_mean": "bfloat16"}))
    (finding,) = rule("low-precision-stall").check_cell(low)
    assert "stalls at 16.25 while the batches' mean is 22" in finding.title
    assert not list(rule("low-precision-stall").check_cell(make_cell(case, "torch", trace)))


# ---------------------------------------------------------------------------------------------------- layout, gradient


def test_layout_needs_two_measured_paths():
    def conventions(second: Any, identifiable: bool = True) -> Any:
        return {
            "2-D": Convention("tf", "2-D", {"variance_divisor": Facet("n")}),
            "4-D": Convention("tf", "4-D", {"variance_divisor": Facet(second, identifiable)}),
        }

    (finding,) = rule("layout").check_target(TargetView("tf", "tf", conventions("n-1")))
    assert finding.title == "tf has variance divisor n on 2-D and n-1 on 4-D."
    assert not list(rule("layout").check_target(TargetView("tf", "tf", conventions("n-1", False))))


@pytest.mark.parametrize(
    ("count", "dgamma", "cause"),
    [
        (4, 3.0, "gradient"),
        (4, 1.00002, "gradient"),  # four terms of size one: 335 roundings of them are none
        (4, 1.000001, "rounding"),
        (4096, 1.005, "rounding"),  # what 4,096 terms leave when they cancel
        (4096, 1.1, "gradient"),
    ],
)
def test_gradient_departs_from_the_reference_and_rounds(count: int, dgamma: float, cause: str):
    case = make_case((F, B), shape=(count, 1))
    facts = {"input_mean": [0, np.nan], "input_var": [1, np.nan], "n": [count, -1]}
    cells = [
        make_cell(case, name, make_trace((F, B), **facts, grad_gamma=[np.nan, value]))
        for name, value in (("reference", 1.0), ("torch", dgamma))
    ]
    findings = diagnose(cells, [make_pair(*cells)], [])
    assert [f.cause for f in findings] == [cause]
    assert all(f.kind in KINDS for f in findings)


def test_a_backward_that_brings_no_numbers_is_not_off_by_nothing():
    """Paddle's to_static goes back through no forward in eval: its gamma has no gradient then."""
    case = make_case((F, B, F, B), shape=(4, 1))
    cells = [
        make_cell(case, name, make_trace((F, B, F, B), grad_gamma=[np.nan, 2.0, np.nan, last]))
        for name, last in (("paddle", 3.0), ("torch", np.nan))
    ]
    (finding,) = [item for item in diagnose(cells, [make_pair(*cells)], []) if item.cause == "gradient"]
    assert finding.title.endswith(": torch gives NaN, Inf or none where the other gives numbers.")


@pytest.mark.parametrize(("eps", "cause"), [(1e-5, "rounding"), (0.05, "gradient")])
def test_a_gradient_is_held_to_the_eps_that_the_layer_adds(eps: float, cause: str):
    """Two values apart by little: dx is divided by sqrt(1e-4 + eps), whatever the scenario asks for."""
    case = make_case((F, B), shape=(2, 1), eps=None)
    facts = {"input_mean": [1, np.nan], "input_var": [1e-4, np.nan], "n": [2, -1], "eps": [eps] * 3}
    cells = [
        make_cell(case, name, make_trace((F, B), **facts, grad_input__1=[[0.0], [value]]))
        for name, value in (("reference", 0.0), ("torch", 1.5e-4))
    ]
    assert [item.cause for item in diagnose(cells, [make_pair(*cells)], [])] == [cause]


@pytest.mark.parametrize(("other", "rounds"), [(1.0, False), (1.00002, True)])
def test_what_a_convolution_brought_is_measured_and_not_assumed(other: float, rounds: bool):
    """running_var is apart by 2.4e-5 of itself: rounding where the layer's inputs are apart by as much, else not."""
    conv = Layer("conv", "conv2d", channels=3, options={"out_channels": 1, "kernel": 3})
    case = make_case((F,), shape=(4, 3, 4, 4))
    case = replace(case, network=replace(case.network, layers=(conv, *case.network.layers)))
    cells = [
        make_cell(case, target, make_trace((F,), input_mean=[0.0], input_var=[seen], n=[16], running_mean=[0, 0],
                                           running_var=[1, held]))
        for target, seen, held in (("torch", 1.0, 1.0), ("mxnet", other, 1.000024))
    ]  # fmt: skip
    pair = make_pair(*cells)
    drift = pair.drift("bn", "running_var")
    assert drift is not None and leftover.within_bounds(pair, drift) is rounds


@pytest.mark.parametrize(("first", "rounds"), [(0.0, True), (0.5, False)])
def test_a_gate_that_is_open_on_both_sides_excuses_no_single_gradient(first: float, rounds: bool):
    """One of 1,000 gradients is off by 0.01. The mean counts only where outputs show a gate open on one side alone."""
    case = make_case((F, B), shape=(1000, 1))
    case = replace(case, network=replace(case.network, layers=(*case.network.layers, Layer("relu", "relu"))))
    y, dx = np.full((1000, 1), 0.5), np.zeros((1000, 1))
    facts = {"input_mean": [0, np.nan], "input_var": [1, np.nan], "n": [1000, -1]}
    cells = [
        make_cell(case, target, make_trace((F, B), **facts, output__0=np.vstack([[[open_]], y[1:]]),
                                           grad_input__1=np.vstack([[[grad]], dx[1:]])))
        for target, open_, grad in (("torch", 0.5, 0.0), ("mxnet", first, 0.01))
    ]  # fmt: skip
    pair = make_pair(*cells)
    drift = pair.drift("", "grad_input")
    assert drift is not None and bn206_gradient.is_rounding(pair, drift) is rounds


@pytest.mark.parametrize(("size", "found"), [(1.0, ["reduced-precision"]), (1.1, [])])
def test_what_is_computed_in_a_shorter_dtype(size: float, found: list[str]):
    """The same outputs with the digits of bfloat16 only; and 10 % larger than that, which no rounding makes."""
    y = np.linspace(0.7, 1.9, 40, dtype=np.float32)[:, None]
    short = ((y * np.float32(size)).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    case = make_case((F,), shape=(40, 1))
    sides = []
    for who, out in (("torch[autocast]", short), ("torch", y)):
        trace = make_trace((F,), input_mean=[0.0], input_var=[1.0])
        sides.append(make_cell(case, who, replace(trace, arrays={**trace.arrays, "output/0": out})))
    one, two = sides
    said = list(rule("reduced-precision").check_pair(make_pair(one, two)))
    assert [item.cause for item in said] == found
    assert all("torch[autocast] computes in bfloat16, torch in float32" in item.title for item in said)
