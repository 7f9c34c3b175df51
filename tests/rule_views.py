"""Views for the tests of rules, from literal arrays: what a worker would have recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bncheck.commands.explain import explain
from bncheck.diagnosis.drifts import drifts_between
from bncheck.evidence import Attribution, CellView, PairView
from bncheck.finding import Finding
from bncheck.scenario import Case, Event, InputSpec, Layer, Network
from bncheck.trace import EventRecord, Trace


def rule(cause: str) -> Any:
    return explain(cause)


def make_case(
    ops: Sequence[str] = ("train_forward",), channels: int = 1, shape: Sequence[int] = (4, 1), **layer: Any
) -> Case:
    norm = Layer("bn", "batch_norm", channels=channels, **{"batch_weight": 0.5, "eps": 0.0, **layer})
    return Case(
        "scenario", "base", "base", {}, Network((norm,)), {"main": InputSpec(tuple(shape))},
        tuple(Event(op) for op in ops),
    )  # fmt: skip


def make_trace(ops: Sequence[str], /, **arrays: Any) -> Trace:
    """A trace of layer ``bn``, one channel unless rows say otherwise. Keys with ``__`` are whole names (output__0)."""
    named = {}
    for name, value in arrays.items():
        key = name.replace("__", "/") if "__" in name else f"bn/{name}"
        kind = np.int64 if name in ("n", "input_bad", "output_bad") else np.int8 if name == "training" else None
        array = np.array(value, dtype=kind or (np.float32 if name.startswith("running") else np.float64))
        flat = name in ("n", "input_bad", "output_bad", "training", "counter", "momentum", "eps") or "__" in name
        named[key] = array if flat or array.ndim > 1 else array[:, None]
    named.setdefault("bn/n", np.where([op.endswith("forward") for op in ops], 4, -1))
    named.setdefault("bn/input_bad", np.zeros(len(ops), dtype=np.int64))
    named.setdefault("bn/output_bad", np.zeros(len(ops), dtype=np.int64))
    return Trace(tuple(EventRecord(op) for op in ops), named)


def make_cell(case: Case, target: str, trace: Trace | None, outcome: str = "ok", **more: Any) -> CellView:
    return CellView(
        case,
        target,
        target.split("=", maxsplit=1)[0].split("@", maxsplit=1)[0].split("[", maxsplit=1)[0],
        outcome,
        trace,
        **more,
    )


def make_pair(a: CellView, b: CellView, attributions: Sequence[Attribution] = ()) -> PairView:
    return PairView(a.case, a, b, drifts_between(a.case, a, b), tuple(attributions))


def attribute(
    facet: str, values: tuple[Any, Any], share: float = 1.0, quantity: str = "running_mean", **more: Any
) -> Attribution:
    return Attribution(
        "bn",
        quantity,
        {facet: share},
        {facet: values},
        more.pop("explained", share),
        1e-8,
        more.pop("bound", 1e-6),
        **more,
    )


def raise_at(trace: Trace, event: int, kind: str = "ValueError", error: str = "no") -> Trace:
    events = list(trace.events)
    events[event] = replace(events[event], status="raised", error_type=kind, error=error)
    return replace(trace, events=tuple(events))


def facets(**values: Any) -> Mapping[str, Any]:
    return values


def own(case: Case) -> Case:
    """The case with a layer of one's own."""
    return replace(case, network=replace(case.network, custom="own.py:Own"))


def own_cell(ops: list[str], notes: dict[str, Any] | None = None, **arrays: Any) -> CellView:
    return make_cell(own(make_case(ops)), "torch", make_trace(ops, **arrays), notes=notes or {})


def with_layer(cell: CellView, name: str, **arrays: object) -> CellView:
    """The cell with one more layer in its trace."""
    assert cell.trace is not None
    ops = [event.op for event in cell.trace.events]
    more = make_trace(ops, **arrays).arrays
    named = {key.replace("bn/", f"{name}/", 1): value for key, value in more.items()}
    return replace(cell, trace=replace(cell.trace, arrays={**cell.trace.arrays, **named}))


def only(found: Any) -> Finding:
    (finding,) = found
    return finding  # type: ignore[no-any-return]
