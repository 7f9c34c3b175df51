"""Momentum, eps and mode as a model holds them: what reads like another framework's word, and what cannot work."""

from __future__ import annotations

from bncheck.diagnosis.lived.innocence import NAMES
from bncheck.diagnosis.rules.holdings.words import Said, dtype_of
from bncheck.diagnosis.rules.layer_names import is_of_samples, of_all, verb
from bncheck.diagnosis.rules.wording import number
from bncheck.life import Held, Holding

# In these momentum is the weight of the old average; in torch that of the new batch.
OLD = ("keras", "paddle", "mxnet", "flax")
USUAL = {"torch": "0.1", "keras": "0.99", "paddle": "0.9", "mxnet": "0.9", "flax": "0.99"}
LARGE_EPS = 0.1


def weight_of(holding: Holding, held: Held) -> float | None:
    """The weight of a new batch; None where the layer holds none, or its word means nothing here."""
    if held.momentum is None or held.running_mean is None:
        return None
    if holding.framework in OLD:
        return 1.0 - held.momentum
    return held.momentum if holding.framework == "torch" else None


def odd_weights(holding: Holding) -> list[Said]:
    """Weights of a half and more, of 0, or outside 0 to 1; one sentence per value."""
    odd: dict[float, list[str]] = {}
    weights: dict[float, float] = {}
    for held in holding.layers:
        weight = weight_of(holding, held)
        if weight is not None and held.momentum is not None and (weight >= 0.5 or weight <= 0):
            odd.setdefault(held.momentum, []).append(held.layer)
            weights[held.momentum] = weight
    return [about_weight(holding, tuple(layers), value, weights[value]) for value, layers in odd.items()]


def about_weight(holding: Holding, layers: tuple[str, ...], value: float, weight: float) -> Said:
    here, other = (
        NAMES.get(holding.framework, holding.framework),
        "Keras" if holding.framework == "torch" else "PyTorch",
    )
    if weight < 0 or weight > 1:
        says = "No average has such a weight: the running statistics run away from the data, and variances below zero."
    elif weight == 0:
        says = "The running statistics never move."
    elif weight == 1:
        says = "The running statistics are those of the last batch alone."
    else:
        there = f"; a momentum of {number(value)} in {other} is {number(1 - value)} here"
        says = f"After each batch {number(100 * (1 - weight))} % of the old average is left"
        says += "." if weight == 0.5 else f"{there}."  # one half is the same in both senses
    return Said(
        layers,
        f"momentum of {of_all(layers, holding)} is {number(value)}. {says}",
        f"{USUAL.get(holding.framework, '0.1')} is the usual momentum in {here}",
        kind="defect" if weight < 0 or weight > 1 else "hazard",
        quantity="momentum",
        evidence={"momentum": value, "weight of a new batch": weight},
    )


def odd_eps(holding: Holding) -> list[Said]:
    odd: dict[float, list[str]] = {}
    for held in holding.layers:
        if held.eps is not None and (held.eps <= 0 or held.eps >= LARGE_EPS):
            odd.setdefault(held.eps, []).append(held.layer)
    return [about_eps(holding, tuple(layers), value) for value, layers in odd.items()]


def about_eps(holding: Holding, layers: tuple[str, ...], eps: float) -> Said:
    if eps < 0:
        says = "A channel of a small variance gives NaN."
    elif eps == 0:
        says = "A channel that does not vary gives NaN or Inf."
    else:
        says = f"Channels of a variance below {number(eps)} are not normalised."
        if holding.framework == "torch" and eps >= 0.5:
            says += " It reads like a momentum: the second argument of nn.BatchNorm2d is eps."
    return Said(
        layers,
        f"eps of {of_all(layers, holding)} is {number(eps)}. {says}",
        "1e-3 is the usual eps in Keras, 1e-5 everywhere else",
        kind="defect" if eps < 0 else "hazard",
        quantity="eps",
        evidence={"eps": eps},
    )


def modes_mixed(holding: Holding) -> Said | None:
    """Some layers in training and others in eval, in a model as it was handed over."""
    training = tuple(held.layer for held in holding.layers if held.training is True)
    if not training or not any(held.training is False for held in holding.layers):
        return None
    them = verb(training, "it", "them")
    return Said(
        training,
        f"{of_all(training, holding)} {verb(training, 'is', 'are')} in training mode, and the others in eval mode. A "
        f"bare forward normalises {them} with the batch and moves the statistics.",
        "call eval() on the whole network before you evaluate, or train() before you train, and set single layers "
        "after that",
        quantity="training",
        evidence={"in training": len(training)},
    )


def narrow(holding: Holding) -> Said | None:
    """Statistics in fewer digits than gamma and beta, or than those of the other layers: nobody chooses that, and an
    average in them stalls."""
    half, wide = ("float16", "bfloat16"), ("float32", "float64")
    mixed = any(dtype_of(held, "running_mean") in wide for held in holding.layers)
    stalls = {
        held.layer: dtype_of(held, "running_mean")
        for held in holding.layers
        if dtype_of(held, "running_mean") in half and (mixed or dtype_of(held, "gamma") in wide)
    }
    whole = all(dtype_of(held, "gamma") not in wide for held in holding.layers if held.layer in stalls)
    beside = "those of other layers" if whole else "the parameters"
    if not stalls:
        return None
    layers, dtypes = tuple(stalls), " and ".join(sorted(set(stalls.values())))
    return Said(
        layers,
        f"the running statistics of {of_all(layers, holding)} are in {dtypes}, {beside} are not: an average in "
        f"{dtypes} stops moving where a step is below half of its last digit.",
        "keep the running statistics in float32",
        evidence={"dtype": dtypes},
    )


def untracked(holding: Holding) -> Said | None:
    """Layers of a model that keep no running statistics: eval normalises with the batch that it is given."""
    if holding.format != "model":
        return None
    layers = [held for held in holding.layers if not is_of_samples(held.kind)]
    none = tuple(held.layer for held in layers if held.running_mean is None and held.running_var is None)
    if not none:
        return None
    return Said(
        none,
        f"{of_all(none, holding)} {verb(none, 'keeps', 'keep')} no running statistics: in eval, too, a sample's output "
        f"depends on the samples next to it.",
        "keep running statistics (track_running_stats=True) where single samples are evaluated",
        kind="convention" if len(none) == len(layers) else "hazard",
        quantity="output",
    )
