"""What a watched program lived through, judged by itself: a literal life for each fault."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from lived_programs import (
    BETA,
    TWO,
    begins_alike,
    by_hand,
    epochs,
    judged,
    left_in_eval,
)
from programs import CHANNELS, TRAIN, VALIDATE, Program

from bncheck.life import Where

# ---------------------------------------------------------------------------------------------------- faults


def left_in_eval_until_the_next_epoch() -> Program:
    program = Program(*TWO)
    for _ in range(3):
        program.mode(True)
        program.train(20)
        program.mode(False, VALIDATE)
        program.evaluate()
        program.train(20)
    return program


def left_in_eval_and_trained_by_hand() -> Program:
    program = Program(*TWO)
    for _ in range(3):
        by_hand(program)
        program.mode(False, VALIDATE)
        program.evaluate()
    return program


def trained_by_hand_in_eval_from_the_start() -> Program:
    program = Program(*TWO)
    program.mode(False)
    by_hand(program)
    return program


def trained_in_eval_from_the_start() -> Program:
    program = Program(*TWO)
    program.mode(False)
    program.train(30)
    return program


def evaluated_in_training_mode() -> Program:
    program = Program(*TWO)
    for _ in range(3):
        program.train(20)
        program.evaluate(10, Where("engine.py", 40, "run"))
    return program


def final_test_in_training_mode_at_the_end() -> Program:
    program = Program(*TWO)
    program.train(30)
    program.evaluate(1, Where("test.py", 12, "test"))
    return program


def predicts_in_training_mode() -> Program:
    program = Program(*TWO, mean=np.ones(CHANNELS), var=np.full(CHANNELS, 2.0))
    program.evaluate(5, Where("serve.py", 9, "predict"))
    return program


def frozen_by_requires_grad() -> Program:
    program = Program(*TWO, mean=np.ones(CHANNELS))
    program["bn1"].trainable = False
    program.train(30)
    return program


def frozen_by_requires_grad_and_called_1() -> Program:
    program = Program("1", "4")
    program["1"].trainable = False
    epochs(program)
    return program


def features_without_gradients() -> Program:
    """A linear probe: nothing was said of a backbone that drifts under no_grad."""
    program = Program("backbone.bn", mean=np.ones(CHANNELS))
    program["backbone.bn"].optimised = False
    for _ in range(20):
        program.forward(Where("probe.py", 21, "fit"), gradients=False)
        program.step()
    return program


def frozen_by_halves_by_a_line() -> Program:
    program = Program(*TWO, mean=np.ones(CHANNELS))
    program["bn1"].trainable = False
    program.forward(gradients=False, moves=False)
    program.mode(False, Where("freeze.py", 5, "freeze"), ["bn1"], module="BatchNorm2d")
    program.mode(True, Where("loop.py", 30, "fit"))
    program.train(30)
    return program


def frozen_by_requires_grad_later() -> Program:
    program = Program(*TWO)
    program.train(20)
    for layer in program.layers.values():
        layer.trainable = False
        program.tell("requires_grad", None, [layer.name], value=False)
    program.train(20)
    return program


def freeze_undone_by_train() -> Program:
    program = Program(*TWO, mean=np.ones(CHANNELS))
    program.forward(gradients=False, moves=False)
    program.mode(False, Where("freeze.py", 5, "freeze"), ["bn1"], module="BatchNorm2d")
    program.mode(True, Where("loop.py", 30, "fit"))
    program.train(20)
    return program


def freeze_undone_by_the_way_back_from_an_evaluation() -> Program:
    program = Program(*TWO, mean=np.ones(CHANNELS))
    program.forward()
    program.mode(False, Where("freeze.py", 5, "freeze"), ["bn1"], module="BatchNorm2d")
    epochs_of_one_freeze(program)
    return program


def epochs_of_one_freeze(program: Program) -> None:
    program.train(20)
    program.mode(False, VALIDATE)
    program.evaluate()
    program.mode(True, Where("loop.py", 30, "fit"))
    program.train(20)


def freeze_before_the_first_forward_undone() -> Program:
    program = Program(*TWO, mean=np.ones(CHANNELS))
    program.tell("eval", Where("freeze.py", 5, "freeze"), module="BatchNorm2d")
    program.mode(True, Where("loop.py", 30, "fit"))
    program.train(20)
    return program


def recomputed() -> Program:
    program = Program(*TWO)
    for _ in range(10):
        batch = program.forward()
        program.forward(layers=["bn2"], again=True, batch=batch)
        program.step()
    return program


def same_batch_twice() -> Program:
    program = Program(*TWO)
    for _ in range(10):
        batch = program.forward()
        program.forward(Where("train.py", 34, "main"), batch=batch)
        program.step()
    return program


def loaded_without_statistics() -> Program:
    program = Program(*TWO, beta=BETA)
    keys = ["bn1.running_mean", "bn1.running_var", "bn2.running_mean", "bn2.num_batches_tracked"]
    program.tell("load", Where("infer.py", 14, "main"), module="Net", missing=keys, unexpected=[], misshaped=[])
    program.mode(False)
    program.evaluate()
    return program


def reset_before_evaluation() -> Program:
    program = Program(*TWO)
    program.train(20)
    for layer in program.layers.values():
        layer.mean, layer.var = np.zeros(CHANNELS), np.ones(CHANNELS)
        program.tell("jump", Where("swa.py", 7, "swap"), [layer.name], quantity="running_mean", by="reset")
    program.mode(False, VALIDATE)
    program.evaluate()
    return program


def averaged_copy_without_buffers() -> Program:
    program = Program("bn1", "EMA.bn1")
    program["EMA.bn1"].training = False
    program.tell("copy", Where("ema.py", 8, "__init__"), module="Net")
    for _ in range(3):
        program.train(20, layers=["bn1"])
        program.evaluate(5, layers=["EMA.bn1"])
    return program


def averaged_copy_evaluated_once() -> Program:
    program = Program("bn1", "EMA.bn1")
    program["EMA.bn1"].training = False
    program.tell("copy", Where("ema.py", 8, "__init__"), module="Net")
    program.train(20, layers=["bn1"])
    program.evaluate(5, layers=["EMA.bn1"])
    return program


def loaded_without_statistics_unseen() -> Program:
    """As the one before, and nobody saw the load."""
    program = Program(*TWO, beta=BETA)
    program.mode(False)
    program.evaluate()
    return program


def poisoned_by_data(*names: str) -> Program:
    program = Program(*(names or TWO))
    program.train(20)
    program.tell("nonfinite", None, [next(iter(program.layers))], **{"in": "input", "born": False})
    program.forward(batch=([np.nan] * CHANNELS, [np.nan] * CHANNELS))
    program.train(10)
    return program


def broken_by_a_step() -> Program:
    program = Program(*TWO)
    program.train(20)
    program["bn2"].gamma = np.full(CHANNELS, np.nan)
    program.forward(layers=["bn1"])
    program.tell("nonfinite", None, ["bn2"], **{"in": "output", "born": True})
    program.forward(layers=["bn2"])
    return program


def loaded_below_zero() -> Program:
    program = Program(*TWO, mean=np.ones(CHANNELS), beta=BETA)
    program["bn2"].var = np.array([1.0, -0.5, 2.0, 1.0])
    program.mode(False)
    program.evaluate()
    return program


def overflowed() -> Program:
    program = Program("bn1")
    program.train(5)
    program.tell("nonfinite", None, ["bn1"], **{"in": "state", "born": True})
    program.forward(batch=([0.0, 0.0, 0.0, 3e19], [1.0, 1.0, 1.0, np.inf]))
    program["bn1"].rows[-1]["input_var"] = np.array([1.0, 1.0, 1.0, 1e38])
    return program


def one_value_per_channel() -> Program:
    program = Program(*TWO)
    program.train(20)
    program.forward(n=1)
    return program


def refused() -> Program:
    program = Program(*TWO)
    program.train(4)
    program.tell("refused", TRAIN, ["bn2"], n=1)
    return program


def two_values_per_channel() -> Program:
    program = Program(*TWO)
    for _ in range(20):
        batch = program.forward(layers=["bn1"])
        program.forward(layers=["bn2"], n=2, batch=batch)
        program.step()
    return program


def at_two_places() -> Program:
    program = Program("bn1")
    program["bn1"].more = {"names": ("bn1", "block.norm")}
    for _ in range(10):
        mean, var = program.forward()
        program.forward(batch=(mean + 20, var), within=True)
        program.step()
    return program


def at_two_places_under_one_name() -> Program:
    program = Program("norm")
    for _ in range(10):
        mean, var = program.forward()
        program.forward(batch=(mean, 16 * var), within=True)
        program.step()
    return program


def statistics_of_another_layer() -> Program:
    return begins_alike("block1.bn1", "block2.bn1", others=("block1.bn2", "block2.bn2"))


def in_a_plain_list() -> Program:
    program = Program("bn1", "BatchNorm2d#1")
    program["BatchNorm2d#1"].more = {"registered": False, "names": ()}
    program.mode(True, layers=["bn1"])
    for _ in range(3):
        program.train(20)
        program.mode(False, VALIDATE, ["bn1"])
        program.evaluate()
        program.mode(True, layers=["bn1"])
    return program


def untracked() -> Program:
    program = Program(*TWO)
    program["bn1"].more = {"tracks": False}
    epochs(program)
    return program


def stalled() -> Program:
    program = Program("bn1", momentum=0.01)
    layer = program["bn1"]
    layer.more = {"dtypes": {"running_mean": "bfloat16"}}
    program.train(1, batch=([30.0] * CHANNELS, [1.0] * CHANNELS))
    layer.mean, layer.var = np.full(CHANNELS, 16.25), np.ones(CHANNELS)
    program.train(5, batch=([30.0] * CHANNELS, [1.0] * CHANNELS), moves=False)
    return program


def kept_in_half_precision() -> Program:
    program = Program(*TWO)
    program["bn1"].more = {"dtypes": {"running_mean": "bfloat16", "gamma": "float32"}}
    program.train(20)
    return program


def deaf_to_eval() -> Program:
    program = Program("bn1", "own")
    program.mode(True)
    program.train(20)
    program.tell("eval", VALIDATE, module="Net")
    program["bn1"].training = False
    program.evaluate()
    layer = program["own"]
    layer.spans[-1]["training"] = False
    for row in layer.rows[20:]:
        row["training"] = False
    return program


def train_inside_forward() -> Program:
    program = Program(*TWO)
    for _ in range(3):
        program.train(20)
        program.mode(False, VALIDATE)
        program.mode(True, Where("model.py", 12, "forward"))
        program.evaluate()
    return program


@pytest.mark.parametrize(
    ("make", "cause", "kind", "layers", "words"),
    [
        (left_in_eval, "mode-leak", "hazard", "bn1 and bn2",
         "The statistics of 2 of 2 layers (bn1 and bn2) stand still while the weights train: evaluate() at "
         "engine.py:88 called eval() in step 20, and nobody called train() again. 50 optimiser steps ran in eval"),
        (left_in_eval_until_the_next_epoch, "mode-leak", "hazard", "bn1 and bn2", "and train() came too late. 60 "),
        (left_in_eval_and_trained_by_hand, "mode-leak", "hazard", "bn1 and bn2",
         "called eval(), and nobody called train() again. 40 forwards of training ran in eval mode."),
        (trained_by_hand_in_eval_from_the_start, "mode-leak", "hazard", "bn1 and bn2", "train without normalising: ma"),
        (trained_in_eval_from_the_start, "mode-leak", "hazard", "bn1 and bn2", "train without normalising: main() at"),
        (evaluated_in_training_mode, "mode-leak", "hazard", "bn1 and bn2",
         "Evaluation moves the running statistics of 2 of 2 layers (bn1 and bn2): run() at engine.py:40 runs them in "
         "training mode without gradients, 30 forwards in all"),
        (final_test_in_training_mode_at_the_end, "mode-leak", "hazard", "bn1 and bn2", "test() at test.py:12 runs"),
        (predicts_in_training_mode, "mode-leak", "hazard", "bn1 and bn2",
         "predict in training mode: nobody called eval() before predict() at serve.py:9"),
        (frozen_by_requires_grad, "mode-leak", "hazard", "bn1", "bn1 is only half frozen: gamma and beta get no"),
        (features_without_gradients, "mode-leak", "hazard", "backbone.bn",
         "backbone.bn is not trained and not in eval either: fit() at probe.py:21 runs it in training mode without "
         "gradients, for 20 optimiser steps. gamma and beta stand still, the running statistics move, and outputs "),
        (frozen_by_halves_by_a_line, "mode-leak", "hazard", "bn1",
         "away from its weights. train() of the whole model (fit() at loop.py:30) undoes the eval() of freeze() at "
         "freeze.py:5."),
        (frozen_by_requires_grad_and_called_1, "mode-leak", "hazard", "1", "Layer 1 is only half frozen: gamma"),
        (frozen_by_requires_grad_later, "mode-leak", "hazard", "bn1 and bn2", "move on in training mode, for 20"),
        (freeze_undone_by_train, "mode-leak", "hazard", "bn1",
         "freeze() at freeze.py:5 put it into eval, and train() of the whole model (fit() at loop.py:30) put it back. "
         "The statistics moved for 20 optimiser steps"),
        (freeze_undone_by_the_way_back_from_an_evaluation, "mode-leak", "hazard", "bn1",
         "The freeze of bn1 does not hold"),
        (freeze_before_the_first_forward_undone, "mode-leak", "hazard", "bn1 and bn2", "(fit() at loop.py:30) put"),
        (recomputed, "update-count", "hazard", "bn2",
         "a second time: 10 forwards inside a backward took the same batch in again (checkpointing, main() at "
         "train.py:30). A momentum of 0.1 acts as 0.19."),
        (same_batch_twice, "update-count", "convention", "bn1 and bn2", "twice within a step, in 10 steps"),
        (loaded_without_statistics, "stale-state", "hazard", "bn1 and bn2",
         "mean 0 and variance 1: what main() at infer.py:14 loaded has no running statistics for them"),
        (reset_before_evaluation, "stale-state", "hazard", "bn1 and bn2",
         "are evaluated in step 20 with the statistics of a new layer, mean 0 and variance 1, although training had "
         "moved them: reset_running_stats() (swap() at swa.py:7) put them back"),
        (averaged_copy_without_buffers, "stale-state", "hazard", "EMA.bn1",
         "The copy that evaluate() at engine.py:88 evaluates follows the weights and not the statistics"),
        (averaged_copy_evaluated_once, "stale-state", "hazard", "EMA.bn1",
         "mean 0 and variance 1, beside trained gamma and beta (copied by __init__() at ema.py:8): the statistics"),
        (loaded_without_statistics_unseen, "stale-state", "hazard", "bn1 and bn2",
         "beside trained gamma and beta: the statistics were not loaded, copied or averaged with them"),
        (poisoned_by_data, "poisoned-state", "hazard", "bn1 and bn2",
         "NaN or Inf reached bn1 in step 20 (main() at train.py:30) and stays in the running statistics of bn1 and"),
        (broken_by_a_step, "poisoned-state", "hazard", "bn2",
         "bn2 makes NaN or Inf of a finite batch in step 20: its output first, and no other layer after it. Its gamma "
         "was not finite by then: the optimiser's last step made it so"),
        (loaded_below_zero, "poisoned-state", "hazard", "bn2", "bn2 are below zero (lowest -0.5) before the first"),
        (overflowed, "overflow", "hazard", "bn1", "overflow on a finite batch in step 5: squares reach 1e+39"),
        (one_value_per_channel, "single-value", "hazard", "bn1 and bn2", "a batch has a single one there"),
        (refused, "single-value", "hazard", "bn2",
         "bn2 refuses a batch with one value per channel in step 4 (main() at train.py:30): training needs more than"),
        (two_values_per_channel, "single-value", "hazard", "bn2", "bn2 never got more than two values per channel"),
        (at_two_places, "shared-state", "hazard", "bn1", "bn1 and block.norm are one layer: within"),
        (at_two_places_under_one_name, "shared-state", "hazard", "norm",
         "norm runs more than once in a call of the model, on data that are unlike. In eval,"),
        (statistics_of_another_layer, "state-mismatch", "hazard", "block1.bn1 and block2.bn1",
         "begin with the same running statistics, to the last bit, though unlike data reach them"),
        (in_a_plain_list, "unregistered", "hazard", "BatchNorm2d#1",
         "The model does not know BatchNorm2d#1: it is kept in a plain list"),
        (untracked, "normaliser-source", "hazard", "bn1", "bn1 keeps no running statistics: in eval (evaluate() at"),
        (kept_in_half_precision, "low-precision-stall", "hazard", "bn1",
         "of bn1 are in bfloat16, the parameters are not"),
        (deaf_to_eval, "normaliser-source", "hazard", "own",
         "own ignores eval(): 10 forwards in eval mode (evaluate() at engine.py:88) moved the running statistics"),
        (train_inside_forward, "mode-leak", "hazard", "bn1 and bn2", "forward() at model.py:12 called train() behind"),
        (stalled, "low-precision-stall", "hazard", "bn1", "stands still at 16.25 while the batches' mean is 30"),
    ],
)  # fmt: skip
def test_a_fault_is_named_once_with_its_layers_and_line(
    make: Callable[[], Program], cause: str, kind: str, layers: str, words: str
) -> None:
    (finding,) = judged(make().life)
    assert (finding.cause, finding.kind, finding.evidence["layers"]) == (cause, kind, layers)
    assert words in finding.title
    assert finding.advice and (finding.targets, finding.case) == (("torch",), "train.py")


def test_layers_that_keep_a_bad_batch_stand_in_the_order_of_the_network() -> None:
    (finding,) = judged(poisoned_by_data("stem", "head").life)
    assert finding.evidence["layers"] == "stem and head"
    assert "stays in the running statistics of stem and head" in finding.title


def test_what_to_do_after_an_evaluation_reads_aloud_also_outside_a_function() -> None:
    """As in a notebook turned into a script: ``model.eval()`` on line 8 of no function."""
    inside, outside = left_in_eval(), Program(*TWO)
    outside.train(20)
    outside.mode(False, Where("old.py", 8, "<module>"))
    outside.train(50)
    said = [judged(program.life)[0].advice for program in (inside, outside)]
    assert said == [
        "call train() on the model at the end of evaluate() at engine.py:88, or before each training step",
        "call train() on the model behind the evaluation at old.py:8, or before each training step",
    ]


@pytest.mark.parametrize(("alike", "found"), [(1, ["shared-state"]), (10, [])])
def test_one_call_in_thirty_on_data_that_are_alike_makes_no_difference(alike: int, found: list[str]) -> None:
    """The more calls are kept the likelier is one: what is said may not depend on that."""
    program = Program("norm")
    for number in range(30):
        mean, var = program.forward()
        program.forward(batch=(mean, var if number < alike else 16 * var), within=True)
        program.step()
    assert [item.cause for item in judged(program.life) if item.cause == "shared-state"] == found
