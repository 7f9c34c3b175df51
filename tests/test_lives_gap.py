"""The gap between training and evaluation in one life: its parts, its cause, and silence on healthy trainings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from made_lives import PLANTED, Data, Layer, Rules, drawn, evaluate, healthy, life_of, lives, planted, thinned, train

from bncheck.diagnosis.alone import judge_life
from bncheck.diagnosis.lived.averaged import Average
from bncheck.diagnosis.lived.evaluation import Evaluation, gaps
from bncheck.diagnosis.lived.gap import Evaluated, Gap, chain, split
from bncheck.diagnosis.lived.judged import Lived, cause_of, far_off, lived, matters
from bncheck.life import Life
from bncheck.trace import Array


def steady(channels: int = 4, level: float = 3.0) -> Data:
    rng = np.random.default_rng(3)
    return Data(rng, channels, np.full(channels, level), np.ones(channels))


def causes(*layers: Layer) -> list[str]:
    return [found.cause for found in judge_life(life_of(*layers))]


def test_five_updates_of_weight_001_leave_95_percent_of_the_start() -> None:
    layer = Layer(4, Rules(weight=0.01))
    data = steady()
    train(layer, data, 5, 32)
    evaluate(layer, data, 2, 32)
    (found,) = judge_life(life_of(layer))
    assert (found.code, found.cause, found.kind, found.layer) == ("BN118", "few-updates", "hazard", "bn")
    assert "After 5 updates of weight 0.01 the running statistics still hold 95.1 % of what they started" in found.title
    assert found.explained == pytest.approx(1.0, abs=0.1)


def test_shares_of_statistics_in_half_precision_are_not_said() -> None:
    layer = Layer(4, Rules(weight=0.01))
    data = steady()
    train(layer, data, 5, 32)
    evaluate(layer, data, 2, 32)
    life = life_of(layer)
    half = replace(life, layers=tuple(replace(each, dtypes={"running_mean": "bfloat16"}) for each in life.layers))
    found = next(found for found in judge_life(half) if found.cause == "few-updates")
    assert "an average still holds 95.1 % of what it started from" in found.title
    assert found.title.endswith("how much each of the two accounts for cannot be told.")
    assert found.explained is None and "float32" in found.advice


def test_a_momentum_of_zero_never_moves_anything() -> None:
    layer = Layer(4, Rules(weight=0.0))
    data = steady()
    train(layer, data, 30, 32)
    evaluate(layer, data, 2, 32)
    (found,) = judge_life(life_of(layer))
    assert (found.code, found.cause) == ("BN117", "never-updated")
    assert (
        "None of 30 training forwards moved the running statistics of bn, because momentum is 0. In eval" in found.title
    )


def test_a_weight_of_one_keeps_the_last_batch_alone() -> None:
    layer = Layer(8, Rules(weight=1.0))
    data = steady(8)
    train(layer, data, 40, 2)
    evaluate(layer, data, 4, 64)
    assert causes(layer) == ["batch-weight"]


def test_statistics_that_lag_behind_the_weights() -> None:
    layer = Layer(4, Rules(weight=0.02))
    data = steady()
    for _ in range(200):
        train(layer, data, 1, 64)
        data.level = data.level + 0.1
    evaluate(layer, data, 2, 64)
    assert causes(layer) == ["stale-state"]


def test_an_evaluation_knows_how_many_samples_it_and_a_training_batch_have() -> None:
    layer = Layer(4)
    data = steady()
    train(layer, data, 60, 32)
    evaluate(layer, data, 2, 8)
    (found,) = lived(life_of(layer))
    assert found.evaluation is not None
    assert (found.evaluation.batch_samples, found.evaluation.samples) == (32, 16), "two forwards of 8"


def test_evaluation_data_on_another_scale() -> None:
    layer = Layer(4)
    data = steady()
    train(layer, data, 60, 32)
    evaluate(layer, data, 4, 32, shift=3.0)
    (found,) = judge_life(life_of(layer))
    assert (found.code, found.cause) == ("BN412", "data-shift")
    assert found.explained == pytest.approx(1.0, abs=0.1)


def test_real_and_generated_batches_in_turn() -> None:
    layer = Layer(4)
    data = steady()
    data.kinds = (np.full(4, 2.0), np.full(4, -2.0))
    train(layer, data, 60, 32)
    data.kinds = ()
    evaluate(layer, data, 4, 32, shift=2.0)
    (found,) = judge_life(life_of(layer))
    assert (found.code, found.cause) == ("BN413", "mixed-batches")


@pytest.mark.parametrize(("apart", "found"), [(4.0, ["mixed-batches"]), (0.0, [])])
def test_a_discriminator_of_which_some_steps_were_kept(apart: float, found: list[str]) -> None:
    """In one step real and generated batches, in the next generated ones; which steps were kept follows no period."""
    dice = np.random.default_rng(0)
    kept = {(turn, step) for turn in range(100) for step in range(2) if dice.random() < 0.3}
    layer = Layer(4, keep=lambda forward: forward >= 300 or (forward // 3, int(forward % 3 == 2)) in kept)
    data = steady()
    for _ in range(100):
        for shift in (apart, 0.0):
            layer.forward(data.batch(32, shift).astype(np.float32), True)
        layer.step += 1
        layer.forward(data.batch(32).astype(np.float32), True)
        layer.step += 1
    evaluate(layer, data, 4, 32, shift=apart)
    assert causes(layer) == found


def test_kinds_in_turn_that_are_all_evaluated_do_not_hide_each_other() -> None:
    layer = Layer(4)
    data = steady()
    data.kinds = (np.full(4, 2.0), np.full(4, -2.0))
    train(layer, data, 60, 32)
    evaluate(layer, data, 4, 32)
    assert causes(layer) == ["mixed-batches"]


def test_a_new_network_that_is_only_evaluated_is_left_alone() -> None:
    layer = Layer(4)
    evaluate(layer, steady(), 2, 32)
    assert causes(layer) == []


def test_a_momentum_of_keras_in_torch() -> None:
    layer = Layer(4, Rules(weight=0.99))
    data = steady()
    train(layer, data, 40, 256)
    evaluate(layer, data, 4, 256)
    (found,) = judge_life(life_of(layer))
    assert (found.cause, found.quantity) == ("batch-weight", "momentum")
    assert "A momentum of 0.99 in Keras is 0.01 here." in found.title


def test_a_check_before_the_training_is_no_evaluation_with_untrained_statistics() -> None:
    layer = Layer(4)
    data = steady()
    evaluate(layer, data, 2, 32)
    train(layer, data, 60, 32)
    assert causes(layer) == []


def test_what_was_loaded_before_the_evaluation_is_not_judged_by_the_training_before_it() -> None:
    layer = Layer(4)
    data = steady()
    train(layer, data, 60, 32)
    layer.tell("load")
    evaluate(layer, data, 4, 32, shift=3.0)
    assert causes(layer) == []


def test_of_equal_batches_of_four_only_the_divisor_is_left() -> None:
    """The average holds s²·n/(n − 1) = 4/3 of each batch's variance of 1, and nothing else is off: y is as large as
    1/sqrt(4/3) = 0.866 of what it would be."""
    zero, one = np.zeros(2), np.ones(2)
    average = Average(
        start_mean=zero,
        start_var=one,
        left=0.0,
        weight=np.full(8, 1 / 8),
        mean=np.zeros((8, 2)),
        var=np.full((8, 2), 4 / 3),
        seen=np.ones(8, dtype=bool),
        place=np.arange(8),
        n=np.full(8, 4.0),
        step=np.arange(8),
        updates=8,
    )
    batch = Evaluated(mean=zero, var=one, n=4.0, gamma=one, beta=zero, eps=0.0)
    found = split(batch, (zero, one * 4 / 3), chain(batch, average, "n-1", None, None))
    assert found is not None
    assert found.size == pytest.approx(1 - np.sqrt(3 / 4))
    assert found.parts["divisor"] == pytest.approx(found.size)
    assert sum(abs(part) for name, part in found.parts.items() if name != "divisor") == pytest.approx(0.0, abs=1e-12)


def test_healthy_lives_are_silent_and_innocent() -> None:
    for life in lives(40, healthy, seed=1):
        silent(life)


@pytest.mark.slow
def test_a_thousand_healthy_lives_are_silent_and_innocent() -> None:
    for life in lives(1000, healthy, seed=11):
        silent(life)


def silent(life: Life) -> None:
    assert judge_life(life) == ()
    assert all(layer.conduct.innocent for layer in lived(life))


# -------------------------------------------------------------------------------------------------- planted at random


def test_planted_causes_are_named() -> None:
    missed = {fault: named_of(fault, 12, seed=7)[1] for fault in PLANTED}
    assert all(count <= 1 for count in missed.values()), missed


@pytest.mark.slow
@pytest.mark.parametrize("fault", PLANTED)
def test_planted_causes_are_named_in_hundreds(fault: str) -> None:
    """What the truth behind the data says is identifiable is named in 95 of 100 lives and more, and never wrongly."""
    clear, missed = named_of(fault, 340, seed=21)
    assert clear >= 100 and missed <= 0.05 * clear, (clear, missed)


def named_of(fault: str, count: int, seed: int) -> tuple[int, int]:
    """(lives in which a fault is identifiable, those of them in which nothing was said). Another name is a failure."""
    clear = missed = 0
    for number in range(count):
        layer, identifiable = planted(np.random.default_rng([seed, number]), fault)
        found = {item.cause for item in judge_life(life_of(layer))}
        assert found <= {fault}, (fault, number, found)
        clear += identifiable
        missed += identifiable and not found
    return clear, missed


# --------------------------------------------------------------------------------------------------------------- parts


def test_parts_add_up_to_the_gap() -> None:
    for number in range(60):
        adds_up(np.random.default_rng([2, number]))


@pytest.mark.slow
def test_parts_add_up_to_the_gap_in_a_thousand_lives() -> None:
    for number in range(1000):
        adds_up(np.random.default_rng([3, number]))


def test_every_evaluation_has_its_gap_and_its_own_chance() -> None:
    layer = Layer(4)
    data = steady()
    train(layer, data, 60, 256)
    evaluate(layer, data, 20, 4)
    life = life_of(layer)
    (found,) = lived(life)
    every = gaps(life, found.record, found.conduct)
    assert [index for index, _ in every] == list(range(60, 80))
    for _, gap in every:
        assert sum(gap.parts.values()) == pytest.approx(gap.size, rel=1e-9)
    # Batches of 4 are off by about sqrt(1.5 / 4) by chance, and by nothing else.
    assert np.mean([gap.share("sampling") for _, gap in every]) > 0.8


def adds_up(rng: np.random.Generator) -> None:
    """All kept, or with holes; the measured gap is that of the outputs themselves."""
    data = drawn(rng, drift=float(rng.uniform(0, 0.2)))
    layer = Layer(data.channels, Rules(weight=float(rng.uniform(0.001, 1.0))))
    if rng.random() < 0.5:
        layer.keep = thinned(int(rng.integers(1, 10)), int(rng.integers(2, 5)))
    train(layer, data, int(rng.integers(1, 40)), int(rng.integers(2, 40)))
    layer.keep = lambda forward: True
    x = data.batch(int(rng.integers(2, 40)), float(rng.normal()))
    y = layer.forward(x, False, gradients=False).astype(np.float64)
    (found,) = lived(life_of(layer))
    assert found.evaluation is not None and found.evaluation.gap is not None
    gap = found.evaluation.gap
    wide, gamma = x.astype(np.float64), layer.gamma.astype(np.float64)
    own = gamma * (wide - wide.mean(axis=0)) / np.sqrt(wide.var(axis=0) + layer.rules.eps)
    size = float(np.sqrt(np.mean((y - layer.beta - own) ** 2) / np.mean(own**2)))
    assert gap.size == pytest.approx(size, rel=1e-3)
    assert sum(gap.parts.values()) == pytest.approx(size, rel=0.01)


# ---------------------------------------------------------------- behind a load, a jump, and training that stood still


def test_what_a_load_has_set_is_a_part_of_its_own() -> None:
    """The average had arrived: all of the gap is what was loaded, a mean of 3 + 2 where the data have 3."""
    layer = Layer(4)
    data = steady()
    train(layer, data, 100, 256, lr=0.0)
    layer.tell("load")
    layer.m = layer.m + np.float32(2)
    evaluate(layer, data, 2, 256)
    gap = gap_of(life_of(layer))
    assert gap.size == pytest.approx(2.0, abs=0.1)
    assert gap.parts["set"] == pytest.approx(gap.size, abs=0.15)


def test_batches_that_trained_while_the_statistics_stood_still_are_a_part_of_their_own() -> None:
    layer = Layer(4)
    data = steady()
    train(layer, data, 100, 256, lr=0.0)
    data.level = data.level + 2.0
    still(layer, data, 20, 256)
    evaluate(layer, data, 2, 256)
    gap = gap_of(life_of(layer))
    assert gap.size == pytest.approx(2.0, abs=0.1)
    assert gap.parts["frozen"] == pytest.approx(gap.size, abs=0.15)


def test_a_reset_before_each_forward_is_the_same_whether_the_last_of_them_was_kept_or_counted() -> None:
    """One update of weight 0.1 is in the average: nine tenths of the start, a mean of 0 where the data have 3."""

    def lived(keep: Callable[[int], bool]) -> Life:
        layer, data = Layer(4, keep=keep), steady()
        for _ in range(30):
            layer.m, layer.v, layer.count = np.zeros(4, np.float32), np.ones(4, np.float32), 0
            layer.tell("jump", quantity="running_mean", by="reset")
            train(layer, data, 1, 256, lr=0.0)
        evaluate(layer, data, 2, 256)
        return life_of(layer)

    whole, counted = lived(lambda forward: True), lived(lambda forward: forward < 5 or forward >= 30)
    assert gap_of(counted).parts["start"] == pytest.approx(gap_of(whole).parts["start"], rel=1e-3)
    assert [list(far_off(life)) for life in (whole, counted)] == [["few-updates"]] * 2


def test_a_load_of_the_same_statistics_is_no_part() -> None:
    layer = Layer(4)
    data = steady()
    train(layer, data, 30, 32)
    layer.tell("load")
    evaluate(layer, data, 2, 32)
    assert "set" not in gap_of(life_of(layer)).parts


def test_parts_add_up_behind_loads_jumps_and_frozen_phases() -> None:
    for number in range(60):
        adds_up_interrupted(np.random.default_rng([4, number]))


@pytest.mark.slow
def test_parts_add_up_behind_loads_jumps_and_frozen_phases_in_a_thousand_lives() -> None:
    for number in range(1000):
        adds_up_interrupted(np.random.default_rng([5, number]))


def still(layer: Layer, data: Data, steps: int, n: int) -> None:
    """Training of everything else, with the layer in eval mode."""
    for _ in range(steps):
        layer.forward(data.batch(n), False, gradients=True)
        data.step()
        layer.step += 1


def gap_of(life: Life) -> Gap:
    (found,) = lived(life)
    assert found.evaluation is not None and found.evaluation.gap is not None
    return found.evaluation.gap


def adds_up_interrupted(rng: np.random.Generator) -> None:
    """Training, and in any order: something sets the statistics, or they stand still while the rest trains."""
    data = drawn(rng, drift=float(rng.uniform(0, 0.2)))
    layer = Layer(data.channels, Rules(weight=float(rng.uniform(0.01, 1.0))))
    for _ in range(int(rng.integers(1, 4))):
        kind = rng.choice(["train", "load", "jump", "convert", "still"])
        if kind == "train" or not layer.rows:
            train(layer, data, int(rng.integers(1, 30)), int(rng.integers(2, 40)))
        elif kind == "still":
            still(layer, data, int(rng.integers(1, 20)), int(rng.integers(2, 40)))
        else:
            layer.tell(str(kind))
            layer.m = (layer.m + data.spread * rng.normal(0, 1, data.channels)).astype(np.float32)
            layer.v = (layer.v * np.exp(rng.normal(0, 0.5, data.channels))).astype(np.float32)
    x = data.batch(int(rng.integers(2, 40)), float(rng.normal()))
    y = layer.forward(x, False, gradients=False).astype(np.float64)
    life = life_of(layer)
    (found,) = lived(life)
    wide, gamma = x.astype(np.float64), layer.gamma.astype(np.float64)
    own = gamma * (wide - wide.mean(axis=0)) / np.sqrt(wide.var(axis=0) + layer.rules.eps)
    size = float(np.sqrt(np.mean((y - layer.beta - own) ** 2) / np.mean(own**2)))
    every = dict(gaps(life, found.record, found.conduct))
    last = every[layer.index - 1]
    assert last.size == pytest.approx(size, rel=1e-3)
    for gap in (last, gap_of(life)):
        assert sum(gap.parts.values()) == pytest.approx(gap.size, rel=0.01)


# ------------------------------------------------------------------------------------------------ when a gap matters


def evaluated(layer: Layer, data: Data, updates: int, shift: float | Array = 0.0) -> tuple[Life, Lived, Evaluation]:
    train(layer, data, updates, 64)
    evaluate(layer, data, 4, 64, shift=shift)
    life = life_of(layer)
    (found,) = lived(life)
    assert found.evaluation is not None and found.evaluation.gap is not None
    return life, found, found.evaluation


def test_less_than_a_deviation_matters_while_most_of_an_average_is_its_start() -> None:
    _, _, ev = evaluated(Layer(4, Rules(weight=0.01)), steady(level=1.0), 30)
    assert ev.gap is not None and ev.average is not None
    assert 0.5 < ev.gap.size < 1.0 and 0.5 < ev.average.left < 1.0
    assert matters(ev)
    assert not matters(replace(ev, average=replace(ev.average, left=0.4)))
    assert not matters(replace(ev, average=replace(ev.average, left=1.0)))  # nothing has moved it


def test_one_channel_that_is_far_off_is_no_gap_that_matters() -> None:
    shift = np.zeros(100)
    shift[7] = 30.0
    _, _, ev = evaluated(Layer(100), steady(100), 60, shift)
    assert ev.gap is not None and ev.gap.size > 2.0
    assert not matters(ev)


def test_a_cause_that_makes_less_than_half_of_a_gap_is_not_named() -> None:
    life, layer, ev = evaluated(Layer(4), steady(), 60, 3.0)
    assert ev.gap is not None
    assert cause_of(life, layer, ev, 0.0) == "data-shift"
    parts = {"shift": 0.45 * ev.gap.size, "noise": 0.3 * ev.gap.size, "lag": 0.25 * ev.gap.size}
    assert cause_of(life, layer, replace(ev, gap=replace(ev.gap, parts=parts)), 0.0) is None


def test_data_that_earlier_layers_have_spoilt_are_not_unlike_by_themselves() -> None:
    """Also where a layer in between has no gap of its own."""
    layers = []
    for name, shift in (("one", 3.0), ("two", 0.0), ("three", 3.0)):
        layer, data = Layer(4, name=name), steady()
        layer.index = 1000 * len(layers)  # it is evaluated after the ones before it
        train(layer, data, 60, 32)
        evaluate(layer, data, 4, 32, shift=shift)
        layers.append(layer)
    assert [layer.name for layer in far_off(life_of(*layers))["data-shift"]] == ["one"]
