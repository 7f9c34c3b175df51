"""Every rule: a literal input that fires it, and a near neighbour that must not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rule_views import attribute, make_case, make_cell, make_pair, make_trace, raise_at

from bncheck.convention import Convention, Facet
from bncheck.diagnosis.diagnose import diagnose
from bncheck.diagnosis.repeats import compare_again
from bncheck.diagnosis.rules import bn112_eps, explain, leftover, load_rules
from bncheck.diagnosis.rules.bn202_normalise_arithmetic import conditioning
from bncheck.diagnosis.rules.departure import same
from bncheck.errors import UsageError
from bncheck.evidence import TargetView
from bncheck.finding import CAUSES, KINDS

F, B, E = "train_forward", "backward", "eval_forward"
APART = ({"running_mean": [0, 1.0], "running_var": [1, 2.0]}, {"running_mean": [0, 2.0], "running_var": [1, 3.0]})


def rule(cause: str) -> Any:
    return explain(cause)


# ------------------------------------------------------------------------------------------- all rules


def test_codes_and_causes_are_unique_and_known():
    rules = load_rules()
    assert len({item.code for item in rules}) == len({item.cause for item in rules}) == len(rules)
    assert {item.cause for item in rules} <= set(CAUSES)


@pytest.mark.parametrize("item", load_rules(), ids=lambda item: item.cause)
def test_every_rule_has_a_title_a_signature_and_advice(item: Any):
    assert item.title.endswith(".") and len(item.title) < 120
    assert "Signature:" in item.explanation and "What to do:" in item.explanation
    assert item.check_cell or item.check_pair or item.check_target


def test_explain_takes_codes_causes_and_any_spelling():
    assert explain("BN103") is explain("bn103") is explain("update-phase") is explain("Update_Phase")


def test_explain_offers_the_nearest_spelling():
    with pytest.raises(UsageError, match="Did you mean BN103 update-phase"):
        explain("update-phas")


# ------------------------------------------------------------------------------- facets of conventions

FACET_RULES = [
    ("initial-state", "initial_mean", 0.0, 0.25, "torch starts from 0, mxnet from 0.25."),
    ("variance-divisor", "variance_divisor", "n-1", "n", "averaged by n-1, mxnet by n."),
    ("update-phase", "update_on", "forward", "backward", "mxnet moves its running statistics in backward, torch in f"),
    ("update-phase", "update_without_grad", "yes", "no", "does not move the running statistics of mxnet"),
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
    assert says in finding.title and "removes 100.0 % of the running_mean drift" in finding.title
    assert (finding.kind, finding.departs, finding.explained) == ("convention", "", 1.0)
    others = [item for item in load_rules() if item.check_pair and item.cause not in (cause, "unexplained", "rounding")]
    assert [
        f.cause for item in others for f in item.check_pair(make_pair(*cells, [attribute(facet, (one, two))]))
    ] == []
    assert list(rule(cause).check_pair(make_pair(cells[0], cells[0], [attribute(facet, (one, two))]))) == []


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
        (("forward", "backward"), ["run a backward"]),
        (("forward", "forward+eval"), ["save the statistics before you evaluate"]),
        (("backward", "forward+eval"), ["save the statistics before you evaluate", "run a backward"]),
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


def test_initial_state_is_seen_in_the_first_row():
    case = make_case((F,))
    one = make_cell(case, "torch", make_trace((F,), gamma=[0.5, 0.5]))
    two = make_cell(case, "mxnet", make_trace((F,), gamma=[1.0, 1.0]))
    (finding,) = rule("initial-state").check_pair(make_pair(one, two))
    assert finding.title == "Before any event gamma of bn is 0.5 in torch and 1 in mxnet."
    assert (finding.event, finding.explained) == (-1, 1.0)
    late = make_cell(case, "mxnet", make_trace((F,), gamma=[0.5, 1.0]))
    assert not list(rule("initial-state").check_pair(make_pair(one, late)))


def test_counters_apart_with_equal_statistics_are_skew_and_with_others_a_count():
    case = make_case((F,))
    same, other = APART[0], APART[1]
    one = make_cell(case, "torch", make_trace((F,), counter=[0, 2], **same))
    skew = make_pair(one, make_cell(case, "mxnet", make_trace((F,), counter=[0, 1], **same)))
    count = make_pair(one, make_cell(case, "mxnet", make_trace((F,), counter=[0, 1], **other)))
    for pair, causes in ((skew, ["counter-skew"]), (count, ["update-count"])):
        assert [f.cause for f in diagnose([pair.a, pair.b], [pair], []) if f.kind != "rounding"] == causes


# --------------------------------------------------------------------------- n = 1, n = 0, NaN, overflow


def poisoned(n: int, bad: int, var: Any = np.nan, mean: Any = 0.0, batch: float = 1.0) -> Any:
    """A training forward that leaves running_var as ``var``, then an eval of clean data."""
    arrays = {
        "input_mean": [0.0, 0.0],
        "input_var": [batch, 1.0],
        "n": [n, 4],
        "input_bad": [bad, 0],
        "output_bad": [0, 4],
    }
    return make_trace((F, E), running_mean=[0, mean, mean], running_var=[1, var, var], **arrays)


@pytest.mark.parametrize(
    ("cause", "trace"),
    [
        ("single-value", poisoned(1, 0)),
        ("empty-batch", poisoned(0, 0)),
        ("poisoned-state", poisoned(4, 1)),
        ("overflow", poisoned(4, 0, var=np.inf, batch=1e39)),
    ],
)
def test_a_state_that_stays_non_finite_has_one_cause(cause: str, trace: Any):
    cell = make_cell(make_case((F, E)), "torch", trace)
    findings = [f for item in load_rules() if item.check_cell for f in item.check_cell(cell)]
    assert [f.cause for f in findings] == [cause]
    assert "the one later forward on clean data is not finite" in findings[0].title


def test_overflow_is_a_defect_only_where_the_variance_fits_the_buffer():
    case = make_case((F, E))
    (fits,) = rule("overflow").check_cell(make_cell(case, "torch", poisoned(4, 0, var=np.inf, batch=1.5e38)))
    (over,) = rule("overflow").check_cell(make_cell(case, "torch", poisoned(4, 0, var=np.inf, batch=1e39)))
    assert (fits.kind, fits.departs_from, over.kind) == ("defect", "arithmetic", "hazard")


def test_nan_that_heals_is_not_remembered_and_a_missing_state_is_no_nan():
    case = make_case((F, E))
    heals = make_trace((F, E), running_mean=[0, np.nan, 1], running_var=[1, 1, 1], input_bad=[1, 0], n=[4, 4])
    absent = make_trace((F, E), running_mean=[np.nan] * 3, running_var=[np.nan] * 3, n=[4, 4])
    for trace in (heals, absent):
        assert not list(rule("poisoned-state").check_cell(make_cell(case, "torch", trace)))


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


def test_refusal_with_many_values_and_a_half_update():
    case = make_case((F,))
    ran = make_cell(case, "torch", make_trace((F,), running_mean=[0, 1], running_var=[1, 2]))
    clean = make_cell(case, "mlx", raise_at(make_trace((F,), running_mean=[0, 0], running_var=[1, 1]), 0), "raised")
    half = make_cell(case, "mlx", raise_at(make_trace((F,), running_mean=[0, 1], running_var=[1, 1]), 0), "raised")
    (finding,) = rule("refusal").check_pair(make_pair(ran, clean))
    assert finding.title == "mlx refuses train_forward with ValueError; torch carries it out."
    assert not list(rule("refusal").check_cell(clean))
    (finding,) = rule("refusal").check_cell(half)
    assert finding.title == "mlx raises ValueError in train_forward, but has moved running_mean of bn by then."


@pytest.mark.parametrize(
    ("outcome", "says"), [("crashed", "torch dies in train_forward: SIGFPE."), ("timeout", "hangs")]
)
def test_crash(outcome: str, says: str):
    cell = make_cell(make_case((F,)), "torch", None, outcome, error_type="SIGFPE", event=0)
    (finding,) = rule("crash").check_cell(cell)
    assert says in finding.title
    assert not list(rule("crash").check_cell(make_cell(make_case((F,)), "torch", None, "unavailable")))


# ---------------------------------------------------------------------------------------- mode and state


def test_mode_leak_by_an_export_and_none_by_a_forward():
    ops = (F, "export_onnx")
    leak = make_trace(ops, training=[0, 0, 1])
    (finding,) = rule("mode-leak").check_cell(make_cell(make_case(ops), "torch", leak))
    assert finding.title == "torch: export_onnx switches bn from eval to training."
    clean = make_trace(ops, training=[0, 1, 1])
    assert not list(rule("mode-leak").check_cell(make_cell(make_case(ops), "torch", clean)))


def test_stale_state_by_a_flush_and_a_reload():
    for op, rows, says in (
        ("flush", [0, 0, 1], "torch: a flush alone changes running_mean of bn: what was read before it was old."),
        ("reload", [0, 1, 0], "torch: running_mean of bn is its initial value again after save and reload."),
    ):
        cell = make_cell(make_case((F, op)), "torch", make_trace((F, op), running_mean=rows, running_var=[1, 1, 1]))
        (finding,) = rule("stale-state").check_cell(cell)
        assert finding.title == says
        same = make_cell(
            make_case((F, op)), "torch", make_trace((F, op), running_mean=[0, 1, 1], running_var=[1, 1, 1])
        )
        assert not list(rule("stale-state").check_cell(same))


def test_hyperparameter_lost_on_reload_and_kept_to_rounding():
    ops = (F, "reload")
    for after, found in ((1e-3, ["hyperparameter-lost"]), (float(np.float32(1e-5)), [])):
        cell = make_cell(make_case(ops, eps=1e-5), "torch", make_trace(ops, eps=[1e-5, 1e-5, after]))
        assert [f.cause for f in rule("hyperparameter-lost").check_cell(cell)] == found


def test_layout_needs_two_measured_paths():
    def conventions(second: Any, identifiable: bool = True) -> Any:
        return {
            "2-D": Convention("tf", "2-D", {"variance_divisor": Facet("n")}),
            "4-D": Convention("tf", "4-D", {"variance_divisor": Facet(second, identifiable)}),
        }

    (finding,) = rule("layout").check_target(TargetView("tf", "tf", conventions("n-1")))
    assert finding.title == "tf has variance divisor n on 2-D and n-1 on 4-D."
    assert not list(rule("layout").check_target(TargetView("tf", "tf", conventions("n-1", False))))


def test_order_dependence_is_more_than_rounding():
    case = make_case((F,))
    for second, found in ((2.0, ["order-dependence"]), (1.0000001, [])):
        cells = [make_cell(case, "mxnet", make_trace((F,), running_mean=[0, value])) for value in (1.0, second)]
        view = TargetView("mxnet", "mxnet", {}, repeats=[compare_again(*cells)])
        assert [f.cause for f in rule("order-dependence").check_target(view) if f.kind != "rounding"] == found


# ----------------------------------------------------------------------------------------------- numerics


def test_low_precision_stall_needs_a_low_precision_buffer():
    # 16.25 in bfloat16 has an ULP of 0.125; a step of 0.01 * (22 - 16.25) = 0.0575 is below half of it.
    rows = [0, 8, 16.25, 16.25, 16.25, 16.25, 16.25]
    trace = make_trace((F,) * 6, running_mean=rows, input_mean=[22.0] * 6, input_var=[1.0] * 6)
    case = make_case((F,) * 6, batch_weight=0.01)
    low = make_cell(case, "torch", type(trace)(trace.events, trace.arrays, {"bn/running_mean": "bfloat16"}))
    (finding,) = rule("low-precision-stall").check_cell(low)
    assert "stalls at 16.25 while the batches' mean is 22" in finding.title
    assert not list(rule("low-precision-stall").check_cell(make_cell(case, "torch", trace)))


def test_reduced_precision_by_dtype_and_by_digits():
    case, generic = make_case((F,) * 20), np.linspace(0, 1.7, 21)
    short = (generic.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    for held, found in ((short, ["reduced-precision"]), (generic, [])):
        trace = make_trace((F,) * 20, running_mean=held)
        cell = make_cell(case, "torch", trace, replay={"bn": {"running_mean": generic[:, None]}})
        assert [f.cause for f in rule("reduced-precision").check_cell(cell)] == found


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


def test_eval_with_what_it_has_just_moved_is_said_as_that():
    """The batch has (2, 4); the forward itself moves the running statistics from (0, 1) to (8, 9) and takes those."""
    trace = make_trace((E,), input_mean=[2.0], input_var=[4.0], used_mean=[8.0], used_invstd=[1 / 3],
                       used_residual=[0.0], running_mean=[0, 8], running_var=[1, 9])  # fmt: skip
    (found,) = rule("normaliser-source").check_cell(make_cell(make_case((E,)), "torch", trace))
    assert found.title == "In eval torch normalises bn with the running statistics as this very forward leaves them."


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


def test_a_side_that_never_averages_has_no_divisor_to_differ_in():
    case = make_case((F,))
    still = make_cell(case, "mxnet", make_trace((F,), running_mean=[0, 0], running_var=[1, 1]))
    pair = make_pair(make_cell(case, "torch", make_trace((F,), **APART[0])), still)
    given = attribute("variance_divisor", ("n-1", "n"), -0.3, quantity="running_var")
    assert not list(rule("variance-divisor").check_pair(make_pair(pair.a, pair.b, [given])))


def test_nan_as_a_word_equals_itself() -> None:
    """ "nan" names what n = 1 does to the statistics; read as a number it would differ from itself."""
    assert same("nan", "nan")
    assert not same("nan", "unchanged")
    assert same(0.1, 0.1000001)


@pytest.mark.parametrize(("held", "causes"), [(-1e-3, ["cancellation"]), (-0.7, ["poisoned-state"])])
def test_a_variance_is_no_further_below_zero_than_cancellation_takes_it(held: float, causes: list[str]) -> None:
    """Four values at 100 in float32: E[x²] − E[x]² is off by some 1e-2 at most. A flipped sign is something else."""
    trace = make_trace((F,), input_mean=[100.0], input_var=[1e-6], n=[4], running_mean=[0, 50], running_var=[1, held])
    cell = make_cell(make_case((F,)), "torch", trace)
    assert [item.cause for item in diagnose([cell], [], [])] == causes
