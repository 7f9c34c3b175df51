"""Layers at two places, and layers that the model does not know it has."""

from __future__ import annotations

import numpy as np

from bncheck.diagnosis.rules.layer_names import is_of_samples, of_all, together, verb
from bncheck.diagnosis.rules.lives.reading import moves, places, spans, trained
from bncheck.diagnosis.rules.lives.words import Said, by_line, count
from bncheck.diagnosis.rules.roundoff import HALF, UNIT_ROUNDOFF
from bncheck.diagnosis.rules.wording import number
from bncheck.life import LayerLife, Life, Span

# What eval makes of a batch lies this many deviations from what training makes of it, on average over channels.
APART = 0.5
CALLS = 3  # that have to be so
LEAST = 0.1  # of all calls that may be otherwise: the more are kept, the less alike is the least of them to the others


def at_two_places(life: Life) -> Said | None:
    """One layer that unlike batches pass within one call of the model: its statistics fit neither place."""
    found = {layer.name: gap for layer in life.layers if (gap := unlike(layer)) is not None}
    if not found:
        return None
    layers = tuple(found)
    first = life.layer(layers[0])
    who = (
        f"{together(first.names)} are one layer: within one call of the model it is passed more than once, by data "
        "that are unlike."
        if len(first.names) > 1
        else f"{of_all(layers, life)} {verb(layers, 'runs', 'run')} more than once in a call of the model, on data "
        "that are unlike."
    )
    return Said(
        layers,
        f"{who} In eval, with statistics that mix them, "
        f"{verb(layers, 'its outputs are', f'the outputs of {layers[0]} are')} {number(found[layers[0]])} standard "
        "deviations off.",
        "give each place, or each kind of data, a BatchNorm layer of its own; other weights may be shared",
        where=first.made_at,
        evidence={"off by, in deviations": found[layers[0]], "names": len(first.names)},
    )


def unlike(layer: LayerLife) -> float | None:
    """By how many deviations a mixture of the batches of one call is off, in the worst of them, at least in nine of ten
    calls. None where the layer is passed once, or by data that are alike."""
    where = places(layer, training=1, in_backward=0)
    mean, var, call = (layer.get(name) for name in ("input_mean", "input_var", "call"))
    if mean is None or var is None or call is None or not trained(layer):
        return None
    gaps = []
    for one in np.unique(call[where]):
        rows = where[call[where] == one]
        if len(rows) > 1 and np.isfinite(mean[rows]).all() and (var[rows] > 0).all():
            middle, spread = mean[rows].mean(axis=0), var[rows].mean(axis=0)
            shift = (mean[rows] - middle) ** 2 / spread
            scale = (np.sqrt(var[rows] / spread) - 1) ** 2
            gaps.append(float(np.sqrt(shift + scale).mean(axis=1).max()))
    if len(gaps) < CALLS:
        return None
    least = float(np.quantile(gaps, LEAST))
    return least if least > APART else None


def unreached(life: Life) -> Said | None:
    """Layers that run and are no children of the model: eval(), to() and state_dict() do not reach them."""
    found = [layer for layer in life.layers if layer.registered is False and layer.forwards > 1]
    if not found:
        return None
    layers = tuple(layer.name for layer in found)
    line = next((span.called_from for layer in found for span in layer.spans if span.called_from), None)
    stays = [layer for layer in found if in_training_alone(life, layer)]
    proof = (
        f" While the other layers were evaluated, {verb(layers, 'it', 'they')} stayed in training mode."
        if stays and len(stays) == len(found)
        else ""
    )
    return Said(
        layers,
        f"The model does not know {of_all(layers, life)}: {verb(layers, 'it is', 'they are')} kept in a plain list, a "
        f"dict or a closure, and eval(), to(), parameters() and state_dict() do not reach {verb(layers, 'it', 'them')}."
        f"{proof}",
        "keep layers as attributes of the module, or in nn.ModuleList or nn.ModuleDict",
        quantity="training",
        where=found[0].made_at or line,
        evidence={"forwards": sum(layer.forwards for layer in found)},
    )


def in_training_alone(life: Life, layer: LayerLife) -> bool:
    """Whether a layer is in training mode in some forward between those in which another is in eval."""
    others = [span for other in life.layers if other is not layer for span in other.spans if span.training is False]
    own = [span for span in layer.spans if span.training is True and not span.gradients]
    return any(
        span.first_index - len(life.layers) <= mine.first_index <= span.last_index + len(life.layers)
        for span in others
        for mine in own
    )


def batch_in_eval(life: Life) -> Said | None:
    """Layers without running statistics that are evaluated: their output depends on the batch."""
    found = [
        layer
        for layer in life.layers
        if not layer.tracks
        and not is_of_samples(layer.kind)
        and any(span.training is False and span.moved is None for span in layer.spans)
    ]
    if not found:
        return None
    layers = tuple(layer.name for layer in found)
    line = next((span.called_from for span in found[0].spans if span.training is False), None)
    everywhere = len(found) == len(life.layers)
    return Said(
        layers,
        f"{of_all(layers, life)} {verb(layers, 'keeps', 'keep')} no running statistics: in eval "
        f"({by_line(line)}), too, a sample's output depends on the samples next to it.",
        "keep running statistics (track_running_stats=True) where single samples are evaluated",
        kind="convention" if everywhere else "hazard",
        quantity="output",
        where=line,
    )


def ignores_eval(life: Life) -> Said | None:
    """Forwards in eval mode that move the statistics: the layer does not look at its mode."""
    found = {layer.name: runs for layer in life.layers if (runs := spans(layer, moves_in_eval))}
    if not found:
        return None
    layers = tuple(found)
    runs = found[layers[0]]
    total, line = sum(span.moved or 0 for span in runs), by_line(runs[0].called_from)
    return Said(
        layers,
        f"{of_all(layers, life)} {verb(layers, 'ignores', 'ignore')} eval(): {count(total, 'forward')} in eval mode "
        f"({line}) moved the running statistics.",
        "in eval (not self.training) normalise with running_mean and running_var, and move nothing",
        where=runs[0].called_from,
        step=runs[0].first_step,
        evidence={"forwards in eval mode that moved the statistics": total},
    )


def moves_in_eval(span: Span) -> bool:
    return span.training is False and moves(span)


def narrow(life: Life) -> Said | None:
    """Statistics in fewer digits than gamma and beta, which train: nobody chooses that."""
    found = {
        layer.name: dtype
        for layer in life.layers
        if UNIT_ROUNDOFF.get(dtype := layer.dtypes.get("running_mean", ""), 0.0) >= HALF
        and trained(layer)
        and layer.dtypes.get("gamma") in ("float32", "float64")
    }
    if not found or standing_still(life) is not None:
        return None
    layers, dtypes = tuple(found), " and ".join(sorted(set(found.values())))
    return Said(
        layers,
        f"The running statistics of {of_all(layers, life)} are in {dtypes}, the parameters are not: an average in "
        f"{dtypes} stops moving where a step is below half of its last digit.",
        "keep the running statistics in float32",
        evidence={"dtype": dtypes},
    )


def standing_still(life: Life) -> Said | None:
    """Training forwards that leave statistics in half precision alone, though a step would be due."""
    found: dict[str, tuple[float, float, float, str]] = {}
    for layer in life.layers:
        stalled = stall(life, layer)
        if stalled is not None:
            found[layer.name] = stalled
    if not found:
        return None
    layers = tuple(found)
    held, target, step, dtype = found[layers[0]]
    return Said(
        layers,
        f"running_mean of {of_all(layers, life)} stands still at {number(held)} while the batches' mean is "
        f"{number(target)}: a step of {number(step)} is lost in rounding to {dtype}.",
        "keep the running statistics in float32",
        evidence={"held": held, "batch mean": target, "step": step, "dtype": dtype},
    )


LAST = 3  # steps without effect


def stall(life: Life, layer: LayerLife) -> tuple[float, float, float, str] | None:
    """(held, batch mean, step, dtype) of the channel furthest from its target; as BN204 tells it in a trace."""
    dtype = layer.dtypes.get("running_mean", "")
    unit = UNIT_ROUNDOFF.get(dtype, 0.0)
    where = places(layer, training=1, in_backward=0)
    rows = [layer.get(name) for name in ("mean_before", "mean_after", "input_mean", "momentum")]
    before, after, mean, momentum = rows
    if unit < HALF or before is None or after is None or mean is None or momentum is None or len(where) <= LAST:
        return None
    held, batches = after[where[-1]], mean[where[-LAST:]]
    weight = float(momentum[where[-1]])
    weight = weight if life.framework == "torch" else 1.0 - weight
    if not 0 < weight < 1:
        return None
    still = (before[where[-LAST:]] == held).all(axis=0) & (after[where[-LAST:]] == held).all(axis=0)
    gap = np.abs(batches - held).min(axis=0)
    short = weight * np.abs(batches - held).max(axis=0) <= 4 * unit * np.abs(held)
    lost = still & short & (gap > 8 * unit * np.abs(held)) & np.isfinite(gap)
    if not lost.any() or not any(moves(span) for span in layer.spans):
        return None
    channel = int(np.argmax(np.where(lost, gap, -1)))
    return float(held[channel]), float(batches[-1, channel]), float(weight * gap[channel]), dtype
