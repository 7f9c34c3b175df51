"""diagnose(): what is said, what is left out, in which order, for how many targets."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from planted import arrays_of, case_of, play, program, reference
from rule_views import attribute, make_case, make_cell, make_pair, make_trace

from bncheck.diagnosis.diagnose import CaseViews, agreeing_groups, diagnose, importance, join_singles
from bncheck.diagnosis.repeats import compare_again
from bncheck.diagnosis.rules.well_formed import well_formed
from bncheck.evidence import TargetView
from bncheck.finding import KINDS, Finding
from bncheck.scenario import Case, InputSpec, Layer, Network
from bncheck.trace import EventRecord, Trace

ONES = ("train_forward",) * 3
FACTS = {"input_mean": [1.0, 1.0, 1.0], "input_var": [0.0, 0.0, 0.0]}
MOVED = {"running_mean": [0, 0.5, 0.75, 0.875], "running_var": [1, 0.5, 0.25, 0.125]}
STILL = {"running_mean": [0, 0, 0, 0], "running_var": [1, 1, 1, 1]}


def all_ones(targets):
    """Cells of the all-ones case; targets named mxnet stand still, the others move."""
    case = make_case(ONES, shape=(4, 1))
    return [make_cell(case, t, make_trace(ONES, **FACTS, **(STILL if "mxnet" in t else MOVED))) for t in targets]


def pairs_of(cells):
    found = []
    for i, a in enumerate(cells):
        for b in cells[i + 1 :]:
            drift = not np.array_equal(a.trace.arrays["bn/running_mean"], b.trace.arrays["bn/running_mean"])
            values = tuple("backward" if "mxnet" in c.target else "forward" for c in (a, b))
            given = [attribute("update_on", values, quantity=q) for q in ("running_mean", "running_var")]
            found.append(make_pair(a, b, given if drift else ()))
    return found


def test_all_ones_is_update_phase_and_says_what_it_cannot_tell():
    cells = all_ones(["torch==2.13.0@cpu", "mxnet==1.9.1@cpu"])
    (finding,) = diagnose(cells, pairs_of(cells), [])
    assert (finding.cause, finding.kind, finding.explained) == ("update-phase", "convention", 1.0)
    assert finding.title == ("mxnet 1.9.1 moves its running statistics in backward, torch 2.13.0 in forward.")
    assert finding.proof == "This accounts for all of the difference in running_mean (100 %)."
    assert set(finding.not_identifiable) == {"variance_divisor", "statistic"}
    assert all("bncheck run probe" in why for why in finding.not_identifiable.values())


def test_twenty_targets_give_one_sentence_for_two_groups():
    cells = all_ones([f"torch==2.{k}.0" for k in range(10)] + [f"mxnet==1.{k}.0" for k in range(10)])
    (finding,) = diagnose(cells, pairs_of(cells), [])
    assert len(finding.targets) == 20
    assert finding.title == (
        "mxnet 1.0.0 and 9 others move their running statistics in backward, torch 2.0.0 and 9 others in forward."
    )


def test_equal_traces_are_silent():
    cells = all_ones(["torch", "flax"])
    assert diagnose(cells, pairs_of(cells), []) == []


def test_a_difference_without_a_cause_is_unexplained_once():
    case = make_case(ONES)
    other = {"running_mean": [0, 0.5, 0.7, 0.9], "running_var": [1, 0.5, 0.25, 0.125]}
    cells = [make_cell(case, t, make_trace(ONES, **FACTS, **s)) for t, s in (("torch", MOVED), ("flax", other))]
    findings = diagnose(cells, pairs_of_unmeasured(cells), [])
    assert [(f.cause, f.quantity) for f in findings] == [("unexplained", "running_mean")]


def pairs_of_unmeasured(cells):
    return [make_pair(cells[0], cells[1])]


def test_one_float32_step_apart_is_rounding():
    case = make_case(ONES)
    near = {**MOVED, "running_mean": [0, 0.5, 0.75, np.nextafter(np.float32(0.875), np.float32(1))]}
    cells = [make_cell(case, t, make_trace(ONES, **FACTS, **s)) for t, s in (("torch", MOVED), ("flax", near))]
    (finding,) = diagnose(cells, pairs_of_unmeasured(cells), [])
    assert (finding.cause, finding.kind, finding.evidence["max_ulp"]) == ("rounding", "rounding", 1.0)


# ----------------------------------------------------------------------------- silence, on real arithmetic


def played(case, inputs, rules, target):
    _, trace, outcome = play(case, inputs, rules)
    return make_cell(case, target, trace, outcome, environment={"accumulates": rules["dtype"]})


def above_rounding(one, two):
    return [(f.cause, f.title) for f in diagnose([one, two], [make_pair(one, two)], []) if f.kind != "rounding"]


@pytest.mark.parametrize("seed", range(60))
def test_float32_against_float64_is_silent(seed):
    rng = np.random.default_rng(seed)
    n, channels = int(rng.choice([2, 3, 8, 256, 4096])), int(rng.choice([1, 4]))
    text = str(rng.choice(["F F F E", "F B F B E", "F F B E", "F N E F E", "F " * 30 + "E"]))
    case = case_of(text, (n, channels), weight=float(rng.choice([0.01, 0.1, 0.9])), eps=float(rng.choice([1e-5, 0.05])))
    batches = rng.normal(float(rng.choice([0, 1, 50])), float(rng.choice([0.1, 3])), (40, n, channels))
    inputs, rules = arrays_of(case, {"main": batches}), {"update_on": str(rng.choice(["forward", "backward"]))}
    cells = [
        played(case, inputs, {**rules, "dtype": dtype}, name) for name, dtype in (("a", "float32"), ("b", "float64"))
    ]
    assert above_rounding(*cells) == []


@pytest.mark.parametrize(("depth", "n"), [(2, 64), (6, 8), (20, 4), (20, 2)])
def test_rounding_that_a_deep_network_amplifies_is_rounding(depth, n):
    rng = np.random.default_rng(depth + n)
    layers, inputs = [], {"x/main": rng.normal(size=(4, n, 64)).astype(np.float32)}
    for k in range(depth):
        layers += [Layer(f"fc{k}", "dense"), Layer(f"bn{k}", "batch_norm", channels=64), Layer(f"relu{k}", "relu")]
        inputs[f"param/fc{k}/weight"] = rng.normal(0, (2 / 64) ** 0.5, (64, 64))
        inputs[f"param/fc{k}/bias"] = np.zeros(64)
    network, spec = Network(tuple(layers)), {"main": InputSpec((n, 64))}
    case = Case("deep", "base", "base", {}, network, spec, program("F B F B E E"))
    cells = [played(case, inputs, {"dtype": dtype}, name) for name, dtype in (("a", "float64"), ("b", "float32"))]
    assert above_rounding(*cells) == []


# -------------------------------------------------------------------------------------------- bad input


def damage(trace, rng):
    """Lose, empty, shorten, narrow or spoil a few arrays."""
    arrays = dict(trace.arrays)
    for name in rng.choice(sorted(arrays), size=int(rng.integers(0, 4)), replace=False):
        array, how = arrays[name], int(rng.integers(0, 6))
        if how == 0:
            del arrays[name]
        elif how == 1 and array.dtype.kind == "f":
            arrays[name] = np.full_like(array, np.nan)
        elif how == 2 and array.dtype.kind == "f":
            arrays[name] = np.where(rng.random(array.shape) < 0.2, rng.choice([np.inf, -np.inf, 0, 1e300]), array)
        else:
            arrays[name] = [array[:0], array[:-1], array[..., :0]][how % 3]
    return replace(trace, arrays=arrays if rng.random() > 0.1 else {})


@pytest.mark.parametrize("seed", range(100))
def test_damaged_traces_never_raise(seed):
    rng = np.random.default_rng(seed)
    case = case_of(
        str(rng.choice(["F E", "F B E", "F F1 F0 E"])), (int(rng.choice([0, 1, 5])), int(rng.choice([1, 3])))
    )
    shape = case.inputs["main"].shape
    batches = {name: rng.normal(size=(9, n, shape[1])) for name, n in (("main", shape[0]), ("one", 1), ("none", 0))}
    cells = []
    for target in ("torch", "reference", "mxnet@gpu"):
        preset = str(rng.choice(sorted(reference.PRESETS)))
        cell = played(case, arrays_of(case, batches), {**reference.PRESETS[preset], "dtype": "float32"}, target)
        outcome = str(rng.choice([cell.outcome, "crashed", "timeout", "unsupported"]))
        trace = damage(cell.trace, rng) if rng.random() > 0.1 else None
        cells.append(well_formed(replace(cell, outcome=outcome, trace=trace, event=int(rng.integers(-1, 9)))))
    pairs = [make_pair(one, two) for one, two in combinations(cells, 2)]
    found = diagnose(cells, pairs, [TargetView("torch", "torch", {}, repeats=[compare_again(*cells[:2])])])
    assert [f for f in found if f.kind not in KINDS or not f.title] == []


def test_zero_channels_and_no_layers_say_nothing():
    case = make_case(ONES, channels=0)
    empty = Trace(tuple(EventRecord(op) for op in ONES), {})
    cells = [make_cell(case, name, empty) for name in ("torch", "flax")]
    assert diagnose(cells, pairs_of_unmeasured(cells), []) == []


# ----------------------------------------------------------------------------- power, on real arithmetic

PLANTED = [
    ({"arithmetic": "one-pass"}, {"mean": 1000.0}, ["cancellation"]),
    ({"arithmetic": "one-pass"}, {"mean": 1.0}, []),
    ({"affine": "ignored"}, {}, ["affine"]),
    ({"affine": "gamma-fixed"}, {}, ["affine"]),
    ({"eval_normaliser": "batch"}, {}, ["normaliser-source"]),
    ({"train_normaliser": "blend", "blend": 0.3}, {}, ["normaliser-source"]),
    ({"eps": 1e-3}, {}, ["hyperparameter-lost"]),
    ({}, {"mean": 1000.1, "std": 0.0}, ["normalise-arithmetic"]),
    ({}, {"std": 1e25}, ["overflow"]),
]


@pytest.mark.parametrize(("rules", "data", "causes"), PLANTED, ids=str)
def test_a_planted_cause_is_named_without_any_convention(rules, data, causes):
    affine = {"gamma": (2.0, 3.0, 0.5), "beta": (1.0, 2.0, 3.0)} if "affine" in rules else {}
    case = case_of("F B F B E", (256, 3), eps=1e-5, initial=affine)
    batches = np.random.default_rng(0).normal(data.get("mean", 0.0), data.get("std", 1.0), (3, 256, 3))
    inputs = arrays_of(case, {"main": batches})
    exact = played(case, inputs, {"dtype": "float64"}, "reference")
    cells = [exact, played(case, inputs, {"dtype": "float32", **rules}, "x")]
    found = diagnose(cells, [make_pair(*cells)], [])
    assert [f.cause for f in found if f.cause not in ("rounding", "unexplained")] == causes


def test_a_gradient_is_not_accounted_for_by_what_is_remembered() -> None:
    """Outputs agree, running_var differs by its divisor: dgamma 1 against 3 is still said (paddle, eval then train)."""
    ops = ("train_forward", "backward")
    case, cells = make_case(ops, shape=(4, 1)), []
    for target, var, dgamma in (("reference", 1.5, 1.0), ("paddle", 1.25, 3.0)):
        facts = {"running_mean": [0, 0, 0], "running_var": [1, var, var], "input_mean": [0, np.nan]}
        trace = make_trace(ops, **facts, input_var=[1, np.nan], grad_gamma=[np.nan, dgamma])
        cells.append(make_cell(case, target, trace))
    given = attribute("variance_divisor", ("n-1", "n"), quantity="running_var")
    found = diagnose(cells, [make_pair(*cells, [given])], [])
    assert {item.cause for item in found} == {"variance-divisor", "gradient"}


def test_of_two_that_explain_all_the_larger_drift_comes_first() -> None:
    """1.0 and 0.99996 are both shown as 100.0 %; 0.99 is not."""
    large, small, less = (
        Finding(code, "cause", "convention", "", ("a", "b"), "s", "c", explained=share, evidence={"mean_abs": size})
        for code, share, size in (("BN103", 0.99996, 0.9), ("BN102", 1.0, 0.2), ("BN106", 0.99, 5.0))
    )
    assert sorted([less, small, large], key=importance) == [large, small, less]


def test_who_stopped_early_is_in_no_group_with_who_went_on() -> None:
    """That they agree until there says nothing about the rest, and nothing that is said of one holds for the other."""
    ops = ("train_forward", "train_forward")
    trace = make_trace(ops, running_mean=[0, 1, 1], running_var=[1, 1, 1])
    stopped = replace(trace, events=(trace.events[0], replace(trace.events[1], status="unsupported")))
    one, two, three = (
        make_cell(make_case(ops), target, held)
        for target, held in (("torch", trace), ("flax", stopped), ("keras", trace))
    )
    pairs = {frozenset((a.target, b.target)): make_pair(a, b) for a, b in combinations((one, two, three), 2)}
    groups = agreeing_groups(CaseViews([one, two, three], pairs))
    assert [[cell.target for cell in group] for group in groups] == [["torch", "keras"], ["flax"]]


def test_a_cause_seen_alone_and_between_two_is_said_once_with_the_graver_kind() -> None:
    between = Finding(
        "BN111", "normaliser-source", "convention", "They differ.", ("torch", "flax"), "scenario", "base", "bn",
        sides=(("torch",), ("flax",)),
    )  # fmt: skip
    alone = replace(
        between, kind="defect", title="It does.", targets=("flax",), sides=(), departs="flax", departs_from="itself"
    )
    (joined,) = join_singles([between, alone])
    assert (joined.title, joined.kind, joined.departs) == ("They differ.", "defect", "flax")
