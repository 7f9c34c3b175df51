"""An exported file computes something else than the model, or with graph optimisation something else than without.

Signature: the file's output lies further from the model's than rounding allows, in the mode it was exported in, in
eval mode and in training mode; or the same file gives two outputs with onnxruntime's optimisations on and off. Folding
BatchNorm into the layer before it is where this comes from: a missing bias, a constant folded to NaN, an attribute that
should not matter.
If the file equals the eval model, nothing was folded wrongly: see mode-leak.

What to do: export without folding (keep = true; do_constant_folding=False or optimize=False), run without graph
optimisation, and report whichever of the two makes the difference go away.
"""

from collections.abc import Iterator

from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.rules.exported import number_of, rounding_of, runs
from bncheck.rules.wording import names, number, targets

CODE = "BN406"
CAUSE = "folding"
ADVICE = "export with keep = true and run without graph optimisation, to see which of the two changes the result"


def check_cell(cell: CellView) -> Iterator[Finding]:
    for event, notes, export in runs(cell):
        bound = rounding_of(notes)
        change = number_of(notes, "optimisation_change")
        apart = [number_of(notes, key) for key in ("difference_as_exported", "difference_eval", "difference_train")]
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


def random_nodes(export: object) -> bool:
    """True if the file has a Dropout that drops: then no two runs are alike."""
    graph = export.get("graph") if isinstance(export, dict) else None
    found = graph.get("dropouts") if isinstance(graph, dict) else None
    return any(node.get("training") for node in found if isinstance(node, dict)) if isinstance(found, list) else False
