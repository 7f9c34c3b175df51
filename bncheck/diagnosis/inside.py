"""Layers of the user's inside a model: each was played by itself beside the framework's own, and is judged as
``bncheck check FILE.py:CLASS`` judges one. ``check`` of a model and ``run`` of a scenario with one ask here. Pure.

A layer in a model need not be meant as BatchNorm, as a class that somebody hands to check is. So one is judged that
says it by a name of its classes, or does it: in training it normalises with the batch. What has another name for it
(frozen, ghost, instance, …) is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bncheck.diagnosis.fit import measure
from bncheck.diagnosis.judge import explain_cell, judge_case
from bncheck.diagnosis.lived.departures import OTHERWISE
from bncheck.diagnosis.lived.innocence import NAMES
from bncheck.diagnosis.rules.layer_names import named, together
from bncheck.diagnosis.rules.well_formed import well_formed
from bncheck.diagnosis.two_sides import without_targets
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.run_folder.results import TargetResult
from bncheck.scenario import OP_NAMES, Case, Event, InputSpec, Layer, Network, Scenario, op_of
from bncheck.scenario_files.shapes import layer_path
from bncheck.trace import Array, EventRecord, Trace

# Pieces of a class's name that say it is BatchNorm: BN, MyBN2d, bn_relu, BatchNorm, batch_normalization.
CLAIMS = re.compile(r"[Bb]atch_?[Nn]orm|BN(?![a-z])|(?<![A-Za-z])bn(?![a-z])|(?<![A-Z])Bn(?![a-z])")
# What changes the numbers that a layer gives or keeps. An activation inside is meant; names, copies and counters are
# no matter of what a model computes.
TELLING = (
    "variance-divisor", "batch-weight", "averaging", "update-count", "update-phase", "never-updated", "wrong-statistic",
    "value-count", "normaliser-source", "normaliser-divisor", "eps", "affine", "gradient",
)  # fmt: skip
NUMBERS = ("output", "running_mean", "running_var")
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
    single: tuple[str, ...] = ()  # what of gamma and beta is one number for all channels
    apart: str = ""  # what sets it apart from BatchNorm before anything is played; "" for nothing
    form: str = ""  # what it holds in the place of a variance
    turned: bool = False  # it calls the other share of its average momentum than the built-in layer does

    @property
    def claims(self) -> bool:
        return any(CLAIMS.search(each) for each in self.bases)

    @property
    def otherwise(self) -> bool:
        return any(OTHERWISE.search(each) for each in self.bases)


@dataclass(frozen=True)
class Framework:
    """Whose layer they are held against: its target without a variant, what it documents (rows of its backend's file),
    the version that ran."""

    name: str
    documented: Sequence[Mapping[str, Any]]
    version: str

    @property
    def title(self) -> str:
        return NAMES.get(self.name, self.name)


def read_alone(said: object, arrays: Mapping[str, Array], code: str) -> tuple[Alone, ...]:
    """What own_side/alone.py wrote down; ``code``: ``file.py`` or the package that the model is built from. Rows of
    another shape, as an edited run folder may hold, are left out."""
    rows = said if isinstance(said, list) else []
    return tuple(alone_of(place, row, arrays, code) for place, row in enumerate(rows) if sound(row))


def sound(row: object) -> bool:
    if not isinstance(row, Mapping):
        return False
    words = [row.get("names"), row.get("bases"), row.get("has"), row.get("events"), row.get("single") or []]
    shape = row.get("shape")
    sizes = [row.get("channels"), row.get("axis"), *(shape if isinstance(shape, list) and shape else [None])]
    numbers = [row[word] for word in ("eps", "weight", "held") if row.get(word) is not None]
    return (
        all(isinstance(each, list) and all(isinstance(word, str) for word in each) for each in words)
        and bool(row["names"] and row["events"])
        and all(word in OP_NAMES for word in row["events"])
        and all(isinstance(size, int) for size in sizes)
        and all(isinstance(number, int | float) for number in numbers)
        and isinstance(row.get("class"), str)
        and isinstance(row.get("why"), str)
    )


def alone_of(place: int, row: Mapping[str, Any], arrays: Mapping[str, Any], code: str) -> Alone:
    def trace(who: str) -> Trace:
        start = f"alone:{place}:{who}:"
        held = {key.removeprefix(start).replace(":", "/"): arrays[key] for key in arrays if key.startswith(start)}
        return Trace(events=tuple(EventRecord(op) for op in row["events"]), arrays=held)

    own, builtin = trace("own"), trace("builtin")
    return Alone(
        names=tuple(row["names"]),
        kind=row["class"],
        bases=tuple(row["bases"]),
        case=case_of(row, code),
        rank=len(row["shape"]),
        own=own,
        builtin=builtin,
        single=tuple(row.get("single") or ()),
        form=str(row.get("form") or ""),
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
        channels=row["channels"],
        axis=row["axis"],
        affine="gamma" in row["has"],
        eps=eps,
        batch_weight=weight,
    )
    events = events_of(row["events"])
    return Case(
        scenario="check",
        name="alone",
        label="alone",
        matrix={},
        network=Network(layers=(layer,), custom=f"{code}:{row['class']}"),
        inputs={
            "main": InputSpec(shape=tuple(row["shape"]), channel_axis=layer.axis),
        },
        events=events,
        steps=steps_of(events),
    )


def events_of(ops: Sequence[str]) -> tuple[Event, ...]:
    """A new batch for each forward; a backward goes through the forward before it."""
    found: list[Event] = []
    forwards = 0
    for op in ops:
        forwards += op_of(op).forward
        found.append(Event(op=op, batch=max(forwards - 1, 0)))
    return tuple(found)


def steps_of(events: Sequence[Event]) -> tuple[int, ...]:
    """The last event of each step: a forward, and the backward behind it where there is one."""
    return tuple(
        place for place, _ in enumerate(events) if place + 1 == len(events) or op_of(events[place + 1].op).forward
    )


# ------------------------------------------------------------------------------------------------------- it is judged


@dataclass(frozen=True)
class Verdict:
    """What is known of one layer of the user's, and of those like it. ``remark``: why it was not held against the
    built-in one; "" where its findings, or their absence, say all. ``strange``: it was, and differs by no known
    rule; ``single``: what it has once for all channels."""

    names: tuple[str, ...]
    kind: str
    findings: tuple[Finding, ...] = ()
    remark: str = ""
    turned: bool = False
    strange: bool = False
    single: tuple[str, ...] = ()


def verdicts(layers: Sequence[Alone], home: Framework) -> tuple[Verdict, ...]:
    return tuple(verdict_on(layer, home) for layer in layers)


def verdict_on(layer: Alone, home: Framework) -> Verdict:
    """Defects where it says that it is BatchNorm, hazards where it only does what BatchNorm does."""
    if layer.otherwise:
        said = f"its name says that it is something else than {home.title}'s BatchNorm"
        return Verdict(layer.names, layer.kind, (), said)
    if layer.apart:
        return Verdict(layer.names, layer.kind, (), layer.apart)
    if layer.why:
        return Verdict(layer.names, layer.kind, (), f"it could not be played by itself: {layer.why}")
    targets = (home.name, f"{home.name}[builtin]")
    views = [view_of(layer, trace, name, home) for name, trace in zip(targets, (layer.own, layer.builtin), strict=True)]
    batch_norm = layer.claims or is_batch_norm(views[0])
    if not batch_norm:
        return Verdict(layer.names, layer.kind, (), NO_BATCH if batch_norm is False else UNTOLD)
    scenario = Scenario(name="check", title="", why="", cases=(layer.case,))
    all_found = judge_case(layer.case, scenario, views).findings
    telling = tuple(
        replace(
            item,
            title=without_targets(item.title, layer.kind, home.title, targets),
            kind=item.kind if layer.claims else "hazard",
        )
        for item in all_found
        if item.cause in TELLING
        and item.kind != "rounding"
        and not (item.cause == "update-phase" and in_time(views[0]))
        and item.cause not in unsaid(layer, views[0])
    )
    telling = telling or tuple(not_finite(layer, all_found, home, targets))
    strange = any(item.cause == "unexplained" and (not telling or item.quantity in NUMBERS) for item in all_found)
    return Verdict(layer.names, layer.kind, telling, turned=layer.turned, strange=strange, single=layer.single)


def not_finite(layer: Alone, found: Sequence[Finding], home: Framework, targets: tuple[str, str]) -> Iterator[Finding]:
    """What it makes of finite numbers in eval alone: in a model only the first such layer shows it."""
    for item in found:
        in_eval = item.event is not None and layer.case.events[item.event].op == "eval_forward"
        if item.cause == "poisoned-state" and item.quantity == "output" and in_eval:
            yield replace(item, title=without_targets(item.title, layer.kind, home.title, targets), kind="hazard")


def unsaid(layer: Alone, view: CellView) -> tuple[str, ...]:
    """Causes that do not show in a layer: one gamma for all channels has one gradient, where the built-in layer has one
    for each; what it holds in the place of a variance may have an eps in it, and may not. It has none where one eps at
    one place makes both what training gives, of the batch, and what eval gives, of what it holds."""
    known = view.convention.facets if view.convention is not None else {}
    shows = all(word in known and known[word].identifiable for word in ("eps", "eps_placement"))
    return ("gradient",) * bool(layer.single) + ("eps",) * (bool(layer.form) and not shows)


def findings_inside(found: Sequence[Verdict]) -> list[Finding]:
    """A finding per rule and class, about all layers of it that depart so."""
    groups: dict[tuple[str, str, str], tuple[Finding, list[str]]] = {}
    for verdict in found:
        for item in verdict.findings:
            groups.setdefault((verdict.kind, item.code, item.title), (item, []))[1].extend(verdict.names)
    return [about(item, names, kind) for (kind, _, _), (item, names) in groups.items()]


def remarks_inside(found: Sequence[Verdict], rest: Sequence[tuple[str, str, str]], title: str) -> list[str]:
    """A sentence per class that was not held against the built-in layer, or differs from it by no known rule;
    ``rest``: (name, class, why) of layers of the user's that were not taken out at all."""
    groups: dict[tuple[str, str], list[str]] = {}
    for names, kind, remark in (
        *((each.names, each.kind, each.remark) for each in found),
        *(((name,), kind, why or "it could not be played by itself") for name, kind, why in rest),
    ):
        if remark:
            groups.setdefault((kind, f"not held against {title}'s BatchNorm; {remark}"), []).extend(names)
    for each in found:
        if each.strange:
            which = "all of them" if each.findings else "them"
            said = f"it gives other numbers than {title}'s BatchNorm, and no known rule makes {which}"
            groups.setdefault((each.kind, said), []).extend(each.names)
        if each.single:
            what = " and one ".join(each.single)
            said = f"it has one {what} for all its channels, where {title}'s BatchNorm has one for each"
            groups.setdefault((each.kind, said), []).extend(each.names)
    return [f"{headed(names)} ({kind}): {said}." for (kind, said), names in groups.items()]


def view_of(layer: Alone, trace: Trace, name: str, home: Framework) -> CellView:
    """A cell of the case, with the convention that its own trace shows."""
    case, path = layer.case, layer_path(layer.case)
    variant = name.partition("[")[2].rstrip("]")
    target = TargetResult(name=name, slug=name, backend=home.name, version=home.version, variant=variant)
    known = {"version": home.version, "device": "cpu"}
    view = well_formed(
        CellView(case=case, target=name, backend=home.name, outcome="ok", trace=trace, environment=known)
    )
    measured = measure([(case, view.trace, "ok")], name, path)
    return explain_cell(view, target, {path: measured}, home.documented)


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
    training = [event for event, done in enumerate(view.trace.events) if done.op == "train_forward"]
    used, residual, mean, var = (np.asarray(row, dtype=np.float64)[training] for row in rows)
    told = np.isfinite(used) & (residual < SAME_MEAN) & (var > 0)  # where y is no line of x, nothing is taken off it
    if not told.any():
        return None
    return any(
        bool((np.abs(each - mean)[told] <= SAME_MEAN * np.sqrt(var[told])).all())
        for each in (used, used - unshifted(view.trace, training))
    )


def unshifted(trace: Trace, events: Sequence[int]) -> Array:
    """How much further off a mean reads that a layer takes off and adds no beta to; 0 where it holds none."""
    slope, beta = trace.get("bn", "used_invstd"), trace.get("bn", "beta")
    if slope is None or beta is None:
        return np.zeros(1)
    gamma = trace.get("bn", "gamma")
    scale = np.asarray(slope, dtype=np.float64)[events] * (1.0 if gamma is None else np.asarray(gamma)[events])
    with np.errstate(all="ignore"):
        return np.asarray(beta, dtype=np.float64)[events] / scale


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
