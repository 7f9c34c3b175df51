"""Layers that do not do what they are documented to do (a custom one: what BatchNorm does): by which rule of theirs.

A departure is named only where the layer's moments identify the rule that it follows instead. A custom layer may
average as it likes, and read momentum in either sense: that is told by nothing but its steps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from bncheck.convention import Facet
from bncheck.diagnosis.lived.fitted import fit
from bncheck.diagnosis.lived.in_place import NEW_BATCH, odd_outputs, shown, unsure
from bncheck.diagnosis.lived.judged import Lived, lived
from bncheck.diagnosis.lived.record import Record
from bncheck.life import Life

# Classes that say they are BatchNorm, and those that say they are some other kind of it.
CLAIMS = re.compile(r"batch_?norm|^bn\d?d?$", re.IGNORECASE)
OTHERWISE = re.compile(
    r"frozen|freez|sync|ghost|virtual|split|renorm|instance|group|layer_?norm|domain|mask|sparse|condition|dual|switch|auxiliary",
    re.IGNORECASE,
)
MOST_UPDATES = 4
# How near a revealed variance lies to one of two, in units of the step between them, and how clear of rounding that is.
NEAR, CLEAR = 0.05, 4.0


@dataclass(frozen=True)
class Departure:
    """One rule of one layer. ``value`` is what it does, ``due`` what it should do; ``mode`` training, eval or ""."""

    layer: Lived
    cause: str
    value: float | str
    due: float | str = ""
    mode: str = ""
    step: int = 0  # of the first moment that departs
    moments: int = 0
    facets: Mapping[str, Facet] = field(default_factory=dict)

    @property
    def own(self) -> bool:
        return self.layer.life.own


def departures(life: Life) -> tuple[Departure, ...]:
    """All of them, in the order of the network."""
    found: tuple[Departure, ...] = life.once("departures", look)
    return found


def look(life: Life) -> tuple[Departure, ...]:
    with np.errstate(all="ignore"):
        return tuple(found for layer in lived(life) for found in of_layer(life, layer))


def of_layer(life: Life, layer: Lived) -> list[Departure]:
    if layer.conduct.innocent or not claims(layer):
        return []
    record = layer.record
    steps = layer.conduct.odd_step
    outputs = layer.conduct.odd_output
    facets = fit(record)
    found = [in_steps(life, layer, facets)] if steps.any() else []
    found += [in_outputs(layer, outputs, facets)] if outputs.any() else []
    where = {"steps": steps, "outputs": outputs}
    return [
        replace(each, step=int(record.step[places[0]]), moments=len(places), facets=facets)
        for each in found
        if each is not None
        for places in [np.flatnonzero(where["steps" if each.mode == "" else "outputs"])]
    ]


def claims(layer: Lived) -> bool:
    """Whether a layer is, or says that it is, BatchNorm as everybody knows it."""
    return bool(CLAIMS.search(layer.life.kind)) and not OTHERWISE.search(layer.life.kind)


def known(facets: Mapping[str, Facet], name: str) -> object:
    facet = facets.get(name)
    return facet.value if facet is not None and facet.identifiable else None


def in_steps(life: Life, layer: Lived, facets: Mapping[str, Facet]) -> Departure | None:
    """What the running statistics average otherwise."""
    statistic, divisor = known(facets, "statistic"), known(facets, "variance_divisor")
    own = layer.life.own
    if statistic is not None and statistic != "variance":
        return Departure(layer, "wrong-statistic", str(statistic), "variance")
    averaging, held = known(facets, "averaging"), layer.record.momentum[0]
    if averaging not in (None, "exponential"):
        return None if own or not np.isfinite(held) else Departure(layer, "averaging", str(averaging), "exponential")
    weight = known(facets, "batch_weight")
    if isinstance(weight, float) and np.isfinite(held):
        sure = facets["batch_weight"].uncertainty + float(unsure(layer.record, life.framework)[0]) + 1e-9
        due = float(held if life.framework in NEW_BATCH else 1.0 - held)
        senses = (due, 1.0 - due) if own else (due,)
        if all(abs(weight - sense) > sure for sense in senses):
            return repeated(layer, weight, senses, sure) or Departure(layer, "batch-weight", weight, due)
    if divisor == "n" and not own and life.framework == "torch":
        return Departure(layer, "variance-divisor", "n", "n-1")
    return None


def repeated(layer: Lived, weight: float, senses: tuple[float, ...], sure: float) -> Departure | None:
    """k updates of weight a in one forward are one of 1 − (1 − a)^k."""
    for due in senses:
        for times in range(2, MOST_UPDATES + 1):
            if 0 < due < 1 and abs(weight - (1.0 - (1.0 - due) ** times)) <= sure:
                return Departure(layer, "update-count", float(times), due)
    return None


def in_outputs(layer: Lived, odd: object, facets: Mapping[str, Facet]) -> Departure | None:
    """What the output is normalised with otherwise."""
    record = layer.record
    where = np.asarray(odd)
    for mode, usual in (("training", "batch"), ("eval", "running")):
        source = known(facets, "train_normaliser" if mode == "training" else "eval_normaliser")
        if source is not None and source != usual and (where & (record.training == (mode == "training"))).any():
            return Departure(layer, "normaliser-source", str(source), usual, mode)
    unused = left_out(record)
    if unused:
        return Departure(layer, "affine", unused, "", "both")
    if divides_by_sample(record):
        return Departure(layer, "normaliser-divisor", "n-1", "n", "training")
    if known(facets, "eps_placement") == "outside":
        return Departure(layer, "eps", "outside", "inside", "both")
    eps, held = known(facets, "eps"), float(record.eps[0])
    if isinstance(eps, float) and np.isfinite(held) and abs(eps - held) > 2 * facets["eps"].uncertainty:
        return Departure(layer, "eps", eps, held, "both")
    return None


def left_out(record: Record) -> str:
    """Which of gamma and beta all outputs are right without, where they are held and say something; "" for none."""
    scaled = bool((np.abs(record.gamma - 1.0) > 1e-3).any())
    shifted = bool((np.abs(record.beta) > 1e-3).any())
    for parts, matters in (("gamma", scaled), ("beta", shifted), ("gamma and beta", scaled and shifted)):
        if matters:
            judged, off = odd_outputs(without(record, "gamma" in parts, "beta" in parts))
            if judged.any() and not (judged & off).any():
                return parts
    return ""


def without(record: Record, gamma: bool, beta: bool) -> Record:
    """The record as it reads if the layer had no gamma or no beta."""
    slope = np.where(record.gamma != 0, record.gamma * record.used_invstd, np.nan)
    return replace(
        record,
        gamma=np.ones_like(slope) if gamma else record.gamma,
        beta=np.zeros_like(slope) if beta else record.beta,
        used_invstd=slope if gamma else record.used_invstd,
        used_mean=record.used_mean - record.beta / slope if beta else record.used_mean,
    )


def divides_by_sample(record: Record) -> bool:
    """Whether training divides by the variance of n − 1 in every channel in which that can be told."""
    seen = shown(record)
    n = record.n[:, None]
    step = record.var / np.maximum(n - 1.0, 1.0)
    clear = seen.kept & record.training[:, None] & (step > CLEAR * seen.level_error)
    above = (seen.level - record.eps[:, None] - record.var)[clear] / step[clear]
    return bool(clear.any()) and bool((np.abs(above - 1.0) <= NEAR + seen.level_error[clear] / step[clear]).all())
