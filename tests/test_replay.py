"""Replays and shares with numbers plain on sight."""

from dataclasses import replace

import numpy as np
import pytest
from planted import arrays_of, case_of, play

from bncheck.convention import Convention, Facet
from bncheck.diagnosis.fit import measure
from bncheck.diagnosis.fit.stream import read_stream
from bncheck.diagnosis.replay import attribute, replay, rounding_bound
from bncheck.diagnosis.replay.conduct import MOVING, ORDERS, compute_factors, in_order, rules_of, score
from bncheck.diagnosis.replay.sides import Side, apart
from bncheck.diagnosis.replay.swaps import Game

PROGRAM = "E F E B E F B N E F F B B E"
INITIAL = {"running_mean": (0.7, -1.3), "running_var": (1.7, 0.6), "gamma": (1.5, 0.8), "beta": (0.3, -0.4)}


def observe(rules, text=PROGRAM, initial=INITIAL, batches=None, weight=0.3):  # type: ignore[no-untyped-def]
    batches = np.random.default_rng(0).normal(size=(12, 6, 2)) + 0.5 if batches is None else batches
    case = case_of(text, batches.shape[1:], weight=weight, initial=initial)
    return play(case, arrays_of(case, {"main": batches}), {"dtype": "float32", **rules})


def ones(text, rules):  # type: ignore[no-untyped-def]
    return observe(rules, text, {}, np.ones((100, 8, 2)), 0.1)


def test_all_ones_with_weight_one_tenth() -> None:
    case, trace, _ = ones("F F F", {})
    found = replay(
        case,
        trace,
        Convention("", facets={"update_on": Facet("forward"), "batch_weight": Facet(0.1, asked=0.1)}),
    )
    assert found["bn"]["running_mean"][:, 0] == pytest.approx([0.0, 0.1, 0.19, 0.271])
    assert found["bn"]["running_var"][:, 0] == pytest.approx([1.0, 0.9, 0.81, 0.729])


@pytest.mark.parametrize("update", ["forward", "backward", "eval"])
@pytest.mark.parametrize("averaging", ["exponential", "cumulative", "debiased"])
def test_the_facets_that_movements_are_kept_by_are_all_that_they_read(update: str, averaging: str) -> None:
    """Sets of rules that share these are moved alike: one that is read and is not among them would be lost."""
    read = set()

    class Rules(dict):  # type: ignore[type-arg]
        def __getitem__(self, name: str) -> object:
            read.add(name)
            return super().__getitem__(name)

    batches = {"main": np.ones((12, 6, 2)), "one": np.ones((1, 1, 2)), "none": np.ones((1, 0, 2))}
    case = case_of("F F1 F0 F F B E N", (6, 2))
    case, trace, _ = play(case, arrays_of(case, batches), {"dtype": "float32", "update_on": update})
    stream = read_stream(case, trace, case.network.layers[0])
    assert stream is not None
    rules = rules_of(Convention("", facets={"update_on": Facet(update), "averaging": Facet(averaging)}), stream)
    compute_factors(score(case, stream), Rules(rules))
    assert read <= set(MOVING)
    idle = {"forward": {"backward_order"}, "backward": {"single_value_state"}}  # neither says anything of eval
    assert set(MOVING) - read <= idle.get(update, {"backward_order", "single_value_state"})


def test_two_forwards_one_backward_averages_the_last_first() -> None:
    batches = np.array([1.0, 2.0])[:, None, None] * np.ones((2, 4, 1))
    case, trace, _ = observe({"update_on": "backward"}, "F F B", {}, batches, 0.1)
    found = replay(case, trace, Convention("", facets={"update_on": Facet("backward"), "batch_weight": Facet(0.1)}))
    # 0.9·(0.1·2) + 0.1·1 = 0.28, the number measured on mxnet for one head over both outputs
    assert found["bn"]["running_mean"][-1, 0] == pytest.approx(0.28)


def test_the_seed_report_is_the_phase_and_only_the_phase() -> None:
    mxnet = {"update_on": "backward", "update_without_grad": "no", "variance_divisor": "n"}
    probes = [measure([observe({})]), measure([observe(mxnet)])]
    case, torch_trace, _ = ones(" ".join("F" * 100), {})
    _, mxnet_trace, _ = ones(" ".join("F" * 100), mxnet)
    found = {item.quantity: item for item in attribute(case, mxnet_trace, probes[1], torch_trace, probes[0], "bn")}
    assert set(found["running_mean"].shares) == {"update_on"}
    assert found["running_mean"].shares["update_on"] == pytest.approx(1.0, abs=1e-6)
    assert found["running_mean"].explained == pytest.approx(1.0, abs=1e-6)
    assert "variance_divisor" in found["running_mean"].not_identifiable
    assert "bncheck run probe" in found["running_mean"].not_identifiable["variance_divisor"]
    assert found["running_mean"].residual <= found["running_mean"].rounding_bound


def test_shares_of_interacting_causes_add_up_to_what_they_explain() -> None:
    a, b = observe({}), observe({"variance_divisor": "n", "batch_weight": 0.1})
    found = attribute(a[0], a[1], measure([a]), b[1], measure([b]), "bn")
    var = next(item for item in found if item.quantity == "running_var")
    assert set(var.shares) == {"variance_divisor", "batch_weight"}
    assert sum(var.shares.values()) == pytest.approx(var.explained, abs=1e-6)
    assert var.explained > 0.99


def test_what_a_replay_does_not_make_no_cause_explains() -> None:
    """Swapping all rules turns a's replay into b, whatever a did: what a did by no rule stays unexplained."""
    a, b = observe({}), observe({"variance_divisor": "n"})
    probes = measure([a]), measure([b])
    assert a[1] is not None and b[1] is not None
    clean = next(
        item for item in attribute(a[0], a[1], probes[0], b[1], probes[1], "bn") if item.quantity == "running_var"
    )
    assert clean.explained > 0.99
    rows = a[1].arrays["bn/running_var"].astype(np.float64)
    gap = np.abs(rows - b[1].arrays["bn/running_var"]).mean()
    rows[1:] += gap * (-1.0) ** np.arange(len(rows) - 1)[:, None]  # up and down, as no average goes
    spoilt = replace(a[1], arrays={**a[1].arrays, "bn/running_var": rows.astype(np.float32)})
    item = next(
        item for item in attribute(a[0], spoilt, probes[0], b[1], probes[1], "bn") if item.quantity == "running_var"
    )
    assert item.explained < 0.7
    assert sum(item.shares.values()) <= item.explained + 1e-6


def test_what_one_step_did_by_no_rule_is_taken_off_what_is_explained() -> None:
    """The last step is off by a third of all that the divisors make: 3 of 4 parts are theirs."""
    a, b = observe({}), observe({"variance_divisor": "n"})
    probes = measure([a]), measure([b])
    assert a[1] is not None and b[1] is not None
    rows = a[1].arrays["bn/running_var"].astype(np.float64)
    rows[-1] += np.abs(rows - b[1].arrays["bn/running_var"]).mean() * len(rows) / 3
    spoilt = replace(a[1], arrays={**a[1].arrays, "bn/running_var": rows.astype(np.float32)})
    found = attribute(a[0], spoilt, probes[0], b[1], probes[1], "bn")
    item = next(item for item in found if item.quantity == "running_var")
    assert item.explained == pytest.approx(0.75, abs=0.02)
    assert item.shares == {"variance_divisor": pytest.approx(item.explained, abs=1e-6)}


def test_equal_targets_have_no_causes() -> None:
    a, b = observe({}), observe({"dtype": "float64"})
    for item in attribute(a[0], a[1], measure([a]), b[1], measure([b]), "bn"):
        assert item.shares == {}


def test_a_replayed_nan_explains_a_nan() -> None:
    batches = np.random.default_rng(0).normal(size=(12, 6, 2))
    batches[1, 0, 1] = np.nan
    a, b = observe({}, batches=batches), observe({"update_on": "never"}, batches=batches)
    probes = measure([observe({})]), measure([observe({"update_on": "never"}, PROGRAM + " L")])
    found = attribute(a[0], a[1], probes[0], b[1], probes[1], "bn")
    mean = next(item for item in found if item.quantity == "running_mean")
    assert mean.shares["update_on"] == pytest.approx(1.0, abs=1e-6)


def test_rounding_bounds_grow_with_the_dtype() -> None:
    narrow, wide = observe({}), observe({"dtype": "float64"})
    assert 0 < rounding_bound(wide[0], wide[1], "bn", "running_var") < 1e-10
    assert 1e-8 < rounding_bound(narrow[0], narrow[1], "bn", "running_var") < 1e-3
    assert rounding_bound(narrow[0], narrow[1], "missing", "running_var") == 0.0


def test_a_layer_that_is_not_there_is_not_attributed() -> None:
    a = observe({})
    assert attribute(a[0], a[1], Convention(""), a[1], Convention(""), "missing") == ()


def test_the_orders_in_which_a_backward_meets_four_forwards() -> None:
    met = [in_order((3, 2, 1, 0), order) for order in ORDERS]
    assert met == [(3, 2, 1, 0), (0, 1, 2, 3), (0, 3, 2, 1)]


def test_numbers_that_differ_within_their_uncertainties_do_not_differ() -> None:
    case, trace, _ = ones("F F F", {})
    stream = read_stream(case, trace, case.network.layers[0])
    assert stream is not None

    def side(weight: float, uncertainty: float) -> Side:
        facet = Facet(weight, uncertainty=uncertainty)
        return Side(stream, Convention("", facets={"batch_weight": facet}), {"batch_weight": weight})

    assert apart(side(0.1, 0.001), side(0.11, 0.001), "batch_weight")
    assert not apart(side(0.1, 0.006), side(0.11, 0.006), "batch_weight")
    assert not apart(side(0.1, 0.0), side(0.1, 0.0), "batch_weight")


def test_each_order_of_many_rules_comes_with_its_reverse() -> None:
    case, trace, _ = ones("F F F", {})
    stream = read_stream(case, trace, case.network.layers[0])
    assert stream is not None
    play = score(case, stream, stream)
    orders = Game(play, {}, {}, list("abcdef")).orders()
    assert len(orders) == 24
    assert {order[::-1] for order in orders} == set(orders)
    assert len(Game(play, {}, {}, list("abc")).orders()) == 6
