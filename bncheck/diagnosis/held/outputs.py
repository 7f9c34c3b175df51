"""Outputs of two things on the same bytes: equal up to rounding, or equal to what one of them gives run another way."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from bncheck.diagnosis.held.measured import Measured
from bncheck.diagnosis.held.pairs import TOGETHER, pair_readings
from bncheck.diagnosis.held.reading import Reading, Sides, joined
from bncheck.diagnosis.rules.wording import number
from bncheck.finding import Kind
from bncheck.trace import Array

# Measured rounding (against float64, or from an input off by a rounding) is one draw: others are larger.
DRAWS = 32.0
SMALLEST = 16 * 2.0**-23  # of the largest output
NOTHING: Mapping[str, int] = {}
# So much of a difference a cause has to take away to be named where the rest is no rounding.
MOST_OF_IT = 0.9
Outputs = Sequence[Array]


def gap(one: Outputs, two: Outputs) -> float:
    """Largest difference over the largest value of all outputs; infinite where they do not go together, or where NaN
    stands on one side alone."""
    if len(one) != len(two) or any(a.shape != b.shape for a, b in zip(one, two, strict=True)):
        return float("inf")
    worst = 0.0
    for a, b in zip(one, two, strict=True):
        x, y = a.astype(np.float64), b.astype(np.float64)
        bad = ~(np.isfinite(x) & np.isfinite(y))
        if not np.array_equal(x[bad], y[bad], equal_nan=True):
            return float("inf")
        size = float(np.abs(x[~bad]).max(initial=0.0))
        if size:
            worst = max(worst, float(np.abs(x - y)[~bad].max(initial=0.0)) / size)
    return worst


def aligned(usual: Outputs, other: Outputs) -> Outputs:
    """``other`` in the order and with the axis of channels of ``usual``, where its shapes alone go together so: another
    format puts channels last, or sorts its outputs by name."""
    if len(usual) != len(other) or all(a.shape == b.shape for a, b in zip(usual, other, strict=True)):
        return other
    moved = [[moved_to(a, b) for b in other] for a in usual]
    places = (
        next((order for order in ORDERS[len(usual)] if all(moved[i][j] is not None for i, j in enumerate(order))), None)
        if len(usual) in ORDERS
        else None
    )
    if places is None:
        return other
    return [array for i, j in enumerate(places) if (array := moved[i][j]) is not None]


# Orders that outputs may come in, as they stand first; more than four are left as they are.
ORDERS = {count: tuple(itertools.permutations(range(count))) for count in (1, 2, 3, 4)}


def moved_to(usual: Array, other: Array) -> Array | None:
    """``other`` with its channels where those of ``usual`` are; None where no move makes the shapes equal."""
    tries = [other, np.moveaxis(other, -1, 1), np.moveaxis(other, 1, -1)] if other.ndim > 2 else [other]
    return next((each for each in tries if each.shape == usual.shape), None)


def bound(plays: Mapping[str, Outputs], name: str) -> float:
    """How far rounding goes for this model and input, relative to the largest value: from its own float64 play, and
    from what an input off by a rounding changes."""
    found = [SMALLEST]
    for wide, narrow in ((f"{name}64", name), ("eval64", "eval"), ("nudged", "eval"), ("nudged", "plain")):
        if wide in plays and narrow in plays and np.isfinite(apart := gap(plays[narrow], plays[wide])):
            found.append(DRAWS * apart)
    return min(max(found), 1e-2)


def hold_against(plays: Mapping[str, Outputs], other: Outputs) -> dict[str, Measured]:
    """Way to run it → how far the other's outputs lie from that."""
    ways = [name for name in plays if name != "input" and not name.startswith("nudged") and not name.endswith("64")]
    return {name: Measured(gap(plays[name], other), bound(plays, name.partition(TOGETHER)[0])) for name in ways}


WAYS: Mapping[str, tuple[str, Kind, str, str]] = {
    "train": (
        "mode-leak",
        "defect",
        "{b} equals {a} in train mode, not in eval: it normalises by the batch",
        "call model.eval() before you export (torch.onnx.export: training=TrainingMode.EVAL)",
    ),
    "batch": (
        "mode-leak",
        "defect",
        "{b} equals {a} with its BatchNorm layers in train mode, not in eval: it normalises by the batch",
        "call model.eval() before you export, and track_running_stats=True where you build",
    ),
    "start": (
        "stale-state",
        "defect",
        "{b} holds the statistics of step 0: it equals {a} with running_mean 0 and running_var 1",
        "load the weights, or train, before you export",
    ),
}


def readings(sides: Sides, found: Mapping[str, Measured], narrow: Mapping[str, int] = NOTHING) -> list[Reading]:
    """What the outputs say of b: nothing where they are equal to those of eval, to the bit. ``narrow`` counts weights
    of b below float32."""
    usual = found.get("eval") or found["plain"]
    place = (("", "output"),)
    if usual.fits:
        return [] if usual.gap == 0 else [rounding(sides, usual)]
    fitting = [name for name, measured in found.items() if measured.fits]
    way = next((name for name in WAYS if name in fitting), "")
    if way == "train" and "batch" in fitting:
        way = "train"
    if way in ("train", "batch") and "start" in fitting:
        way = ""  # this input does not tell them apart
    if way:
        cause, kind, words, advice = WAYS[way]
        title = f"{words.format(a=sides.a, b=sides.b)} (off by {percent(usual.gap)} in eval, by "
        title += f"{percent(found[way].gap)} this way)."
        return [Reading(cause, kind, title, advice, place, departs=sides.b, evidence={"gap in eval": usual.gap})]
    if both := pair_readings(sides, found, usual):
        return both
    other_eps = [reading for reading in [eps_reading(sides, found, usual)] if reading is not None]
    return other_eps or [unexplained(sides, found, usual, narrow)]


# Rounding of weights is drawn anew for each, here as in the file: a file may draw as much worse.
WORSE = 2.0


def in_the_files_type(
    sides: Sides, plays: Mapping[str, Outputs], found: Mapping[str, Measured], narrow: Mapping[str, int]
) -> list[Reading]:
    """Whether a difference is what weights of 16 bits cost: as large as a's own weights, off by that much, bring about,
    and larger than rounding in float32."""
    usual = found.get("eval") or found["plain"]
    kind = next(iter(narrow)) if len(narrow) == 1 else ""
    nudged = plays.get("nudged16")
    if usual.fits or nudged is None or kind != "float16":
        return []
    reach = WORSE * gap(plays["eval"], nudged)
    if not usual.gap <= reach:
        return []
    return [
        Reading(
            cause="reduced-precision",
            kind="convention",
            title=f"{sides.b} keeps its weights in {kind} ({narrow[kind]} of them): its outputs differ from "
            f"those of {sides.a} by {percent(usual.gap)} of the largest. Rounding weights to {kind} costs up to "
            f"{percent(reach)} here.",
            advice="keep float32 where you need it"
            + (" (OpenVINO: save_model(..., compress_to_fp16=False))" if sides.b.endswith(".xml") else ""),
            places=(("", "output"),),
            departs=sides.b,
            evidence={"gap": usual.gap, "reach": reach},
        )
    ]


def as_cast(
    sides: Sides, cast: Outputs, other: Outputs, found: Mapping[str, Measured], narrow: Mapping[str, int]
) -> list[Reading]:
    """Whether b is a in a type of 16 bits: ``cast`` is what a gives in it."""
    usual = found.get("eval") or found["plain"]
    if not cast or usual.fits or len(narrow) != 1 or gap(cast, other) > usual.bound:
        return []
    kind = next(iter(narrow))
    return [
        Reading(
            cause="reduced-precision",
            kind="convention",
            title=f"{sides.b} is {sides.a} in {kind}: converted to that, {sides.a} gives the same. It is "
            f"{percent(usual.gap)} of the largest output off.",
            advice="keep float32 where that is too much",
            places=(("", "output"),),
            departs=sides.b,
            evidence={"gap": usual.gap, "explained": 1.0},
        )
    ]


def eps_reading(sides: Sides, found: Mapping[str, Measured], usual: Measured) -> Reading | None:
    tried = {name: measured for name, measured in found.items() if name.startswith("eps ")}
    best = min(tried, key=lambda name: tried[name].gap, default="")
    if not best or not np.isfinite(usual.gap) or tried[best].gap > (1 - MOST_OF_IT) * usual.gap:
        return None
    own = "another" if sides.eps_a is None else f"{sides.eps_a:g}"
    explained = 1 - tried[best].gap / usual.gap
    return Reading(
        cause="eps",
        kind="hazard",
        title=f"{sides.b} computes with eps {best.partition(' ')[2]}, {sides.a} with {own}: that explains "
        f"{100 * explained:.3g} % of the difference of their outputs ({percent(usual.gap)} of the largest).",
        advice="build both with one eps (PyTorch's default is 1e-5, that of Keras 1e-3)",
        places=(("", "output"),),
        evidence={"explained": explained, "gap": usual.gap},
    )


def unexplained(sides: Sides, found: Mapping[str, Measured], usual: Measured, narrow: Mapping[str, int]) -> Reading:
    if not np.isfinite(usual.gap):
        said = (
            f"The outputs of {sides.a} and {sides.b} cannot be held together: other shapes, or NaN on one side alone."
        )
    else:
        said = (
            f"The outputs of {sides.a} and {sides.b} differ by {percent(usual.gap)} of the largest; rounding goes "
            f"to {percent(usual.bound)}.{tried(found)}{of_narrow(sides, narrow)}"
        )
    return Reading(
        cause="unexplained",
        kind="unexplained",
        title=said,
        advice="see which layer differs in the table",
        places=(("", "output"),),
        evidence={f"gap, {name}": measured.gap for name, measured in found.items() if np.isfinite(measured.gap)},
    )


def of_narrow(sides: Sides, narrow: Mapping[str, int]) -> str:
    kinds = joined(sorted(narrow))
    return f" {sides.b} keeps weights in {kinds}; what that costs is not measured here." if narrow else ""


def tried(found: Mapping[str, Measured]) -> str:
    words = {"train": "train mode", "start": "statistics at their start", "eps": "another eps"}
    known = [said for name, said in words.items() if any(way.partition(" ")[0] == name for way in found)]
    return f" {joined(known).capitalize()} {'was' if len(known) == 1 else 'were'} tried." if known else ""


def rounding(sides: Sides, usual: Measured) -> Reading:
    return Reading(
        cause="rounding",
        kind="rounding",
        title=f"The outputs of {sides.a} and {sides.b} are equal up to rounding: {percent(usual.gap)} of the largest, "
        f"where rounding may come to {percent(usual.bound)}.",
        advice="",
        places=(("", "output"),),
        evidence={"gap": usual.gap, "bound": usual.bound},
    )


def percent(share: float) -> str:
    return f"{number(100 * share)} %" if np.isfinite(share) else "more than can be said"
