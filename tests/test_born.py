"""Where NaN, Inf and variances below zero begin: literal traces, and near neighbours of which nothing is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rule_views import make_case, make_cell, make_pair, make_trace

from bncheck.convention import Convention, Facet
from bncheck.diagnosis.diagnose import diagnose
from bncheck.diagnosis.rules.born import births
from bncheck.diagnosis.rules.conventions import bn109_single_value, bn111_normaliser_source
from bncheck.diagnosis.rules.in_batches import magnified
from bncheck.diagnosis.rules.nonfinite import bn301_poisoned_state, bn302_overflow
from bncheck.diagnosis.rules.remainder import bn901_rounding, bn902_unexplained
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.scenario import Case, InputSpec, Layer, Network

F, B, E = "train_forward", "backward", "eval_forward"
NAN, INF = float("nan"), float("inf")


def layer(cell: CellView, name: str, **arrays: Any) -> CellView:
    """The cell with one more layer behind those it has."""
    assert cell.trace is not None
    more = make_trace([event.op for event in cell.trace.events], **arrays).arrays
    named = {key.replace("bn/", f"{name}/", 1): value for key, value in more.items() if key.startswith("bn/")}
    norms = (*cell.case.network.layers, Layer(name, "batch_norm", channels=1, batch_weight=0.5))
    case = replace(cell.case, network=replace(cell.case.network, layers=norms))
    return replace(cell, case=case, trace=replace(cell.trace, arrays={**cell.trace.arrays, **named}))


def cell_of(ops: Sequence[str], target: str = "torch", case: Case | None = None, **arrays: Any) -> CellView:
    return make_cell(case or make_case(ops), target, make_trace(ops, **arrays))


def found(cell: CellView) -> list[Finding]:
    return list(bn301_poisoned_state.check_cell(cell))


def only(cell: CellView) -> Finding:
    (finding,) = found(cell)
    return finding


# ------------------------------------------------------------------------------------- variances below zero


def set_by_hand(var: float, bad: int, target: str = "torch") -> CellView:
    """Channel 0 has mean 0.25 and the given variance, channel 1 is sound; eval of 4 finite values each."""
    mean, held = [[0.25, 1.0]] * 2, [[var, 1.0]] * 2
    return cell_of((E,), target, running_mean=mean, running_var=held, output_bad=[bad])


def test_a_variance_below_zero_is_named_with_its_channel() -> None:
    finding = only(set_by_hand(-0.5, 4))
    assert finding.title == (
        "torch gives NaN in eval in channel 0 of bn, because running_var is -0.5 there before any event."
    )
    assert (finding.kind, finding.layer, finding.event, finding.quantity) == ("hazard", "bn", -1, "running_var")
    assert (finding.evidence["lowest"], finding.evidence["gives NaN in"]) == (-0.5, "eval")


def test_a_variance_below_zero_is_said_where_no_eval_shows_it_too() -> None:
    finding = only(set_by_hand(-0.5, 0))
    assert finding.title == (
        "running_var of bn in torch is -0.5 in channel 0 before any event: eval cannot take the root of that."
    )
    assert finding.evidence["lowest"] == -0.5 and "gives NaN in" not in finding.evidence


def test_a_variance_that_eps_lifts_is_said_as_that() -> None:
    case = make_case((E,), eps=1e-5)
    finding = only(cell_of((E,), case=case, running_mean=[0, 0], running_var=[-1e-6, -1e-6], eps=[1e-5, 1e-5]))
    assert finding.title == (
        "running_var of bn in torch is -1e-06 in channel 0 before any event: no variance can be, and only eps "
        "makes it positive."
    )


@pytest.mark.parametrize("var", [0.5, 1e-12])
def test_a_variance_above_zero_is_none_of_them(var: float) -> None:
    assert found(set_by_hand(var, 0)) == []


def test_nan_that_all_targets_share_is_said_once_and_is_no_rounding() -> None:
    cells = [set_by_hand(-0.5, 4, name) for name in ("reference", "torch")]
    outputs = {"output/0": np.array([NAN, 1.0])}, {"output/0": np.array([NAN, 1.0 + 2**-23])}
    cells = [
        replace(cell, trace=replace(cell.trace, arrays={**cell.trace.arrays, **more}))  # type: ignore[type-var, union-attr]
        for cell, more in zip(cells, outputs, strict=True)
    ]
    pair = make_pair(*cells)
    (finding,) = diagnose(cells, [pair], [])
    assert finding.title.startswith("reference and torch give NaN in eval in channel 0 of bn")
    (rounded,) = bn901_rounding.check_pair(pair)
    assert rounded.title.startswith("Where both are finite, reference and torch differ by float32 rounding only")


def test_the_mean_set_twice() -> None:
    rows = [[-0.5, 0.25]] * 2
    finding = only(cell_of((E,), running_mean=rows, running_var=rows, output_bad=[4]))
    assert finding.title.endswith("before any event. It holds the very numbers of running_mean.")


def exchanged(mean: list[float], var: list[float]) -> CellView:
    """Two layers alike; every batch has the means -0.5 and 0.5 and the variances 4 and 9."""
    arrays: dict[str, Any] = {
        "running_mean": [mean] * 2, "running_var": [var] * 2, "input_mean": [[-0.5, 0.5]], "input_var": [[4.0, 9.0]],
        "output_bad": [4],
    }  # fmt: skip
    return layer(cell_of((E,), **arrays), "bn2", **arrays)


def test_means_and_variances_in_each_others_place_are_one_finding() -> None:
    finding = only(exchanged([4.0, 9.0], [-0.5, 0.5]))
    assert finding.title == (
        "running_var of 2 layers (bn, bn2) in torch is below zero before any event: the output of bn is not finite in "
        "1 of 1 forwards on finite input. Means and variances seem to have changed places: no mean is below zero."
    )
    assert finding.evidence["layers"] == 2


def test_a_bad_variance_beside_the_right_means_is_not_called_exchanged() -> None:
    """Means of 0.5 and 0.5 are none of the variances 4 and 9."""
    assert "changed places" not in only(exchanged([0.5, 0.5], [-0.5, 9.0])).title


@pytest.mark.parametrize(
    ("weight", "kind", "says"),
    [
        (0.5, "defect", "although the variance of a finite batch is never negative."),
        (1.5, "hazard", "A batch weighs 1.5"),
    ],
)
def test_a_variance_that_falls_below_zero(weight: float, kind: str, says: str) -> None:
    case = make_case((F,), batch_weight=weight)
    cell = cell_of((F,), case=case, running_mean=[0, 0], running_var=[1, -0.5], input_mean=[0], input_var=[0])
    finding = only(cell)
    assert (finding.kind, finding.event, finding.departs) == (kind, 0, "torch" if kind == "defect" else "")
    assert "falls below zero in train_forward (event 1): -0.5 in channel 0" in finding.title
    assert finding.evidence["lowest"] == -0.5
    assert says in finding.title


def test_a_variance_that_cancellation_made_less_than_zero_is_left_to_its_own_rule() -> None:
    arrays = {"running_mean": [0, 1000], "running_var": [1, -0.1], "input_mean": [1000], "input_var": [0.01]}
    cell = cell_of((F,), **arrays)
    assert [item.cause for item in diagnose([cell], [], [])] == ["cancellation"]


def test_a_layer_that_averages_the_mean_into_its_variance() -> None:
    swapped = Convention("torch", "", {"statistic": Facet("swapped")})
    cell = cell_of((F,), running_mean=[0, 1], running_var=[1, -1], input_mean=[-2], input_var=[2])
    finding = only(replace(cell, convention=swapped))
    assert (finding.kind, "What is averaged there is not a variance (swapped)." in finding.title) == ("hazard", True)


# -------------------------------------------------------------------------------------------- consequences


def test_a_later_layer_that_only_got_nan_is_a_consequence() -> None:
    """bn holds NaN from the start; in training it is sound, in eval its output poisons whatever takes it in."""
    cell = cell_of((E, F), running_mean=[0, 0, 0], running_var=[[NAN, 1.0]] * 3, output_bad=[4, 0])
    cell = layer(cell, "bn2", running_mean=[0, 0, 0], running_var=[1, 1, 1], input_bad=[8, 0], output_bad=[8, 0])
    finding = only(cell)
    assert (finding.layer, finding.evidence["also not finite"]) == ("bn", "bn2 (output)")
    assert finding.evidence["takes the value"] == "NaN"


def test_one_bad_batch_through_two_layers_is_one_finding() -> None:
    arrays: dict[str, Any] = {"running_mean": [0, NAN], "running_var": [1, NAN], "output_bad": [4]}
    cell = layer(cell_of((F,), input_bad=[1], **arrays), "bn2", input_bad=[4], **arrays)
    finding = only(cell)
    assert finding.title.startswith("running_mean of bn in torch becomes NaN through one batch with 1 bad value")
    assert finding.evidence["also not finite"] == "bn2 (output, running_mean, running_var)"


def test_one_value_per_channel_in_the_first_layer_is_the_cause_of_the_seconds_nan() -> None:
    """The first layer's output is finite, its variance is not: eval shows it, and the second layer trains on that."""
    ops = (F, E, F)
    cell = cell_of(ops, n=[1, 4, 4], running_mean=[0] * 4, running_var=[1, NAN, NAN, NAN], output_bad=[0, 4, 4])
    cell = layer(cell, "bn2", running_mean=[0, 0, 0, NAN], running_var=[1, 1, 1, NAN], input_bad=[0, 4, 4],
                 output_bad=[0, 4, 4])  # fmt: skip
    (finding,) = bn109_single_value.check_cell(cell)
    assert (finding.layer, finding.evidence["takes the value"]) == ("bn", "NaN")
    assert found(cell) == []


def test_a_backward_takes_in_the_bad_batch_of_two_forwards() -> None:
    """Where statistics move in backward, the bad batch may not be the last one before it."""
    cell = cell_of((F, F, B), "mxnet", running_mean=[0, 0, 0, NAN], running_var=[1] * 4, input_bad=[1, 0, 0],
                   output_bad=[4, 0, -1])  # fmt: skip
    assert "becomes NaN through one batch with 1 bad value" in only(cell).title
    assert only(cell).evidence["takes the value"] == "NaN"


def test_gradients_that_follow_are_listed_and_those_that_do_not_are_said() -> None:
    sound = {"running_mean": [0, 0, 0], "running_var": [1, 1, 1]}
    gradient = {"grad_input__1": np.array([NAN, 1.0])}
    assert "gradients of torch are not finite in backward (event 2)" in only(cell_of((F, B), **sound, **gradient)).title
    bad = cell_of((F, B), output_bad=[4, -1], gamma=[NAN] * 3, **sound, **gradient)
    assert only(bad).evidence["also not finite"] == "the gradients"


# ------------------------------------------------------------------------------------ inputs and outputs


def behind(kind: str, **arrays: Any) -> CellView:
    """BatchNorm behind a layer with weights."""
    case = make_case((F,))
    front = Layer("front", kind, options={"units": 1})
    return cell_of(
        (F,), case=replace(case, network=Network((front, *case.network.layers))), running_mean=[0, NAN],
        running_var=[1, NAN], input_bad=[4], output_bad=[4], **arrays,
    )  # fmt: skip


def test_a_batch_that_its_cast_makes_infinite() -> None:
    cell = behind("dense")
    case = replace(cell.case, dtype="float16", inputs={"main": InputSpec((4, 1), "constant", value=70000.0)})
    finding = only(replace(cell, case=case))
    assert "is not finite in float16, before the first BatchNorm layer of torch: it reaches 7e+04" in finding.title
    assert "float16 holds up to 65504. running_mean of bn is NaN from then on" in finding.title
    assert finding.evidence["takes the value"] == "NaN"
    assert finding.evidence["largest value of the batch"] == 70000.0


def test_what_the_layers_in_front_make_is_not_the_batchs_fault() -> None:
    finding = only(behind("dense"))
    assert finding.title.startswith(
        "What reaches bn in torch is not finite in train_forward (event 1), though the batch is: it arises in front of "
        "that layer (front), not in BatchNorm. running_mean of bn is NaN from then on"
    )


def test_what_is_not_finite_behind_a_finite_layer_arises_between_the_two() -> None:
    cell = layer(cell_of((E,), running_mean=[0, 0], running_var=[1, 1]), "bn2", running_mean=[0, 0],
                 running_var=[1, 1], input_bad=[4], output_bad=[4])  # fmt: skip
    finding = only(cell)
    assert (finding.layer, "in front of that layer and behind bn, not in BatchNorm" in finding.title) == ("bn2", True)


def test_a_networks_output_that_no_layer_shows() -> None:
    trace = make_trace((E,), running_mean=[0, 0], running_var=[1, 1])
    trace = replace(trace, arrays={**trace.arrays, "network_bad": np.array([4])})
    finding = only(make_cell(make_case((E,)), "torch", trace))
    assert finding.title == (
        "The network's output on torch is not finite in eval_forward (event 1), though the output of every BatchNorm "
        "layer that bncheck sees is: it arises behind bn."
    )
    nowhere = replace(trace, arrays={"network_bad": np.array([4])})
    assert only(make_cell(make_case((E,)), "torch", nowhere)).title.endswith(
        "and bncheck sees no BatchNorm layer in it."
    )


def test_a_layer_that_makes_nan_of_finite_numbers_is_at_fault() -> None:
    sound: dict[str, Any] = {"running_mean": [0, 0], "running_var": [1, 1], "input_mean": [0], "output_bad": [4]}
    finding = only(cell_of((F,), input_var=[1], **sound))
    assert (finding.kind, finding.departs_from) == ("defect", "arithmetic")
    assert "output of bn in torch becomes NaN or Inf in train_forward (event 1), though its input" in finding.title
    assert finding.evidence["takes the value"] == "NaN or Inf"
    constant = only(cell_of((F,), input_var=[0], **sound))  # make_case has no eps
    assert (constant.kind, "a channel has no variance, and eps is 0" in constant.title) == ("hazard", True)
    single = only(cell_of((F,), input_var=[0], n=[1], **sound))
    assert single.title.endswith("(event 1): a batch with one value per channel does that.")
    large = only(cell_of((F,), input_var=[1e39], **sound))
    assert large.kind == "hazard"
    assert large.title.endswith(": its batch is finite, and squares of it are beyond the range of float32.")
    half = cell_of((F,), case=replace(make_case((F,)), dtype="float16"), input_var=[1e39], **sound)
    assert only(replace(half, environment={"accumulates": "float32"})).title.endswith("beyond the range of float32.")


def test_a_state_that_turns_nan_on_a_finite_batch_is_said_whatever_the_size() -> None:
    """Neither one value nor an overflow: nobody spoke of it."""
    cell = cell_of((F,), running_mean=[0, 0], running_var=[1, NAN], input_mean=[0], input_var=[1])
    finding = only(cell)
    assert (finding.kind, list(bn302_overflow.check_cell(cell))) == ("defect", [])


def test_no_layer_is_blamed_whose_settings_nobody_recorded() -> None:
    """A momentum of NaN is recorded as that of a layer which holds none."""
    rows: dict[str, Any] = {"running_mean": [0, NAN], "running_var": [1, NAN], "input_mean": [0], "input_var": [1]}
    finding = only(cell_of((F,), case=make_case((F,), batch_weight=None), **rows))
    assert (finding.kind, "is not recorded" in finding.title) == ("hazard", True)
    held = cell_of((F,), case=make_case((F,), batch_weight=None), momentum=[0.1, 0.1], **rows)
    assert only(held).kind == "defect"
    mine = {"cell": {"layers": {"bn": {"kind": "Mine", "own": True}}}}
    own = only(replace(cell_of((F,), case=make_case((F,), batch_weight=None), **rows), notes=mine))
    assert own.title.endswith("though its input and its state are finite."), "it may have neither"
    assert own.advice.endswith("in what that layer computes")


def test_a_state_that_a_reload_spoils() -> None:
    cell = cell_of(
        (F, "reload"), running_mean=[0, 1, 1], running_var=[1, 1, -1], input_mean=[2, NAN], input_var=[1, NAN]
    )
    finding = only(replace(cell, trace=replace(cell.trace, arrays={**cell.trace.arrays, "bn/n": np.array([4, -1])})))  # type: ignore[type-var, union-attr]
    assert finding.title.endswith("falls below zero in reload (event 2): -1 in channel 0. No batch was averaged in it.")
    assert finding.evidence["lowest"] == -1.0


def test_a_bad_batch_that_leaves_nothing_behind_passes() -> None:
    assert found(cell_of((E,), running_mean=[0, 0], running_var=[1, 1], input_bad=[4], output_bad=[4])) == []


@pytest.mark.parametrize("bad", [0, 4])
def test_a_state_of_nan_alone_exists_where_eval_shows_it(bad: int) -> None:
    cell = cell_of((E,), running_mean=[0, 0], running_var=[NAN, NAN], output_bad=[bad])
    assert len(found(cell)) == bool(bad)


def test_nan_asked_of_gamma_is_none_in_statistics_that_do_not_exist() -> None:
    case = make_case((E,), initial={"gamma": (NAN,)})
    cell = cell_of((E,), case=case, gamma=[NAN, NAN], running_mean=[NAN, NAN], running_var=[NAN, NAN], output_bad=[0])
    assert only(cell).title == "gamma of bn in torch is NaN before any event."


def test_settings_that_are_infinite() -> None:
    cell = cell_of((E,), running_mean=[0, 0], running_var=[1, 1], eps=[INF, INF], momentum=[NAN, NAN])
    finding = only(cell)
    assert (finding.title, finding.quantity) == ("eps of bn in torch is Inf before any event.", "eps")
    assert finding.evidence["takes the value"] == "Inf"


def test_statistics_that_do_not_exist_yet_are_left_to_their_own_rule() -> None:
    cell = cell_of((E, F), running_mean=[NAN, NAN, 1], running_var=[NAN, NAN, 1], output_bad=[4, 0])
    assert [item.cause for item in diagnose([cell], [], [])] == ["initial-state"]


def test_a_healthy_cell_has_no_births() -> None:
    cell = cell_of((F, B, E), running_mean=[0, 1, 1, 1], running_var=[1, 2, 2, 2], gamma=[1] * 4,
                   grad_gamma=[NAN, 1, NAN])  # fmt: skip
    assert births(cell) == ()


# ------------------------------------------------------------------------------------- variances of nothing


def evaluated(held: float, var: float, invstd: float) -> CellView:
    """Eval with eps 1e-5; the output reveals the mean 0 and ``invstd``."""
    return cell_of(
        (E,), case=make_case((E,), eps=1e-5), running_mean=[0, 0], running_var=[held, held], eps=[1e-5, 1e-5],
        input_mean=[0], input_var=[var], used_mean=[0], used_invstd=[invstd], used_residual=[0],
    )  # fmt: skip


def test_a_running_variance_of_zero_multiplies_what_varies() -> None:
    finding = only(evaluated(0.0, 1.0, 316.0))
    assert finding.title == (
        "running_var of bn in torch is 0 in channel 0 before any event: eval multiplies what varies "
        "there by 316, so that normalised values reach 316."
    )
    assert finding.evidence["gain"] == 316.0


def test_running_variances_of_zero_in_two_layers_are_all_exactly_zero() -> None:
    """ "0 or near it" said more than is looked for: a variance that is merely small is none of these."""
    one = evaluated(0.0, 1.0, 316.0)
    arrays: dict[str, Any] = {
        "running_mean": [0, 0], "running_var": [0, 0], "eps": [1e-5, 1e-5], "input_mean": [0], "input_var": [1],
        "used_mean": [0], "used_invstd": [316], "used_residual": [0],
    }  # fmt: skip
    assert only(layer(one, "bn2", **arrays)).title == (
        "running_var of 2 layers (bn, bn2) in torch is 0 before any event: eval multiplies what varies there by 316, "
        "so that normalised values reach 316."
    )


def test_since_when_it_is_zero_and_not_since_when_it_is_small() -> None:
    """Two channels: 1e-6 is less than eps and no 0; they become 0 one after the other."""
    held = [[1e-6, 1e-6], [0, 1e-6], [0, 0], [0, 0]]
    facts = {name: [[NAN, NAN]] * 2 + [[value, value]] for name, value in
             {"used_mean": 0.0, "used_invstd": 316.0, "used_residual": 0.0}.items()}  # fmt: skip
    cell = cell_of(
        (F, F, E), case=make_case((F, F, E), eps=1e-5), running_mean=[[0, 0]] * 4, running_var=held, eps=[1e-5] * 4,
        input_mean=[[0, 0]] * 3, input_var=[[0, 0], [0, 0], [1, 1]], **facts,
    )  # fmt: skip
    assert only(cell).title.startswith(
        "running_var of bn in torch is 0 in all 2 channels since train_forward (event 2): eval multiplies"
    )


@pytest.mark.parametrize(
    ("held", "var", "invstd"),
    [
        (0.0, 0.0, NAN),  # a dead channel that stays dead
        (1e-6, 1e-6, 301.0),  # as narrow in eval as in training
        (0.04, 4.0, 5.0),  # data ten times as wide, and a variance that is one
        (0.0, 1.0, 1.0),  # a layer that evaluates with the batch's own variance
    ],
)
def test_a_small_running_variance_that_does_no_harm(held: float, var: float, invstd: float) -> None:
    assert [item for item in found(evaluated(held, var, invstd)) if item.cause == "poisoned-state"] == []


# --------------------------------------------------------------------------------- batches of other sizes


def in_batches(own: list[float], carried: list[float], l1: float, norms: Sequence[bool] = (False, True)) -> CellView:
    """Two modules, outputs of size 1, 4 samples of an L1 norm of 10 in batches of 1 and 4."""
    op = "eval_in_batches"
    arrays = {
        "depth_own/0": np.array([own]), "depth_carried/0": np.array([carried]), "depth_scale/0": np.ones(2),
        "depth_l1/0": np.array([l1]), "depth_max/0": np.array([l1]), "bn/n": np.array([-1]),
    }  # fmt: skip
    depth = {"sizes": [1], "largest": 4, "layers": ["fc", "norm"], "kinds": ["Linear", "BatchNorm1d"],
             "batch_norm": list(norms), "l1_of_output": 10.0}  # fmt: skip
    trace = replace(make_trace((op,)), arrays=arrays)
    return make_cell(make_case((op,)), "torch", trace, notes={"0": {"depth": depth}})


@pytest.mark.parametrize(("var", "factor"), [(1e-12, 316.2), (0.0, 316.2), (3.0, 1.155), (INF, 1.0)])
def test_a_layer_magnifies_the_error_of_its_input_by_no_more_than_its_eps_lets_it(var: float, factor: float) -> None:
    """sqrt((1 + var)/(var + 1e-5)) with the eps that the layer holds, whatever the scenario asks for."""
    cell = cell_of(
        ("eval_in_batches",), running_mean=[1, 1], running_var=[var, var], eps=[1e-5, 1e-5], input_mean=[1.0]
    )
    assert list(magnified(cell, 0)) == pytest.approx([factor], rel=1e-3)


def causes(cell: CellView) -> list[str]:
    return [item.cause for item in diagnose([cell], [], [])]


@pytest.mark.parametrize(
    ("own", "carried", "l1", "expected"),
    [
        ([1e-7, 0.0], [1e-7, 1e-7], 1e-6, ["rounding"]),
        ([1e-7, 0.5], [1e-7, 0.5], 2.0, ["normaliser-source"]),
        ([1e-7, 0.0], [1e-7, 0.1], 0.171, ["unexplained"]),  # beyond rounding, and nobody who did it
        ([0.0, INF], [0.0, INF], NAN, ["unexplained"]),  # NaN in one of the batches alone
        ([0.0, 0.0], [0.0, 0.0], 0.0, []),
    ],
)
def test_the_same_samples_in_other_batches(
    own: list[float], carried: list[float], l1: float, expected: list[str]
) -> None:
    assert causes(in_batches(own, carried, l1)) == expected


def test_nan_is_no_dependence_on_the_batch() -> None:
    cell = in_batches([0.0, INF], [0.0, INF], NAN)
    assert list(bn111_normaliser_source.check_cell(cell)) == []
    (finding,) = bn902_unexplained.check_cell(cell)
    assert "norm (a BatchNorm1d) gives the same input bits a finite output in one batch and NaN or Inf" in finding.title


def test_what_nobody_did_is_said_with_its_size_and_the_first_who_got_it() -> None:
    (finding,) = bn902_unexplained.check_cell(in_batches([1e-7, 0.0], [1e-7, 0.1], 0.171))
    assert "lie L1 0.171 apart between batches of 1 and 4" in finding.title
    assert "Each of the 2 modules that bncheck sees agrees with itself in both" in finding.title
    assert (finding.layer, "enters before norm (a BatchNorm1d)" in finding.title) == ("norm", True)
