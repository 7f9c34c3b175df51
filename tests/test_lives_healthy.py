"""What a watched program lived through, judged by itself: healthy ones, of which nothing is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from lived_programs import (
    BETA,
    HELD,
    SHIFTED,
    TWO,
    begins_alike,
    by_hand,
    epochs,
    inference,
    judged,
    plain,
)
from programs import CHANNELS, VALIDATE, Program

from bncheck.life import Where


def evaluated_without_no_grad() -> Program:
    program = Program(*TWO)
    for _ in range(3):
        program.mode(True)
        program.train(20)
        program.mode(False, VALIDATE)
        for _ in range(10):
            program.forward(VALIDATE)
    return program


def trained_by_hand_and_looked_into() -> Program:
    """Gradients of inputs in eval mode, between epochs and after better weights were loaded."""
    program = Program(*TWO)
    for _ in range(3):
        program.mode(True)
        by_hand(program)
        program.mode(False, VALIDATE)
        program.evaluate()
        for _ in range(20):
            program.forward(Where("saliency.py", 7, "saliency"))
    program["bn1"].gamma = program["bn1"].gamma + 0.5
    for _ in range(20):
        program.forward(Where("saliency.py", 7, "saliency"))
    return program


def frozen_from_the_start() -> Program:
    """Detection: the layers are in eval, and gamma and beta learn."""
    program = Program(*TWO, mean=np.ones(CHANNELS), beta=BETA)
    program.tell("eval", Where("model.py", 3, "train"), module="BatchNorm2d")
    for layer in program.layers.values():
        layer.training = False
    epochs_without_modes(program)
    return program


def epochs_without_modes(program: Program) -> None:
    for _ in range(3):
        program.train(20)
        program.evaluate()


def frozen_for_good() -> Program:
    program = Program(*TWO, mean=np.ones(CHANNELS))
    program["bn1"].trainable = program["bn1"].training = False
    program.train(30)
    return program


def frozen_anew_in_each_epoch() -> Program:
    program = Program(*TWO, mean=np.ones(CHANNELS))
    program.forward(gradients=False, moves=False)
    for _ in range(3):
        program.mode(True)
        program.mode(False, Where("freeze.py", 5, "freeze"), ["bn1"], module="BatchNorm2d")
        program.train(20)
    return program


def frozen_later_layer_by_layer() -> Program:
    """The statistics are frozen on purpose for the last epochs."""
    program = Program(*TWO)
    program.train(20)
    for name in TWO:
        program.mode(False, Where("freeze.py", 5, "freeze"), [name], module="BatchNorm2d")
    program.train(20)
    return program


def thawed_on_purpose() -> Program:
    """A head is trained first, then everything: gamma and beta are thawed with the statistics."""
    program = Program(*TWO, mean=np.ones(CHANNELS))
    program.forward()
    program["bn1"].trainable = False
    program.tell("requires_grad", None, ["bn1"], value=False)
    program.mode(False, Where("freeze.py", 5, "freeze"), ["bn1"], module="BatchNorm2d")
    program.train(20)
    program["bn1"].trainable = True
    program.mode(True)
    program.tell("requires_grad", None, ["bn1"], value=True)
    program.train(20)
    return program


def thawed_by_a_train_of_its_own() -> Program:
    """Statistics stand for a warm-up; nobody evaluated in between."""
    program = Program(*TWO, mean=np.ones(CHANNELS))
    program.forward()
    program.mode(False, Where("freeze.py", 5, "freeze"), ["bn1"], module="BatchNorm2d")
    program.train(20)
    program.mode(True)
    program.train(20)
    return program


def features_of_a_trained_network() -> Program:
    """A second stage trains something else on top: nothing of the first one learns."""
    program = Program(*TWO)
    program.train(20)
    for layer in program.layers.values():
        layer.optimised = False
    program.mode(False)
    program.train(30)
    return program


def attacked() -> Program:
    """Each step makes an adversarial batch in eval mode, with gradients, and trains on it."""
    program = Program(*TWO)
    for _ in range(30):
        program.mode(False)
        for _ in range(3):
            program.forward(Where("attack.py", 9, "pgd"))
        program.mode(True)
        program.forward()
        program.step()
    return program


def generative() -> Program:
    """The discriminator sees a real and a fake batch per step; fake ones come without gradients first."""
    program = Program("D.bn", "G.bn")
    for _ in range(30):
        program.forward(layers=["G.bn"], gradients=False)
        program.forward(Where("gan.py", 20, "train"), layers=["D.bn"])
        program.forward(Where("gan.py", 21, "train"), layers=["D.bn"], batch=([9.0] * CHANNELS, [1.0] * CHANNELS))
        program.step()
        program.forward(Where("gan.py", 30, "train"), layers=["G.bn"])
        program.forward(Where("gan.py", 31, "train"), layers=["D.bn"])
        program.step()
    return program


def accumulated() -> Program:
    program = Program(*TWO)
    for _ in range(10):
        for _ in range(4):
            program.forward()
        program.step()
    return program


def checkpointed_in_turn() -> Program:
    """A reentrant checkpoint runs without gradients first, and a patched layer does not move the second time."""
    program = Program(*TWO)
    for _ in range(20):
        batch = program.forward(gradients=False)
        program.forward(again=True, batch=batch, moves=False)
        program.step()
    return program


def statistics_estimated_anew() -> Program:
    """Stochastic weight averaging: update_bn on the averaged model, then an evaluation."""
    program = Program("bn1", "AveragedModel.bn1")
    program.train(30, layers=["bn1"])
    program["AveragedModel.bn1"].momentum = np.nan
    program.evaluate(20, Where("swa.py", 40, "main"), layers=["AveragedModel.bn1"])
    program.mode(False)
    program.evaluate(layers=["AveragedModel.bn1"])
    return program


def precise() -> Program:
    """The same in the model itself: from the start on, in a row, without gradients."""
    program = Program(*TWO)
    program.train(30)
    for layer in program.layers.values():
        layer.mean, layer.var = np.zeros(CHANNELS), np.ones(CHANNELS)
    program.evaluate(20, Where("bn.py", 4, "main"))
    program.mode(False)
    program.evaluate()
    return program


def teacher() -> Program:
    """A mean teacher in training mode: its weights follow, its statistics are its own."""
    program = Program("bn1", "teacher.bn1")
    for _ in range(30):
        program.forward(layers=["teacher.bn1"], gradients=False)
        program.forward(layers=["bn1"])
        program.step()
    return program


def averaged_copy_with_buffers() -> Program:
    program = Program("bn1", "EMA.bn1")
    program["EMA.bn1"].training = False
    for _ in range(3):
        program.train(20, layers=["bn1"])
        program["EMA.bn1"].mean, program["EMA.bn1"].var = program["bn1"].mean, program["bn1"].var
        program.tell("jump", None, ["EMA.bn1"], quantity="running_mean", by="load")
        program.evaluate(5, layers=["EMA.bn1"])
    return program


def loaded_without_statistics_and_trained() -> Program:
    program = Program(*TWO)
    program.tell("load", module="Net", missing=["bn1.running_mean", "bn2.running_mean"])
    epochs(program)
    return program


def tried_before_training() -> Program:
    """One forward in each mode before anything is trained: a summary, a sanity check."""
    program = Program(*TWO)
    program.evaluate(1, Where("summary.py", 3, "summary"))
    program.mode(False, VALIDATE)
    program.evaluate(2)
    epochs(program)
    return program


def bad_batch_in_eval() -> Program:
    program = Program(*TWO)
    epochs(program, 1)
    program.tell("nonfinite", None, ["bn1"], **{"in": "input", "born": False})
    program.forward(VALIDATE, gradients=False, batch=([np.nan] * CHANNELS, [np.nan] * CHANNELS))
    return program


def discriminator_frozen_in_turn() -> Program:
    program = Program("D.bn", "G.bn")
    for _ in range(20):
        program.tell("requires_grad", layers=["D.bn"], value=False)
        program.forward()
        program.step()
        program.tell("requires_grad", layers=["D.bn"], value=True)
        program.forward()
        program.step()
    program["D.bn"].trainable = False
    return program


def siamese() -> Program:
    """One layer under one name, two like batches in a step."""
    program = Program("bn1")
    program["bn1"].more = {"names": ("left.bn", "right.bn")}
    for _ in range(20):
        program.forward()
        program.forward()
        program.step()
    return program


def one_layer_for_each_domain() -> Program:
    return begins_alike("block.bn_source", "block.bn_target")


def a_list_of_layers_for_domains() -> Program:
    return begins_alike("bns.0", "bns.1")


def a_split_layer() -> Program:
    return begins_alike("bn", "bn.aux.0")


def a_copied_branch() -> Program:
    """Teacher and student of one checkpoint: every layer of one is a layer of the other."""
    program = begins_alike("student.a", "teacher.a")
    for name in ("student.b", "teacher.b"):
        program.layers[name] = Program(name, mean=-HELD["mean"], var=HELD["var"])[name]
        program.layers[name].training = False
        program.forward(layers=[name], batch=(program.batch * SHIFTED[0], SHIFTED[1]), within=True)
    return program


def the_same_data_twice() -> Program:
    """Two branches that read one tensor hold equal statistics by right."""
    program = Program("main.bn", "short.norm", "stem.bn", **HELD)
    program.mode(False)
    program.forward()
    return program


def run_in_calls_of_their_own() -> Program:
    program = Program("first.bn", "second.norm", **HELD)
    program.mode(False)
    program.forward(layers=["first.bn"])
    program.forward(layers=["second.norm"], batch=SHIFTED)
    return program


HEALTHY = [
    plain, evaluated_without_no_grad, trained_by_hand_and_looked_into, frozen_from_the_start,
    frozen_for_good, frozen_anew_in_each_epoch,
    frozen_later_layer_by_layer, thawed_on_purpose, thawed_by_a_train_of_its_own,
    features_of_a_trained_network, attacked, generative, accumulated,
    checkpointed_in_turn, statistics_estimated_anew, precise, teacher, averaged_copy_with_buffers,
    loaded_without_statistics_and_trained, inference, tried_before_training, bad_batch_in_eval,
    discriminator_frozen_in_turn, siamese, one_layer_for_each_domain, a_list_of_layers_for_domains, a_split_layer,
    a_copied_branch, the_same_data_twice, run_in_calls_of_their_own,
]  # fmt: skip


@pytest.mark.parametrize("make", HEALTHY)
def test_a_healthy_life_is_left_alone(make: Callable[[], Program]) -> None:
    assert [(found.cause, found.title) for found in judged(make().life)] == []


@pytest.mark.parametrize("make", HEALTHY)
def test_forwards_that_were_not_kept_are_no_reason_to_speak(make: Callable[[], Program]) -> None:
    """The same with the moments of every third forward alone, and with none."""
    life = make().life
    for every in (3, 10**6):
        layers = [
            replace(layer, moments={name: rows[1::every] for name, rows in layer.moments.items()})
            for layer in life.layers
        ]
        assert [(found.cause, found.title) for found in judged(replace(life, layers=tuple(layers)))] == []
