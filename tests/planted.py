"""Conventions planted in the reference backend and played by the worker's own Cell: real traces, no process."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bncheck.scenario import Case, Event, InputSpec, Layer, Network, describe_ops
from bncheck.trace import EventRecord, Trace

# Properties play thousands of cases: what asdict copies of them took a tenth of their time.
LAYER, EVENT = (tuple(part.name for part in fields(kind)) for kind in (Layer, Event))
WORKER = Path(__file__).parent.parent / "bncheck" / "worker"


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cells = load(WORKER / "cell.py", "planted_cell")
reference = load(WORKER / "backends" / "reference.py", "planted_reference")


class Target:
    """A backend whose rules are fixed: what ``build`` of the worker contract gives."""

    def __init__(self, rules: Mapping[str, Any]) -> None:
        self.rules = {**reference.RULES, **rules}

    def build(self, network: Any, params: Any, dtype: str, variant: str, device: str) -> Any:
        return reference.Model(network, params, self.rules)


def program(text: str, inputs: Sequence[str] = ()) -> tuple[Event, ...]:
    """ "F B E N" → train_forward, backward, eval_forward, no_grad_forward; L is flush. F1 and F0 read "one", "none"."""
    ops = {"F": "train_forward", "B": "backward", "E": "eval_forward", "N": "no_grad_forward", "L": "flush"}
    names = {"": "main", "1": "one", "0": "none"}
    used: dict[str, int] = {}
    events = []
    for word in text.split():
        name = names[word[1:]]
        if word[0] in "FEN":
            events.append(Event(ops[word[0]], name, used.get(name, 0)))
            used[name] = used.get(name, 0) + 1
        else:
            events.append(Event(ops[word[0]]))
    return tuple(events)


def case_of(
    text: str,
    shape: tuple[int, ...],
    weight: float | None = 0.3,
    eps: float | None = 0.05,
    initial: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    name: str = "base",
    **layer: Any,
) -> Case:
    events = program(text)
    spec = {key: InputSpec((count, *shape[1:])) for key, count in (("main", shape[0]), ("one", 1), ("none", 0))}
    bn = Layer("bn", "batch_norm", channels=shape[1], batch_weight=weight, eps=eps, initial=initial or {}, **layer)
    return Case("planted", name, text, {}, Network((bn,)), spec, events, dtype)


def arrays_of(case: Case, batches: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = {f"x/{name}": np.asarray(data, dtype=case.dtype) for name, data in batches.items()}
    layer = case.network.layers[0]
    for key, value in layer.initial.items():
        found[f"param/bn/{key}"] = np.broadcast_to(np.asarray(value, dtype=np.float64), (layer.channels,)).copy()
    return found


def shown(record: Layer | Event, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names}


def play(case: Case, inputs: Mapping[str, np.ndarray], rules: Mapping[str, Any]) -> tuple[Case, Trace, str]:
    """One cell of the planted target: (case, trace, outcome)."""
    job = {
        "network": {"layers": [shown(layer, LAYER) for layer in case.network.layers]},
        "events": [shown(event, EVENT) for event in case.events],
        "ops": describe_ops(event.op for event in case.events),
        "dtype": case.dtype,
    }
    with np.errstate(all="ignore"):
        judge = cells.blame.Judge([], False, "reference", "reference")
        cell = cells.Cell(job, inputs, Target(rules), {"variant": "", "device": "cpu"}, "", judge)
        cell.play()
        arrays = cell.recorder.arrays()
    records = [EventRecord(event.op) for event in case.events]
    for item in cell.failed:
        records[item["event"]] = EventRecord(item["op"], item["status"], item["error_type"], item["error"])
    return case, Trace(tuple(records), arrays), "raised" if cell.failed else "ok"
