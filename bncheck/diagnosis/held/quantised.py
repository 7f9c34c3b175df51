"""A quantised file: which weights of the other side each of its weights is, and what the
rounding costs, by playing the file without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bncheck.diagnosis.held.folding import USUAL_EPS
from bncheck.diagnosis.held.measured import Measured
from bncheck.diagnosis.held.outputs import percent
from bncheck.diagnosis.held.reading import Reading, Sides
from bncheck.diagnosis.rules.layer_names import listed
from bncheck.diagnosis.rules.wording import number
from bncheck.life import Held
from bncheck.trace import Array

# Rounding to the nearest is off by half a step; the float32 that is rounded is itself off by some roundings of its own.
HALF = 0.5 + 1e-3
FAR = 200.0  # steps: most of what 8 bits hold
FLOAT = 64 * 2.0**-24


@dataclass(frozen=True)
class Rounded:
    """A weight as it lies in the file: ``values`` are what its integers stand for, ``step`` the distance of two of
    them (a number, or one per channel with the axes of ``values``), ``bias`` the name of the rounded bias beside it
    ("" where it has none)."""

    name: str
    values: Array
    step: Array
    bias: str = ""

    def off(self, wanted: Array, slack: Array | float = 0.0) -> float:
        """How many steps ``wanted`` lies from it at most; up to a half is its rounding."""
        apart = np.abs(wanted.astype(np.float64) - self.values) - slack
        return float((np.maximum(apart, 0) / self.step).max(initial=0.0))


@dataclass(frozen=True)
class Origin:
    """What a rounded weight was before: ``word`` "same", "folded" (with ``layer`` behind it) or "start" (folded with
    the statistics of a new layer). ``weight`` and ``bias`` have their axes as in the file."""

    word: str
    weight: Array
    bias: Array | None
    layer: str = ""


@dataclass(frozen=True)
class Quantised:
    """``origins`` by the name of the rounded weight; ``strange`` are weights that are no rounding of anything on the
    other side, with the steps that the nearest is off by. ``plays`` are outputs without rounding of activations
    ("unrounded"), with the other side's own weights as well ("restored"), and so but cut at the ends of the ranges
    ("cut": a Relu6 that the ranges made needless)."""

    weights: int
    origins: Mapping[str, Origin] = field(default_factory=dict)
    strange: Mapping[str, float] = field(default_factory=dict)
    plays: Mapping[str, Sequence[Array]] = field(default_factory=dict)
    lacking: str = ""  # why it was not played without rounding

    @property
    def folded(self) -> dict[str, str]:
        return {each.layer: name for name, each in self.origins.items() if each.layer}

    @property
    def restored(self) -> dict[str, Array]:
        """What takes the place of each rounded weight."""
        return {name: each.weight.astype(np.float32) for name, each in self.origins.items()}


def variants(weight: Array, bias: Array | None, layers: Sequence[Held]) -> Iterator[Origin]:
    """What a file may have made of a convolution of shape (C, …): itself, or with a layer of C channels behind it
    folded in, with what the layer holds or with what a new one holds."""
    yield Origin(word="same", weight=weight, bias=bias)
    for layer in layers:
        if layer.running_var is None or layer.running_mean is None or layer.running_var.shape != weight.shape[:1]:
            continue
        mean, var = layer.running_mean.astype(np.float64), layer.running_var.astype(np.float64)
        for word, m, v in (("folded", mean, var), ("start", np.zeros_like(mean), np.ones_like(var))):
            for eps in dict.fromkeys((1e-5 if layer.eps is None else layer.eps, *USUAL_EPS)):
                if not (v + eps > 0).all():
                    continue
                gain = (1.0 if layer.gamma is None else layer.gamma.astype(np.float64)) / np.sqrt(v + eps)
                before = np.zeros_like(m) if bias is None else bias
                after = (before - m) * gain + (0.0 if layer.beta is None else layer.beta.astype(np.float64))
                scaled = weight * gain.reshape(-1, *(1,) * (weight.ndim - 1))
                yield Origin(word=word, weight=scaled, bias=after, layer=layer.layer)


def origin_of(rounded: Rounded, bias: Rounded | None, candidates: Iterator[Origin]) -> tuple[Origin | None, float]:
    """(the first candidate whose rounding it is, how many steps the nearest is off)."""
    nearest = float("inf")
    for origin in candidates:
        off = rounded.off(origin.weight, FLOAT * np.abs(origin.weight))
        if bias is not None:
            wanted = np.zeros_like(bias.values) if origin.bias is None else origin.bias
            # A sum of terms as large as the largest of them: folding takes one from the other.
            off = max(off, bias.off(wanted, FLOAT * np.abs(wanted).max(initial=0.0)))
        elif origin.bias is not None and origin.bias.any() and origin.layer:
            continue  # it has nowhere to put its mean
        if off <= HALF:
            return origin, off
        nearest = min(nearest, off)
    return None, nearest


# ------------------------------------------------------------------------------------------------------- in words


def readings(
    sides: Sides, found: Quantised, plain: Measured, unrounded: Measured, restored: Measured
) -> list[Reading] | None:
    """The cause where the file with the other side's weights, and without rounding, gives the other side's outputs;
    None where that does not hold, or was not played."""
    if not restored.fits or not np.isfinite(plain.gap) or plain.fits:
        return None
    folds = [name for name, each in found.origins.items() if each.layer]
    also = f", with {len(folds)} BatchNorm {'layer' if len(folds) == 1 else 'layers'} folded" if folds else ""
    return [
        Reading(
            cause="reduced-precision",
            kind="convention",
            title=f"{sides.b} is {sides.a} quantised{also}, and nothing else: played in float, with the weights of "
            f"{sides.a}, it gives the same up to rounding. Quantised, its outputs differ by {percent(plain.gap)} of "
            f"the largest, by {percent(unrounded.gap)} where its weights alone are rounded and its activations not.",
            advice="where that is too much: calibrate with data like yours (activations), quantise per channel "
            "(weights: quantize_static(..., per_channel=True)), or leave layers out (nodes_to_exclude=[...])",
            places=(("", "output"),),
            departs=sides.b,
            evidence={
                "explained": 1.0 - restored.gap / plain.gap,
                "gap": plain.gap,
                "gap of rounded weights alone": unrounded.gap,
            },
        )
    ]


def hint(sides: Sides, found: Quantised) -> str:
    """What is known of a difference that quantisation does not explain, or that could not be played without it."""
    if found.lacking:
        return f" {sides.b} is quantised, and what that costs is not measured: {found.lacking}."
    if found.strange:
        name, off = max(found.strange.items(), key=lambda item: item[1])
        far = f"off by {number(off)} of its steps" if off < FAR else "far off"
        return (
            f" {sides.b} is quantised, and {len(found.strange)} of its {found.weights} rounded weights "
            f"{'is' if len(found.strange) == 1 else 'are'} no rounding of a weight of {sides.a}, with BatchNorm folded "
            f"or not ({listed(list(found.strange))}): {name} is {far}, where rounding is off by half a step."
        )
    return f" {sides.b} is quantised; with the weights of {sides.a} and without rounding it differs all the same."
