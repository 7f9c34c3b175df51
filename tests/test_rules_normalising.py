"""What a layer normalises with, BN111 to BN113 and BN119: inputs that fire, near neighbours that must not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rule_views import make_case, make_cell, make_pair, make_trace, rule

from bncheck.convention import Convention, Facet
from bncheck.diagnosis.rules import load_rules
from bncheck.diagnosis.rules.conventions import bn111_normaliser_source, bn112_eps

F = "train_forward"
E = "eval_forward"


# --------------------------------------------------------------------------------------------------- normaliser-source


@pytest.mark.parametrize(
    ("op", "mean", "var", "says"),
    [
        (E, 2.0, 4.0, "In eval torch normalises bn with the batch's statistics."),
        (F, 0.0, 1.0, "In training torch normalises bn with the running statistics."),
        (F, 0.5, 1.75, "In training torch normalises bn with a blend, 0.25 of it the batch's statistics."),
        (E, 0.0, 1.0, ""),
        (F, 2.0, 4.0, ""),
    ],
)
def test_normaliser_source(op: str, mean: float, var: float, says: str):
    """The batch has (2, 4), the running statistics are (0, 1)."""
    trace = make_trace((op,), input_mean=[2.0], input_var=[4.0], used_mean=[mean], used_invstd=[var**-0.5],
                       used_residual=[0.0], running_mean=[0, 0], running_var=[1, 1])  # fmt: skip
    found = list(rule("normaliser-source").check_cell(make_cell(make_case((op,)), "torch", trace)))
    assert [f.title for f in found] == ([says] if says else [])


def test_what_a_users_network_switches_off_is_no_defect_of_the_framework():
    """self.bn.eval() in its own forward: the layer normalises with the running statistics, as it was told to."""
    trace = make_trace((F,), input_mean=[2.0], input_var=[4.0], used_mean=[0.0], used_invstd=[1.0],
                       used_residual=[0.0], running_mean=[0, 0], running_var=[1, 1])  # fmt: skip
    case = make_case((F,))
    kinds = []
    for model in (None, "/a/net.py:Net"):
        here = replace(case, network=replace(case.network, model=model))
        cell = make_cell(here, "torch", trace, documented={"train_normaliser": "batch"})
        kinds += [(item.kind, item.departs) for item in rule("normaliser-source").check_cell(cell)]
    assert kinds == [("defect", "torch"), ("hazard", "")]


@pytest.mark.parametrize(
    ("flags", "ran", "named"),
    [
        ([0, 0], {}, []),
        ([1, 0], {}, []),  # as it was built, before the event put the network into training
        ([0, 1], {}, ["bn"]),
        # Keras holds no flag: whether a call trains is asked of the layer, which need not be trainable
        ([1, 1], {"ran:bn:trains": np.array([0]), "ran:bn:calls": np.array([1])}, []),
    ],
)
@pytest.mark.parametrize("other", [0, 1])
def test_what_a_network_keeps_in_eval_while_it_trains_is_meant_so(
    flags: list[int], ran: dict[str, Any], named: list[str], other: int
) -> None:
    """bn is in eval in a training forward of a whole network; the other layer is in training, or is in eval as well:
    every train() reached both, and what keeps them in eval is the network's own."""
    trace = make_trace((F,), input_mean=[2.0], input_var=[4.0], used_mean=[0.0], used_invstd=[1.0],
                       used_residual=[0.0], running_mean=[0, 0], running_var=[1, 1], training=flags,
                       head__training=[other], head__n=[4])  # fmt: skip
    trace = replace(trace, arrays={**trace.arrays, **ran})
    case = make_case((F,))
    cell = make_cell(replace(case, network=replace(case.network, model="/a/net.py:Net")), "torch", trace)
    assert [item.layer for item in rule("normaliser-source").check_cell(cell)] == named


@pytest.mark.parametrize(("others", "kind"), [({}, "convention"), ({"head__running_mean": [0, 0]}, "hazard")])
def test_a_network_without_running_statistics_is_said_as_check_says_it(others: dict[str, Any], kind: str) -> None:
    trace = make_trace((E,), input_mean=[2.0], input_var=[4.0], used_mean=[2.0], used_invstd=[0.5],
                       used_residual=[0.0], head__n=[4], **others)  # fmt: skip
    case = make_case((E,))
    cell = make_cell(replace(case, network=replace(case.network, model="/a/net.py:Net")), "torch", trace)
    (found,) = rule("normaliser-source").check_cell(cell)
    assert (found.kind, found.layer) == (kind, "bn")
    assert found.title == (
        "torch: bn keeps no running statistics: in eval, too, a sample's output depends on the samples next to it."
    )


def test_eval_with_what_it_has_just_moved_is_said_as_that():
    """The batch has (2, 4); the forward itself moves the running statistics from (0, 1) to (8, 9) and takes those."""
    trace = make_trace((E,), input_mean=[2.0], input_var=[4.0], used_mean=[8.0], used_invstd=[1 / 3],
                       used_residual=[0.0], running_mean=[0, 8], running_var=[1, 9])  # fmt: skip
    (found,) = rule("normaliser-source").check_cell(make_cell(make_case((E,)), "torch", trace))
    assert found.title == "In eval torch normalises bn with the running statistics as this very forward leaves them."


# ----------------------------------------------------------------------------------------------------------------- eps


@pytest.mark.parametrize(
    ("facet", "says"),
    [
        (Facet(1e-5), "an eps of 1e-05"),
        (Facet(None, identifiable=False, standing=(5.139e-6, 1.304e-5)), "an eps between 5.139e-06 and 1.304e-05"),
        (Facet(None, identifiable=False, standing=(0.0, 1.2e-4)), "an eps of at most 0.00012"),
    ],
)
def test_eps_is_said_as_well_as_it_is_known(facet: Facet, says: str):
    """Beside variances of 1 the steps of a case leave open what it is; a replay takes one end of that."""
    case, other = make_case((F,)), Convention("flax", "", {"eps": Facet(1e-3)})
    sides = [[make_cell(case, "torch", None, convention=Convention("torch", "", {"eps": facet}))],
             [make_cell(case, "flax", None, convention=other)]]  # fmt: skip
    said = bn112_eps.sentence(sides[0], 1e-5, sides[1], 1e-3)
    assert said == f"torch adds {says} to the variance, flax one of 0.001."


def test_an_eps_of_the_deviation_is_no_eps_of_the_variance():
    facets = (
        {"eps": Facet(1e-5), "eps_placement": Facet("inside")},
        {"eps": Facet(1e-3), "eps_placement": Facet("outside")},
    )
    inside, outside = ([make_cell(make_case((F,)), name, None, convention=Convention(name, "", each))]
                       for name, each in zip(("torch", "flax"), facets, strict=True))  # fmt: skip
    said = bn112_eps.sentence(outside, 1e-3, inside, 1e-5)
    assert said == "flax adds an eps of 0.001 to the deviation, torch one of 1e-05 to the variance."


# -------------------------------------------------------------------------------------------------------------- affine


def test_affine_ignored_and_applied():
    # x has mean 2 and variance 4; gamma = 3. Inverted with gamma, an output without it shows r = 1/6, var 36.
    for invstd, found in ((0.5 / 3, ["affine"]), (0.5, [])):
        trace = make_trace((F,), input_mean=[2.0], input_var=[4.0], used_mean=[2.0], used_invstd=[invstd],
                           used_residual=[0.0], gamma=[3.0, 3.0], running_mean=[0, 1], running_var=[1, 2])  # fmt: skip
        findings = [
            f
            for item in load_rules()
            if item.check_cell
            for f in item.check_cell(make_cell(make_case((F,)), "x", trace))
        ]
        assert [f.cause for f in findings] == found


def affine_titles(ops: Sequence[str], mean: Any, invstd: Any, residual: float = 0.0, **held: Any) -> list[str]:
    """Two channels of mean 2 and variance 4 in every forward; what the outputs reveal, inverted with what is held."""
    total = len(ops)
    rows = {"running_mean": 2.0, "running_var": 4.0, "gamma": 1.0, "beta": 0.0, **held}
    trace = make_trace(
        ops, input_mean=np.full((total, 2), 2.0), input_var=np.full((total, 2), 4.0), used_mean=np.array(mean),
        used_invstd=np.array(invstd), used_residual=np.full((total, 2), residual),
        **{name: np.broadcast_to(value, (total + 1, 2)) for name, value in rows.items()},
    )  # fmt: skip
    return [item.title for item in rule("affine").check_cell(make_cell(make_case(ops, channels=2), "x", trace))]


def test_a_beta_that_is_left_out_where_it_is_below_zero_is_said_with_its_channels():
    """A beta of -0.7 that is not applied looks like a mean of 2 - 0.7 * 2; one of 0.5 is applied."""
    said = affine_titles((F,), [[2.0, 0.6]], [[0.5, 0.5]], beta=[0.5, -0.7])
    assert said == [
        "x holds beta in bn without applying it to channel 1, where it is below zero, in train_forward (event 1)."
    ]
    said = affine_titles((F,), [[3.0, 2.0]], [[0.5, 0.5]], beta=[0.5, -0.7])
    assert said == ["x holds beta in bn without applying it to channel 0 in train_forward (event 1)."]
    # Where one channel has no beta to apply, that it is applied there is not known.
    said = affine_titles((F,), [[2.0, 0.6]], [[0.5, 0.5]], beta=[0.0, -0.7])
    assert said == ["x holds beta in bn without applying it in train_forward (event 1)."]


def test_gamma_and_beta_that_are_left_out_in_different_modes_are_both_said():
    """Training without beta, eval without gamma: 1/std of 0.5 / 2 and of 0.5 / 4."""
    said = affine_titles((F, F, E), [[2.5, 2.5], [2.5, 2.5], [2.0, 2.0]], [[0.5, 0.5], [0.5, 0.5], [0.25, 0.125]],
                         gamma=[2.0, 4.0], beta=[0.5, 1.0])  # fmt: skip
    assert said == [
        "x holds beta in bn without applying it in train_forward (event 1); gamma is not applied in eval_forward "
        "(event 3)."
    ]


def test_a_beta_that_only_some_values_of_a_channel_get_is_not_called_ignored():
    """y is off its line by 0.1: within that a mean of 2.9 is as good as one of 3, which a beta left out would show."""
    held = {"beta": [0.5, 0.5]}
    assert affine_titles((F,), [[2.9, 2.9]], [[0.5, 0.5]], residual=0.1, **held) == []
    assert affine_titles((F,), [[3.0, 3.0]], [[0.5, 0.5]], residual=1e-7, **held) == [
        "x holds beta in bn without applying it in train_forward (event 1)."
    ]


# ------------------------------------------------------------------------------------------------- normaliser-divisor


@pytest.mark.parametrize(
    ("var", "other", "named"),
    [
        (5.0, 4.0, True),  # five values with a variance of 4: Σ(x − m)² is 20, over 4 or over 5
        (4.0, 4.0, False),
        (5.0, 5.0, False),
        (4.5, 4.0, False),  # neither
        (5.0, 3.0, False),
    ],
)
def test_training_divides_by_the_deviation_of_n_or_of_n_minus_1(var: float, other: float, named: bool):
    def side(target: str, used: float) -> Any:
        trace = make_trace((F,), input_mean=[2.0], input_var=[4.0], n=[5], used_mean=[2.0], used_invstd=[used**-0.5],
                           used_residual=[0.0], output__0=[[3 / used**0.5]], running_mean=[0, 0.2],
                           running_var=[1, 1.4])  # fmt: skip
        return make_cell(make_case((F,)), target, trace)

    found = list(rule("normaliser-divisor").check_pair(make_pair(side("torch", var), side("mxnet", other))))
    titles = ["In training torch divides by the deviation of n - 1, mxnet by that of n: with 5 values per channel y is "
              "1.11803 times as large on mxnet."]  # fmt: skip
    assert [item.title for item in found] == titles * named


def test_a_running_variance_that_is_the_batchs_own_does_not_tell_which_of_the_two_divides():
    """A cumulative average takes the first sample variance over as it is, and that is what normalises."""
    sides = [
        make_cell(make_case((F,)), target, make_trace(
            (F,), input_mean=[2.0], input_var=[4.0], n=[5], used_mean=[2.0], used_invstd=[var**-0.5],
            used_residual=[0.0], output__0=[[3 / var**0.5]], running_mean=[0, 2], running_var=[1, 5]))
        for target, var in (("torch", 5.0), ("mxnet", 4.0))
    ]  # fmt: skip
    assert not list(rule("normaliser-divisor").check_pair(make_pair(*sides)))


def test_two_sources_that_are_not_told_apart_are_both_said_in_words() -> None:
    """It was said to normalise "with the running-after or blend statistics"."""
    assert bn111_normaliser_source._words("running-after or blend") == (
        "the running statistics as this very forward leaves them or a blend of batch and running statistics"
    )
    assert bn111_normaliser_source._words("running") == "the running statistics"
