"""``bncheck diff`` of two checkpoints: literal differences, and real files that PyTorch made of one another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_checkpoints
from at_the_prompt import here

from bncheck.diagnosis.held.likeness import QUANTITIES, alike, compared
from bncheck.diagnosis.held.matching import match
from bncheck.diagnosis.held.naming import name_differences
from bncheck.diagnosis.held.reading import Others, Sides
from bncheck.finding import Finding
from bncheck.life import Held, Holding
from bncheck.subjects.two_files import below_zero_alike, counters_alone, how_read, of_others
from bncheck.trace import Array

MEAN, VAR, GAMMA, BETA = [1.0, 2.0, -3.0], [0.5, 4.0, 9.0], [1.0, 1.5, 0.5], [0.25, -0.5, 0.125]

torch_files = test_checkpoints.torch_files  # a fixture


def held(layer: str = "bn1", **given: Any) -> Held:
    arrays = {"running_mean": MEAN, "running_var": VAR, "gamma": GAMMA, "beta": BETA, "counter": 100.0} | given
    typed = {key: np.asarray(value, np.float32) if isinstance(value, list) else value for key, value in arrays.items()}
    return Held(layer=layer, **typed)


def second(**given: Any) -> Held:
    usual = {"running_mean": [7.0, 8.0, 5.0], "running_var": [3.0, 2.0, 6.0], "gamma": [2.0, 2.5, 2.25]}
    return held("bn2", **(usual | {"beta": [0.75, 0.5, 0.0]} | given))


def holding(*layers: Held, framework: str = "torch") -> Holding:
    return Holding(name="x", framework=framework, format="PyTorch", layers=layers)


def found(a: Holding, b: Holding, others: Others | None = None) -> list[Finding]:
    matching = match(a, b)
    sides = Sides(a="A", b="B", framework_a=a.framework, framework_b=b.framework, others=others)
    return name_differences(sides, [compared(x, y) for x, y in matching.pairs], matching)


def one(x: Held, y: Held, **frameworks: str) -> Finding:
    (finding,) = found(
        holding(x, framework=frameworks.get("a", "torch")), holding(y, framework=frameworks.get("b", "torch"))
    )
    return finding


# --------------------------------------------------------------------------------------------------- one quantity


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def test_arrays_are_equal_rounded_narrowed_or_different() -> None:
    assert alike(f32(1, 2), f32(1, 2)).word == "equal"
    assert alike(f32(1, 2), f32(1.0000001, 2)).word == "rounding"
    assert alike(f32(1, 2), f32(1.00001, 2)).word == "differs"
    half = alike(f32(0.1, 2), f32(0.1, 2).astype(np.float16), "float32", "float16")
    assert (half.word, half.detail) == ("narrowed", "float16")
    assert alike(f32(0.1, 0.3, 0.7, 0.9), f32(0.10009765625, 0.30078125, 0.69921875, 0.8984375)).detail == "bfloat16"
    assert alike(f32(0.1, 2), f32(0.10009765625, 2)).word == "differs"
    assert alike(f32(1, np.nan), f32(1, np.nan)).word == "nonfinite"
    assert alike(f32(1, 2), f32(1, 2, 3)).word == "width"
    assert alike(f32(1e-20), f32(2e-20)).word == "differs"


# ------------------------------------------------------------------------------------------------------- matching


def names(a: Holding, b: Holding) -> tuple[list[tuple[str, str]], str]:
    matching = match(a, b)
    return [(x.layer, y.layer) for x, y in matching.pairs], matching.how


def test_layers_are_matched_by_name_with_or_without_a_prefix() -> None:
    a = holding(held("bn1"), second())
    assert names(a, holding(second(), held("bn1"))) == ([("bn1", "bn1"), ("bn2", "bn2")], "name")
    b = holding(held("backbone.bn1"), replace(second(), layer="backbone.bn2"), held("head.bn"))
    assert names(a, b) == ([("bn1", "backbone.bn1"), ("bn2", "backbone.bn2")], "name")
    assert names(b, a)[0] == [("backbone.bn1", "bn1"), ("backbone.bn2", "bn2")]


def test_layers_of_other_names_are_matched_by_what_they_hold() -> None:
    a = holding(held("bn1"), second())
    b = holding(replace(second(), layer="batch_normalization"), held("batch_normalization_1"))
    assert names(a, b) == ([("bn1", "batch_normalization_1"), ("bn2", "batch_normalization")], "weights")


def test_a_layer_of_another_name_beside_layers_of_the_same_names_is_matched_by_what_it_holds() -> None:
    """Of two files in which one of three layers is called otherwise each was said to leave BatchNorm out."""
    third = held("down.1", running_mean=[7.0, 8.0, 6.0], running_var=[9.0, 4.0, 2.0])
    a = holding(held("bn1"), second(), third)
    b = holding(held("bn1"), second(), replace(third, layer="downsample.1"))
    same = [("bn1", "bn1"), ("bn2", "bn2")]
    assert names(a, b) == ([*same, ("down.1", "downsample.1")], "name and weights")
    other = replace(third, layer="downsample.1", running_mean=f32(7.0, 8.5, 6.0))
    assert names(a, holding(held("bn1"), second(), other)) == (same, "name"), "another layer may have its variances"


def test_gammas_next_to_1_are_in_half_precision_where_the_rest_of_their_layer_is() -> None:
    means, gammas = f32(0.1, 0.3, 0.7, 0.9), f32(1.0002, 0.9996, 1.0003, 0.9999)
    wide = held("bn1", running_mean=means, running_var=means + 1, gamma=gammas, beta=means)
    short = replace(wide, **{what: getattr(wide, what).astype(np.float16).astype(np.float32) for what in QUANTITIES})
    pair = compared(wide, short)
    assert {found.word for found in pair.quantities.values()} <= {"narrowed", "equal"}
    assert pair.quantities["gamma"].detail == "float16"


def test_layers_of_other_names_and_numbers_are_matched_by_order_and_width() -> None:
    a = holding(held("bn1"), held("bn2", running_mean=[1.0], running_var=[1.0], gamma=None, beta=None))
    narrow = held("y", running_mean=[5.0], running_var=[2.0], gamma=None, beta=None)
    b = holding(replace(second(), layer="x"), narrow)
    assert names(a, b) == ([("bn1", "x"), ("bn2", "y")], "order")


# -------------------------------------------------------------------------------------------------------- causes


def test_equal_files_have_no_finding() -> None:
    assert found(holding(held(), second()), holding(held(), second())) == []


def test_rounding_is_named_by_the_type_that_rounded() -> None:
    half = held(running_mean=[0.1, 2, 3])
    finding = one(half, replace(half, running_mean=half.running_mean.astype(np.float16)))  # type: ignore[union-attr]
    assert (finding.cause, finding.kind) == ("reduced-precision", "rounding")
    assert finding.title == "running_mean is equal to the bit in float16, in bn1."


def test_statistics_at_their_start() -> None:
    finding = one(held(), held(running_mean=[0.0] * 3, running_var=[1.0] * 3, counter=0.0))
    assert (finding.code, finding.cause, finding.departs) == ("BN402", "stale-state", "B")
    assert finding.title.startswith("B is A with its statistics at their start: running_mean is 0 and running_var 1")
    assert finding.title.endswith("gamma and beta are equal.")
    assert finding.places == {("bn1", "running_mean"), ("bn1", "running_var"), ("bn1", "counter")}
    new, trained = held(running_mean=[0.0] * 3, running_var=[1.0] * 3), held(gamma=[3.0, 4.0, 5.0])
    first, other = found(holding(new), holding(trained))
    assert first.title.startswith("A holds the statistics of a new model")
    assert other.cause == "unexplained" and other.places == {("bn1", "gamma")}


def test_an_earlier_step_by_its_counter() -> None:
    finding = one(held(), held(running_mean=[0.9, 1.8, -2.5], running_var=[0.6, 3.0, 8.0], counter=60.0))
    assert finding.cause == "stale-state" and finding.departs == "B"
    assert "B holds the statistics of an earlier step than A: its counter is 60, that of A 100" in finding.title


def test_only_statistics_differ() -> None:
    finding = one(held(), held(running_mean=[1.5, 2, -3], running_var=[0.5, 8, 9]))
    assert finding.cause == "stale-state" and finding.departs == ""
    assert "gamma and beta are equal, only the statistics differ, in bn1" in finding.title
    assert "means up to 0.71 standard deviations apart, variances 1 … 2 times" in finding.title


def test_how_far_statistics_lie_apart_is_said_of_every_channel() -> None:
    dead = one(held(), held(running_var=[0.5, 0, 9]))
    assert "means equal, in 1 channel a variance of 0 on one side alone, the other variances equal" in dead.title
    moved = one(held(), held(running_mean=[1.5, 2, -3]))
    assert "means up to 0.71 standard deviations apart, variances equal" in moved.title
    little = one(held(), held(running_var=[0.5, 4.001, 9]))
    assert "means equal, variances up to 0.0002 of their size apart" in little.title


def test_a_variance_below_zero_is_said_on_one_side_and_on_both() -> None:
    finding = one(held(), held(running_var=[0.5, -1e-7, 9]))
    assert (finding.cause, finding.kind, finding.departs) == ("poisoned-state", "defect", "B")
    assert finding.title.startswith("B holds variances below zero in running_var of bn1, where those of A are not.")
    both = one(held(running_var=[0.5, -1, 9]), held(running_var=[0.5, -2, 9]))
    assert both.title.startswith("Both hold variances below zero in running_var of bn1.") and both.departs == ""
    (said,) = below_zero_alike([compared(held(running_var=[0.5, -1, 9]), held(running_var=[0.5, -1, 9]))])
    assert said.startswith("Both hold variances below zero in running_var of bn1.")
    assert below_zero_alike([compared(held(), held())]) == []


def test_mean_and_variance_swapped() -> None:
    finding = one(held(), held(running_mean=VAR, running_var=MEAN))
    assert (finding.cause, finding.kind, finding.departs) == ("state-mismatch", "defect", "B")
    assert finding.title == "In B running_mean and running_var are swapped, in bn1."


def test_of_two_arrays_swapped_the_side_at_fault_is_told_by_the_numbers_or_not_at_all() -> None:
    """The second side was blamed, whichever it was: the right one, where the port was named first."""
    swap = {"gamma": BETA, "beta": GAMMA}
    for sides, wrong in (((held(), held(**swap)), "B"), ((held(**swap), held()), "A")):
        finding = one(*sides)
        assert (finding.title, finding.departs) == (f"In {wrong} gamma and beta are swapped, in bn1.", wrong)
    assert one(held(running_mean=VAR, running_var=MEAN), held()).departs == "A"
    gamma, beta = [0.4, 0.6, 0.5], [0.5, 0.3, 0.7]
    finding = one(held(gamma=gamma, beta=beta), held(gamma=beta, beta=gamma))
    assert (finding.cause, finding.departs) == ("state-mismatch", "")
    assert finding.title == (
        "gamma and beta of B are those of A swapped, in bn1. The numbers do not tell which of the two is right."
    )


def test_arrays_read_in_another_order() -> None:
    finding = one(held(), held(gamma=BETA, beta=MEAN, running_mean=VAR, running_var=GAMMA))
    assert finding.cause == "state-mismatch"
    assert "running_mean holds what A has as running_var" in finding.title
    assert len(finding.places) == 4


def test_layers_shifted_by_one() -> None:
    a = holding(held("bn1"), second())
    b = holding(replace(second(), layer="bn1"), replace(held(), layer="bn2"))
    (finding,) = found(a, b)
    assert finding.cause == "state-mismatch"
    assert "bn1 holds bn2's and bn2 holds bn1's" in finding.title


def test_the_divisor_of_the_variance() -> None:
    finding = one(held(), held(running_var=[value * 64 / 63 for value in VAR]))
    assert (finding.cause, finding.kind) == ("variance-divisor", "hazard")
    assert "running_var of B is n/(n − 1) times that of A, with n = 64" in finding.title
    ported = one(held(running_var=[value * 2 for value in VAR]), held(), a="torch", b="keras")
    assert ported.kind == "convention" and "running_var of A is n/(n − 1) times that of B, with n = 2" in ported.title


def test_one_factor_that_no_count_explains_is_said_and_not_explained() -> None:
    finding = one(held(), held(running_var=[value * 3 for value in VAR]))
    assert finding.cause == "unexplained"
    assert "running_var of B is 3 times that of A, the same factor in every channel" in finding.title


def test_a_standard_deviation_in_the_place_of_a_variance() -> None:
    finding = one(held(), held(running_var=[float(np.sqrt(value)) for value in VAR]))
    assert finding.cause == "wrong-statistic" and "B stores the standard deviation" in finding.title


FOUR = {"running_mean": [1.0, 2.0, -3.0, 0.5], "running_var": [0.513, 4.07, 9.31, 2.23], "gamma": [1.0, 1.5, 0.5, 2.0],
        "beta": [0.25, -0.5, 0.125, 1.0]}  # fmt: skip


def turned(*names: str) -> dict[str, list[float]]:
    return FOUR | {name: [FOUR[name][place] for place in (2, 0, 3, 1)] for name in names}


def test_channels_in_another_order() -> None:
    finding = one(held(**FOUR), held(**turned(*FOUR)))
    assert (finding.cause, finding.kind, finding.departs) == ("state-mismatch", "hazard", "B")
    assert finding.title == (
        "The channels of B stand in another order than those of A, in bn1: running_mean, running_var, gamma and beta "
        "hold the same numbers, moved alike."
    )
    finding = one(held(**FOUR), held(**turned("running_mean", "running_var")))
    assert finding.kind == "defect" and finding.title == (
        "running_mean and running_var of B hold the numbers of A in another order of channels, in bn1, and gamma and "
        "beta hold theirs in the same."
    )
    other = turned(*FOUR) | {"beta": [0.125, 0.3, 1.0, -0.5]}
    assert "another order" not in str([each.title for each in found(holding(held(**FOUR)), holding(held(**other)))])


def test_the_statistics_of_an_input_of_another_scale() -> None:
    large = {"running_mean": [255 * each for each in FOUR["running_mean"]],
             "running_var": [255**2 * each for each in FOUR["running_var"]]}  # fmt: skip
    for pair in ((held(**FOUR), held(**(FOUR | large))), (held(**(FOUR | large)), held(**FOUR))):
        finding = one(*pair)
        assert (finding.cause, finding.kind, finding.code) == ("data-shift", "hazard", "BN412")
        large_one, small_one = ("B", "A") if float(finding.evidence["factor"]) > 1 else ("A", "B")
        assert finding.title == (
            f"{large_one} holds the statistics of an input 255 times as large as that of {small_one}, in bn1: each "
            "mean is 255 times, each variance 6.502e+04 times that of the other."
        )
    large["running_mean"][2] *= 1.01
    assert one(held(**FOUR), held(**(FOUR | large))).cause == "stale-state"


def test_an_eps_that_was_stored_with_the_variance() -> None:
    """The reasons of other statistics beside equal weights were listed, and it was none of them."""
    more = [each + 0.001 for each in FOUR["running_var"]]
    finding = one(held(**FOUR), held(**(FOUR | {"running_var": more})))
    assert (finding.cause, finding.kind) == ("eps", "hazard")
    assert finding.title == (
        "running_var of B is that of A plus 0.001 in every channel, in bn1: so it is where an eps was added to what is "
        "stored."
    )
    assert "running_var of A is that of B plus 0.001" in one(held(**(FOUR | {"running_var": more})), held(**FOUR)).title
    more[3] += 0.0005
    assert one(held(**FOUR), held(**(FOUR | {"running_var": more}))).cause == "stale-state"


def test_a_counter_that_one_side_alone_has_is_said() -> None:
    """Two files were called equal to the bit, and one of them lacked a tensor."""
    sides = Sides(a="A", b="B", framework_a="torch", framework_b="torch")
    pairs = [compared(held(), held(counter=None)), compared(second(), second())]
    assert list(counters_alone(pairs, sides)) == [
        "A counts the updates of 1 layer and B does not: momentum=None needs it."
    ]
    assert next(iter(counters_alone([compared(held(counter=None), held())], sides))).startswith("B counts the updates")
    assert not list(counters_alone(pairs[1:], sides))
    assert not list(counters_alone(pairs, replace(sides, framework_b="keras")))  # it has none


def test_two_runs_of_one_training_differ_by_no_factor_and_by_no_slip() -> None:
    """It was said to be "1 times that of A, the same factor in every channel", or an average or a copy."""
    finding = one(held(), held(running_var=[0.5000001, 4.000004, 9.0]))
    assert finding.cause == "stale-state"
    assert finding.title == (
        "gamma and beta are equal, only the statistics differ, in bn1: means equal, variances up to 1e-06 of their "
        "size apart. That alone does not tell why. It is no more than rounding makes between two runs of one training, "
        "or of one estimate."
    )


def test_nan_agrees_with_nothing() -> None:
    both = one(held(running_var=[np.nan, 1, 2]), held(running_var=[np.nan, 1, 2]))
    assert both.cause == "poisoned-state" and both.title.startswith("Both hold NaN or Inf in running_var of bn1")
    alone = one(held(), held(running_mean=[np.inf, 1, 2]))
    assert alone.departs == "B" and "where A holds numbers" in alone.title


def test_layers_and_quantities_that_one_side_lacks() -> None:
    (finding,) = found(holding(held(), second()), holding(held()))
    assert finding.cause == "state-mismatch" and finding.title == "A has a BatchNorm layer that B does not have (bn2)."
    lacking = one(held(), held(gamma=None))
    assert lacking.title == "B has no gamma in bn1."
    assert found(holding(held(gamma=[1.0, 1.0, 1.0])), holding(held(gamma=None))) == []
    wide = one(held(), held(running_mean=[1.0], running_var=[1.0], gamma=[1.0], beta=[0.0]))
    assert wide.title == "running_mean, running_var, gamma and beta have another number of channels in bn1."


def test_eps_and_the_weight_of_a_new_batch_in_neutral_words() -> None:
    finding = one(held(eps=1e-5, momentum=0.1), held(eps=1e-3, momentum=0.9), a="torch", b="keras")
    assert (finding.cause, finding.kind) == ("eps", "convention")
    assert "eps is 1e-05 in A and 0.001 in B, in bn1: it changes a channel's gain by up to 0.099 %" in finding.title
    weight = one(held(momentum=0.1), held(momentum=0.1), a="torch", b="keras")
    assert weight.cause == "batch-weight"
    assert "A new batch weighs 0.1 in A and 0.9 in B" in weight.title
    assert found(holding(held(momentum=0.1)), holding(held(momentum=0.9), framework="")) == []


def test_a_counter_alone() -> None:
    finding = one(held(), held(counter=0.0))
    assert finding.cause == "counter-skew" and "100 in A and 0 in B, beside equal statistics" in finding.title


def test_another_step_of_training() -> None:
    later = held(running_mean=[1.5, 2, -3], running_var=[0.5, 8, 9], gamma=[1.1, 1.4, 0.5], counter=250.0)
    finding = one(held(), later)
    assert finding.cause == "stale-state" and finding.departs == ""
    assert finding.title.startswith("A holds statistics of fewer updates than B: the counter is 100 against 250")
    assert "and weights and statistics differ in bn1" in finding.title
    assert finding.title.endswith("an average of weights (EMA, SWA) that left the statistics behind.")


def test_counters_apart_beside_equal_weights_say_nothing_of_weights() -> None:
    new = {"gamma": [1.0, 1.0, 1.0], "beta": [0.0, 0.0, 0.0]}
    finding = one(held(**new), held(**new, running_mean=[1.5, 2, -3], running_var=[0.5, 8, 9], counter=250.0))
    assert "100 against 250, and the statistics differ in bn1" in finding.title


def test_statistics_that_were_taken_along_beside_averaged_weights() -> None:
    one_, two = holding(held(counter=100.0)), holding(held(gamma=[1.1, 1.4, 0.5], beta=[0.3, -0.5, 0.1]))
    (finding, *_) = found(one_, two, Others(same=1, different=("conv.weight",)))
    assert (finding.cause, finding.kind) == ("stale-state", "hazard")
    assert finding.title == (
        "B holds the running statistics of A, equal to the bit, beside other weights: gamma and beta differ in bn1, "
        "and 1 of 2 other tensors. They were not estimated for these weights."
    )
    fresh = {"running_mean": [0.0] * 3, "running_var": [1.0] * 3}
    new = holding(held(**fresh)), holding(held(**fresh, gamma=[1.1, 1.4, 0.5]))
    assert {each.cause for each in found(*new, Others(different=("conv.weight",)))} == {"unexplained"}


def test_what_nothing_explains_says_how_large_it_is() -> None:
    finding = one(held(counter=None), held(running_mean=[4, 2, -3], gamma=[1.1, 1.4, 0.5], counter=None))
    assert finding.cause == "unexplained"
    assert finding.title.startswith("running_mean and gamma differ in bn1 (means up to 4.2 standard deviations apart")


def test_other_weights_are_equal_to_the_bit_or_up_to_rounding() -> None:
    assert of_others(Others(same=8)) == "Of the other tensors of the same name 8 are equal, 0 differ."
    whole = "Of the other tensors of the same name 8 are equal up to rounding, 0 differ."
    assert of_others(Others(same=8, rounded=8)) == whole
    some = "Of the other tensors of the same name 8 are equal (2 of them up to rounding), 1 differs."
    assert of_others(Others(same=8, rounded=2, different=("a",))) == some


def test_other_weights_that_differ_beside_equal_layers() -> None:
    same = holding(held())
    (finding,) = found(same, same, Others(same=4, different=("conv.weight",)))
    assert finding.title == "BatchNorm is equal in all 1 layers; 1 of 5 other tensors differ (conv.weight)."


# -------------------------------------------------------------------------------------------------- at the prompt


@pytest.fixture(scope="module")
def files(torch_files: Path) -> Path:
    return torch_files / "torch_pairs"


def told(files: Path, tmp_path: Path, a: str, b: str) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    run = tmp_path / f"{a}-{b}"
    done = here("diff", str(files / a), str(files / b), "--out", str(run), "-q", "--no-report")
    answer, results = (json.loads((run / name).read_text()) for name in ("answer.json", "run.json"))
    return done.returncode, answer, results["findings"]


def test_real_files_that_torch_folded(files: Path, tmp_path: Path) -> None:
    code, answer, findings = told(files, tmp_path, "before.pt", "folded.pt")
    assert code == 0
    assert answer["headline"] == (
        "before.pt and folded.pt are equal up to rounding: 4 BatchNorm layers, 4 of them folded into convolutions."
    )
    assert [found["cause"] for found in findings] == ["folding"]
    code, answer, _ = told(files, tmp_path, "folded.pt", "before.pt")
    assert code == 0 and "4 of them folded" in answer["headline"]


def test_a_fold_with_another_eps(files: Path, tmp_path: Path) -> None:
    for name, words in (("before.pt", "does not say its eps"), ("whole.pt", "whole.pt has 1e-05")):
        code, answer, findings = told(files, tmp_path, name, "folded-eps.pt")
        assert code == 1
        assert [found["cause"] for found in findings] == ["eps"]
        assert "folded-eps.pt was folded with eps 0.001 in bn1, bn2, bn3 and bn4" in answer["headline"]
        assert words in answer["headline"]


def test_a_fold_of_a_new_layer_and_one_that_was_left_out(files: Path, tmp_path: Path) -> None:
    code, answer, findings = told(files, tmp_path, "before.pt", "folded-start.pt")
    assert code == 1 and findings[0]["cause"] == "stale-state"
    assert "has the statistics of a new layer folded in" in answer["headline"]
    code, answer, findings = told(files, tmp_path, "before.pt", "bare.pt")
    assert code == 1 and findings[0]["cause"] == "state-mismatch"
    assert "leaves BatchNorm out in bn1, bn2, bn3 and bn4" in answer["headline"]


@pytest.mark.parametrize(
    ("name", "code", "cause", "words"),
    [
        ("ema-first.pt", 0, "", "equal to the bit: 4 BatchNorm layers"),
        ("half.pt", 0, "reduced-precision", "equal up to rounding: 4 BatchNorm layers"),
        ("reset.pt", 1, "stale-state", "reset.pt is before.pt with its statistics at their start"),
        ("statistics-moved.pt", 1, "stale-state", "earlier step than statistics-moved.pt: its counter is 20"),
        ("later.pt", 1, "stale-state", "before.pt holds statistics of fewer updates than later.pt: the counter is 20"),
        ("whole.pt", 0, "", "equal to the bit"),
    ],
)  # fmt: skip
def test_real_files_of_one_training(files: Path, tmp_path: Path, name: str, code: int, cause: str, words: str) -> None:
    got, answer, findings = told(files, tmp_path, "before.pt", name)
    assert (got, {found["cause"] for found in findings}) == (code, {cause} - {""})
    assert words in answer["headline"]


def test_what_cannot_be_compared(files: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.npz"
    np.savez(other, **{"x.weight": np.ones((2, 2), np.float32)})
    done = here("diff", str(files / "before.pt"), str(other), "--out", str(tmp_path / "a"), "-q", "--no-report")
    assert done.returncode == 3 and "other.npz holds no BatchNorm" in done.stderr
    done = here("diff", str(other), str(other), "--out", str(tmp_path / "b"), "-q", "--no-report")
    assert done.returncode == 3 and "neither other.npz (first) nor other.npz (second) holds BatchNorm" in done.stderr
    for name in ("model.mlmodel", "model.engine"):
        done = here("diff", name, str(other))
        assert done.returncode == 2 and "unsupported" in done.stderr
    (tmp_path / "model.py").write_text("def build():\n    return None\n")
    done = here("diff", f"{tmp_path}/model.py:build", str(other))
    assert done.returncode == 2 and "--weights" in done.stderr
    assert "save the model's state_dict() and give that file" in done.stderr
    done = here("diff", str(tmp_path), str(other))
    assert done.returncode == 2 and "is a folder." in done.stderr
    done = here("diff", str(files / "before.pt"), str(tmp_path / "gone.pt"))
    assert done.returncode == 2 and "there is no file" in done.stderr


def test_only_files_are_said_to_have_been_read() -> None:
    assert how_read([]) == []
    assert how_read(["ONNX"]) == ["The file was read as ONNX, without any framework; nothing in it was executed."]
    assert how_read(["PyTorch", "PyTorch"])[0].startswith("Both were read as PyTorch, without")
    assert how_read(["PyTorch", "ONNX"])[0].startswith("Read as PyTorch and ONNX, without")


def damaged_layer(layer: Held, dice: np.random.Generator) -> Held:
    """One of the things that happen to a layer's state, or none."""
    noise = dice.normal(1, 0.3, 3).astype(np.float32)
    mean, var, gamma, beta = (
        np.asarray(value) for value in (layer.running_mean, layer.running_var, layer.gamma, layer.beta)
    )
    changes: tuple[dict[str, Any], ...] = (
        {},
        {"running_mean": var, "running_var": mean},
        {"running_mean": mean * noise},
        {"running_var": var * 2},
        {"running_var": var * np.float32(8 / 7)},
        {"running_mean": 0 * mean, "running_var": 0 * var + 1},
        {"gamma": None},
        {"beta": beta + noise},
        {"gamma": gamma * noise, "running_var": var * noise**2},
        {"counter": 3.0},
        {"counter": None},
        {"running_var": np.where(noise > 1, np.nan, var).astype(np.float32)},
        {"running_mean": mean[:2], "running_var": var[:2]},
        {"running_mean": mean.astype(np.float16)},
        {"eps": 1e-3, "momentum": 0.9},
    )
    return replace(layer, **changes[dice.integers(len(changes))])


def test_nothing_differs_silently() -> None:
    """Whatever happens to some of the layers, each quantity that differs stands in a finding about that layer."""
    dice = np.random.default_rng(5)
    for _ in range(300):
        layers = [
            held(
                f"bn{place}",
                eps=1e-5,
                momentum=0.1,
                **{what: dice.normal(1, 0.5, 3).tolist() for what in ("running_mean", "gamma", "beta")},
                running_var=dice.uniform(0.1, 5, 3).tolist(),
            )
            for place in range(4)
        ]
        a = holding(*layers)
        b = holding(*(damaged_layer(layer, dice) for layer in layers))
        matching = match(a, b)
        assert len(matching.pairs) == 4
        said = set().union(*(finding.places for finding in found(a, b)))
        for one_layer, other in matching.pairs:
            pair = compared(one_layer, other)
            changed = {what for what, likeness in pair.quantities.items() if likeness.word != "equal"}
            assert {(pair.name, what) for what in changed} <= said
