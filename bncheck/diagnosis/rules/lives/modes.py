"""Layers that train in eval mode, and evaluations that run in training mode."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from bncheck.diagnosis.rules.layer_names import of_all, verb
from bncheck.diagnosis.rules.lives.reading import (
    alone,
    at_start,
    concerns,
    last,
    lessons,
    moves,
    overlap,
    parameters_move,
    places,
    spans,
    step_behind,
    trained,
    trains,
)
from bncheck.diagnosis.rules.lives.words import Said, behind, by_line, count, steps
from bncheck.life import Happening, LayerLife, Life, Span

BY_ARGUMENT = ("keras",)  # frameworks whose modules hold no mode: each call says it
STEPS = 3  # of an optimiser, in eval mode: fewer may be a probe
EVALUATES = re.compile(r"(?i)eval|valid|test|predict|infer|accuracy|score")
ESTIMATES = re.compile(r"(?i)update_?bn|bn_?update|precise|calibrat|estimate|adapt|warm|refresh|reset")


# --------------------------------------------------------------------------------------- training in eval mode


@dataclass(frozen=True)
class Stuck:
    """A layer that trained in eval mode after it had trained in training mode."""

    layer: LayerLife
    since: int  # step
    steps: int
    forwards: int  # that trained, in eval mode
    set_by: Happening | None
    learns: bool  # gamma or beta move meanwhile
    healed: bool  # it trained in training mode again


def stuck_in_eval(life: Life) -> Said | None:
    """An eval() that no train() followed, while the optimiser went on with gamma and beta."""
    found = [stuck for layer in life.layers if (stuck := left_in_eval(life, layer)) is not None]
    if not any(stuck.learns for stuck in found):
        return None  # nothing says that these layers were to be trained on
    first = max(found, key=lambda stuck: (stuck.steps, stuck.forwards))
    layers = tuple(stuck.layer.name for stuck in found)
    who = first.set_by.where if first.set_by is not None else None
    begun = f" in step {first.since:,}" if life.steps else ""
    ran = steps(first.steps) if life.steps else count(first.forwards, "forward") + " of training"
    nobody = "train() came too late" if first.healed else "nobody called train() again"
    return Said(
        layers,
        f"The statistics of {of_all(layers, life)} stand still while the weights train: {by_line(who)} called eval()"
        f"{begun}, and {nobody}. {ran} ran in eval mode.",
        f"call train() on the model {behind(who)}, or before each training step",
        quantity="training",
        where=who,
        step=first.since,
        evidence={"steps in eval mode": first.steps, "forwards in eval mode": first.forwards},
    )


def left_in_eval(life: Life, layer: LayerLife) -> Stuck | None:
    before = trained(layer)
    if not before or layer.trainable is False or layer.registered is False:
        return None
    if not life.steps:
        return left_without_optimiser(life, layer)
    in_training = spans(layer, lambda span: span.training is True)
    end = max(in_training, key=lambda span: span.last_index)
    between, total, forwards, first = 0, 0, 0, None
    for span in spans(layer, lambda span: span.training is False and span.gradients and not span.in_backward):
        if span.last_index > end.last_index:
            begin = max(span.first_step, end.last_step)
        elif any(overlap(span, other) for other in in_training):
            continue  # both modes in turn: attacks, consistency losses
        else:
            begin = span.first_step
        if span.last_step - begin < 1 or min(other.first_index for other in before) > span.last_index:
            continue
        between, forwards = between + span.last_step - begin, forwards + span.forwards
        total += step_behind(life, layer, span) - begin
        first = span if first is None or span.first_index < first.first_index else first
    if first is None or between < STEPS:
        return None
    set_by = last(life, layer, max(first.first_index, first_after(first, end)), "train", "eval")
    if set_by is None or set_by.what != "eval" or alone(set_by, layer):
        return None  # frozen on purpose: the layer by itself, or by a train() of the model's own
    where = places(layer, set_by.index, training=0, gradients=1)
    return Stuck(
        layer=layer,
        since=set_by.step,
        steps=total,
        forwards=forwards,
        set_by=set_by,
        learns=parameters_move(layer, where) is True,
        healed=end.first_index > first.last_index,
    )


def left_without_optimiser(life: Life, layer: LayerLife) -> Stuck | None:
    """The same where the weights are moved by hand: they go on moving after the last forward in training mode."""
    end = max(span.last_index for span in layer.spans if span.training is True)
    where = places(layer, end + 1, training=0, gradients=1, in_backward=0)
    if lessons(layer, where) < STEPS:
        return None  # weights that were loaded, and gradients of an input
    set_by = last(life, layer, int(layer.moments["index"][where[0]]), "train", "eval")
    if set_by is None or set_by.what != "eval" or alone(set_by, layer):
        return None
    behind = spans(layer, lambda span: span.training is False and span.gradients and span.last_index > end)
    return Stuck(
        layer=layer,
        since=0,
        steps=0,
        forwards=sum(span.forwards for span in behind if span.first_index > end) or len(where),
        set_by=set_by,
        learns=True,
        healed=False,
    )


def first_after(span: Span, end: Span) -> int:
    """Where a span's forwards behind the last one of training begin."""
    return end.last_index + 1 if span.last_index > end.last_index else span.first_index


def trains_in_eval(life: Life) -> Said | None:
    """Never in training mode, with the statistics of a new layer, and gamma or beta learn."""
    found = []
    for layer in life.layers:
        if spans(layer, lambda span: span.training is True) or not layer.tracks:
            continue
        learning = spans(layer, lambda span: span.training is False and span.gradients)
        where = places(layer, training=0, gradients=1)
        taught = sum(span.last_step - span.first_step for span in learning) if life.steps else lessons(layer, where)
        if taught < STEPS or not len(where):
            continue
        if at_start(layer, int(where[0])) and at_start(layer, int(where[-1])) and parameters_move(layer, where):
            found.append(layer)
    if not found:
        return None
    layers = tuple(layer.name for layer in found)
    line = found[0].spans[0].called_from
    set_by = last(life, found[0], found[0].spans[0].first_index, "eval")
    still = verb(layers, "it is in eval mode", "they are in eval mode")
    why = f"{by_line(set_by.where)} called eval()" if set_by is not None else still
    why, advice = f"{why}, nobody called train()", "call train() on the model before you train it"
    if life.framework in BY_ARGUMENT:
        why = f"{by_line(line)} runs {verb(layers, 'it', 'them')} without training=True"
        advice = "train with model(x, training=True), and hand training on to layers that you call yourself"
    elif found[0].traced:
        set_by, why = None, f"{by_line(line)} runs a trace that was made in eval mode (train() does not change it)"
        advice = "train the model itself, or call train() on it before torch.jit.trace"
    elif life.framework == "mxnet":
        why = f"{by_line(line)} runs {verb(layers, 'it', 'them')} in predict mode"
        advice = "train inside mx.autograd.record(), whose train_mode is True unless you say otherwise"
    return Said(
        layers,
        f"{of_all(layers, life)} {verb(layers, 'trains', 'train')} without normalising: {why}, and the running "
        f"statistics are still mean 0 and variance 1.",
        advice,
        quantity="training",
        where=set_by.where if set_by is not None else line,
        evidence={"forwards in eval mode": sum(layer.forwards for layer in found)},
    )


# ------------------------------------------------------------------------------------ evaluation in training mode


def evaluates_in_training(life: Life) -> Said | None:
    """Runs of forwards without gradients, in training mode, that move the statistics of layers that are trained."""
    found: dict[str, list[Span]] = {}
    for layer in life.layers:
        runs = [span for span in layer.spans if evaluation(layer, span)]
        if runs and layer.registered is not False and trained(layer) and (habit(layer, runs) or says_so(runs)):
            found[layer.name] = runs
    if not found:
        return None
    layers = tuple(found)
    runs = found[layers[0]]
    line = runs[0].called_from
    total = sum(span.moved or 0 for span in runs)
    undone = undone_eval(life, life.layer(layers[0]), runs[0])
    why = f" {by_line(undone.where)} called train() behind eval()." if undone is not None else ""
    advice = f"call eval() on the model before {by_line(line, 'the evaluation')}, and train() behind it"
    if life.framework in BY_ARGUMENT:
        advice = "evaluate with model(x, training=False)"
    if life.layer(layers[0]).traced:
        why = " The model was traced in training mode, and eval() does not change that."
        advice = "train and evaluate the model itself, and trace it after eval()"
    return Said(
        layers,
        f"Evaluation moves the running statistics of {of_all(layers, life)}: {by_line(line)} runs "
        f"{verb(layers, 'it', 'them')} in training mode without gradients, {count(total, 'forward')} in all. It is "
        f"normalised with its own batches, and the statistics take them in.{why}",
        advice,
        where=line,
        step=runs[0].first_step,
        evidence={"forwards that moved the statistics": total},
    )


def undone_eval(life: Life, layer: LayerLife, span: Span) -> Happening | None:
    """The train() that undid an eval() before a span, in the same step."""
    before = [each for each in life.happenings if each.index <= span.first_index and concerns(each, layer)]
    told = [each for each in before if each.what in ("train", "eval") and each.step == span.first_step]
    return told[-1] if len(told) > 1 and told[-1].what == "train" and told[-2].what == "eval" else None


def evaluation(layer: LayerLife, span: Span) -> bool:
    """Whether forwards look like an evaluation: some in a row in some of the steps, not in each of them (a generator's
    samples, a consistency loss), behind the first step, and no estimate of the statistics anew."""
    if span.training is not True or span.gradients or span.in_backward or not moves(span) or span.last_step < 1:
        return False
    if any(other.in_backward and overlap(span, other) for other in layer.spans):
        return False  # a checkpointed part runs without gradients first
    across = span.last_step - span.first_step
    rare = span.forwards < 0.7 * (across + 1) or across == 0
    named = span.called_from is not None and bool(EVALUATES.search(span.called_from.function))
    if not rare or not (span.most_per_step >= 2 or named):
        return False
    return not estimates(layer, span)


def estimates(layer: LayerLife, span: Span) -> bool:
    """Whether statistics are estimated anew: from the start on, as a cumulative average, or in a function of such a
    name."""
    if span.called_from is not None and ESTIMATES.search(span.called_from.function):
        return True
    where = places(layer, span.first_index, span.last_index, training=1, gradients=0)
    momentum = layer.get("momentum")
    if not len(where) or momentum is None:
        return False
    if at_start(layer, int(where[0])):
        return True
    return bool((np.isnan(momentum[where]) | (momentum[where] == 1)).any())


def habit(layer: LayerLife, runs: list[Span]) -> bool:
    """Whether it comes again after more training, or nothing is evaluated in eval mode behind it."""
    end = max(span.last_index for span in runs)
    begin = min(span.first_index for span in runs)
    again = any(trains(span) and moves(span) and span.last_index > begin for span in layer.spans)
    if again and (len(runs) > 1 or runs[0].last_step > runs[0].first_step):
        return True
    return not any(span.training is False and span.last_index > end for span in layer.spans) and not again


def says_so(runs: list[Span]) -> bool:
    return any(span.called_from is not None and EVALUATES.search(span.called_from.function) for span in runs)


def predicts_in_training(life: Life) -> Said | None:
    """A program that trains nothing and runs trained layers in training mode."""
    if life.steps or any(each.what == "save" for each in life.happenings):
        return None
    found = [layer for layer in life.layers if predicts(layer)]
    if not found:
        return None
    layers = tuple(layer.name for layer in found)
    line = found[0].spans[0].called_from
    total = sum(span.moved or 0 for span in found[0].spans)
    return Said(
        layers,
        f"{of_all(layers, life)} {verb(layers, 'predicts', 'predict')} in training mode: nobody called eval() before "
        f"{by_line(line, 'the first forward')}. Each prediction depends on its batch, and {count(total, 'forward')} "
        f"moved the loaded statistics.",
        "call eval() on the model after loading it",
        quantity="training",
        where=line,
        evidence={"forwards that moved the statistics": total},
    )


def predicts(layer: LayerLife) -> bool:
    if layer.forwards < 2 or any(span.training is not True or span.in_backward for span in layer.spans):
        return False
    if not all(moves(span) for span in layer.spans) or any(estimates(layer, span) for span in layer.spans):
        return False
    where = places(layer)
    if not len(where) or at_start(layer, int(where[0])):
        return False
    # With gradients it may be a loop of training that steps by itself.
    return not any(span.gradients for span in layer.spans) or parameters_move(layer, where) is False
