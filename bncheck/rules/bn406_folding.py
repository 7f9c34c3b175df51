"""An exported file computes something else than the model, or with graph optimisation something else than without.

Signature: the file's output lies further from the model's than rounding allows, in the mode it was exported in, in
eval mode and in training mode; or the same file gives two outputs with onnxruntime's optimisations on and off. Folding
BatchNorm into the layer before it is where this comes from: a missing bias, a constant folded to NaN, an attribute that
should not matter.
If the file equals the eval model, nothing was folded wrongly: see mode-leak. An existing file (network.file) is held
against itself: with graph optimisation and without, with its optional outputs asked for and not. Where these differ,
both are held against the opset's text in float64; if only the optimised one is wrong it is the runtime's defect, and
its optimisers are switched off one by one until the result is right.

What to do: export without folding (keep = true; do_constant_folding=False or optimize=False), run without graph
optimisation or without the optimiser that is named (disabled_optimizers), and report whichever makes the difference go
away.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from bncheck.evidence import CellView
from bncheck.finding import Finding, Kind
from bncheck.rules.exported import gap_of, rounding_of, runs
from bncheck.rules.onnx_files import Other, drops, file_facts, file_name, node_ratios, nodes_of, others, plays
from bncheck.rules.wording import names, number, targets

CODE = "BN406"
CAUSE = "folding"
# How a play of a file differs from the recorded one, which is not optimised and asks for every output.
BESIDE = {
    "optimised": "with graph optimisation",
    "optimised_statistics": "with graph optimisation",
    "unused": "when its optional outputs are not asked for",
    "unused_statistics": "when its optional outputs are not asked for",
    "optimised_unused": "with graph optimisation, when its optional outputs are not asked for",
}
MODES = {"as_is": "as it is", "eval": "in inference", "train": "in training mode"}
OPTIMISERS = ("optimised", "optimised_statistics", "optimised_unused")


def check_cell(cell: CellView) -> Iterator[Finding]:
    yield from differing_plays(cell)
    yield from without_nodes(cell)
    for event, notes, export in runs(cell):
        bound = rounding_of(notes)
        change = gap_of(notes, "optimisation_change")
        apart = [gap_of(notes, key) for key in ("difference_as_exported", "difference_eval", "difference_train")]
        nearest = min((value for value in apart if value is not None), default=None)
        if change is not None and change > bound:
            said = f"the exported file gives outputs {number(change)} apart with and without graph optimisation"
        elif nearest is not None and nearest > bound and not random_nodes(export):
            said = f"the exported file is {number(nearest)} off the model, in any mode"
        else:
            continue
        evidence = {key: value for key, value in notes.items() if isinstance(value, int | float | str)}
        yield Finding(
            CODE, CAUSE, "defect", f"{names(cell.members)}: {said}.", targets(cell.members),
            cell.case.scenario, cell.case.name, "", event, "output",
            departs=cell.target, departs_from="itself", evidence={**evidence, "rounding bound": bound}, advice=ADVICE,
        )  # fmt: skip


def differing_plays(cell: CellView) -> Iterator[Finding]:
    """The gravest of the forwards of a file whose result depends on how the file is run; the first of equals."""
    facts = file_facts(cell)
    if facts is None or any(map(drops, nodes_of(facts, "dropouts"))):
        return  # one that drops at random: no two plays are alike
    found = [item for event, notes in plays(cell) for item in differing(cell, facts, event, notes)]
    yield from sorted(found, key=lambda item: item.kind != "defect")[:1]


def differing(cell: CellView, facts: Mapping[str, Any], event: int, notes: Mapping[str, Any]) -> Iterator[Finding]:
    ways = sorted(others(facts, notes, BESIDE), key=lambda item: item.judged != "wrong")
    refused = next((key for key in BESIDE if f"{key}_refused" in notes), None)
    if ways:
        kind, said, advice = told(cell, ways[0], notes)
    elif refused is not None:
        kind, said = "defect", f"{BESIDE[refused]}, which runs without: {notes[f'{refused}_refused']}"
        said, advice = f"{names(cell.members)} refuses {file_name(cell)} {said}", ADVICE
    else:
        return
    bound = ways[0].bound if ways else 0.0
    yield Finding(
        CODE, CAUSE, kind, said if said.endswith(".") else f"{said}.", targets(cell.members),
        cell.case.scenario, cell.case.name, "", event, "output",
        departs=cell.target, departs_from="arithmetic" if kind == "defect" and ways else "itself",
        evidence={**measured(ways, notes), "rounding bound": bound}, advice=advice,
    )  # fmt: skip


def told(cell: CellView, way: Other, notes: Mapping[str, Any]) -> tuple[Kind, str, str]:
    """(kind, sentence, advice) of a play that gives something else."""
    who, file, how = names(cell.members), file_name(cell), BESIDE[way.key]
    mode = MODES.get(str(notes.get("mode")), str(notes.get("mode")))
    what = " in its running statistics" if way.key.endswith("_statistics") else ""
    if way.judged == "wrong":
        said = f"{who} computes {file} wrongly {how} ({mode}): {distance(way.off)} off float64{what}"
        return "defect", f"{said}, {distance(way.recorded_off)} off without. {named(way, notes)}", remedy(way, notes)
    if way.judged == "better":
        said = (
            f"{who} is {distance(way.recorded_off)} off float64 in {file}{what} ({mode}), and {distance(way.off)} {how}"
        )
        return "hazard", f"{said}: the plain play loses digits that the other keeps", LOSES
    if way.judged == "both":
        said = f"{who} is off float64 in {file}{what} ({mode}), however it is run: by {distance(way.recorded_off)}"
        return "hazard", f"{said}, and by {distance(way.off)} {how}", BOTH
    lost = culprits(notes)
    if lost:
        said = f"{who} computes {lost[0]} of {file} wrongly {how} ({mode}): its output is off float64 by "
        said += (
            f"{number(node_ratios(notes, 'optimised_nodes')[lost[0]])} times what rounding may do, from its own input"
        )
        return "defect", f"{said}. {named(way, notes)}", remedy(way, notes)
    said = f"{who} gives two results for {file}{what} ({mode}), {distance(way.gap)} apart: plainly, and {how}"
    why = str(notes.get("no_oracle", "")) or "no float64 result was computed"
    return "hazard", f"{said}. Nobody can tell which is right: {why}. {named(way, notes)}".rstrip(), UNKNOWN


ADVICE = "export with keep = true and run without graph optimisation, to see which of the two changes the result"
LOSES = "use float64, or bring the numbers of the file nearer to zero, where digits matter"
BOTH = "look at what the reference says of this file; graph optimisation is not what makes it wrong"
UNKNOWN = "run without graph optimisation and with it, and compare both with the model that the file came from"


def distance(gap: float | None) -> str:
    return number(gap) if gap is not None and math.isfinite(gap) else "NaN or Inf"


def culprits(notes: Mapping[str, Any]) -> list[str]:
    """Nodes that only graph optimisation makes wrong, each judged from its own input; the worst first."""
    plain, optimised = node_ratios(notes), node_ratios(notes, "optimised_nodes")
    lost = [layer for layer in optimised if plain.get(layer, math.inf) <= 1 < TWICE < optimised[layer]]
    return sorted(lost, key=lambda layer: -optimised[layer])


# A node's bound is that of one node; in an optimised graph it may stand for two.
TWICE = 2.0


def optimisers(notes: Mapping[str, Any]) -> list[str]:
    found = notes.get("optimisers")
    return [str(name) for name in found] if isinstance(found, list) else []


def named(way: Other, notes: Mapping[str, Any]) -> str:
    """Which optimiser it takes, found by leaving each out."""
    if way.key not in OPTIMISERS or "optimisers_tried" not in notes:
        return ""
    found, right = optimisers(notes), "right" if way.judged == "wrong" else "as without"
    if len(found) == 1:
        return f"Without the optimiser {found[0]} the result is {right}"
    if found:
        return f"Without the optimisers {', '.join(found)} together the result is {right}"
    return f"None of the {number(notes['optimisers_tried'])} optimisers that were left out one by one makes it {right}"


def remedy(way: Other, notes: Mapping[str, Any]) -> str:
    if way.key not in OPTIMISERS:
        return "ask for all outputs of the file, and report it to the runtime"
    found = optimisers(notes)
    if not found:
        return "set graph_optimization_level to ORT_DISABLE_ALL in SessionOptions, and report it to the runtime"
    listed = ", ".join(f'"{name}"' for name in found)
    return f"onnxruntime.InferenceSession(path, disabled_optimizers=[{listed}]), and report it to the runtime"


def measured(ways: list[Other], notes: Mapping[str, Any]) -> dict[str, float | str]:
    """The figures: the gaps between plays, and the distance of each from float64."""
    found: dict[str, float | str] = {}
    for way in ways:
        found[way.key] = finite(way.gap)
        if way.off is not None and way.recorded_off is not None:
            kind = "_statistics" if way.key.endswith("_statistics") else ""
            found[f"{way.key} off float64"] = finite(way.off)
            found[f"plain{kind} off float64"] = finite(way.recorded_off)
    if optimisers(notes):
        found["disabled_optimizers"] = ", ".join(optimisers(notes))
    return found


def finite(gap: float) -> float | str:
    return gap if math.isfinite(gap) else "NaN or Inf"


def random_nodes(export: object) -> bool:
    """True if the file has a Dropout that drops: then no two runs are alike."""
    graph = export.get("graph") if isinstance(export, dict) else None
    return isinstance(graph, dict) and any(map(drops, nodes_of(graph, "dropouts")))


def without_nodes(cell: CellView) -> Iterator[Finding]:
    """A file whose BatchNormalization was folded by a converter: there is no layer to look at, only its outputs."""
    facts = file_facts(cell)
    if facts is None or nodes_of(facts, "batch_norms"):
        return
    yield Finding(
        CODE, CAUSE, "rounding",
        f"{file_name(cell)} holds no BatchNormalization node: they were folded into their neighbours or removed. Only "
        f"its outputs are compared.",
        targets(cell.members), cell.case.scenario, cell.case.name, quantity="output",
        advice="hold it against the file that it came from, in the same way",
    )  # fmt: skip
