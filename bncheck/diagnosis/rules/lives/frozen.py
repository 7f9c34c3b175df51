"""A freeze that does not freeze: parameters stand still and statistics move, or train() undid an eval()."""

from __future__ import annotations

from bncheck.diagnosis.rules.layer_names import of_all, verb
from bncheck.diagnosis.rules.lives.modes import estimates
from bncheck.diagnosis.rules.lives.reading import (
    alone,
    concerns,
    moves,
    parameters_move,
    places,
    statistics_move,
    step_behind,
    trained,
)
from bncheck.diagnosis.rules.lives.words import Said, by_line, steps
from bncheck.life import Happening, LayerLife, Life, Span

STEPS = 2
IDLE = 4  # steps of the optimiser across which a part runs in training mode and is not trained
FEW = 4  # forwards of it in one step
# What keeps the statistics of a layer still in a model that trains.
HOLD = {
    "torch": "call eval() on these layers as well, behind each train() of the whole model",
    "mxnet": "make these layers with use_global_stats=True as well",
    "keras": "set trainable = False on these layers, not on their variables: they then run in inference",
}


def frozen_by_halves(life: Life) -> Said | None:
    """requires_grad=False holds gamma and beta; the statistics of the layer move on with each training forward."""
    found = [layer for layer in life.layers if half_frozen(life, layer)]
    if not found:
        return None
    layers = tuple(layer.name for layer in found)
    since = frozen_since(life, found[0])
    runs = [span for span in trained(found[0]) if span.last_index >= since.index]
    line = runs[-1].called_from
    total = step_behind(life, found[0], runs[-1]) - max(runs[0].first_step, since.step)
    undone = undoing(life, found[0])
    why = ""
    if undone is not None:
        why = (
            f" train() of the whole model ({by_line(undone[1].where)}) undoes the eval() of {by_line(undone[0].where)}."
        )
    return Said(
        layers,
        f"{of_all(layers, life)} {verb(layers, 'is', 'are')} only half frozen: gamma and beta get no gradients, and "
        f"the running statistics move on in training mode, for {steps(total)}. The frozen part moves away from its "
        f"weights.{why}",
        HOLD.get(life.framework, HOLD["torch"]),
        where=line,
        step=since.step,
        evidence={"steps since the freeze": total},
    )


def frozen_since(life: Life, layer: LayerLife) -> Happening:
    """The last freeze of gamma and beta; the beginning of the program where they were frozen from the start."""
    told = [each for each in life.happenings if each.what == "requires_grad" and layer.name in each.layers]
    return told[-1] if told else Happening("requires_grad", 0, 0, (layer.name,), None, {"value": False})


def half_frozen(life: Life, layer: LayerLife) -> bool:
    if layer.trainable is not False or not layer.tracks:
        return False
    told = [each for each in life.happenings if each.what == "requires_grad" and layer.name in each.layers]
    if any(each.detail.get("value") for each in told):
        return False  # frozen in turn: a discriminator while the generator trains
    since = frozen_since(life, layer)
    runs = [span for span in trained(layer) if span.last_index >= since.index]
    if not runs or runs[-1].last_step - max(runs[0].first_step, since.step) < STEPS:
        return False
    # Parameters that move are set from elsewhere: an averaged copy, a target network.
    where = places(layer, since.index, training=1, gradients=1)
    return parameters_move(layer, where) is False and statistics_move(layer, where)


def without_gradients(life: Life) -> Said | None:
    """A part that is not trained (a backbone whose features are taken, a teacher), run in training mode under no_grad
    while the rest trains: its statistics move, and nothing else of it does."""
    found = {layer.name: runs for layer in life.layers if (runs := runs_idle(life, layer))}
    if not found:
        return None
    layers = tuple(found)
    runs = found[layers[0]]
    total = step_behind(life, life.layer(layers[0]), runs[-1]) - runs[0].first_step
    return Said(
        layers,
        f"{of_all(layers, life)} {verb(layers, 'is', 'are')} not trained and not in eval either: "
        f"{by_line(runs[0].called_from)} runs {verb(layers, 'it', 'them')} in training mode without gradients, for "
        f"{steps(total)}. gamma and beta stand still, the running statistics move, and outputs depend on the batch.",
        "call eval() on the part that is not trained, behind each train()",
        where=runs[0].called_from,
        step=runs[0].first_step,
        evidence={"steps": total, "forwards": sum(span.forwards for span in runs)},
    )


def runs_idle(life: Life, layer: LayerLife) -> list[Span]:
    """Training-mode forwards without gradients that go on with the optimiser's steps, of a layer that has no others and
    whose gamma and beta nobody changes (an averaged copy's and a target network's are changed)."""
    training = [span for span in layer.spans if span.training is True]
    if life.framework != "torch" or not layer.tracks or layer.registered is False or not training:
        return []
    if any(span.gradients or span.in_backward for span in training) or not any(map(moves, training)):
        return []
    across = training[-1].last_step - training[0].first_step
    # As many forwards as steps, about: an evaluation, or an estimate of the statistics anew, has many in one.
    if across < IDLE or sum(span.forwards for span in training) < across / 2:
        return []
    if max(span.most_per_step for span in training) > FEW or any(estimates(layer, span) for span in training):
        return []
    where = places(layer, training=1, gradients=0)
    return training if parameters_move(layer, where) is False and statistics_move(layer, where) else []


def frozen_too_late(life: Life) -> Said | None:
    """Keras layers whose trainable was set to False behind the function that trains them: it was compiled with them.
    (Where trainable is read, such a layer runs in inference, and its statistics stand still.)"""
    found = [layer for layer in life.layers if life.framework == "keras" and after_the_freeze(life, layer)]
    if not found:
        return None
    layers = tuple(layer.name for layer in found)
    since = frozen_since(life, found[0])
    runs = after_the_freeze(life, found[0])
    line = runs[0].called_from
    total = sum(span.moved or 0 for span in runs)
    return Said(
        layers,
        f"The freeze of {of_all(layers, life)} has no effect: trainable was set to False behind compile(), and "
        f"{by_line(line)} goes on with the step that was compiled before. The statistics moved for {steps(total)} "
        f"after that.",
        "call model.compile() again after you change trainable",
        quantity="training",
        where=line,
        step=since.step,
        evidence={"steps since the freeze": total},
    )


def after_the_freeze(life: Life, layer: LayerLife) -> list[Span]:
    """Training forwards that moved the statistics of a layer that is said to be frozen, all of them behind that."""
    told = [each for each in life.happenings if each.what == "requires_grad" and layer.name in each.layers]
    if layer.trainable is not False or len(told) != 1 or told[0].detail.get("flag"):
        return []  # where the flag is up, its variables were frozen one by one
    runs = [span for span in trained(layer) if span.first_index >= told[0].index]
    return runs if sum(span.moved or 0 for span in runs) >= STEPS else []


def thawed(life: Life) -> Said | None:
    """Layers that were put into eval by themselves, and a train() of the whole network behind it."""
    told = [layer for layer in life.layers if layer.trainable is not False]  # of the others see frozen_by_halves
    found = {layer.name: undone for layer in told if (undone := undoing(life, layer)) is not None}
    if not found:
        return None
    layers = tuple(found)
    froze, undid = found[layers[0]]
    layer = life.layer(layers[0])
    runs = [span for span in trained(layer) if span.last_index >= undid.index]
    total = step_behind(life, layer, runs[-1]) - max(runs[0].first_step, undid.step)
    return Said(
        layers,
        f"The freeze of {of_all(layers, life)} does not hold: {by_line(froze.where)} put {verb(layers, 'it', 'them')} "
        f"into eval, and train() of the whole model ({by_line(undid.where)}) put {verb(layers, 'it', 'them')} back. "
        f"The statistics moved for {steps(total)} after that.",
        "put these layers into eval again behind each train() of the whole model, or override its train()",
        quantity="training",
        where=undid.where,
        step=undid.step,
        evidence={"frozen at": by_line(froze.where), "steps since then": total},
    )


def undoing(life: Life, layer: LayerLife) -> tuple[Happening, Happening] | None:
    """(what froze the layer, the train() that undid it); None where its last freeze held."""
    own = [each for each in life.happenings if each.what == "eval" and alone(each, layer) and concerns(each, layer)]
    if not own:
        return None
    # Before a layer has run nobody knows which one it was: it was all of its kind, if none of them stayed in eval.
    if any(not each.layers for each in own) and not all(
        moved_after(other, own[-1].index) for other in kin(life, layer)
    ):
        return None
    froze = own[-1]
    behind = life.happenings[life.happenings.index(froze) + 1 :]
    thaws = [each for each in behind if each.what == "requires_grad" and each.detail.get("value")]
    if any(concerns(each, layer) for each in thaws):
        return None  # thawed on purpose
    whole = [each for each in behind if each.what in ("train", "eval") and concerns(each, layer)]
    whole = [each for each in whole if not alone(each, layer)]
    first = next((place for place, each in enumerate(whole) if each.what == "train"), None)
    if first is None or not moved_after(layer, whole[first].index):
        return None
    # By accident: at once, or on the way back from an evaluation. A freeze that held until a train() by itself was to.
    at_once = whole[first].step == froze.step
    return (froze, whole[first]) if at_once or first > 0 else None


def kin(life: Life, layer: LayerLife) -> list[LayerLife]:
    return [other for other in life.layers if other.kind == layer.kind]


def moved_after(layer: LayerLife, index: int) -> bool:
    return any(moves(span) and span.last_index >= index for span in trained(layer))
