"""A layer's buffers hold on to the autograd graph of past steps.

Signature: a running statistic has a grad_fn, and the number of autograd nodes reachable from it grows with every
training forward (a built-in layer: 0 for ever). With it grow memory and the time of a backward. Or, where the loss
reads the buffer, the second step's backward wants to go through the first step's graph, which is freed, and raises.
The growth needs something that requires a gradient before the layer: on a plain leaf input it does not show.

What to do: update buffers under torch.no_grad(), or from detached tensors: self.running_mean = self.running_mean.lerp(
mean.detach(), momentum). A buffer with a grad_fn also cannot be deep-copied.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bncheck.diagnosis.rules.autograd import FREED, errors, split_line
from bncheck.diagnosis.rules.wording import names, number, targets
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.scenario import RECORDING
from bncheck.trace import Array, Trace

CODE = "BN404"
CAUSE = "graph-retention"
EXPLAINS = ("events",)
ADVICE = "update the buffers under torch.no_grad() or from detached tensors"


def check_cell(cell: CellView) -> Iterator[Finding]:
    if cell.trace is None:
        return
    growing = [layer for layer in cell.trace.layers if grows(cell.trace.get(layer, "graph_nodes"))]
    for layer in growing:
        evidence = growth(cell.trace, layer) | growth_of_each(cell, layer) | facts(cell, layer)
        freed = next(errors(cell, FREED), None)
        if freed is not None:
            evidence = split_line(freed[1]) | evidence
        each = [
            f"{key.removeprefix('nodes behind ')} {evidence[key]}" for key in evidence if key.startswith("nodes behind")
        ]
        behind = f" behind {evidence['buffers']}" if "buffers" in evidence else ""
        behind = f" ({'; '.join(each)})" if len(each) > 1 else behind
        yield finding(
            cell,
            layer,
            None,
            evidence,
            f"{layer} in {names(cell.members)} keeps the graph of every step: "
            f"{number(evidence['nodes per training forward'])} more autograd nodes per training forward, "
            f"{number(evidence['nodes at the end'])} at the end{behind}.",
        )
    for event, message in [] if growing else errors(cell, FREED):
        layer = holder(cell.trace)
        yield finding(
            cell,
            layer,
            event,
            split_line(message) | (facts(cell, layer) if layer else {}),
            f"A backward of {names(cell.members)} runs into the graph of an earlier step, which is freed: "
            f"{layer or 'something in the network'} keeps a tensor of that step and uses it again.",
        )
        return


def finding(cell: CellView, layer: str, event: int | None, evidence: dict[str, Any], title: str) -> Finding:
    return Finding(
        code=CODE,
        cause=CAUSE,
        kind="defect",
        title=title,
        targets=targets(cell.members),
        scenario=cell.case.scenario,
        case=cell.case.name,
        layer=layer,
        event=event,
        departs=cell.target,
        departs_from="itself",
        evidence=evidence,
        advice=ADVICE,
    )


def grows(rows: Array | None) -> bool:
    """At least two steps up and none down: a graph that is let go of again is not kept."""
    if rows is None or len(rows) < 2:
        return False
    steps = np.diff(rows[np.isfinite(rows)])
    return bool((steps > 0).sum() >= 2 and not (steps < 0).any() and (steps[len(steps) // 2 :] > 0).any())


def growth(trace: Trace, layer: str) -> dict[str, Any]:
    """Nodes and bytes per training forward: what an event adds, once the first one is behind."""
    found: dict[str, Any] = {}
    forwards = [event for event, record in enumerate(trace.events) if record.op in RECORDING]
    for name in ("nodes", "bytes"):
        rows = trace.get(layer, f"graph_{name}")
        if rows is None:
            continue
        added = [float(rows[event + 1] - rows[event]) for event in forwards[1:]]
        found[f"{name} per training forward"] = float(np.median(added)) if added else float(rows[-1])
        found[f"{name} at the end"] = float(rows[-1])
    return found


def growth_of_each(cell: CellView, layer: str) -> dict[str, Any]:
    """The same for each buffer by itself: "nodes behind running_mean" 7 more per training forward, 421 at the end."""
    assert cell.trace is not None
    forwards = [event for event, record in enumerate(cell.trace.events) if record.op in RECORDING]
    listed = noted(cell, layer).get("nodes_of")
    found: dict[str, Any] = {}
    for name, counts in sorted(listed.items()) if isinstance(listed, Mapping) else ():
        if isinstance(counts, list) and len(counts) == len(cell.trace.events) + 1 and all_numbers(counts):
            added = [counts[event + 1] - counts[event] for event in forwards[1:]]
            more = number(float(np.median(added))) if added else number(float(counts[-1]))
            found[f"nodes behind {name}"] = f"{more} more per training forward, {counts[-1]} at the end"
    return found


def all_numbers(counts: list[Any]) -> bool:
    return all(isinstance(count, int) and not isinstance(count, bool) for count in counts)


def noted(cell: CellView, layer: str) -> Mapping[str, Any]:
    """What the worker noted about an own layer; empty for any other."""
    notes: Any = cell.notes.get("cell")
    for key in ("custom", layer):
        notes = notes.get(key) if isinstance(notes, Mapping) else None
    return notes if isinstance(notes, Mapping) else {}


def holder(trace: Trace) -> str:
    """The layer whose buffers have a graph behind them at any time; "" when none shows one."""
    for layer in trace.layers:
        rows = trace.get(layer, "graph_nodes")
        if rows is not None and np.nanmax(rows, initial=0.0) > 0:
            return layer
    return ""


def facts(cell: CellView, layer: str) -> dict[str, Any]:
    """What the worker noted about an own layer: which buffers carry a graph, and whether it can be copied."""
    notes = noted(cell, layer)
    found: dict[str, Any] = {}
    with_graph = notes.get("with_graph")
    if isinstance(with_graph, Mapping) and with_graph:
        found["buffers"] = ", ".join(sorted(map(str, with_graph)))
    if notes.get("deepcopy") not in (None, "ok"):
        found["deepcopy"] = str(notes["deepcopy"])
    return found
