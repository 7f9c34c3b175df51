"""How statistics move, BN101 to BN110 and BN114: an input that fires each rule, and a near neighbour that must not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rule_views import attribute, make_case, make_cell, make_pair, make_trace, only, own, own_cell, raise_at, rule

from bncheck.convention import Convention, Facet
from bncheck.diagnosis.diagnose import diagnose
from bncheck.diagnosis.rules import load_rules
from bncheck.diagnosis.rules.conventions import (
    bn101_initial_state,
    bn102_variance_divisor,
    bn104_update_count,
    bn105_counter_skew,
)
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.scenario import Event, InputSpec

F = "train_forward"
B = "backward"
E = "eval_forward"
FF = ("train_forward", "train_forward")
NAN = float("nan")
APART = ({"running_mean": [0, 1.0], "running_var": [1, 2.0]}, {"running_mean": [0, 2.0], "running_var": [1, 3.0]})


# ----------------------------------------------------------------------------------------------------------- any facet


FACET_RULES = [
    ("initial-state", "initial_mean", 0.0, 0.25, "torch starts from 0, mxnet from 0.25."),
    ("variance-divisor", "variance_divisor", "n-1", "n", "averaged by n-1, mxnet by n."),
    ("update-phase", "update_on", "forward", "backward", "mxnet moves its running statistics in backward, torch in f"),
    ("update-phase", "update_without_grad", "yes", "no", "does not move the running statistics of mxnet"),
    (
        "update-phase",
        "backward_order",
        "last forward first",
        "first forward first",
        "A backward through several forwards moves the running statistics of mxnet first forward first, of t",
    ),
    ("update-count", "updates_per_event", 1, 2, "mxnet moves its running statistics twice per event, torch once."),
    ("batch-weight", "batch_weight", 0.1, 0.2, "A new batch weighs 0.1 in torch and 0.2 in mxnet."),
    ("batch-weight", "batch_weight", 0.1, 0.9, "momentum read in the opposite sense (0.1 + 0.9 = 1)"),
    ("averaging", "averaging", "exponential", "debiased", "mxnet keeps a debiased average, torch an exponential one."),
    ("wrong-statistic", "statistic", "variance", "std", "mxnet averages the standard deviation, torch the variance."),
    ("eps", "eps", 1e-5, 1e-3, "torch adds an eps of 1e-05 to the variance, mxnet one of 0.001."),
    ("eps", "eps_placement", "inside", "outside", "mxnet adds eps outside the square root, torch inside it."),
    (
        "normaliser-source",
        "eval_normaliser",
        "running",
        "batch",
        "In eval mxnet normalises with the batch's statistics",
    ),
    ("counter-skew", "counter", "forwards", "updates", "torch counts forwards, mxnet updates."),
]


@pytest.mark.parametrize(("cause", "facet", "one", "two", "says"), FACET_RULES, ids=str)
def test_a_facet_with_a_share_is_named_and_one_without_is_not(cause: str, facet: str, one: Any, two: Any, says: str):
    case = make_case((F,))
    cells = [
        make_cell(case, name, make_trace((F,), **rows)) for name, rows in zip(("torch", "mxnet"), APART, strict=True)
    ]
    (finding,) = rule(cause).check_pair(make_pair(*cells, [attribute(facet, (one, two))]))
    assert says in finding.title
    assert finding.proof == "This accounts for all of the difference in running_mean (100 %)."
    assert (finding.kind, finding.departs, finding.explained) == ("convention", "", 1.0)
    others = [item for item in load_rules() if item.check_pair and item.cause not in (cause, "unexplained", "rounding")]
    assert [
        f.cause for item in others for f in item.check_pair(make_pair(*cells, [attribute(facet, (one, two))]))
    ] == []
    assert list(rule(cause).check_pair(make_pair(cells[0], cells[0], [attribute(facet, (one, two))]))) == []


def test_a_divisor_is_that_of_the_variance_within_what_is_averaged() -> None:
    """ "It averages E[x²]" beside "it divides the variance that it averages" read as if one of the two were wrong."""
    case = make_case((F,))
    facets = {"statistic": Facet("second-moment", True)}, {"statistic": Facet("variance", True)}
    cells = [
        make_cell(case, name, make_trace((F,), **rows), convention=Convention(name, facets=held))
        for name, rows, held in zip(("torch", "mxnet"), APART, facets, strict=True)
    ]
    shares = [attribute("statistic", ("second-moment", "variance")), attribute("variance_divisor", ("n", "n-1"))]
    said = [rule(cause).check_pair(make_pair(*cells, shares)) for cause in ("wrong-statistic", "variance-divisor")]
    assert [item.title for found in said for item in found] == [
        "torch averages E[x²], mxnet the variance.",
        "torch divides the variance within the E[x²] that is averaged by n, mxnet the variance that is averaged by "
        "n-1.",
    ]


@pytest.mark.parametrize(
    ("targets", "documented", "kind", "departs", "departs_from"),
    [
        (("torch", "mxnet"), ({}, {}), "convention", "", ""),
        (("torch", "mxnet"), ({"update_on": "forward"}, {"update_on": "backward"}), "convention", "", ""),
        (("torch", "mxnet"), ({}, {"update_on": "forward"}), "defect", "mxnet", "documentation"),
        (("mxnet@gpu", "mxnet"), ({}, {}), "defect", "mxnet@gpu", "itself"),
        (("mxnet==1.6.0", "mxnet==1.9.1"), ({}, {}), "defect", "mxnet==1.9.1", "itself"),
        (("keras[jax]", "keras[torch]"), ({}, {}), "convention", "", ""),
    ],
)
def test_which_side_departs(targets: Any, documented: Any, kind: str, departs: str, departs_from: str):
    case = make_case((F,))
    cells = [
        make_cell(case, name, make_trace((F,), **rows), documented=known)
        for name, rows, known in zip(targets, APART, documented, strict=True)
    ]
    (finding,) = rule("update-phase").check_pair(make_pair(*cells, [attribute("update_on", ("forward", "backward"))]))
    assert (finding.kind, finding.departs, finding.departs_from) == (kind, departs, departs_from)


# ------------------------------------------------------------------------------------- initial-state, variance-divisor


def test_initial_state_is_seen_in_the_first_row():
    case = make_case((F,))
    one = make_cell(case, "torch", make_trace((F,), gamma=[0.5, 0.5]))
    two = make_cell(case, "mxnet", make_trace((F,), gamma=[1.0, 1.0]))
    (finding,) = rule("initial-state").check_pair(make_pair(one, two))
    assert finding.title == "Before any event gamma of bn is 0.5 in torch and 1 in mxnet."
    assert (finding.event, finding.explained) == (-1, 1.0)
    late = make_cell(case, "mxnet", make_trace((F,), gamma=[0.5, 1.0]))
    assert not list(rule("initial-state").check_pair(make_pair(one, late)))


def test_eval_on_nothing_before_the_first_batch() -> None:
    view = own_cell(
        ["eval_forward", "train_forward"], running_mean=[NAN, NAN, 1], running_var=[NAN, NAN, 1], output_bad=[4, 0]
    )
    found = only(bn101_initial_state.check_cell(view))
    assert (found.cause, found.kind, found.event) == ("initial-state", "hazard", 0)


def test_eval_after_the_first_batch_is_no_empty_start() -> None:
    view = own_cell(
        ["train_forward", "eval_forward"], running_mean=[NAN, 1, 1], running_var=[NAN, 1, 1], output_bad=[0, 0]
    )
    assert not list(bn101_initial_state.check_cell(view))


def test_a_side_that_never_averages_has_no_divisor_to_differ_in():
    case = make_case((F,))
    still = make_cell(case, "mxnet", make_trace((F,), running_mean=[0, 0], running_var=[1, 1]))
    pair = make_pair(make_cell(case, "torch", make_trace((F,), **APART[0])), still)
    given = attribute("variance_divisor", ("n-1", "n"), -0.3, quantity="running_var")
    assert not list(rule("variance-divisor").check_pair(make_pair(pair.a, pair.b, [given])))


def moved(ratio: float, values: int = 4) -> CellView:
    """Two channels, one training forward of weight 0.5 from (0, 1): batch mean 2, biased variance 3."""
    case = own(make_case(["train_forward"], channels=2))
    trace = make_trace(
        ["train_forward"],
        running_mean=[[0.0, 0.0], [1.0, 1.0]],
        running_var=[[1.0, 1.0], [0.5 + 1.5 * ratio] * 2],
        input_mean=[[2.0, 2.0]],
        input_var=[[3.0, 3.0]],
        n=[values],
    )
    return make_cell(case, "torch", trace)


def test_eight_sevenths_with_four_values_and_two_channels_is_numel() -> None:
    found = only(bn102_variance_divisor.check_cell(moved(8 / 7)))
    assert (found.cause, found.kind, found.departs_from) == ("variance-divisor", "defect", "arithmetic")
    assert "8/7, of all 8 elements, where 4/3 is due" in found.title


@pytest.mark.parametrize("ratio", [1.0, 4 / 3, 1.2])
def test_other_ratios_are_no_element_count(ratio: float) -> None:
    assert not list(bn102_variance_divisor.check_cell(moved(ratio)))


def test_a_framework_is_not_suspected_of_counting_wrongly() -> None:
    view = moved(8 / 7)
    view = replace(view, case=replace(view.case, network=replace(view.case.network, custom=None)))
    assert not list(bn102_variance_divisor.check_cell(view))


# -------------------------------------------------------------------------------------------------------- update-phase


def test_phase_is_seen_without_conventions_when_no_event_moves_both():
    case = make_case((F, B))
    early = make_trace((F, B), running_mean=[0, 1, 1], running_var=[1, 2, 2])
    late = make_trace((F, B), running_mean=[0, 0, 1], running_var=[1, 1, 2])
    pair = make_pair(make_cell(case, "torch", early), make_cell(case, "mxnet", late))
    # At the end of the program both agree: nothing to say. In the middle they do not.
    (finding,) = rule("update-phase").check_pair(pair)
    assert finding.title == (
        "torch moves its running statistics in train_forward, mxnet moves its running statistics in backward."
    )
    still = make_trace((F, B), running_mean=[0, 0, 0], running_var=[1, 1, 1])
    assert not list(rule("update-phase").check_pair(make_pair(pair.a, make_cell(case, "mxnet", still))))


@pytest.mark.parametrize(
    ("values", "advised"),
    [
        (("forward", "backward"), ["where backward moves"]),
        (("forward", "forward+eval"), ["save the statistics before you evaluate"]),
        (("backward", "forward+eval"), ["save the statistics before you evaluate", "where backward moves"]),
        (("forward", "never"), ["make the update happen"]),
    ],
)
def test_the_advice_about_phases_fits_the_moments(values: tuple[str, str], advised: list[str]):
    case = make_case((F, E))
    cells = [make_cell(case, name, make_trace((F, E), running_mean=rows, running_var=[1, 1, 1]))
             for name, rows in (("torch", [0, 1, 1]), ("mxnet", [0, 1, 2]))]  # fmt: skip
    (finding,) = rule("update-phase").check_pair(make_pair(*cells, [attribute("update_on", values)]))
    parts = finding.advice.split("; ")
    assert [part.startswith(words) for part, words in zip(parts, advised, strict=True)] == [True] * len(advised)


def test_an_eps_outside_the_root_is_added_to_the_deviation() -> None:
    case, placed = make_case((F,)), {"torch": "inside", "mxnet": "outside"}
    known = {name: Convention(name, facets={"eps_placement": Facet(where)}) for name, where in placed.items()}
    cells = [
        make_cell(case, name, make_trace((F,), **rows), convention=known[name])
        for name, rows in zip(placed, APART, strict=True)
    ]
    (finding,) = rule("eps").check_pair(make_pair(*cells, [attribute("eps", (1e-5, 1e-2))]))
    assert finding.title == "torch adds an eps of 1e-05 to the variance, mxnet one of 0.01 to the deviation."
    assert finding.advice.startswith("divide by sqrt(var + eps), not by sqrt(var) + eps")


def test_swapped_statistics_stand_beside_each_in_its_own_place() -> None:
    case = make_case((F,))
    cells = [
        make_cell(case, name, make_trace((F,), **rows)) for name, rows in zip(("torch", "mxnet"), APART, strict=True)
    ]
    (finding,) = rule("wrong-statistic").check_pair(
        make_pair(*cells, [attribute("statistic", ("swapped", "variance"))])
    )
    assert finding.title.startswith(
        "torch averages the mean into running_var and the variance into running_mean, mxnet each into its own."
    )


# ---------------------------------------------------------------------------------------------- eps of a constant input


def called_on_ones(target: str, eps: float, y: float, training: int = 0) -> CellView:
    """One layer in a bare call on ones: 4 values of one channel, statistics 0 and 1."""
    trace = make_trace(
        ("forward",), running_mean=[0, 0], running_var=[1, 1], gamma=[1, 1], beta=[0, 0], eps=[eps, eps],
        training=[training, training], input_mean=[1.0], input_var=[0.0], output__0=[[y]] * 4,
    )  # fmt: skip
    return make_cell(make_case(("forward",), eps=None), target, trace)


@pytest.mark.parametrize(
    ("keras", "named"),
    [
        ({"eps": 1e-3, "y": 0.9995003746877732}, True),
        ({"eps": 1e-3, "y": 0.99}, False),  # its eps does not make that
        ({"eps": 1e-5, "y": 0.9995003746877732}, False),
        ({"eps": 1e-3, "y": 0.0, "training": 1}, False),  # the batch less its mean is 0, whatever eps is
    ],
)
def test_default_eps_tell_on_a_constant_input_in_inference(keras: dict[str, Any], named: bool) -> None:
    pair = make_pair(called_on_ones("keras", **keras), called_on_ones("mxnet", 1e-5, 0.9999950000374997))
    found = [item.title for item in rule("eps").check_pair(pair)]
    assert found == ["keras adds an eps of 0.001 to the variance, mxnet one of 1e-05."] * named


# ------------------------------------------------------------------------------------------ update-count, counter-skew


def test_weights_that_repeat_are_a_count_only_if_the_counters_say_so():
    case = make_case((F,))
    for counters, cause in ((([0, 2], [0, 1]), "update-count"), (([0, 1], [0, 1]), "batch-weight")):
        cells = [
            make_cell(case, name, make_trace((F,), counter=counter, **rows))
            for name, rows, counter in zip(("torch", "mxnet"), APART, counters, strict=True)
        ]
        # 1 - 0.7 * 0.7 = 0.51
        pair = make_pair(*cells, [attribute("batch_weight", (0.51, 0.3))])
        found = [f.cause for name in ("update-count", "batch-weight") for f in rule(name).check_pair(pair)]
        assert found == [cause]


@pytest.mark.parametrize(("ops", "named"), [((F, "flush"), False), ((F, F), True)])
def test_a_counter_that_moves_where_the_statistics_do_not_counts_no_repetitions(ops: tuple[str, ...], named: bool):
    """Both move the mean in the second event alone; one counts forwards, the other what was taken in then."""
    held = ([0, 0, 1.0], [0, 0, 2.0]) if not named else ([0, 0.5, 1.0], [0, 1.0, 2.0])
    cells = [
        make_cell(make_case(ops), target, make_trace(ops, counter=counter, running_mean=mean, running_var=[1, 1, 1]))
        for target, counter, mean in zip(("torch", "mxnet"), ([0, 1, 2], [0, 0, 1]), held, strict=True)
    ]
    if named:  # both counters move with the mean
        traces = [make_trace(ops, counter=counter, running_mean=mean, running_var=[1, 1, 1])
                  for counter, mean in zip(([0, 2, 4], [0, 1, 2]), held, strict=True)]  # fmt: skip
        cells = [replace(cell, trace=trace) for cell, trace in zip(cells, traces, strict=True)]
    assert [item.cause for item in rule("update-count").check_pair(make_pair(*cells))] == ["update-count"] * named


def test_counters_apart_with_equal_statistics_are_skew_and_with_others_a_count():
    case = make_case((F,))
    same, other = APART[0], APART[1]
    one = make_cell(case, "torch", make_trace((F,), counter=[0, 2], **same))
    skew = make_pair(one, make_cell(case, "mxnet", make_trace((F,), counter=[0, 1], **same)))
    count = make_pair(one, make_cell(case, "mxnet", make_trace((F,), counter=[0, 1], **other)))
    for pair, causes in ((skew, ["counter-skew"]), (count, ["update-count"])):
        found = [f for f in diagnose([pair.a, pair.b], [pair], []) if f.kind != "rounding"]
        assert [item.cause for item in found] == causes
    assert found[0].title == "torch counts 2 updates of the running statistics of bn, mxnet 1: 2 for each of these."


def test_statistics_that_move_in_every_second_step() -> None:
    view = own_cell(["train_forward"] * 3, running_mean=[0, 1, 1, 2], input_mean=[2, 5, 3])
    found = only(bn104_update_count.check_cell(view))
    assert found.cause == "update-count"
    assert "1 of the first 3 training forwards leaves the running statistics of bn as they are" in found.title


def test_a_batch_with_the_running_mean_moves_nothing_by_right() -> None:
    view = own_cell(["train_forward"] * 3, running_mean=[0, 1, 1, 2], input_mean=[2, 1, 3])
    assert not list(bn104_update_count.check_cell(view))


def test_a_batch_that_is_taken_in_again_by_backward() -> None:
    """Weight 1/2, batch 4: forward gives 2, recomputation in backward 3."""
    ops = ("checkpointed_forward", "backward")
    case = make_case(ops)
    trace = make_trace(ops, running_mean=[0.0, 2.0, 3.0], input_mean=[4.0, float("nan")])
    assert bn104_update_count.takes_batches_again(make_cell(case, "torch", trace), "bn")
    other = make_trace(ops, running_mean=[0.0, 2.0, 2.5], input_mean=[4.0, float("nan")])
    assert not bn104_update_count.takes_batches_again(make_cell(case, "torch", other), "bn")


def test_cumulative_averages_that_follow_their_own_counters() -> None:
    """Batches of mean 4 and 8 after one of mean 4: the third weighs 1/3, or 1/4 where one more had been counted."""
    case = make_case(FF, averaging="cumulative")
    common = {"input_mean": [4.0, 8.0], "running_var": [1.0, 1.0, 1.0]}
    right = make_trace(FF, running_mean=[4.0, 4.0, 4.0 + 4.0 / 3], counter=[1.0, 2.0, 3.0], **common)
    right.arrays["bn/running_mean"][1] = 4.0 + 1e-6  # it moved, if only by rounding
    skewed = make_trace(FF, running_mean=[4.0, 4.0 + 1e-6, 5.0], counter=[2.0, 3.0, 4.0], **common)
    pair = make_pair(make_cell(case, "reference", right), make_cell(case, "torch", skewed))
    (found,) = bn105_counter_skew.divided_by(pair)
    assert (found.kind, found.explained, found.quantity) == ("hazard", 1.0, "running_mean")


def test_an_average_that_does_not_follow_its_counter_is_not_said_to() -> None:
    case = make_case(FF, averaging="cumulative")
    trace = make_trace(FF, running_mean=[0.0, 4.0, 7.0], counter=[0.0, 1.0, 2.0], input_mean=[4.0, 8.0])
    assert not bn105_counter_skew.follows_counter(make_cell(case, "torch", trace), "bn")


# ----------------------------------------------------------------------- batches of unlike data in turn (update-count)


def in_turn(first: list[float], second: list[float], running: float = 1.0) -> list[Finding]:
    """Three steps of two forwards, each on an input of its own; every batch has variance 1."""
    ops = (F,) * 6
    case = make_case(ops)
    inputs = {"main": case.inputs["main"], "fake": case.inputs["main"]}
    events = tuple(Event(F, "fake" if t % 2 else "main", t // 2) for t in range(6))
    trace = make_trace(
        ops, running_mean=[0] * 7, running_var=[2, *[running] * 6], input_var=[1] * 6,
        input_mean=[mean for pair in zip(first, second, strict=True) for mean in pair],
    )  # fmt: skip
    cell = make_cell(replace(case, inputs=inputs, events=events), "torch", trace)
    return list(bn104_update_count.check_cell(cell))


def test_batches_of_unlike_data_in_turn() -> None:
    """Means 0 and 10 with variance 1: all data have variance 26 about their mean of 5."""
    (found,) = in_turn([0, 0, 0], [10, 10, 10])
    assert (found.kind, found.quantity) == ("hazard", "running_var")
    assert "batches of main (mean 0) and fake (mean 10) move bn in turn, 6 times in all" in found.title
    assert "Its running variance is 1, that of all data together 26" in found.title


def test_batches_of_like_data_in_turn() -> None:
    assert in_turn([0, 1, -1], [1, 0, 2]) == []


def test_batches_that_are_not_finite_are_no_kind_of_data() -> None:
    assert in_turn([0, 0, 0], [10, float("nan"), 10]) == []


# ------------------------------------------------------------------------------------------- single-value, empty-batch


def one_value(outcome: str, mean: float = 0.0, var: float = 1.0, y: float = 0.0) -> Any:
    trace = make_trace((F,), n=[1], input_mean=[3.0], input_var=[0.0], running_mean=[0, mean], running_var=[1, var],
                       output__0=[y], beta=[0, 0])  # fmt: skip
    return raise_at(trace, 0, error="Expected more than 1 value per channel") if outcome == "raised" else trace


def test_one_value_per_channel_refused_on_one_side():
    case = make_case((F,), shape=(1, 1))
    one, two = (
        make_cell(case, "torch", one_value("raised"), "raised"),
        make_cell(case, "mxnet", one_value("ok", 0.3, 0.9)),
    )
    pair = make_pair(one, two)
    (finding,) = rule("single-value").check_pair(pair)
    assert finding.title == (
        "torch refuses one value per channel, mxnet goes on with y = beta, running_mean updated, running_var updated."
    )
    assert not list(rule("refusal").check_pair(pair)) and not list(rule("empty-batch").check_pair(pair))


def test_one_value_per_channel_passed_through_on_one_side():
    case = make_case((F,), shape=(1, 1))
    pair = make_pair(make_cell(case, "flax", one_value("ok")), make_cell(case, "paddle", one_value("ok", y=3.0)))
    (finding,) = rule("single-value").check_pair(pair)
    assert "flax has y = beta" in finding.title and "paddle y = x" in finding.title


@pytest.mark.parametrize(("held", "named"), [(0.5, True), (-0.5, False), (np.inf, False)])
def test_what_a_spoilt_state_answers_to_one_value_is_not_due_to_the_one_value(held: float, named: bool):
    """An earlier event left running_var as ``held``: whoever normalises with it has NaN for any batch."""
    case = make_case((F,), shape=(1, 1))
    sound = make_trace((F,), n=[1], running_mean=[0, 0.3], running_var=[0.5, 0.45], output__0=[2.0])
    spoilt = make_trace((F,), n=[1], running_mean=[0, 0.3], running_var=[held, 0.45], output__0=[np.nan])
    spoilt = replace(spoilt, arrays={**spoilt.arrays, "network_bad": np.array([1])})
    found = list(rule("single-value").check_pair(make_pair(*(
        make_cell(case, target, trace) for target, trace in (("torch", sound), ("mxnet", spoilt))
    ))))  # fmt: skip
    assert ["mxnet a NaN output" in item.title for item in found] == [True] * named


def test_an_empty_batch_that_turns_a_variance_below_zero_into_nan_is_named():
    """Both sides hold a variance below zero, which is no reason for what only one of them makes of an empty batch."""
    case = make_case((F,), shape=(0, 1))
    kept, lost = (
        make_trace((F,), n=[0], running_mean=[1, mean], running_var=[-2.5, var], output__0=np.zeros((0, 1)))
        for mean, var in ((1, -2.5), (np.nan, np.nan))
    )
    pair = make_pair(make_cell(case, "torch", kept), make_cell(case, "mxnet", lost))
    (found,) = rule("empty-batch").check_pair(pair)
    assert "running_var NaN" in found.title and "running_var unchanged" in found.title


# ------------------------------------------------------------------------------------------------- hyperparameter-lost


def test_hyperparameter_lost_on_reload_and_kept_to_rounding():
    ops = (F, "reload")
    for after, found in ((1e-3, ["hyperparameter-lost"]), (float(np.float32(1e-5)), [])):
        cell = make_cell(make_case(ops, eps=1e-5), "torch", make_trace(ops, eps=[1e-5, 1e-5, after]))
        assert [f.cause for f in rule("hyperparameter-lost").check_cell(cell)] == found


def gap_cell(mean: Sequence[float], var: Sequence[float], batch: tuple[float, float], **more: Any) -> CellView:
    """Two training forwards of one batch and an eval of it; the weight of a batch is 0.1."""
    case = replace(make_case((F, F, E), batch_weight=0.1, eps=0.0), inputs={"main": InputSpec((4, 1), batches="same")})
    trace = make_trace((F, F, E), running_mean=mean, running_var=var, input_mean=[batch[0]] * 3,
                       input_var=[batch[1]] * 3, n=[4, 4, 4])  # fmt: skip
    return make_cell(case, "torch", trace, **more)


def moving(to: float, start: float = 0.0) -> list[float]:
    one = start + 0.1 * (to - start)
    two = one + 0.1 * (to - one)
    return [start, one, two, two]


def test_after_two_updates_of_a_tenth_four_fifths_of_the_start_are_left():
    """A batch of mean 10: the running mean is 1.9, 8.1 of a deviation of 1 away. Without the start it would be 10."""
    (found,) = rule("few-updates").check_cell(gap_cell(moving(10.0), [1, 1, 1, 1], (10.0, 1.0)))
    assert found.evidence["share of the start that is left"] == pytest.approx(0.81)
    assert found.evidence["mean, in deviations"] == pytest.approx(8.1)
    assert found.evidence["share of the gap that is the start's"] == pytest.approx(1.0)
    assert "after 2 updates of weight 0.1 the running statistics of bn still hold 81.0 % of what they" in found.title


def test_a_deviation_that_has_not_arrived_is_said_by_its_factor():
    (found,) = rule("few-updates").check_cell(gap_cell([0, 0, 0, 0], moving(100.0, 1.0), (0.0, 100.0)))
    assert "its deviation is off by a factor of 2.2" in found.title


CUMULATIVE = Convention("torch", "", {"averaging": Facet("cumulative")})


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (gap_cell(moving(0.5), [1, 1, 1, 1], (0.5, 1.0)), "half a deviation is no other output"),
        (gap_cell([10, 10, 10, 10], [1, 1, 1, 1], (10.0, 1.0)), "it has arrived"),
        (gap_cell([0, 0, 0, 0], [1, 1, 1, 1], (10.0, 1.0)), "it never moves: another cause"),
        (
            gap_cell([9.9, 0.99, 0.1, 0.1], [1, 1, 1, 1], (10.0, 1.0)),
            "the batches went elsewhere",
        ),
        (
            gap_cell(
                moving(10.0),
                [1, 1, 1, 1],
                (10.0, 1.0),
                convention=Convention("torch", "", {"averaging": Facet("cumulative")}),
            ),
            "no such average",
        ),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_no_gap_that_is_another_matter_is_said_to_be_few_updates(cell: CellView, why: str):
    assert not list(rule("few-updates").check_cell(cell)), why
