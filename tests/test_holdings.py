"""What a checkpoint or a model holds, judged by itself: literal holdings, one for each kind of damage, and healthy
ones that look like it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from alone_views import BETA, GAMMA, MEAN, VAR, fresh, make_held, make_holding, said, shapes

from bncheck.diagnosis.alone import judge_holding
from bncheck.finding import Finding
from bncheck.life import Holding

NAN, INF = np.nan, np.inf
OTHER = {"running_mean": [1, 2, 3, 4], "running_var": [4, 3, 2, 1]}
TWO = (make_held("a"), make_held("b", **OTHER))
ZEROS, ONES = [0, 0, 0, 0], [1, 1, 1, 1]
DCGAN = {"gamma": [1.01, 0.98, 1.03, 0.99]}


def model(*layers: Any, **more: Any) -> Holding:
    return make_holding(*layers, kind="model", **more)


@pytest.mark.parametrize(
    ("holding", "cause", "kind", "layers", "words"),
    [
        (make_holding(TWO[0], make_held("b", running_var=[1, NAN, 1, 2])), "poisoned-state", "defect", "b",
         "eval gives NaN in channel 1, because running_var of b holds NaN"),
        (make_holding(make_held("a", running_mean=[INF, 0, 0, 0]), TWO[1]), "poisoned-state", "defect", "a",
         "running_mean of a holds Inf"),
        (make_holding(TWO[0], make_held("b", gamma=[NAN] * 4, beta=[NAN] * 4)), "poisoned-state", "defect", "b",
         "in all 4 channels, because weight and bias of b hold NaN"),
        (make_holding(TWO[0], make_held("b", running_var=[1, -0.5, 1, 2])), "poisoned-state", "defect", "b",
         "eval gives NaN in channel 1, because running_var of b is below zero (lowest -0.5)"),
        (make_holding(TWO[0], make_held("b", running_var=[1, -1e-7, 1, 2])), "poisoned-state", "defect", "b",
         "eval is off in channel 1"),
        (make_holding(TWO[0], make_held("b", running_var=ZEROS)), "poisoned-state", "hazard", "b",
         "multiplies what varies by up to 411.1, because running_var of b is 0 in every channel"),
        (make_holding(TWO[0], make_held("b", running_mean=[0, 0.5, 1e30, 1])), "poisoned-state", "hazard", "b",
         "eval keeps nothing of its input in channel 2 of b: running_mean reaches 1e+30 beside a standard"),
        (make_holding(make_held("a", running_mean=VAR, running_var=MEAN),
                      make_held("b", running_mean=VAR, running_var=[1, -1, 2, -2])), "state-mismatch", "defect",
         "a and b", "mean and variance have changed places in 2 of 2 layers (a and b): 3 of 8 variances are below"),
        (make_holding(fresh("a", counter=4000.0), TWO[1]), "stale-state", "hazard", "a",
         "eval does not normalise in a, which holds the statistics of a new layer, mean 0 and variance 1, beside a "
         "counter of 4000: the"),
        (make_holding(fresh("a", gamma=GAMMA, beta=BETA), TWO[1]), "never-updated", "hazard", "a",
         "eval does not normalise in a, which holds the statistics of a new layer, mean 0 and variance 1, beside a "
         "trained weight and bias: they were never updated, or were lost when"),
        (make_holding(make_held("a", keys={"running_mean": "a.running_mean"}),
                      others={"a.weight": (0,), "a.bias": (0,)}), "state-mismatch", "defect", "a",
         "weight and bias of a are empty (0 channels), beside whole running statistics: the parameters are not in"),
        (make_holding(fresh("a", gamma=GAMMA, beta=BETA, counter=None), framework="keras"), "never-updated", "hazard",
         "a", "beside a trained gamma and beta"),
        (make_holding(make_held("a", counter=0.0), TWO[1]), "counter-skew", "convention", "a",
         "the counter of a is 0, though the running statistics have moved; in other layers it goes up to 120"),
        (make_holding(make_held("a", counter=0.0)), "counter-skew", "convention", "a", "Nothing minds but"),
        (make_holding(make_held("a", counter=0.0), TWO[1]), "counter-skew", "convention", "a",
         "would begin anew; an InstanceNorm layer has 0 there for ever, for it never counts."),
        (model(make_held("a", counter=0.0)), "counter-skew", "hazard", "a", "the next training batch replaces them"),
        (model(make_held("a", counter=0.0, weighed=False)), "counter-skew", "convention", "a", "Nothing minds but"),
        (model(make_held("a", counter=0.0, running_mean=ZEROS, running_var=ZEROS)), "poisoned-state", "hazard", "a",
         "because running_var of a is 0 in every channel"),
        (make_holding(make_held("a", beta=[1, 2, 3]), TWO[1]), "state-mismatch", "defect", "a",
         "it has running_mean of 4, running_var of 4, weight of 4 and bias of 3 channels"),
        (make_holding(make_held("a", running_var=None), TWO[1]), "state-mismatch", "hazard", "a",
         "a holds running_mean and no running_var"),
        (make_holding(make_held("a", keys={"running_mean": "a.running_mean"}, beta=None), others={"a.bias": (7,)}),
         "state-mismatch", "defect", "a", "it has running_mean of 4, running_var of 4, weight of 4 and bias of 7"),
        (make_holding(TWO[0], others={"b.running_mean": (8,), "b.running_var": (4,), "b.bias": (4,)}),
         "state-mismatch", "defect", "b",
         "b cannot be one layer: it has running_mean of 8 and running_var of 4 channels"),
        (make_holding(TWO[0], others=shapes("bn.running_mean", "bn.weight")), "state-mismatch", "hazard", "bn",
         "bn holds running_mean and no running_var"),
        (make_holding(make_held("l1.bn1"), others=shapes("l2.bn1.weight", "l2.bn1.bias", "norm.weight")),
         "state-mismatch", "hazard", "l2.bn1", "where 1 layer of the same kind has its own. A model"),
        (make_holding(others=shapes("bn1.weight", "bn1.bias", "l1.bn2.weight", "fc.bias")), "state-mismatch",
         "convention", "bn1 and l1.bn2", "2 layers are named like BatchNorm (bn1 and l1.bn2) and have no running"),
        (make_holding(others=shapes("bn.weight", "bn.num_batches_tracked", "stem.1.num_batches_tracked")),
         "state-mismatch", "hazard", "bn and stem.1", "the running statistics of 2 layers (bn and stem.1) are missing, "
         "though the file counts the batches"),
        (make_holding(make_held("bn1"), make_held("bn2"), make_held("bn3", **OTHER)), "shared-state", "hazard",
         "bn1 and bn2", "bn1 and bn2 hold the same statistics, weight and bias to the last bit"),
        (model(make_held("a", momentum=0.9), make_held("b", momentum=0.9, **OTHER)), "batch-weight", "hazard",
         "a and b", "momentum of 2 of 2 layers (a and b) is 0.9. After each batch 10 %"),
        (model(make_held("a", momentum=0.01, counter=None), framework="keras"), "batch-weight", "hazard", "a",
         "a momentum of 0.01 in PyTorch is 0.99 here"),
        (model(make_held("a", momentum=0.5, counter=None), framework="mxnet"), "batch-weight", "hazard", "a",
         "momentum of a is 0.5. After each batch 50 % of the old average is left."),
        (model(make_held("a", momentum=0.0)), "batch-weight", "hazard", "a", "The running statistics never move"),
        (model(make_held("a", momentum=1.0)), "batch-weight", "hazard", "a", "of the last batch alone"),
        (model(make_held("a", momentum=-0.1)), "batch-weight", "defect", "a", "No average has such a weight"),
        (model(make_held("a", momentum=0.1, eps=0.8)), "eps", "hazard", "a", "the second argument of nn.BatchNorm2d"),
        (model(make_held("a", momentum=0.1, eps=0.0)), "eps", "hazard", "a", "does not vary gives NaN or Inf"),
        (model(make_held("a", momentum=0.1, eps=1e-3, running_var=[1e-8, 2e-8, 1e-9, 1e-8])), "eps", "convention", "a",
         "running_var is at most 2e-05 of eps in every channel, so that nothing is normalised"),
        (model(make_held("a", momentum=0.1, training=True), make_held("b", momentum=0.1, training=False, **OTHER)),
         "mode-leak", "hazard", "a", "a is in training mode, and the others in eval mode"),
        (make_holding(make_held("a", dtypes={"running_mean": "bfloat16"})), "low-precision-stall",
         "hazard", "a", "are in bfloat16, the parameters are not"),
        (make_holding(make_held("a", running_var=[1, INF, 1, 1], dtypes={"running_var": "float16"})), "overflow",
         "defect", "a", "answers the same for every input in 1 channel, because running_var of a is Inf: float16"),
        (model(make_held("a", momentum=0.1), fresh("b", momentum=0.1, running_mean=None, running_var=None)),
         "normaliser-source", "hazard", "b", "b keeps no running statistics: in eval, too"),
    ],
)  # fmt: skip
def test_damage_is_named_once_with_its_layers(holding: Holding, cause: str, kind: str, layers: str, words: str) -> None:
    (finding,) = judge_holding(holding)
    assert (finding.cause, finding.kind, finding.evidence["layers"]) == (cause, kind, layers)
    assert finding.title.startswith("m.pt: ") and words in finding.title
    assert finding.advice and finding.targets == ("m.pt",)
    assert finding.departs == ("m.pt" if kind == "defect" else "")


@pytest.mark.parametrize(
    "holding",
    [
        make_holding(*TWO),
        make_holding(),
        model(make_held("a", counter=0.0, momentum=0.1, kind="InstanceNorm2d"), TWO[1]),  # it never counts
        model(fresh("a", momentum=0.1, eps=1e-5, training=True), fresh("b", momentum=0.1, eps=1e-5, training=True)),
        make_holding(fresh("a", gamma=ZEROS)),  # zero_init_residual
        make_holding(fresh("a", **DCGAN)),  # gamma is drawn around 1
        make_holding(TWO[0], make_held("b", gamma=ONES, beta=ZEROS, **OTHER)),  # frozen from the start
        make_holding(TWO[0], fresh("head")),  # a new head on a trained backbone
        make_holding(TWO[0], make_held("b", running_mean=[0, 1, 2, 3], running_var=[0, 0, 1, 2])),  # two dead channels
        make_holding(TWO[0], make_held("b", running_mean=ZEROS, running_var=ZEROS, gamma=ZEROS)),  # pruned
        make_holding(make_held("a", running_mean=[1, 2, 3, 4])),  # behind a ReLU
        make_holding(make_held("a", running_mean=[1.6e9, 3e5, -2e4, 1], running_var=[1e15, 1e3, 0, 1])),  # raw features
        make_holding(make_held("a", running_mean=[1e5, 3e7, 1, 1], running_var=[0, 1e-6, 1, 1])),  # constant columns
        make_holding(make_held("a", running_mean=[1.7e9, 1e30, 1, 1], running_var=[1e4, 1e30, 1, 1],
                               dtypes={"running_mean": "float64", "running_var": "float64"})),
        make_holding(make_held("student.bn"), make_held("teacher.bn")),  # a copy of everything
        make_holding(make_held("bn1"), make_held("bn2", gamma=[2, 3, 4, 5])),  # two layers that see the same
        make_holding(fresh("bn1"), fresh("bn2")),
        make_holding(make_held("a", gamma=None, beta=None)),
        make_holding(make_held("a", gamma=[1.5]), TWO[1]),  # one gamma for all channels
        make_holding(make_held("a", counter=None), make_held("b", counter=None, **OTHER)),
        make_holding(make_held("bn1"), others=shapes("norm.weight", "ln1.weight", "bn_stem.weight", "conv.weight")),
        make_holding(TWO[0], others={"loss.running_mean": (), "data.running_mean": (3,), "rms.running_var": (5,)}),
        make_holding(others=shapes("norm1.weight", "layer_norm.weight", "1.weight", "gn.weight")),
        model(make_held("a", momentum=None), make_held("b", momentum=None, **OTHER)),  # a cumulative average
        model(make_held("a", momentum=0.99, counter=None), framework="keras"),
        model(make_held("a", momentum=0.01)),  # as timm has it for TensorFlow's networks
        make_holding(make_held("a", momentum=0.9, counter=None), framework="onnx"),
        make_holding(make_held("a", dtypes={"running_mean": "float16", "running_var": "float16", "gamma": "float16"})),
        model(make_held("a", momentum=0.1, training=False), make_held("b", momentum=0.1, training=False, **OTHER)),
    ],
)  # fmt: skip
def test_what_is_healthy_is_left_alone(holding: Holding) -> None:
    assert judge_holding(holding) == ()


def test_folded_statistics_of_a_frozen_layer_are_possible_where_no_layer_counts() -> None:
    frozen = [fresh(name, gamma=GAMMA, beta=BETA, counter=None) for name in "ab"]
    (found,) = judge_holding(make_holding(*frozen))
    assert (found.cause, found.kind) == ("never-updated", "convention")
    assert "FrozenBatchNorm2d" in found.title


def test_one_damaged_variance_behind_relus_is_no_exchange() -> None:
    positive = {"running_mean": [1, 2, 3, 4, 5, 6, 7, 8], "gamma": None, "beta": None}
    found = judge_holding(make_holding(make_held("a", running_var=[-1, 1, 2, 3, 4, 5, 6, 7], **positive)))
    assert said(found) == [("defect", "poisoned-state")]


def test_many_layers_are_one_finding_and_the_first_four_are_named() -> None:
    holding = make_holding(*(fresh(f"l{k}.bn", counter=7.0 + k) for k in range(9)))
    (found,) = judge_holding(holding)
    assert "9 of 9 layers (l0.bn, l1.bn, l2.bn, l3.bn and 5 more)" in found.title
    assert (found.evidence["least counter"], found.evidence["largest counter"]) == (7.0, 15.0)


def test_quantities_have_the_names_of_the_file() -> None:
    held = make_held("norm", running_var=[1, NAN, 1, 1], keys={"running_var": "norm/moving_variance"})
    (found,) = judge_holding(make_holding(held, framework="keras"))
    assert "moving_variance of norm holds NaN" in found.title


def test_two_causes_are_two_findings_gravest_first() -> None:
    found: tuple[Finding, ...] = judge_holding(
        make_holding(make_held("a", running_var=[1, NAN, 1, 1]), fresh("b", counter=5.0))
    )
    assert said(found) == [("defect", "poisoned-state"), ("hazard", "stale-state")]


def drawn(rng: np.random.Generator, name: str) -> Any:
    """A layer as training leaves it: behind a ReLU or not, with dead channels, fresh or frozen ones among them."""
    c = int(rng.integers(1, 65))
    mean, var = rng.normal(0, 2, c), np.exp(rng.normal(0, 2, c))
    mean = np.abs(mean) if rng.random() < 0.4 else mean
    dead = rng.random(c) < (0.2 if c > 8 and rng.random() < 0.3 else 0.0)
    gamma = rng.normal(1, 0.3, c) if rng.random() < 0.9 else np.ones(c)
    parts = {"running_mean": np.where(dead, 0, mean), "running_var": np.where(dead, 0, var), "gamma": gamma,
             "beta": rng.normal(0, 0.3, c) if rng.random() < 0.9 else np.zeros(c), "counter": 500.0}  # fmt: skip
    if dead.all():
        parts["gamma"] = np.zeros(c)
    return make_held(name, **parts) if rng.random() < 0.9 else fresh(name, channels=c)


def test_random_checkpoints_are_left_alone() -> None:
    for seed in range(300):
        rng = np.random.default_rng([7, seed])
        holding = make_holding(*(drawn(rng, f"layer{k}.bn") for k in range(int(rng.integers(1, 12)))))
        assert judge_holding(holding) == (), seed


def test_mean_and_variance_that_changed_places_are_told_apart_from_single_damage() -> None:
    """Of random checkpoints of signed means, exchanged: always; one negative variance in each layer: never."""
    for seed in range(300):
        rng = np.random.default_rng([8, seed])
        layers = [drawn(rng, f"bn{k}") for k in range(8)]
        signed = [held for held in layers if held.running_mean.min() < 0 and (held.running_var > 0).all()]
        if sum(held.running_mean.size for held in signed) < 30:
            continue
        exchanged = [replace(held, running_mean=held.running_var, running_var=held.running_mean) for held in signed]
        assert {found.cause for found in judge_holding(make_holding(*exchanged))} == {"state-mismatch"}, seed
        damaged = [replace(held, running_var=np.r_[-held.running_var[:1], held.running_var[1:]]) for held in signed]
        assert {found.cause for found in judge_holding(make_holding(*damaged))} == {"poisoned-state"}, seed


def test_a_momentum_that_lets_nothing_move_is_the_cause_of_statistics_that_did_not() -> None:
    new = fresh("a", gamma=GAMMA, beta=BETA, counter=None, momentum=1.0)
    assert said(judge_holding(model(new, make_held("b", momentum=0.9), framework="paddle"))) == [
        ("hazard", "batch-weight")
    ]


def test_a_layer_in_half_precision_beside_others_in_float32_is_named() -> None:
    def held(layer: str, dtype: str, **more: Any) -> Any:
        return make_held(layer, dtypes={"running_mean": dtype, "running_var": dtype, "gamma": dtype}, **more)

    (item,) = judge_holding(model(held("a", "bfloat16"), held("b", "float32", **OTHER), framework="keras"))
    assert item.cause == "low-precision-stall"
    assert "running statistics of a are in bfloat16, those of other layers are not" in item.title
    assert judge_holding(model(held("a", "bfloat16"), held("b", "bfloat16", **OTHER), framework="keras")) == ()


def test_a_layer_that_normalises_each_sample_by_itself_does_not_depend_on_the_others() -> None:
    """The first half of an IBN block."""
    none = {"running_mean": None, "running_var": None, "counter": None}
    instance, batch = (make_held("b", kind=kind, **none) for kind in ("InstanceNorm2d", "BatchNorm2d"))
    assert [finding.cause for finding in judge_holding(model(TWO[0], batch))] == ["normaliser-source"]
    assert not judge_holding(model(TWO[0], instance))
