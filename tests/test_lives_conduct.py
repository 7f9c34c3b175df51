"""A layer's own moments say by which rules it works: built-in ones follow their documentation, and others are named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_lives import Layer, Rules, drawn, evaluate, life_of, train, with_moments

from bncheck.diagnosis.alone import judge_life
from bncheck.diagnosis.lived.innocence import innocence, own_ways
from bncheck.diagnosis.lived.judged import lived
from bncheck.life import Life


def lived_by(own: bool = False, kind: str = "BatchNorm1d", **rules: Any) -> Life:
    """16 values of 8 channels, 30 training forwards and 3 evaluations."""
    rng = np.random.default_rng(3)
    data = drawn(rng, 0.02, 8)
    layer = Layer(8, Rules(**rules), kind=kind, own=own)
    layer.gamma = (1 + 0.1 * rng.standard_normal(8)).astype(np.float32)
    train(layer, data, 30, 16)
    evaluate(layer, data, 3, 16)
    return life_of(layer)


DEPARTURES = [
    ({"divisor": "n"}, "variance-divisor", "averages the variance with the divisor n, where n-1 is due"),
    ({"train_divisor": "n-1"}, "normaliser-divisor", "divides by the deviation of n - 1: with 16 values per channel"),
    ({"outside": True, "eps": 1e-3}, "eps", "adds eps to the deviation and not to the variance"),
    ({"eps": 1e-3, "held_eps": 1e-5}, "eps", "normalises as with an eps of 0.001, and holds 1e-05"),
    ({"eval_source": "batch"}, "normaliser-source", "In eval bn (BatchNorm1d) normalises with the batch's statistics"),
    ({"train_source": "running"}, "normaliser-source", "In training bn (BatchNorm1d) normalises with the running"),
    ({"train_source": "blend"}, "normaliser-source", "a blend of batch and running statistics"),
    ({"statistic": "std"}, "wrong-statistic", "averages the deviation into running_var"),
    ({"statistic": "second-moment"}, "wrong-statistic", "averages the mean of x² into running_var"),
    ({"times": 2}, "update-count", "moves the running statistics of bn (BatchNorm1d) 2 times: a weight of 0.1 acts as"),
    ({"weight": 0.03, "held": 0.1}, "batch-weight", "A new batch weighs 0.03 in the running average of bn"),
    ({"weight": None, "held": 0.1}, "averaging", "are a cumulative average, though momentum asks for an exponential"),
    ({"affine": False}, "affine", "holds gamma and beta and does not apply what is held"),
]


@pytest.mark.parametrize(("rules", "cause", "says"), DEPARTURES, ids=[str(row[0]) for row in DEPARTURES])
def test_a_built_in_layer_that_departs_from_its_documentation(rules: dict[str, Any], cause: str, says: str) -> None:
    (found,) = [item for item in judge_life(lived_by(**rules)) if item.kind == "defect"]
    assert (found.cause, found.kind, found.departs_from) == (cause, "defect", "documentation")
    assert says in found.title
    assert "PyTorch documents something else" in found.title


@pytest.mark.parametrize("rules", [{}, {"weight": None}, {"eps": 1e-3}, {"weight": 0.0}])
def test_a_built_in_layer_that_does_what_is_documented(rules: dict[str, Any]) -> None:
    (layer,) = lived(lived_by(**rules))
    assert layer.conduct.innocent and layer.conduct.stepped.all() and layer.conduct.revealed.all()


def test_innocence_is_one_sentence_and_only_of_layers_that_are() -> None:
    assert innocence(lived_by()) == (
        "BatchNorm itself is innocent: its one layer did what PyTorch documents in each of 33 forwards that were "
        "recorded whole."
    )
    assert innocence(lived_by(divisor="n")) == ""
    assert innocence(lived_by(own=True, kind="MyBatchNorm")) == ""


def test_innocence_counts_the_forwards_that_can_be_judged() -> None:
    life = lived_by()
    (layer,) = life.layers
    lost = {name: np.array(layer.moments[name]) for name in ("input_mean", "used_mean", "mean_before", "mean_after")}
    for values in lost.values():
        values[-5:] = np.nan
    assert innocence(replace(life, layers=(replace(layer, moments={**layer.moments, **lost}),))) == (
        "BatchNorm itself is innocent: its one layer did what PyTorch documents in each of the 28 forwards that can "
        "be judged, of 33 recorded whole."
    )


def test_innocence_says_which_layers_it_leaves_out() -> None:
    life = lived_by()
    (own,) = lived_by(own=True, kind="MyBatchNorm", divisor="n").layers
    both = replace(life, layers=(*life.layers, replace(own, name="stem")))
    assert innocence(both) == (
        "BatchNorm itself is innocent: its one built-in layer did what PyTorch documents in each of 33 forwards that "
        "were recorded whole. MyBatchNorm is not among them: bncheck check FILE.py:MyBatchNorm compares it with "
        "PyTorch's."
    )


def test_a_layer_of_ones_own_that_is_something_else_is_said_not_to_be_judged() -> None:
    said = own_ways(lived_by(own=True, kind="Odd", statistic="second-moment", divisor="n"))
    assert said.startswith("1 layer of your own (Odd) did something else than PyTorch's BatchNorm does, by no rule")
    assert "the arithmetic was not" in said and said.endswith("bncheck check FILE.py:Odd holds it against that.")
    assert own_ways(lived_by(own=True, kind="MyBatchNorm", divisor="n")) == "", "another divisor is BatchNorm, too"
    assert own_ways(lived_by(statistic="second-moment")) == "", "a built-in layer is a finding"


@pytest.mark.parametrize(
    "rules", [{"divisor": "n"}, {"weight": 0.1, "held": 0.9}, {"weight": None, "held": 0.1}, {}, {"eps": 1e-3}]
)
def test_a_layer_of_ones_own_may_average_as_it_likes(rules: dict[str, Any]) -> None:
    assert judge_life(lived_by(own=True, kind="MyBatchNorm", **rules)) == ()


def test_a_layer_of_ones_own_that_divides_by_the_sample_deviation() -> None:
    (found,) = judge_life(lived_by(own=True, kind="MyBatchNorm", train_divisor="n-1"))
    assert (found.cause, found.kind, found.departs) == ("normaliser-divisor", "hazard", "")
    assert "y is 0.968246 times what BatchNorm gives" in found.title


NO_EPS = float("nan")  # a literal in the layer's forward: it holds none under a name
LITERAL = [
    ({}, ()),
    ({"eps": 1e-2}, ()),
    ({"train_divisor": "n-1"}, ("normaliser-divisor",)),
    ({"eval_source": "batch"}, ("normaliser-source",)),
    ({"train_source": "running"}, ("normaliser-source",)),
]


@pytest.mark.parametrize(("rules", "causes"), LITERAL, ids=[str(row[0]) for row in LITERAL])
def test_a_layer_of_ones_own_with_a_literal_eps_is_judged_by_its_outputs(
    rules: dict[str, Any], causes: tuple[str, ...]
) -> None:
    life = lived_by(own=True, kind="MyBatchNorm", held_eps=NO_EPS, **rules)
    assert tuple(found.cause for found in judge_life(life)) == causes
    (layer,) = lived(life)
    assert layer.record.eps == pytest.approx(rules.get("eps", 1e-5), abs=1e-5)


def test_outputs_that_no_eps_fits_are_said_not_to_be_judged() -> None:
    outside = lived_by(own=True, kind="MyBatchNorm", held_eps=NO_EPS, outside=True, eps=1e-2)
    assert "did something else than PyTorch's BatchNorm does" in own_ways(outside)
    assert judge_life(outside) == ()


@pytest.mark.parametrize("kind", ["FrozenBatchNorm2d", "GhostBatchNorm", "Norm", "BatchRenorm1d"])
def test_a_layer_that_claims_to_be_something_else_is_not_held_to_batchnorm(kind: str) -> None:
    assert judge_life(lived_by(own=True, kind=kind, train_source="running")) == ()


def spoilt(quantity: str, places: slice, channel: int, factor: float, **more: Any) -> Life:
    """The healthy life, with some values of a channel off by a factor."""
    life = lived_by(**more)
    (layer,) = life.layers
    rows = np.array(layer.moments[quantity])
    rows[places, channel] *= factor
    return replace(life, layers=(replace(layer, moments={**layer.moments, quantity: rows}),))


def unexplained(life: Life) -> list[str]:
    found = [item for item in judge_life(life) if item.kind != "rounding"]
    assert {item.cause for item in found} <= {"unexplained"}
    return [item.title for item in found]


def test_a_departure_that_no_rule_fits_is_unexplained_with_its_size_and_place() -> None:
    (title,) = unexplained(spoilt("var_after", slice(12, 13), 2, 1.5))
    assert title.startswith("running_var of bn is not what PyTorch's rule makes of it and of the batch, in 1 of 33 ")
    assert "from step 12 on" in title
    assert title.endswith("in 1 of 8 channels. No rule that bncheck knows makes it.")


def test_an_output_that_no_rule_fits_is_unexplained_in_its_mode() -> None:
    (title,) = unexplained(spoilt("used_invstd", slice(30, None), 5, 1.25))
    assert title.startswith(
        "The output of bn in eval is not normalised with the running statistics as PyTorch documents, in 3 of 3 "
        "forwards, from step 30 on: off by up to 0.25"
    )
    assert "1 of 8 channels" in title


@pytest.mark.parametrize(("rules", "cause", "says"), DEPARTURES, ids=[str(row[0]) for row in DEPARTURES])
def test_what_a_rule_explains_is_not_unexplained_as_well(rules: dict[str, Any], cause: str, says: str) -> None:
    assert "unexplained" not in {item.cause for item in judge_life(lived_by(**rules))}


def test_a_layer_of_ones_own_is_not_held_to_what_it_never_claimed() -> None:
    assert unexplained(spoilt("var_after", slice(12, 13), 2, 1.5, own=True, kind="MyBatchNorm")) == []
    assert unexplained(lived_by()) == []


def test_one_minus_a_momentum_is_what_float32_makes_of_it() -> None:
    """1 - 0.999 is 0.00100005 there, and data far from the start show it."""
    layer = Layer(8, Rules(weight=float(1 - np.float32(0.999)), held=0.999, divisor="n"))
    data = drawn(np.random.default_rng(3), channels=8)
    data.level = data.level + 300 * data.spread
    train(layer, data, 30, 16)
    (found,) = lived(life_of(layer, framework="paddle"))
    assert found.conduct.innocent and found.conduct.stepped.all()


def test_a_forward_of_mxnet_that_nobody_goes_back_through_leaves_the_statistics() -> None:
    layer, data = Layer(8, Rules(divisor="n", held=0.9)), drawn(np.random.default_rng(3), channels=8)
    train(layer, data, 5, 16)
    layer.rules = replace(layer.rules, weight=0.0)
    layer.forward(data.batch(16), True, gradients=False)
    layer.forward(data.batch(16), True, gradients=True)  # behind a part that is frozen
    conduct = [lived(life_of(layer, framework=name))[0].conduct for name in ("mxnet", "paddle")]
    assert [each.odd_step.sum() for each in conduct] == [0, 2]


def test_nan_in_one_channel_is_no_layer_without_statistics() -> None:
    layer, data = Layer(8), drawn(np.random.default_rng(3), channels=8)
    train(layer, data, 5, 16)
    layer.v[2] = np.nan
    evaluate(layer, data, 3, 16)
    life = life_of(layer)
    fitted = np.nan_to_num(np.asarray(life.layers[0].get("used_residual")), nan=1e-7)  # of the channels that tell
    (found,) = lived(with_moments(life, "bn", used_residual=fitted))
    assert found.conduct.innocent
