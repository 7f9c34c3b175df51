"""Momentum or eps is not what was asked for, or changes on the way.

Signature: the value that the layer holds differs from the one the scenario set, or changes during an event that should
keep it (save and reload, export, conversion, a function of yours). A wrong eps shows in y only, a wrong momentum in the
statistics only.

What to do: set the value again after loading or rebuilding. A torch checkpoint stores neither; ONNX stores momentum in
the opposite sense, and 1.0 for torch's momentum=None; some kernels raise eps to at least 1e-5.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from bncheck.diagnosis.rules import applications
from bncheck.diagnosis.rules.exported import exports, norm_nodes, number_of
from bncheck.diagnosis.rules.movement import changed
from bncheck.diagnosis.rules.refused import own_name
from bncheck.diagnosis.rules.wording import names, number, targets
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.scenario import Layer
from bncheck.trace import Array

CODE = "BN114"
CAUSE = "hyperparameter-lost"
EXPLAINS = ("statistics", "outputs")
# Held in float32, 1e-5 comes back as 9.99999975e-6.
SINGLE = 1e-6


def check_cell(cell: CellView) -> Iterator[Finding]:
    yield from applications.found(cell, CODE, CAUSE)
    if cell.trace is None:
        return
    for layer in cell.case.network.layers:
        for name in ("eps", "momentum"):
            rows = cell.trace.get(layer.name, name)
            found = (
                None if rows is None or not len(rows) else lost(cell, layer, name, np.asarray(rows, dtype=np.float64))
            )
            if found is None:
                continue
            event, before, after, how = found
            who = own_name(cell) or names(cell.members)
            yield Finding(
                code=CODE,
                cause=CAUSE,
                kind="defect",
                title=f"{who}: {name} of {layer.name} is {number(after)} {how}, not {number(before)}.",
                targets=targets(cell.members),
                scenario=cell.case.scenario,
                case=cell.case.name,
                layer=layer.name,
                event=event,
                quantity=name,
                departs=cell.target,
                departs_from="itself",
                evidence={"before": before, "after": after},
                advice=f"set {name} again after this step, and check it before you train on",
            )
    yield from lost_in_file(cell)


def lost_in_file(cell: CellView) -> Iterator[Finding]:
    """The file's BatchNormalization nodes against their layers, in order. ONNX's momentum is 1 − torch's."""
    for event, notes in exports(cell):
        layers, nodes = notes.get("norms"), norm_nodes(notes)
        if not isinstance(layers, dict) or len(layers) != len(nodes):
            continue  # some were folded: no telling which are left
        for (layer, held), node in zip(layers.items(), nodes, strict=True):
            for name in ("momentum", "eps"):
                found, value = number_of(node, name), held[name][0]
                wanted = None if value is None else 1 - value if name == "momentum" else value
                if found is None or (wanted is not None and abs(found - wanted) <= SINGLE):
                    continue
                if wanted is None and 0 < found < 1:
                    continue
                asked = "a cumulative average (momentum=None)" if wanted is None else number(wanted)
                meaning = ", which never takes a batch in" if name == "momentum" and found == 1 else ""
                yield Finding(
                    code=CODE,
                    cause=CAUSE,
                    kind="defect",
                    title=f"{names(cell.members)}: the exported file gives {layer} {name} {number(found)}{meaning}; "
                    f"the layer has {asked}, in ONNX's sense.",
                    targets=targets(cell.members),
                    scenario=cell.case.scenario,
                    case=cell.case.name,
                    layer=layer,
                    event=event,
                    quantity=name,
                    departs=cell.target,
                    departs_from="itself",
                    evidence={"in the file": found, "in the layer": str(value)},
                    advice=f"set {name} in the file before it is trained on; inference does not need momentum",
                )


def not_asked(cell: CellView, layer: str) -> Collection[str]:
    """What the constructor of a layer of the user's has no argument for."""
    notes: Any = cell.notes.get("cell")
    for key in ("custom", layer, "left_out"):
        notes = notes.get(key) if isinstance(notes, Mapping) else None
    return notes if isinstance(notes, list) else ()


def lost(cell: CellView, layer: Layer, name: str, rows: Array) -> tuple[int, float, float, str] | None:
    """(event, before, after, how): eps that was not taken over, or a value that an event changed."""
    asked = layer.eps if name == "eps" and cell.backend not in layer.native else None
    asked = None if name in not_asked(cell, layer.name) else asked
    # A target that holds no eps says NaN; one with a kernel of its own may hold what it was built with.
    if asked is not None and np.isfinite(rows[0]) and abs(rows[0] - asked) > SINGLE * abs(asked):
        return -1, asked, float(rows[0]), "from the start"
    both = np.isfinite(rows[:-1]) & np.isfinite(rows[1:])
    size = np.maximum(np.abs(rows[:-1]), np.abs(rows[1:]))
    events = np.flatnonzero(changed(rows) & both & (np.abs(np.diff(rows)) > SINGLE * size))
    if not len(events) or cell.trace is None or events[0] >= len(cell.trace.events):
        return None
    event = int(events[0])
    return event, float(rows[event]), float(rows[event + 1]), f"after {cell.trace.events[event].op}"
