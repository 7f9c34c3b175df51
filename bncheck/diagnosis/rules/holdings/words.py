"""How a finding about a holding is made, and how it calls things: each framework by its own words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from bncheck.diagnosis.rules.layer_names import listed
from bncheck.finding import Finding, Kind
from bncheck.life import Held, Holding
from bncheck.trace import Array

MEAN, VAR, GAMMA, BETA = ("running_mean", "running_var", "gamma", "beta")
# What each framework calls them, where a thing's own keys do not say.
WORDS: Mapping[str, Mapping[str, str]] = {
    "torch": {GAMMA: "weight", BETA: "bias"},
    "paddle": {MEAN: "_mean", VAR: "_variance", GAMMA: "weight", BETA: "bias"},
    "keras": {MEAN: "moving_mean", VAR: "moving_variance"},
    "flax": {MEAN: "mean", VAR: "var", GAMMA: "scale", BETA: "bias"},
    "onnx": {MEAN: "input_mean", VAR: "input_var", GAMMA: "scale", BETA: "B"},
}
# What estimates the statistics anew, in each framework's own call.
ANEW: Mapping[str, str] = {
    "torch": "re-estimate the statistics with torch.optim.swa_utils.update_bn(loader, model) on clean training data",
    "keras": "re-estimate the statistics by calling the model with training=True on clean training data",
    "flax": "re-estimate the statistics by applying the model in training mode (mutable=['batch_stats']) on clean data",
    "paddle": "re-estimate the statistics by forwards in train() on clean training data",
}


@dataclass(frozen=True)
class Said:
    """One cause in some layers of a holding. ``title`` goes on behind its name."""

    layers: tuple[str, ...]
    title: str
    advice: str
    kind: Kind = "hazard"
    quantity: str = MEAN
    evidence: Mapping[str, float | int | str] = field(default_factory=dict)


def of_holding(holding: Holding, code: str, cause: str, said: Iterable[Said | None]) -> list[Finding]:
    """A finding for each thing that is to be said; a defect is the holding's own."""
    return [finding(holding, code, cause, item) for item in said if item is not None]


def finding(holding: Holding, code: str, cause: str, said: Said) -> Finding:
    defect = said.kind == "defect"
    return Finding(
        code=code,
        cause=cause,
        kind=said.kind,
        title=f"{holding.name}: {said.title}",
        targets=(holding.name,),
        scenario="check",
        case=holding.name,
        layer=said.layers[0] if said.layers else "",
        quantity=said.quantity,
        departs=holding.name if defect else "",
        departs_from="arithmetic" if defect else "",
        evidence={"layers": listed(said.layers), "layers in all": len(holding.layers), **said.evidence},
        advice=said.advice,
        accounts=tuple((layer, said.quantity) for layer in said.layers[1:]),
    )


def word(holding: Holding, quantity: str) -> str:
    """What the holding itself calls a quantity: the end of its key, else the framework's word."""
    keys = {
        held.keys[quantity].replace("/", ".").rpartition(".")[2] for held in holding.layers if quantity in held.keys
    }
    if len(keys) == 1:
        return keys.pop()
    return WORDS.get(holding.framework, {}).get(quantity, quantity)


def anew(holding: Holding) -> str:
    return ANEW.get(holding.framework, "re-estimate the running statistics on clean training data")


def flat(array: Array | None) -> Array | None:
    """(C,) in float64; None where there is none, or nothing in it."""
    if array is None or not np.size(array):
        return None
    with np.errstate(invalid="ignore"):  # a NaN that signals, as only a damaged file holds it, is a NaN
        return np.asarray(array, dtype=np.float64).reshape(-1)


def dtype_of(held: Held, quantity: str) -> str:
    """The dtype that a quantity is stored in: "bfloat16" where it was widened; "" where it is not held."""
    values = getattr(held, quantity)
    return held.dtypes.get(quantity) or ("" if values is None else str(values.dtype))


def statistics(held: Held) -> tuple[Array, Array] | None:
    """Mean and variance, (C,) each, where both are held for as many channels."""
    mean, var = flat(held.running_mean), flat(held.running_var)
    return None if mean is None or var is None or mean.shape != var.shape else (mean, var)
