"""A file that gives another result when it is run in another way: what to say of it, by what float64 says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bncheck.diagnosis.rules.exported import gap_of, number_of
from bncheck.diagnosis.rules.onnx_files import Other, file_name, node_ratios
from bncheck.diagnosis.rules.wording import names, number, verb
from bncheck.evidence import CellView
from bncheck.finding import Kind

# How a play of a file differs from the recorded one, which is not optimised and asks for every output.
BESIDE = {
    "optimised": "with graph optimisation",
    "optimised_statistics": "with graph optimisation",
    "unused": "when its optional outputs are not asked for",
    "optimised_unused": "with graph optimisation, when its optional outputs are not asked for",
}
MODES = {"as_is": "as it is", "eval": "in inference", "train": "in training mode"}
LOSES = "use float64, or bring the numbers of the file nearer to zero, where digits matter"
BOTH = "look at what the reference says of this file; graph optimisation is not what makes it wrong"
UNKNOWN = "run without graph optimisation and with it, and compare both with the model that the file came from"
UNASKED = "ask for all outputs of the file, and report it to the runtime"
# A node's bound is that of one node; in an optimised graph it may stand for two.
TWICE = 2.0


def told(cell: CellView, way: Other, notes: Mapping[str, Any]) -> tuple[Kind, str, str]:
    """(kind, sentence, advice) of a play that gives something else than the plain one."""
    who, how = cell.members, BESIDE[way.key]
    mode = MODES.get(str(notes.get("mode")), str(notes.get("mode")))
    what = f"{file_name(cell)}, in its running statistics," if way.key.endswith("_statistics") else file_name(cell)
    plain, other = distance(way.recorded_off), distance(way.off)
    is_off = f"{names(who)} {verb(who, 'is', 'are')} {plain} off float64 in {what} ({mode})"
    if way.judged == "wrong":
        said = f"{names(who)} {verb(who, 'computes', 'compute')} {what} wrongly {how} ({mode}): {other} off float64"
        said = f"{said}, {plain} off without{again(way, notes)}. {named_of(way, notes)}"
        return "defect", said.rstrip(), remedy(notes) if is_optimised(way) else UNASKED
    if way.judged == "better":
        return "hazard", f"{is_off}, and {other} {how}: the plain play loses digits that the other keeps.", LOSES
    if way.judged == "both":
        return "hazard", f"{is_off}, and {other} {how}: it is off however it is run.", BOTH
    return unsettled(cell, way, notes, f"{what} ({mode})")


def unsettled(cell: CellView, way: Other, notes: Mapping[str, Any], what: str) -> tuple[Kind, str, str]:
    """The same where the file as a whole has no float64 result: a node may still be judged from its own input."""
    who, how, lost = cell.members, BESIDE[way.key], culprits(way, notes)
    if lost:
        times = number(node_ratios(notes, "optimised_nodes")[lost[0]])
        said = f"{names(who)} {verb(who, 'computes', 'compute')} {lost[0]} of {what} wrongly {how}, from its own input"
        said = f"{said}: {times} times further off float64 than rounding may be. {named_of(way, notes)}"
        return "defect", said.rstrip(), remedy(notes)
    size = f"{number(way.gap)} apart" if math.isfinite(way.gap) else "NaN or Inf on one side"
    said = f"{names(who)} {verb(who, 'gives', 'give')} two results for {what}, {size}: plainly, and {how}"
    why = str(notes.get("no_oracle", "")) or "no float64 result was computed"
    said = f"{said}. Nobody can tell which is right: {why}. {named_of(way, notes)}"
    return "hazard" if math.isfinite(way.gap) else "defect", said.rstrip(), UNKNOWN


def distance(gap: float | None) -> str:
    return number(gap) if gap is not None and math.isfinite(gap) else "NaN or Inf"


def again(way: Other, notes: Mapping[str, Any]) -> str:
    second = gap_of(notes, "second_run")
    changes = second is not None and second > way.bound
    return "; a second run of the same session on the same batch gives yet another result" if changes else ""


def culprits(way: Other, notes: Mapping[str, Any]) -> list[str]:
    """Nodes that only graph optimisation makes wrong, each judged from its own input; the worst first."""
    if not is_optimised(way):
        return []
    plain, optimised = node_ratios(notes), node_ratios(notes, "optimised_nodes")
    lost = [layer for layer in optimised if plain.get(layer, math.inf) <= 1 < TWICE < optimised[layer]]
    return sorted(lost, key=lambda layer: -optimised[layer])


def is_optimised(way: Other) -> bool:
    return way.key.startswith("optimised")


def optimisers(notes: Mapping[str, Any]) -> list[str]:
    found = notes.get("optimisers")
    return [str(name) for name in found] if isinstance(found, list) else []


def named_of(way: Other, notes: Mapping[str, Any]) -> str:
    return named(notes, "right" if way.judged == "wrong" else "that of the plain play") if is_optimised(way) else ""


def named(notes: Mapping[str, Any], right: str) -> str:
    """Which optimiser it takes, found by leaving each out."""
    found, tried = optimisers(notes), notes.get("optimisers_tried")
    if not tried:
        return ""
    if len(found) == 1:
        return f"Without the optimiser {found[0]} the result is {right}."
    if found:
        return f"Without the optimisers {', '.join(found)} together the result is {right}."
    if tried == 1:
        return f"Leaving out the one optimiser that was tried does not make the result {right}."
    return f"None of the {number(tried)} optimisers that were tried, left out one by one, makes the result {right}."


def remedy(notes: Mapping[str, Any]) -> str:
    found = optimisers(notes)
    if not found:
        return "set graph_optimization_level to ORT_DISABLE_ALL in SessionOptions, and report it to the runtime"
    listed = ", ".join(f'"{name}"' for name in found)
    load = f"onnxruntime.InferenceSession(path, disabled_optimizers=[{listed}])"
    return f"load it with {load}, and report it to the runtime"


def measured(ways: Sequence[Other], notes: Mapping[str, Any]) -> dict[str, float | str]:
    """The figures: the gaps between plays, and the distance of each from float64."""
    found: dict[str, float | str] = {}
    for way in ways:
        found[way.key] = finite(way.gap)
        if way.off is not None and way.recorded_off is not None:
            kind = "_statistics" if way.key.endswith("_statistics") else ""
            found[f"{way.key} off float64"] = finite(way.off)
            found[f"plain{kind} off float64"] = finite(way.recorded_off)
    if ways:
        found["largest value"] = finite(number_of(notes, "scale") or 0.0)
    second = gap_of(notes, "second_run")
    if second is not None and ways:
        found["second run of the session apart"] = finite(second)
    if optimisers(notes):
        found["disabled_optimizers"] = ", ".join(optimisers(notes))
    return found


def finite(gap: float) -> float | str:
    return gap if math.isfinite(gap) else "NaN or Inf"
