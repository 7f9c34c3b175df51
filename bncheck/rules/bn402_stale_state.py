"""The statistics that are read, loaded or evaluated are old ones.

Signature: a flush alone changes what is read (an asynchronous engine had not finished), or statistics fall back to
their initial values, or an earlier snapshot, on reload. The mode is right and the rule of the update too, only the
values are not the latest.

What to do: wait for the engine (waitall, synchronize) before reading; save buffers together with parameters, and copy
them into averaged or teacher models as well.
"""

from collections.abc import Iterator

import numpy as np

from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.rules.movement import STATISTICS, moved
from bncheck.rules.wording import names, targets
from bncheck.trace import Array

CODE = "BN402"
CAUSE = "stale-state"


def check_cell(cell: CellView) -> Iterator[Finding]:
    for layer in cell.trace.layers if cell.trace is not None else ():
        found = next(lapses(cell, layer), None)
        if found is None:
            continue
        event, quantity, said, advice = found
        yield Finding(
            CODE, CAUSE, "hazard" if cell.case.events[event].arguments.get("drop") else "defect",
            f"{names(cell.members)}: {said}.",
            targets(cell.members), cell.case.scenario, cell.case.name, layer, event, quantity,
            departs=cell.target, departs_from="itself", advice=advice,
        )  # fmt: skip


def lapses(cell: CellView, layer: str) -> Iterator[tuple[int, str, str, str]]:
    assert cell.trace is not None
    updates = str(cell.convention.value("update_on") or "") if cell.convention is not None else ""
    for quantity in (*STATISTICS, "counter"):
        rows = cell.trace.get(layer, quantity)
        for event in np.flatnonzero(moved(cell.trace, layer, quantity)) if rows is not None else ():
            record = cell.trace.events[event]
            if record.op == "flush" and "flush" not in updates:
                said = f"a flush alone changes {quantity} of {layer}: what was read before it was old"
                yield int(event), quantity, said, "wait for the engine before you read the statistics"
            if record.op == "reload" and record.status == "ok":
                said = f"{quantity} of {layer} is {_which(np.asarray(rows), int(event))} after save and reload"
                yield int(event), quantity, said, "save and load the buffers together with the parameters"


def _which(rows: Array, event: int) -> str:
    """Which earlier snapshot the state after the event equals, in words."""
    same = [point for point in range(event + 1) if np.array_equal(rows[point], rows[event + 1])]
    if not same:
        return "another value"
    return "its initial value again" if same[0] == 0 else f"what it was after event {same[0] - 1}"
