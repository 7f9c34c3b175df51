"""An exported file computes something else than the model, or with graph optimisation something else than without.

Signature: the file's output lies further from the model's than rounding allows, in the mode it was exported in, in
eval mode and in training mode; or the same file gives two outputs with onnxruntime's optimisations on and off. Folding
BatchNorm into the layer before it is where this comes from: a missing bias, a constant folded to NaN, an attribute that
should not matter.
If the file equals the eval model, nothing was folded wrongly: see mode-leak. An existing file (network.file) is held
against itself: with graph optimisation and without, with its optional outputs asked for and not.

What to do: export without folding (keep = true; do_constant_folding=False or optimize=False), run without graph
optimisation, and report whichever of the two makes the difference go away.
"""

import math
from collections.abc import Iterator

from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.rules.exported import gap_of, rounding_of, runs
from bncheck.rules.onnx_files import bound_of, file_facts, file_name, nodes_of, plays, statistics_bound
from bncheck.rules.wording import names, number, targets

CODE = "BN406"
CAUSE = "folding"
EXPLAINS = ("outputs",)
# What differs between a play of a file and the recorded one, which is not optimised and asks for every output.
BESIDE = {
    "optimised": "with graph optimisation than without",
    "optimised_statistics": "with graph optimisation than without, in its running statistics, relative to their size",
    "unused": "when its optional outputs are not asked for",
    "optimised_unused": "with graph optimisation, when its optional outputs are not asked for",
}
ADVICE = "export with keep = true and run without graph optimisation, to see which of the two changes the result"


def check_cell(cell: CellView) -> Iterator[Finding]:
    yield from differing_plays(cell)
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
    """The first forward of a file that depends on how the file is run."""
    facts = file_facts(cell)
    for event, notes in plays(cell) if facts is not None else ():
        assert facts is not None
        if any(node.get("training") for node in nodes_of(facts, "dropouts")):
            return  # it drops at random: no two plays are alike
        bound, relative = bound_of(facts, notes), statistics_bound(facts, notes)
        found = {key: gap for key in BESIDE if (gap := gap_of(notes, key)) is not None}
        gaps = {key: gap for key, gap in found.items() if gap > (relative if "statistics" in key else bound)}
        refused = next((key for key in BESIDE if f"{key}_refused" in notes), None)
        if gaps:
            key = next(iter(gaps))
            size = number(gaps[key]) if math.isfinite(gaps[key]) else "NaN or Inf on one side"
            said = f"gives another result {BESIDE[key]}: {size} apart ({notes.get('mode')})"
        elif refused is not None:
            said = f"is refused in a way that its plain play is not, {BESIDE[refused]}: {notes[f'{refused}_refused']}"
        else:
            continue
        evidence = {key: gap if math.isfinite(gap) else "NaN or Inf" for key, gap in gaps.items()}
        yield Finding(
            CODE, CAUSE, "hazard" if gaps and math.isfinite(max(gaps.values())) else "defect",
            f"On {names(cell.members)} {file_name(cell)} {said}.", targets(cell.members),
            cell.case.scenario, cell.case.name, "", event, "output",
            departs=cell.target, departs_from="itself", evidence={**evidence, "rounding bound": bound},
            advice="hold both against the reference, and switch graph optimisation off if it is the one that is off",
        )  # fmt: skip
        return


def random_nodes(export: object) -> bool:
    """True if the file has a Dropout that drops: then no two runs are alike."""
    graph = export.get("graph") if isinstance(export, dict) else None
    found = graph.get("dropouts") if isinstance(graph, dict) else None
    return any(node.get("training") for node in found if isinstance(node, dict)) if isinstance(found, list) else False
