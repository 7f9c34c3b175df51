"""Layers of the user's inside a model: each was played by itself beside the framework's own, and is judged as
``bncheck check FILE.py:CLASS`` judges one.

A layer in a model need not be meant as BatchNorm, as a class that somebody hands to check is. So one is judged that
says it by a name of its classes, or does it: in training it normalises with the batch. What has another name for it
(frozen, ghost, instance, …) is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bncheck.diagnosis.fit import measure
from bncheck.diagnosis.judge import explain_cell, judge_case
from bncheck.diagnosis.lived.departures import OTHERWISE
from bncheck.diagnosis.lived.innocence import NAMES
from bncheck.diagnosis.rules.layer_names import named, together
from bncheck.environments.backend_file import BackendFile
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.run_folder.arrays import open_archive
from bncheck.run_folder.results import TargetResult
from bncheck.scenario import Case, Event, InputSpec, Layer, Network, Scenario
from bncheck.scenario_files.shapes import layer_path
from bncheck.subjects.layer import TORCH, Looked, in_words
from bncheck.trace import EventRecord, Trace
from bncheck.worker.own_side.alone import EVENTS, REPEATS, batch_of

# Pieces of a class's name that say it is BatchNorm: BN, MyBN2d, bn_relu, BatchNorm, batch_normalization.
CLAIMS = re.compile(r"[Bb]atch_?[Nn]orm|BN(?![a-z])|(?<![A-Za-z])bn(?![a-z])|(?<![A-Z])Bn(?![a-z])")
# What changes the numbers that a layer gives or keeps. An activation inside is meant; names, copies and counters are
# no matter of what a model computes.
TELLING = (
    "variance-divisor", "batch-weight", "averaging", "update-count", "update-phase", "never-updated", "wrong-statistic",
    "value-count", "normaliser-source", "normaliser-divisor", "eps", "affine", "gradient",
)  # fmt: skip
SAME_MEAN = 1e-3  # standard deviations of the batch, and of y
NO_BATCH = "in training it does not take the batch's own mean off"
UNTOLD = "its name does not say that it is one, and what it takes off in training does not show"


@dataclass(frozen=True)
class Alone:
    """One such layer, and those of its class with its settings. ``why``: what kept it from being played, "" where
    both traces are there."""

    names: tuple[str, ...]
    kind: str
    bases: tuple[str, ...]
    case: Case
    rank: int
    own: Trace
    builtin: Trace
    why: str = ""
    apart: str = ""  # what sets it apart from BatchNorm before anything is played; "" for nothing
    turned: bool = False  # it calls the other share of its average momentum than the built-in layer does

    @property
    def claims(self) -> bool:
        return any(CLAIMS.search(each) for each in self.bases)

    @property
    def otherwise(self) -> bool:
        return any(OTHERWISE.search(each) for each in self.bases)


def read_alone(said: Mapping[str, Any], path: Path, code: str) -> tuple[Alone, ...]:
    """What the model's process wrote down; ``code``: ``file.py`` or the package that the model is built from."""
    rows = list(said.get("alone") or ())
    archive = open_archive(path) if rows else None
    arrays: Mapping[str, Any] = archive if archive is not None else {}
    return tuple(alone_of(place, row, arrays, code) for place, row in enumerate(rows))


def alone_of(place: int, row: Mapping[str, Any], arrays: Mapping[str, Any], code: str) -> Alone:
    def trace(who: str) -> Trace:
        start = f"alone:{place}:{who}:"
        held = {key.removeprefix(start).replace(":", "/"): arrays[key] for key in arrays if key.startswith(start)}
        return Trace(events=tuple(EventRecord(op) for op in EVENTS), arrays=held)

    own, builtin = trace("own"), trace("builtin")
    return Alone(
        names=tuple(str(each) for each in row["names"]),
        kind=str(row["class"]),
        bases=tuple(str(each) for each in row["bases"]),
        case=case_of(row, code),
        rank=len(row["shape"]),
        own=own,
        builtin=builtin,
        turned=row.get("held") is not None and row["held"] != row.get("weight"),
        apart=str(row.get("apart") or ""),
        why=str(row["why"]) or ("" if (own.arrays and builtin.arrays) or row.get("apart") else "nothing was recorded"),
    )


def case_of(row: Mapping[str, Any], code: str) -> Case:
    """What was played, as a case of a scenario with ``network.custom``."""
    eps, weight = (None if row.get(word) is None else float(row[word]) for word in ("eps", "weight"))
    layer = Layer(
        name="bn",
        type="batch_norm",
        channels=int(row["channels"]),
        axis=int(row["axis"]),
        affine="gamma" in row["has"],
        eps=eps,
        batch_weight=weight,
    )
    return Case(
        scenario="check",
        name="alone",
        label="alone",
        matrix={},
        network=Network(layers=(layer,), custom=f"{code}:{row['class']}"),
        inputs={
            "main": InputSpec(shape=tuple(int(size) for size in row["shape"]), channel_axis=layer.axis),
        },
        events=tuple(Event(op=op, batch=batch_of(number)) for number, op in enumerate(EVENTS)),
        steps=(*range(1, 2 * REPEATS, 2), 2 * REPEATS),
    )


# ------------------------------------------------------------------------------------------------------- it is judged


@dataclass(frozen=True)
class Verdict:
    """What is known of one layer of the user's, and of those like it. ``remark``: why it was not held against the
    built-in one; "" where its findings, or their absence, say all. ``strange``: it was, and differs by no known
    rule."""

    names: tuple[str, ...]
    kind: str
    findings: tuple[Finding, ...] = ()
    remark: str = ""
    turned: bool = False
    strange: bool = False


def verdicts(layers: Sequence[Alone], version: str, backend: BackendFile) -> tuple[Verdict, ...]:
    return tuple(verdict_on(layer, version, backend) for layer in layers)


def verdict_on(layer: Alone, version: str, backend: BackendFile) -> Verdict:
    """Defects where it says that it is BatchNorm, hazards where it only does what BatchNorm does."""
    title = NAMES[backend.name]
    if layer.otherwise:
        return Verdict(layer.names, layer.kind, (), f"its name says that it is something else than {title}'s BatchNorm")
    if layer.apart:
        return Verdict(layer.names, layer.kind, (), layer.apart)
    if layer.why:
        return Verdict(layer.names, layer.kind, (), f"it could not be played by itself: {layer.why}")
    targets = (backend.name, f"{backend.name}[builtin]")
    views = [
        view_of(layer, trace, TargetResult(name=name, slug=name, backend=backend.name, version=version), backend)
        for name, trace in zip(targets, (layer.own, layer.builtin), strict=True)
    ]
    batch_norm = layer.claims or is_batch_norm(views[0])
    if not batch_norm:
        return Verdict(layer.names, layer.kind, (), NO_BATCH if batch_norm is False else UNTOLD)
    scenario = Scenario(name="check", title="", why="", cases=(layer.case,))
    all_found = judge_case(layer.case, scenario, views).findings
    telling = tuple(
        replace(item, title=sentence(item, layer, backend, targets), kind=item.kind if layer.claims else "hazard")
        for item in all_found
        if item.cause in TELLING
        and item.kind != "rounding"
        and not (item.cause == "update-phase" and in_time(views[0]))
    )
    strange = not telling and any(item.cause == "unexplained" for item in all_found)
    return Verdict(layer.names, layer.kind, telling, turned=layer.turned, strange=strange)


def findings_inside(found: Sequence[Verdict]) -> list[Finding]:
    """A finding per rule and class, about all layers of it that depart so."""
    groups: dict[tuple[str, str, str], tuple[Finding, list[str]]] = {}
    for verdict in found:
        for item in verdict.findings:
            groups.setdefault((verdict.kind, item.code, item.title), (item, []))[1].extend(verdict.names)
    return [about(item, names, kind) for (kind, _, _), (item, names) in groups.items()]


def remarks_inside(found: Sequence[Verdict], rest: Sequence[tuple[str, str]], title: str) -> list[str]:
    """A sentence per class that was not held against the built-in layer, or differs from it by no known rule;
    ``rest``: (name, class) of layers of the user's that were not taken out at all."""
    groups: dict[tuple[str, str], list[str]] = {}
    more = (
        "it did not run in training, learns more than a gamma and a beta, gives more than one tensor, or has its "
        "channels on another axis"
    )
    for names, kind, remark in (
        *((each.names, each.kind, each.remark) for each in found),
        *(((name,), kind, more) for name, kind in rest),
    ):
        if remark:
            groups.setdefault((kind, f"not held against {title}'s BatchNorm; {remark}"), []).extend(names)
    for each in found:
        if each.strange:
            said = f"it gives other numbers than {title}'s BatchNorm, and no known rule makes them"
            groups.setdefault((each.kind, said), []).extend(each.names)
    return [f"{headed(names)} ({kind}): {said}." for (kind, said), names in groups.items()]


def view_of(layer: Alone, trace: Trace, target: TargetResult, backend: BackendFile) -> CellView:
    """A cell of the case, with the convention that its own trace shows."""
    case, path = layer.case, layer_path(layer.case)
    variant = target.name.partition("[")[2].rstrip("]")
    target = replace(target, variant=variant)
    known = {"version": target.version, "device": "cpu"}
    view = CellView(case=case, target=target.name, backend=backend.name, outcome="ok", trace=trace, environment=known)
    measured = measure([(case, trace, "ok")], target.name, path)
    return explain_cell(view, target, {path: measured}, backend.documented)


def in_time(view: CellView) -> bool:
    """Whether its statistics move in training forwards alone: where the framework's own move in backward, a layer
    written in Python cannot."""
    known = view.convention.facets.get("update_on") if view.convention is not None else None
    return known is not None and known.value == "forward"


def is_batch_norm(view: CellView) -> bool | None:
    """Whether it does what makes a layer BatchNorm: takes the batch's own mean off each channel in training, whatever
    it divides by. None where its outputs do not tell what it takes off."""
    assert view.trace is not None
    rows = [view.trace.get("bn", name) for name in ("used_mean", "used_residual", "input_mean", "input_var")]
    if any(row is None for row in rows):
        return None
    training = [event for event, op in enumerate(EVENTS) if op == "train_forward"]
    used, residual, mean, var = (np.asarray(row, dtype=np.float64)[training] for row in rows)
    told = np.isfinite(used) & (residual < SAME_MEAN) & (var > 0)  # where y is no line of x, nothing is taken off it
    if not told.any():
        return None
    return bool((np.abs(used - mean)[told] <= SAME_MEAN * np.sqrt(var[told])).all())


def sentence(found: Finding, layer: Alone, backend: BackendFile, targets: tuple[str, str]) -> str:
    """Without the targets' names: there are two sides, the user's layer and the framework's."""
    home = replace(TORCH, title=NAMES[backend.name], targets=targets)
    looked = Looked(name=layer.kind, shape=(), channels=1, left_out=(), defaults={}, held={}, affine=True, home=home)
    return in_words(found.title, looked)


def headed(names: Sequence[str]) -> str:
    """At the head of a sentence: "layer 1"; "layers 1 and 4"; "bn1"."""
    return named(names[0]) if len(names) == 1 else together(names)


def about(found: Finding, names: Sequence[str], kind: str) -> Finding:
    """The finding of one layer, said of the layers of the model that it holds of."""
    who = headed(names) + ("" if kind in found.title else f" ({kind})")
    return replace(
        found,
        title=f"{who}: {found.title}",
        layer=names[0],
        accounts=tuple((name, found.quantity) for name in names[1:]),
        case="",
        event=None,
        follows=(),
        sides=(),
        departs="",
        departs_from="",
    )
