"""An exported file computes something else than the model, or graph optimisation changes it.

Signature: the file's output lies further from the model's than rounding allows, in the mode it was exported in, in eval
mode and in training mode; or the same file gives two outputs with onnxruntime's optimisations on and off. Folding
BatchNorm into the layer before it is where this comes from: a missing bias, a constant folded to NaN, an attribute that
should not matter. Or a function that was called with the model took BatchNorm layers away, and its output is another
one; where it stays the same up to rounding, they were folded rightly. If the file equals the eval model, nothing was
folded wrongly: see mode-leak. An existing file (network.file) is held against itself: with graph optimisation and
without, with its optional outputs asked for and not. Where these differ, both are held against the opset's text in
float64; if only the optimised one is wrong it is the runtime's defect, and its optimisers are switched off one by one
until the result is right.

What to do: export without folding (keep = true; do_constant_folding=False or optimize=False), run without graph
optimisation or without the optimiser that is named (disabled_optimizers), and report whichever makes the difference go
away.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from bncheck.diagnosis.rules import applications
from bncheck.diagnosis.rules.exported import gap_of, rounding_of, runs
from bncheck.diagnosis.rules.mode_and_state.file_plays import BESIDE, measured, named, remedy, told
from bncheck.diagnosis.rules.onnx_files import drops, file_facts, file_name, node_ratios, nodes_of, others, plays
from bncheck.diagnosis.rules.wording import names, number, targets, verb
from bncheck.evidence import CellView
from bncheck.finding import NODES, Finding, Kind

CODE = "BN406"
CAUSE = "folding"
EXPLAINS = ("outputs",)
ADVICE = "export with keep = true and run without graph optimisation, to see which of the two changes the result"


def check_cell(cell: CellView) -> Iterator[Finding]:
    yield from applications.found(cell, CODE, CAUSE)
    yield from differing_plays(cell)
    yield from without_nodes(cell)
    yield from single_nodes(cell)
    for event, notes, export in runs(cell):
        yield from exported_file(cell, event, notes, export)


def exported_file(cell: CellView, event: int, notes: Mapping[str, Any], export: Mapping[str, Any]) -> Iterator[Finding]:
    """A file that torch exported, against the model that it came from, with graph optimisation and without."""
    bound, change = rounding_of(notes), gap_of(notes, "optimisation_change")
    nearest, plain = nearest_mode(notes, "difference"), nearest_mode(notes, "plain")
    departs, advice = cell.target, ADVICE
    if random_nodes(export):
        return
    if change is not None and change > bound:
        said = f"the exported file gives outputs {number(change)} apart with and without graph optimisation"
        if plain is not None and plain <= bound < (nearest or 0.0):
            # The file is right, and torch with it: its runtime is not.
            departs, advice = "", remedy(notes)
            runtime = f"onnxruntime {notes.get('onnxruntime') or ''}".strip()
            said = f"{runtime} computes the exported file wrongly with graph optimisation: {number(nearest)} off the "
            said = f"{said}model, {number(plain)} off without. {named(notes, 'right')}".rstrip(". ")
    elif nearest is not None and nearest > bound:
        said = f"the exported file is {number(nearest)} off the model, in any mode"
    else:
        return
    evidence = {key: value for key, value in notes.items() if isinstance(value, int | float | str)}
    yield Finding(
        code=CODE,
        cause=CAUSE,
        kind="defect",
        title=f"{names(cell.members)}: {said}.",
        targets=targets(cell.members),
        scenario=cell.case.scenario,
        case=cell.case.name,
        layer="",
        event=event,
        quantity="output",
        departs=departs,
        departs_from="itself" if departs else "arithmetic",
        evidence={**evidence, "rounding bound": bound},
        advice=advice,
    )


def nearest_mode(notes: Mapping[str, Any], play: str) -> float | None:
    """How far a play of the exported file lies from the model in the mode that it is nearest to."""
    apart = [gap_of(notes, f"{play}_{mode}") for mode in ("as_exported", "eval", "train")]
    return min((value for value in apart if value is not None), default=None)


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
    kind: Kind = "defect"
    if ways:
        kind, said, advice = told(cell, ways[0], notes)
    elif refused is not None:
        who, words, advice = cell.members, notes[f"{refused}_refused"], ADVICE
        said = f"{names(who)} {verb(who, 'refuses', 'refuse')} {file_name(cell)} {BESIDE[refused]}, and runs it without"
        said = f"{said}: {words}."
    else:
        return
    yield Finding(
        code=CODE,
        cause=CAUSE,
        kind=kind,
        title=said,
        targets=targets(cell.members),
        scenario=cell.case.scenario,
        case=cell.case.name,
        layer="",
        event=event,
        quantity="output",
        departs=cell.target,
        departs_from="arithmetic" if ways and kind == "defect" else "itself",
        evidence={**measured(ways, notes), **({"rounding bound": ways[0].bound} if ways else {})},
        advice=advice,
    )


def random_nodes(export: object) -> bool:
    """True if the file has a Dropout that drops: then no two runs are alike."""
    graph = export.get("graph") if isinstance(export, dict) else None
    return isinstance(graph, dict) and any(map(drops, nodes_of(graph, "dropouts")))


def without_nodes(cell: CellView) -> Iterator[Finding]:
    """A file without BatchNormalization, folded on export or never there: no layer to look at, only its outputs."""
    facts = file_facts(cell)
    if facts is None or facts.get("batch_norms") != []:
        return
    yield Finding(
        code=CODE,
        cause=CAUSE,
        kind="rounding",
        title=(
            f"{file_name(cell)} holds no BatchNormalization node: if the model had any, they were folded or removed on "
            f"export. Only its outputs are compared."
        ),
        targets=targets(cell.members),
        scenario=cell.case.scenario,
        case=cell.case.name,
        quantity="output",
        advice="hold it against the file that it came from, in the same way",
    )


def single_nodes(cell: CellView) -> Iterator[Finding]:
    """Each BatchNormalization node against its opset's text, from the input that it got: all that can be compared."""
    judged = [(event, notes, node_ratios(notes)) for event, notes in plays(cell) if notes.get("no_oracle")]
    seen = [item for item in judged if item[2]]
    if not seen or any(ratio > 1 for _, _, ratios in seen for ratio in ratios.values()):
        return
    event, notes, ratios = max(seen, key=lambda item: max(item[2].values()))
    layer = max(ratios, key=lambda name: ratios[name])
    count = "1 BatchNormalization node" if len(ratios) == 1 else f"each of {len(ratios)} BatchNormalization nodes"
    agrees = "agrees" if len(seen) == 1 else f"agrees in all {len(seen)} forwards"
    yield Finding(
        code=CODE,
        cause=CAUSE,
        kind="rounding",
        title=(
            f"{file_name(cell)} on {names(cell.members)}, without graph optimisation: {count} {agrees} with float64 "
            f"from its own input. The file as a whole was not compared: {notes['no_oracle']}."
        ),
        targets=targets(cell.members),
        scenario=cell.case.scenario,
        case=cell.case.name,
        layer=layer,
        event=event,
        quantity="output",
        evidence={NODES: len(ratios), "largest difference, of its rounding bound": ratios[layer]},
        advice="nothing to do for BatchNormalization; the other operators of the file are not looked at",
    )
