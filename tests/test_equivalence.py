"""A layer of the user's own is equivalent to the built-in one, or it is a defect: nothing lenient lets it pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rule_views import make_case, make_cell, make_pair, make_trace

from bncheck.diagnosis.audit import silent_drifts
from bncheck.diagnosis.diagnose import diagnose
from bncheck.diagnosis.equivalence import held_to_equivalence
from bncheck.diagnosis.rules.conventions import bn104_update_count
from bncheck.diagnosis.two_sides import without_targets
from bncheck.evidence import CellView, PairView
from bncheck.finding import Finding
from bncheck.scenario import Expect, Scenario

OWN, BUILT_IN = "torch", "torch[builtin]"
F, B = "train_forward", "backward"


def cells(*targets: str, custom: str = "/a/mine.py:MyNorm") -> list[CellView]:
    case = make_case((F,))
    case = replace(case, network=replace(case.network, custom=custom))
    return [make_cell(case, target, make_trace((F,), running_mean=[0, 1], running_var=[1, 1])) for target in targets]


def kinds(
    *findings: Finding, targets: tuple[str, ...] = (OWN, BUILT_IN), expect: tuple[Expect, ...] = ()
) -> list[tuple[str, str]]:
    views = cells(*targets)
    case = views[0].case
    scenario = Scenario("scenario", "A title", "A reason.", (case,), expect)
    return [(item.kind, item.departs) for item in held_to_equivalence(findings, views, case, scenario)]


def between(kind: str, cause: str = "normaliser-source") -> Finding:
    sides = ((OWN,), (BUILT_IN,))
    return Finding("BN111", cause, kind, "It is so.", (OWN, BUILT_IN), "scenario", "base", "bn", sides=sides)  # type: ignore[arg-type]


def alone(kind: str, *places: tuple[str, str], cause: str = "update-count") -> Finding:
    return Finding("BN104", cause, kind, "It is so.", (OWN,), "scenario", "base", "bn", accounts=places)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["convention", "hazard", "unexplained"])
def test_whatever_sets_an_own_layer_apart_is_a_defect_of_it(kind: str) -> None:
    assert kinds(between(kind)) == [("defect", OWN)]


@pytest.mark.parametrize("kind", ["convention", "hazard"])
def test_so_is_what_is_told_of_it_alone_and_accounts_for_a_difference(kind: str) -> None:
    assert kinds(alone(kind, ("bn", "running_mean"))) == [("defect", OWN)]
    assert kinds(alone(kind)) == [(kind, "")]


@pytest.mark.parametrize("cause", ["refusal", "crash", "state-mismatch"])
def test_errors_and_names_of_state_are_no_difference_of_what_is_computed(cause: str) -> None:
    assert kinds(between("hazard", cause), alone("hazard", ("", "events"), cause=cause)) == [("hazard", "")] * 2


def test_what_the_author_expects_stays_what_it_is() -> None:
    expected = Expect((OWN, BUILT_IN), causes=("normaliser-source",))
    assert kinds(between("convention"), expect=(expected,)) == [("convention", "")]
    other = Expect((OWN, BUILT_IN), causes=("eps",))
    assert kinds(between("convention"), expect=(other,)) == [("defect", OWN)]


def test_own_layers_on_both_sides_are_not_set_apart() -> None:
    both = replace(between("unexplained"), sides=((OWN, "torch==1.1.0"), ("torch@cuda",)))
    assert kinds(both, targets=(OWN, "torch==1.1.0", "torch@cuda", BUILT_IN)) == [("unexplained", "")]


def test_two_versions_of_one_own_layer_have_nothing_to_be_equivalent_to() -> None:
    assert kinds(alone("convention", ("bn", "running_mean")), targets=(OWN, "torch==1.1.0")) == [("convention", "")]


# ----------------------------------------------------------------------------------------- gradients that lack


def trained(target: str, **gradients: list[float]) -> CellView:
    ops = (F, B)
    state = {name: [value] * 3 for name, value in (("running_mean", 1), ("running_var", 1), ("gamma", 1), ("beta", 0))}
    nan = float("nan")
    rows = {name: [nan, *value] for name, value in gradients.items()}
    return make_cell(make_case(ops), target, make_trace(ops, **state, **rows, grad_input__1=[[1.0, -1.0]]))


def said(pair: PairView) -> list[tuple[str, str, str]]:
    found = diagnose([pair.a, pair.b], [pair], [])
    assert list(silent_drifts(pair.drifts, found)) == []
    return [(item.cause, item.kind, item.title) for item in found]


def test_a_parameter_without_gradient_is_named() -> None:
    """beta.detach() in an own forward: all numbers agree, and training never moves beta."""
    one, two = trained("reference", grad_gamma=[2.0], grad_beta=[3.0]), trained("torch", grad_gamma=[2.0])
    title = "In backward torch gives beta of bn no gradient, reference does: training leaves it as it is."
    assert said(make_pair(one, two)) == [("gradient", "defect", title)]
    neither = trained("torch")
    title = (
        "In backward torch gives gamma and beta of bn no gradient, reference does: training leaves them as they are."
    )
    assert said(make_pair(one, neither)) == [("gradient", "defect", title)]


def test_a_target_that_tells_no_gradients_lacks_none() -> None:
    one, two = trained("reference", grad_gamma=[2.0], grad_beta=[3.0]), trained("mlx")
    assert two.trace is not None
    arrays = {name: rows for name, rows in two.trace.arrays.items() if not name.startswith("grad_input")}
    assert said(make_pair(one, replace(two, trace=replace(two.trace, arrays=arrays)))) == []


# ------------------------------------------------------------------------------------------ skipped updates


def test_skipped_updates_are_counted_up_to_the_last_that_moves() -> None:
    """Every second of five steps: the first moves, the last moves."""
    ops = (F,) * 6
    (view,) = cells(OWN)
    case = replace(make_case(ops), network=view.case.network)
    means = [0, 1, 1, 2, 2, 3, 3]
    trace = make_trace(ops, running_mean=means, running_var=[1] * 7, input_mean=[9.0] * 6, input_var=[1.0] * 6)
    (found,) = bn104_update_count.check_cell(make_cell(case, OWN, trace))
    assert found.title == (
        "MyNorm in torch: 2 of the first 5 training forwards leave the running statistics of bn as they are, and later "
        "ones move them."
    )


def test_without_its_targets_a_sentence_keeps_its_brackets() -> None:
    said = (
        "Own in torch 2.13.0@cpu is off (NaN in 5 values of Own in torch 2.13.0@cpu, in none of torch[builtin] 2.13.0)."
    )
    assert without_targets(said, "Own", "PyTorch", ("torch", "torch[builtin]")) == (
        "Own is off (NaN in 5 values of Own, in none of PyTorch's)."
    )
