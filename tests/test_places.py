"""Where and how a model runs its normalising layers, outside PyTorch's own recorder: places, modes, hidden layers; and
what gives a layer of unusual names away. On literal records."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bncheck.diagnosis.shared import at_several_places
from bncheck.life import Happening, LayerLife, Life, Span
from bncheck.subjects.places import aside, training_in_eval
from bncheck.worker.own_side import places, unusual
from bncheck.worker.torch_side import behaviour, probing, shown


def test_what_runs_before_and_behind_a_layer_looks_past_other_normalising_layers() -> None:
    ran = ["conv1", "norm", "other", "conv2", "norm", "head"]
    assert places.neighbours(ran, {"norm", "other"}) == {
        "norm": [["conv1", "conv2"], ["conv2", "head"]],
        "other": [["conv1", "conv2"]],
    }
    assert places.neighbours(["norm", "head"], {"norm"}) == {"norm": [["", "head"]]}


def told(*calls: list[str], life: Life | None = None) -> list[str]:
    return [item.title for item in at_several_places(life, {"norm": list(calls)}, "model", [])]


def test_a_layer_between_unlike_neighbours_is_at_two_places() -> None:
    assert told(["conv1", "conv2"], ["conv2", "head"]) == [
        "norm runs twice in a call of the model, behind conv1 and behind conv2: its running statistics mix what "
        "reaches these places, and each training step moves them more than once."
    ]
    assert told(["", "conv"], ["conv", ""])[0].startswith("norm runs twice in a call of the model, at the model's")


def trained(moved: int, tracks: bool = True, gradients: bool = True) -> Life:
    """Two forwards of training, of which so many moved the statistics; without gradients, of evaluation."""
    span = Span(0, 1, 0, 0, 2, training=gradients, gradients=gradients, moved=moved)
    return Life("net.py", "torch", "2.13.0", (LayerLife("norm", "BatchNorm2d", 8, {}, (span,), tracks=tracks),))


def test_statistics_that_nothing_moves_and_those_that_a_layer_lacks_are_not_mixed() -> None:
    calls = ["conv1", "conv2"], ["conv2", "head"]
    assert told(*calls, life=trained(moved=2))
    assert not told(*calls, life=trained(moved=0)), "a frozen layer"
    assert not told(*calls, life=trained(moved=0, tracks=False)), "track_running_stats=False"
    assert told(*calls, life=trained(moved=0, gradients=False)), "it was only evaluated: training would mix them"


def test_a_layer_that_goes_by_a_number_is_called_a_layer() -> None:
    (found,) = at_several_places(None, {"1": [["0", "2"], ["2", "4"]]}, "model", [])
    assert found.title.startswith("Layer 1 runs twice in a call of the model, behind 0 and behind 2: its running")


def test_places_of_an_edited_run_are_left_out() -> None:
    for said in (None, [], {"norm": "conv"}, {"norm": [["a"], ["b", "c"]]}, {"norm": [3]}):
        assert at_several_places(None, said, "model", []) == []


@pytest.mark.parametrize(
    "calls",
    [
        [["conv", "conv"], ["conv", "head"]],  # one branch for two inputs
        [["conv", "head"], ["conv", "head"]],  # one network for two inputs
        [["stem", "conv"], ["conv", "conv"], ["conv", "conv"]],  # a block that runs three times, its norm first
        [["", ""], ["", ""]],  # nothing else holds weights
    ],
)
def test_a_part_of_the_model_that_runs_more_than_once_is_meant(calls: list[list[str]]) -> None:
    assert told(*calls) == []


def test_which_parts_of_a_model_around_a_layer_hold_other_weights() -> None:
    """A discriminator that gets real and fake batches runs twice; so does a block of norm and activation that is one
    layer at two places."""
    norms = {"d.first", "d.block.norm"}
    assert places.parts_around("d.block.norm", norms, {"d.first", "d.block.norm", "d.conv", "g"}) == ["d"]
    assert places.parts_around("d.block.norm", norms, {"d.block", "d.first"}) == ["d", "d.block"]
    assert places.parts_around("d.first", norms, {"d.first", "d.block.norm", "g", "dd"}) == []


def lived(modes: list[int], means: list[float], framework: str = "paddle") -> Life:
    """One layer, a forward each in eval, training, eval; ``means`` before each, and after the last."""
    moments: dict[str, Any] = {
        "index": np.arange(3), "training": np.array(modes), "mean_before": np.array([means[:3]]).T,
        "mean_after": np.array([means[1:]]).T,
    }  # fmt: skip
    phases = [Happening("phase", place, 0, (), None, {"name": name}) for place, name in enumerate(("eval", "train"))]
    phases.append(Happening("phase", 2, 1, (), None, {"name": "eval after training"}))
    return Life("model", framework, "3", (LayerLife("bn", "BatchNorm2D", 1, moments),), tuple(phases))


def found(life: Life, always: str = "") -> list[tuple[str, str]]:
    said = {"layers": [{"name": "bn", "always": always}]}
    return [(item.cause, item.title) for item in training_in_eval(said, life, "model")]


def test_a_layer_that_trains_while_the_model_is_evaluated_is_said_with_what_it_does() -> None:
    assert found(lived([1, 1, 1], [0, 1, 2, 3])) == [
        ("mode-leak", "The model runs bn in training mode while it is evaluated: eval normalises with the batch, and "
         "moves the running statistics. A sample's output depends on the samples next to it.")
    ]  # fmt: skip
    assert found(lived([1, 1, 1], [0, 0, 1, 1], "mxnet"))[0][1].startswith(
        "The model runs bn in training mode while it is evaluated: eval normalises with the batch. A sample's"
    )
    assert found(lived([0, 1, 0], [0, 0, 1, 1])) == []


def test_a_setting_that_makes_it_train_is_named() -> None:
    ((cause, title),) = found(lived([1, 1, 1], [0, 1, 2, 3]), "use_global_stats=False")
    assert cause == "normaliser-source"
    assert title.startswith("bn was made with use_global_stats=False: eval normalises with the batch, and moves")


def test_a_hidden_layer_is_named_with_what_does_not_reach_it() -> None:
    (item,) = aside({"aside": [{"name": "norms[0]", "kind": "BatchNorm"}]}, "model", "mxnet")
    assert (item.cause, item.layer) == ("unregistered", "norms[0]")
    assert item.title == (
        "The model does not know norms[0]: it is kept in a plain list, a dict or an object, and initialize(), "
        "collect_params() and save_parameters() do not reach it."
    )
    assert list(aside({}, "model", "mxnet")) == []


MEAN, VAR = np.array([1.0, -2.0, 0.5]), np.array([4.0, 0.25, 1.0])


def kept(**moved: Any) -> dict[str, tuple[str, int]]:
    """What a layer shows that moved each of these a tenth of the way from 0 (``a``) or 1 (``b``)."""
    before = {"a": np.zeros(3), "b": np.ones(3)}
    steps = {name: (before[name], 0.9 * before[name] + 0.1 * np.asarray(goal)) for name, goal in moved.items()}
    return unusual.statistics(behaviour, steps, MEAN, VAR, 100)


@pytest.mark.parametrize(("goal", "power"), [(VAR, 1), (VAR * 100 / 99, 1), (np.sqrt(VAR), 2), (1 / np.sqrt(VAR), -2)])
def test_state_that_moves_like_a_mean_and_a_variance_is_known_by_that(goal: np.ndarray, power: int) -> None:
    assert kept(a=MEAN, b=goal) == {"running_mean": ("a", 1), "running_var": ("b", power)}


def test_one_large_step_does_not_hide_that_the_others_are_no_share_of_their_way() -> None:
    """As of one over the square of what is near 0 in one channel, which is no inverse deviation."""
    old, goal = np.array([1e6, 4.0, 4.0]), np.array([1.0, 1.0, 2.0])
    new = np.array([5e5, 3.9, 4.2])
    assert behaviour.off(old, new, goal) < 1e-5
    assert not behaviour.in_each(old, new, goal, beyond=False)
    assert behaviour.in_each(old, 0.5 * (old + goal), goal, beyond=False)


def test_an_eps_that_nobody_knows_lies_beyond_every_goal_alike() -> None:
    """A tenth of the way from 4 to 2, 1, 0.5 and an eps of 0.01; ``a``: logarithms that grow from 0.1 to 0.19 of what
    they go to pass for one over a root where the goals are small beside what is held."""
    old, goal = np.full(3, 4.0), np.array([2.0, 1.0, 0.5])
    assert behaviour.in_each(old, old + 0.1 * (goal + 0.01 - old), goal, beyond=True)
    assert not behaviour.in_each(old, old + 0.1 * (goal + 0.01 - old), goal, beyond=False)
    a = np.log([0.05, 0.2, 0.4, 0.1])
    old, new, goal = 1 / (0.1 * a) ** 2, 1 / (0.19 * a) ** 2, np.exp(a)
    assert behaviour.off(old, new, goal) < behaviour.CLOSE
    assert not behaviour.in_each(old, new, goal, beyond=True)


@pytest.mark.parametrize(
    ("n", "less", "eps"),
    [
        ([1e-3, 1e-3], [1.5e-3, 2e-3], 1e-3),  # n - 1 gives two
        ([1e-3, 1.001e-3], [1.002e-3, 1.001e-3], 1e-3),  # a large batch: what the divisor makes is no part of it
        ([1e-3, 1e-3], [1.1e-3, 1.1e-3], None),
        ([1e-3, 2e-3], [1e-3, 3e-3], None),
        ([-1e-3, -1e-3], [1e-3, 2e-3], None),
    ],
)
def test_an_eps_that_either_divisor_gives_is_one(n: list[float], less: list[float], eps: float | None) -> None:
    assert probing.one_eps(map(np.array, (n, less))) == (eps if eps is None else pytest.approx(eps, rel=2e-3))


MU = {"mean": "mu", "var": "v", "deviation": ""}
UNSURE: dict[str, Any] = {**MU, "form": "inverse", "unsure": True}


@pytest.mark.parametrize(
    ("used", "known", "is_taken"),
    [
        (None, MU, False), (MU, None, True), (MU, MU, False), ({**MU, "mean": "nu"}, MU, True),
        ({**MU, "var": "w"}, MU, True),
        ({**MU, "form": "logarithm"}, UNSURE, True), ({**MU, "form": "inverse", "unsure": True}, UNSURE, False),
        ({**MU, "form": "logarithm"}, {**MU, "form": "inverse", "eps": 1e-3}, False),
    ],
)  # fmt: skip
def test_what_eval_shows_outdoes_a_guess(used: Any, known: Any, is_taken: bool) -> None:
    assert shown.outdoes(used, known) is is_taken


@pytest.mark.parametrize(
    ("slopes", "none"),
    [
        ([[1.0], [0.5**0.5], [0.5]], False),  # of a variance of 1, 2 and 4
        ([[0.5**-0.5], [1.5**-0.5], [3.5**-0.5]], False),  # of a mean of squares beside a mean of 0.5**0.5
        ([[1.0], [1.0], [1.0]], False),  # of a mean
        ([[1.0], [2**0.5], [2.0]], True),  # of one over a variance
        ([[np.exp(-1.0)], [np.exp(-2.0)], [np.exp(-4.0)]], True),  # of the logarithm of a deviation
    ],
)
def test_what_stretches_the_output_as_no_moment_does_is_not_guessed_to_be_one(slopes: Any, none: bool) -> None:
    assert probing.no_moment(np.array(slopes)) is none


def test_state_that_moves_otherwise_is_none() -> None:
    assert kept(a=MEAN, b=[2.0, 1.0, 0.0]) == {}
    assert kept(a=[2.0, 1.0, 0.0], b=VAR) == {}
