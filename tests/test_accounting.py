"""Which finding accounts for which difference: what rules declare, held against replay."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from rule_views import attribute, make_case, make_cell, make_pair, make_trace

from bncheck.diagnosis.accounting import account, account_alike, open_drifts, with_accounts
from bncheck.diagnosis.audit import silent_drifts
from bncheck.diagnosis.consequences import absorb, absorb_by_order
from bncheck.diagnosis.diagnose import diagnose
from bncheck.diagnosis.rules import load_rules
from bncheck.diagnosis.rules.conventions import bn115_state_mismatch, bn117_never_updated
from bncheck.diagnosis.rules.remainder.bn902_unexplained import unexplained
from bncheck.finding import Consequence, Finding

OPS = ("train_forward", "train_forward", "eval_forward")
FACTS = {"input_mean": [1.0, 1.0, 1.0], "input_var": [2.0, 2.0, 2.0]}
MOVES = {"running_mean": [0, 0.5, 0.75, 0.75], "running_var": [1, 1.5, 1.75, 1.75]}
STILL = {"running_mean": [0, 0, 0, 0], "running_var": [1, 1, 1, 1]}
Y = {"output__0": [[-1.0, 1.0]], "output__1": [[-1.0, 1.0]], "output__2": [[0.5, 2.5]]}
OTHER_Y = {**Y, "output__2": [[1.5, 3.5]]}
ORDER = {"bn": 0}


def pair_of(one, two, attributions=(), targets=("torch", "mxnet")):
    case = make_case(OPS)
    return make_pair(
        *(make_cell(case, t, make_trace(OPS, **FACTS, **s)) for t, s in zip(targets, (one, two), strict=True)),
        attributions,
    )


def finding(code, cause, quantity="running_mean", **more):
    facts = {"kind": "convention", "title": "It is so.", "targets": ("torch", "mxnet"), "layer": "bn",
             "scenario": "scenario", "case": "base", "sides": (("torch",), ("mxnet",))}  # fmt: skip
    return Finding(code=code, cause=cause, quantity=quantity, **{**facts, **more})


def left_by(found, pair):
    return [item.place for item in account(found, open_drifts([pair]), ORDER)[1]]


STATES = [("bn", "running_mean"), ("bn", "running_var")]


def test_every_rule_says_what_its_cause_changes():
    words = {
        "statistics",
        "counter",
        "affine",
        "outputs",
        "evaluations",
        "gradients",
        "events",
        "refused",
        "nan",
        "mode",
        "variance",
        "order",
    }
    for rule in load_rules():
        assert rule.explains <= words, rule.code
        assert rule.follows_from <= words, rule.code


@pytest.mark.parametrize("code", ["BN409", "BN205", "BN115", "BN502"])
def test_names_contracts_and_advice_account_for_no_number(code):
    rule = next(item for item in load_rules() if item.code == code)
    contract = finding(code, rule.cause, "", sides=(), targets=("mxnet",))
    assert left_by([contract], pair_of(MOVES, STILL)) == STATES


def test_a_cause_of_outputs_does_not_account_for_the_statistics_of_its_own_layer():
    """A fused layer normalises with the running statistics and never moves them: two things."""
    source = finding("BN111", "normaliser-source", "output", layer="bn")
    pair = pair_of({**MOVES, **Y}, {**STILL, **OTHER_Y})
    assert left_by([source], pair) == STATES


def test_a_cause_of_statistics_accounts_for_the_evaluation_that_uses_them():
    never = finding("BN402", "stale-state", sides=(), targets=("mxnet",), event=0)
    assert left_by([never], pair_of({**MOVES, **Y}, {**STILL, **OTHER_Y})) == []


def test_a_statistic_behind_the_cause_may_differ_by_what_came_in_and_no_more():
    """Outputs of "front" that differ by 0.01 put 0.02 at most into a running mean behind it."""
    front = finding("BN111", "normaliser-source", "output", layer="front")
    nearby = {"running_mean": [0, 0.505, 0.758, 0.758], "running_var": [1, 1.5, 1.75, 1.75]}
    for gap, left in ((0.01, []), (0.001, [("bn", "running_mean")])):
        pair = pair_of({**MOVES, **Y}, {**nearby, **OTHER_Y})
        assert pair.b.trace is not None
        arrays = {**pair.b.trace.arrays, "bn/input_mean": pair.b.trace.arrays["bn/input_mean"] + gap}
        pair = make_pair(pair.a, replace(pair.b, trace=replace(pair.b.trace, arrays=arrays)))
        found = account([front], open_drifts([pair]), {"front": 0, "bn": 1})[1]
        assert [item.place for item in found if item.drift.quantity == "running_mean"] == left


def test_a_gradient_finding_accounts_for_its_own_gradient_alone():
    """Where the outputs agree, one wrong gradient is no cause of another."""
    wrong = finding("BN206", "gradient", "grad_beta")
    ops = ("train_forward", "backward")
    nan = float("nan")
    same = {"running_mean": [1] * 3, "running_var": [1] * 3, "output__0": [[1.0, -1.0]]}
    sides = [
        make_cell(make_case(ops), target, make_trace(ops, **same, grad_gamma=[nan, g], grad_beta=[nan, b]))
        for target, g, b in (("torch", 2.0, 3.0), ("mxnet", 2.5, 3.5))
    ]
    assert left_by([wrong], make_pair(*sides)) == [("bn", "grad_gamma")]


def test_a_counter_that_differs_accounts_for_statistics_only_where_they_are_divided_by_it():
    counter = finding("BN105", "counter-skew", "counter")
    assert left_by([counter], pair_of(MOVES, STILL)) == STATES
    divided = replace(counter, quantity="running_mean")
    assert left_by([divided], pair_of(MOVES, STILL)) == []


def test_a_convention_accounts_only_for_what_replay_removes():
    whole = [attribute("update_on", ("forward", "never"), quantity=q) for q in ("running_mean", "running_var")]
    named = finding("BN103", "update-phase", explained=1.0, facets=("update_on",), accounts=tuple(STATES))
    assert left_by([named], pair_of(MOVES, STILL, whole)) == []
    part = [whole[0], attribute("update_on", ("forward", "never"), 0.6, "running_var", bound=1e-9)]
    assert left_by([named], pair_of(MOVES, STILL, part)) == [("bn", "running_var")]
    elsewhere = replace(named, accounts=())
    assert left_by([elsewhere], pair_of(MOVES, STILL, whole)) == [("bn", "running_var")]


def test_what_happens_later_is_no_cause():
    late = finding("BN402", "stale-state", "running_var", sides=(), targets=("mxnet",), event=2)
    assert ("bn", "running_mean") in left_by([late], pair_of(MOVES, STILL))
    assert ("bn", "running_mean") not in left_by([replace(late, event=0)], pair_of(MOVES, STILL))


def test_what_is_rounding_until_a_cause_sets_in_is_not_there_before_it():
    """Data drift away from zero and the digits go one by one: the first event is beyond the tolerance, but no more than
    rounding; the one that shows the cause is far beyond."""
    late = finding("BN201", "cancellation", "running_var", sides=(), targets=("mxnet",), event=1, kind="defect")
    case, facts = make_case(OPS), {**FACTS, "input_mean": [100.0] * 3}

    def left(first: float) -> list[tuple[str, str]]:
        outputs = {"output__0": [[-1.0 + first, 1.0]], "output__1": [[-1.3, 1.3]], "output__2": Y["output__2"]}
        traces = [make_trace(OPS, **facts, **MOVES, **y) for y in (Y, outputs)]
        return left_by([late], make_pair(make_cell(case, "torch", traces[0]), make_cell(case, "mxnet", traces[1])))

    assert left(2e-5) == []
    assert left(0.1) == [("", "output")]


def test_a_finding_about_others_accounts_for_nothing_here():
    others = finding("BN103", "update-phase", targets=("torch", "flax"), sides=(("torch",), ("flax",)))
    assert left_by([others], pair_of(MOVES, STILL)) == STATES


def test_what_nobody_accounts_for_is_one_finding_that_leads_with_the_earliest():
    slower = {"running_mean": [0, 0.3, 0.4, 0.4], "running_var": [1, 1.2, 1.6, 1.6]}
    pair = pair_of({**MOVES, **Y}, {**slower, **OTHER_Y})
    found = diagnose([pair.a, pair.b], [pair], [])
    (left,) = [item for item in found if item.cause == "unexplained"]
    assert (left.layer, left.quantity, left.event) == ("bn", "running_mean", 0)
    assert set(left.accounts) == {("bn", "running_var"), ("", "output")}
    assert left.title.startswith(
        "mxnet differs from torch in running_mean of bn by up to 0.35, and no rule explains it. Also off: running_var"
    )
    assert list(silent_drifts(pair.drifts, found)) == []


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({f"output__{t}": [[-1.016, 1.016, 2.032, 3.048]] for t in (0, 1)}, "It is 1.016 times as large on mxnet"),
        (
            {f"output__{t}": [[-0.5, 1.5, 2.5, 3.5]] for t in (0, 1)},
            "It is larger by 0.5 on mxnet than on torch wherever they differ.",
        ),
        ({f"output__{t}": [[0.0, 1.0, 2.0, 3.0]] for t in (0, 1)}, "cut off at 0, as a ReLU does"),
        ({f"output__{t}": [[0.0, 0.0, 0.0, 0.0]] for t in (0, 1)}, "It is 0 on mxnet wherever they differ."),
        ({f"output__{t}": [[-1.2, 0.7, 2.9, 3.3]] for t in (0, 1)}, None),
    ],
)
def test_an_unexplained_difference_says_what_it_looks_like(other, says):
    y = {f"output__{t}": [[-1.0, 1.0, 2.0, 3.0]] for t in (0, 1)}
    pair = pair_of({**MOVES, **y}, {**MOVES, **other})
    (left,) = [item for item in diagnose([pair.a, pair.b], [pair], []) if item.cause == "unexplained"]
    if says is None:
        assert "times as large" not in left.title and "larger by" not in left.title and "ReLU" not in left.title
    else:
        assert says in left.title
    assert left.title.endswith(" In order: running_mean of bn and running_var of bn.")


def test_values_that_are_not_finite_are_counted_for_the_target_that_has_them():
    """The title names mxnet first, the drift counts torch first, and either may be side a of its pair."""
    pair = pair_of(MOVES, {**MOVES, "running_var": [1, np.nan, 1.75, 1.75]})
    there = [item for item in open_drifts([pair]) if item.place == ("bn", "running_var")]
    says = "mxnet differs from torch in running_var of bn (NaN or Inf in 1 value of mxnet, in none of torch), and no"
    assert next(unexplained(pair, there, ORDER)).title.startswith(says)
    turned = [replace(item, drift=replace(item.drift, a="mxnet", b="torch", nonfinite_a=3, nonfinite_b=2))
              for item in there]  # fmt: skip
    says = "in running_var of bn (NaN or Inf in 3 values of mxnet, in 2 of torch), and no"
    assert says in next(unexplained(pair, turned, ORDER)).title


def test_a_state_that_only_one_side_holds_is_said():
    bare = {key: value for key, value in MOVES.items() if key != "running_var"}
    pair = pair_of(MOVES, bare)
    found = diagnose([pair.a, pair.b], [pair], [])
    assert [(item.cause, item.quantity) for item in found] == [("state-mismatch", "running_var")]
    assert found[0].title == "mxnet keeps no running_var of bn; torch does."


def test_a_state_for_another_number_of_channels_is_there_and_is_said_so():
    wide = {**MOVES, "running_var": np.ones((4, 2))}
    pair = pair_of(MOVES, wide)
    (found,) = diagnose([pair.a, pair.b], [pair], [])
    assert (found.cause, found.quantity) == ("state-mismatch", "running_var")
    assert found.title == "torch keeps running_var of bn for 1 channel, mxnet for 2."


def test_states_that_each_side_lacks_are_said_side_by_side_and_as_the_users_doing_where_the_layer_is_theirs():
    """torch, the user's layer here, has no running_var and mxnet no beta; gamma is there in two widths."""
    held = {"running_mean": [0] * 4, "gamma": [1] * 4}
    pair = pair_of({**held, "beta": [0] * 4}, {**held, "running_var": [1] * 4, "gamma": np.ones((4, 2))},
                   targets=("torch", "torch[builtin]"))  # fmt: skip
    case = replace(pair.case, network=replace(pair.case.network, custom="own.py:Own"))
    mine, theirs = (replace(cell, case=case) for cell in (pair.a, pair.b))
    (found,) = diagnose([mine, theirs], [make_pair(mine, theirs)], [])
    assert found.title == (
        "Own in torch keeps no running_var of bn under the usual names; torch[builtin] does. "
        "torch[builtin] keeps no beta of bn; Own in torch does. "
        "Own in torch keeps gamma of bn for 1 channel, torch[builtin] for 2."
    )
    assert found.kind == "hazard"
    assert "register_buffer for running_mean" in found.advice
    assert "; build both layers with the same parts" in found.advice


def test_a_state_that_only_the_built_in_layer_lacks_is_no_fault_of_the_users():
    pair = pair_of({"beta": [0] * 4}, {"gamma": [1] * 4, "beta": [0] * 4}, targets=("torch[builtin]", "torch"))
    case = replace(pair.case, network=replace(pair.case.network, custom="own.py:Own"))
    (found,) = bn115_state_mismatch.check_pair(make_pair(*(replace(cell, case=case) for cell in (pair.a, pair.b))))
    assert (found.title, found.kind) == ("torch[builtin] keeps no gamma of bn; Own in torch does.", "convention")


def test_a_layer_of_the_users_may_do_without_gamma_and_beta():
    """BatchNorm2d(affine=False) under a name of its own is no hazard; one that lacks a statistic is."""
    held = {"running_mean": [0] * 4, "running_var": [1] * 4}
    pair = pair_of(held, {**held, "gamma": [1] * 4, "beta": [0] * 4}, targets=("torch", "torch[builtin]"))
    case = replace(pair.case, network=replace(pair.case.network, custom="own.py:Own"))
    (found,) = bn115_state_mismatch.check_pair(make_pair(*(replace(cell, case=case) for cell in (pair.a, pair.b))))
    assert (found.title, found.kind) == (
        "Own in torch keeps no gamma or beta of bn; torch[builtin] does.",
        "convention",
    )
    assert found.advice.startswith("if it is to learn a scale and a shift")


def test_what_else_is_off_stands_in_the_sentence_that_nobody_explains():
    slower = {"running_mean": [0, 0.3, 0.4, 0.4], "running_var": [1, 1.2, 1.6, 1.6]}
    pair = pair_of({**MOVES, **Y}, {**slower, **OTHER_Y})
    (left,) = diagnose([pair.a, pair.b], [pair], [])
    assert "Also off: running_var of bn by up to 0.3; the network's output by up to 1." in left.title
    assert list(silent_drifts(pair.drifts, [left])) == []


def test_a_bare_call_that_trains_here_and_infers_there_is_call_mode():
    case = replace(make_case(("forward",)), network=make_case(("forward",)).network)
    ones = {"input_mean": [1.0], "input_var": [0.0], "output__0": [[0.0, 0.0]]}
    trains = make_trace(("forward",), training=[1, 1], running_mean=[0, 0.1], running_var=[1, 0.9], **ones)
    infers = make_trace(("forward",), training=[0, 0], running_mean=[0, 0], running_var=[1, 1],
                        **{**ones, "output__0": [[0.9995, 0.9995]]})  # fmt: skip
    pair = make_pair(make_cell(case, "torch", trains), make_cell(case, "keras", infers))
    found = diagnose([pair.a, pair.b], [pair], [])
    assert [item.cause for item in found] == ["call-mode"]
    assert found[0].title == "A bare call trains in torch and infers in keras: no mode was set before event 1."
    assert set(found[0].accounts) >= {("bn", "running_mean"), ("bn", "running_var")}
    assert found[0].evidence == {"call_mode of torch": "training", "call_mode of keras": "inference"}
    silent = make_pair(pair.a, replace(pair.a, target="paddle"))
    assert diagnose([silent.a, silent.b], [silent], []) == []


def test_statistics_that_never_move_are_never_updated_and_the_counter_follows_from_that():
    counted, still = {**MOVES, "counter": [0, 1, 2, 2]}, {**STILL, "counter": [0, 0, 0, 0]}
    pair = pair_of(counted, still)
    (found,) = diagnose([pair.a, pair.b], [pair], [])
    assert (found.cause, found.quantity, found.event) == ("never-updated", "running_mean", 0)
    assert found.title == "mxnet never moves the running statistics of bn in 2 training forwards; torch moves them."
    assert [item.title[:17] for item in found.follows] == ["The counter of bn"]
    assert list(silent_drifts(pair.drifts, [found])) == []
    late = pair_of(MOVES, {"running_mean": [0, 0, 0.5, 0.5], "running_var": [1, 1, 1.5, 1.5]})
    assert "never-updated" not in [item.cause for item in diagnose([late.a, late.b], [late], [])]


def test_what_one_side_moves_in_the_backward_of_a_training_forward_the_other_never_moves():
    ops = ("train_forward", "backward", "train_forward", "backward", "eval_forward")
    moves = {"running_mean": [0, 0, 0.5, 0.5, 0.75, 0.75], "running_var": [1, 1, 1.5, 1.5, 1.75, 1.75]}
    still = {"running_mean": [0] * 6, "running_var": [1] * 6}
    counts = {"n": [8, -1, 8, -1, 8]}
    cells = [
        make_cell(make_case(ops), target, make_trace(ops, training=[1] * 5 + [0], **held, **counts))
        for target, held in (("mxnet", moves), ("torch", still))
    ]
    (found,) = bn117_never_updated.check_pair(make_pair(*cells))
    assert found.title == "torch never moves the running statistics of bn in 2 training forwards; mxnet moves them."


def test_a_side_that_moves_elsewhere_by_its_convention_is_not_called_never_updated():
    whole = [attribute("update_on", ("forward", "backward"), quantity=q) for q in ("running_mean", "running_var")]
    pair = pair_of(MOVES, STILL, whole)
    assert [item.cause for item in diagnose([pair.a, pair.b], [pair], [])] == ["update-phase"]


def test_what_a_side_does_not_do_that_refused_the_event_follows_from_the_refusal():
    refusal = finding("BN501", "refusal", "", layer="", event=0, kind="hazard")
    phase = finding("BN103", "update-phase", event=0, title="It moves in backward.")
    (kept,) = absorb([refusal, phase])
    assert [item.title for item in kept.follows] == ["It moves in backward."]
    assert absorb([replace(refusal, event=1), phase]) == [replace(refusal, event=1), phase]


def test_a_gradient_under_cancellation_is_listed_below_it():
    cause = finding("BN201", "cancellation", "running_var", sides=(), targets=("mxnet",), kind="defect",
                    accounts=(("bn", "grad_gamma"),))  # fmt: skip
    weak = finding("BN206", "gradient", "grad_gamma", title="They differ in dgamma.")
    (kept,) = absorb([cause, weak])
    assert kept.follows == (
        Consequence("They differ in dgamma.", ("torch", "mxnet"), (("torch",), ("mxnet",)), (("bn", "grad_gamma"),)),
    )
    assert absorb([replace(cause, accounts=()), weak]) == [replace(cause, accounts=()), weak]


def test_what_a_case_shows_whose_result_depends_on_order_follows_from_that():
    order = finding("BN403", "order-dependence", sides=(), targets=("mxnet",), kind="defect")
    apart = finding("BN106", "batch-weight", title="The weights differ.")
    start = finding("BN101", "initial-state", sides=(), targets=("mxnet",), title="It starts elsewhere.")
    elsewhere = replace(apart, case="another")
    kept = absorb_by_order([order, apart, start, elsewhere])
    assert [item.title for item in kept[0].follows] == ["The weights differ.", "It starts elsewhere."]
    assert kept[1:] == [elsewhere]


def three(traces):
    """Three targets in one case and all their pairs."""
    case = make_case(OPS)
    cells = [make_cell(case, t, make_trace(OPS, **FACTS, **s)) for t, s in zip(("a", "b", "c"), traces, strict=True)]
    return cells, [make_pair(*sides) for sides in combinations(cells, 2)]


def test_what_does_as_another_follows_from_what_is_said_of_that_one():
    """b and c stand still, a moves; a finding names b alone: c differs from a for the same reason."""
    _, pairs = three((MOVES, STILL, STILL))
    named = finding("BN402", "stale-state", sides=(), targets=("b",), event=0)
    by = {frozenset((pair.a.target, pair.b.target)): pair for pair in pairs}
    others = open_drifts([by[frozenset("ac")]])
    assert account([named], others, ORDER)[1] == others
    said, _ = account([named], open_drifts([by[frozenset("ab")]]), ORDER)
    (told,), left = account_alike(with_accounts([named], [said]), others, by)
    assert left == [] and [item.title for item in told.follows] == ["c behaves like b."]
    assert list(silent_drifts([item.drift for item in others], [told])) == []


def test_what_does_as_nobody_is_left():
    _, pairs = three((MOVES, STILL, {**STILL, "running_mean": [0, 0.1, 0.2, 0.2]}))
    named = finding("BN402", "stale-state", sides=(), targets=("b",), event=0, accounts=tuple(STATES))
    by = {frozenset((pair.a.target, pair.b.target)): pair for pair in pairs}
    left = account_alike([named], open_drifts([by[frozenset("ac")]]), by)[1]
    assert [item.place for item in left] == [("bn", "running_mean")]


def test_a_mistake_of_one_does_not_follow_from_the_refusal_of_another():
    mistake = finding("BN102", "variance-divisor", "running_var", sides=(), targets=("torch",), kind="defect")
    refusal = finding(
        "BN501", "refusal", "", layer="", targets=("jit", "torch"), sides=(("torch",), ("jit",)), event=-1
    )
    assert absorb([mistake, refusal]) == [mistake, refusal]
    own = replace(mistake, targets=("jit",))
    (cause,) = absorb([own, refusal])
    assert [item.title for item in cause.follows] == [own.title]
