"""What one script is about: a case on one target, what came out, what is expected instead, and from whom. Pure."""

# The functions that scripts get a copy of carry no annotations.
# mypy: disallow-untyped-calls=False
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from bncheck.diagnosis.drifts import Series, pair_series, same_program
from bncheck.finding import Finding
from bncheck.repro.standalone.tail import gaps
from bncheck.run_folder.results import TargetResult
from bncheck.scenario import Case, InputSpec, Layer, Tolerance
from bncheck.trace import GRADIENTS, STATES, Array, Trace

Problem = Literal["differs", "nonfinite", "recorded", "repeated", "rounding"]
LOOSE = ("output", "grad_input")
ORDER = (*STATES, *LOOSE, *GRADIENTS)
# How else a run played an ONNX file: a gap to its plain play is one number, and no gap is expected.
BESIDE = tuple(f"{way}{of}" for way in ("optimised", "unused", "optimised_unused") for of in ("", "_statistics"))
# The same samples in batches of other sizes (eval_in_batches): the L1 distance of outputs, one point per size.
L1 = "l1_between_batches"
APART, ALIKE = "a network that keeps its samples apart", "a file that gives the same however it is played"
ALWAYS = ("running_mean", "running_var")
# Findings whose point is that something is not finite, whoever else agrees.
NONFINITE = ("poisoned-state", "overflow")


# torch.testing's table per dtype, no scenario's own.
USUAL = Tolerance()


class CannotWriteError(Exception):
    """Why there is no script for a target, in a sentence."""


@dataclass(frozen=True)
class Played:
    """One target's cell, as far as scripts need it."""

    target: TargetResult
    trace: Trace
    environment: Mapping[str, object] = field(default_factory=dict)
    notes: Mapping[str, object] = field(default_factory=dict)  # what its worker said besides


@dataclass(frozen=True)
class Quantity:
    """One quantity's rows: the event each belongs to (-1: the initial state), here and on the other side."""

    name: str
    events: tuple[int, ...]
    here: Array  # (points, values) float64
    there: Array
    rtol: float
    atol: float

    @property
    def outside(self) -> bool:
        return bool(gaps(self.here, self.there, self.rtol, self.atol)[2].any())


@dataclass(frozen=True)
class Subject:
    """``other`` names whose values are expected; "" where nobody's are. ``specs`` are empty when not known."""

    finding: Finding
    case: Case
    inputs: Mapping[str, Array]
    target: TargetResult
    trace: Trace
    layer: str
    other: str
    quantities: tuple[Quantity, ...]
    compared: int  # so many events both sides played alike
    refused_there: tuple[int, ...]
    problem: Problem
    stride: int = 1  # of the recorded outputs
    specs: Mapping[str, InputSpec] = field(default_factory=dict)
    custom_source: str = ""
    model_file: bytes = b""
    sample: int = 4096  # numbers of an output that were recorded at most
    notes: Mapping[str, object] = field(default_factory=dict)  # what its worker said besides

    @property
    def batch_norm(self) -> Layer:
        return next(layer for layer in self.case.network.layers if layer.name == self.layer.partition("@")[0])

    @property
    def refused_here(self) -> tuple[int, ...]:
        return raised(self.trace)

    def watched(self, event: int) -> tuple[str, ...]:
        """What the script looks at after this event, besides the state at the end of a step."""
        return tuple(q.name for q in self.quantities if q.name not in STATES and event in q.events)

    @property
    def rank(self) -> int:
        return len(next(iter(self.inputs[name] for name in sorted(self.inputs) if name.startswith("x/"))).shape) - 1


def raised(trace: Trace) -> tuple[int, ...]:
    return tuple(index for index, event in enumerate(trace.events) if event.status == "raised")


def make_subject(
    finding: Finding,
    case: Case,
    inputs: Mapping[str, Array],
    played: Sequence[Played],
    name: str,
    *,
    tolerance: Tolerance = USUAL,
    stride: int = 1,
    specs: Mapping[str, InputSpec] | None = None,
    custom_source: str = "",
    model_file: bytes = b"",
    sample: int = 4096,
) -> Subject:
    """The subject of ``name``'s script. Its expected values are the other side's, the float64 reference's first."""
    own = next(item for item in played if item.target.name == name)
    alone = against_itself(finding, case, own)
    if alone:
        problem = "rounding" if finding.kind == "rounding" else "differs"
        source = APART if alone[0].name == L1 else ALIKE
        return Subject(
            finding=finding,
            case=case,
            inputs=inputs,
            target=own.target,
            trace=own.trace,
            layer="",
            other=source,
            quantities=alone,
            compared=len(case.events),
            refused_there=raised(own.trace),
            problem=problem,  # type: ignore[arg-type]
            stride=stride,
            specs=specs or {},
            custom_source=custom_source,
            model_file=model_file,
            sample=sample,
        )
    layer = finding.layer or next(iter(own.trace.layers), "")
    if layer and not has_layer(case, own.trace, layer):
        raise CannotWriteError(f"{case.id} has no layer {layer[:40]!r} to look at")
    other, problem = None, "recorded"
    if finding.cause == "order-dependence" and finding.kind != "rounding":
        if raised(own.trace) or case.network.replicas:
            raise CannotWriteError("no script plays replicas or a refused event a second time")
        problem = "repeated"
    for candidate in others(finding, played, name) if problem != "repeated" else ():
        if differs(finding, case, own, candidate, layer, tolerance=tolerance):
            other, problem = candidate, "differs"
            break
    poisoned = finding.cause in NONFINITE and not finite(own.trace, layer, finding.quantity)
    if poisoned:
        problem = "nonfinite"
    if other is None and finding.kind == "rounding":
        other, problem = next(iter(others(finding, played, name)), None), "rounding"
    if other is None and poisoned:
        other = next((item for item in others(finding, played, name)), None)
    there = own if other is None else other
    found = quantities(finding, case, own, there, layer, tolerance=tolerance)
    refused = raised(there.trace)
    label = "" if other is None else other.target.label
    return Subject(
        finding=finding,
        case=case,
        inputs=inputs,
        target=own.target,
        trace=own.trace,
        layer=layer,
        other=label,
        quantities=found,
        compared=same_program(own.trace, there.trace),
        refused_there=refused,
        problem=problem,  # type: ignore[arg-type]
        stride=stride,
        specs=specs or {},
        custom_source=custom_source,
        model_file=model_file,
        sample=sample,
        notes=own.notes,
    )


def has_layer(case: Case, trace: Trace, layer: str) -> bool:
    """``bn@1`` and ``bn@copy`` are the network's ``bn`` elsewhere; a network from a file has the layers it showed."""
    if case.network.model or case.network.file:
        return layer in trace.layers
    return any(each.name == layer.partition("@")[0] for each in case.network.layers)


def others(finding: Finding, played: Sequence[Played], name: str) -> list[Played]:
    """Whose values could be expected: the other side's, the reference's, anybody's."""
    away = [each for side in finding.sides if name not in side for each in side] if finding.sides else []

    def rank(item: Played) -> tuple[bool, bool]:
        return item.target.name not in away, item.target.backend != "reference"

    return sorted((item for item in played if item.target.name != name), key=rank)


def differs(finding: Finding, case: Case, own: Played, other: Played, layer: str, *, tolerance: Tolerance) -> bool:
    """Whether this partner shows the finding: its own quantity where it names one, else anything."""
    found = quantities(finding, case, own, other, layer, tolerance=tolerance)
    if raised(own.trace) != raised(other.trace):
        return True
    named = [q for q in found if q.name == finding.quantity]
    return any(q.outside for q in named or found)


def finite(trace: Trace, layer: str, quantity: str) -> bool:
    arrays = [trace.get(layer, quantity)] if quantity in STATES else list(trace.arrays.values())
    return all(bool(np.isfinite(array).all()) for array in arrays if array is not None)


def against_itself(finding: Finding, case: Case, own: Played) -> tuple[Quantity, ...]:
    """What a finding says of one target alone: gaps between ways to play the same thing, where 0 is expected."""
    event = finding.event
    if event is None or event >= len(case.events):
        return ()
    if case.network.file and finding.cause == "folding":
        gaps_of = {name: finding.evidence[name] for name in BESIDE if name in finding.evidence}
        bound = float(finding.evidence.get("rounding bound", 0.0))
        sizes = {name: gap for name, gap in gaps_of.items() if isinstance(gap, int | float)}
        return tuple(
            Quantity(
                name=name, events=(event,), here=np.array([[gap]], float), there=np.zeros((1, 1)), rtol=0.0, atol=bound
            )
            for name, gap in sizes.items()
        )
    found = own.trace.arrays.get(f"depth_l1/{event}")
    if case.events[event].op != "eval_in_batches" or found is None:
        return ()
    here = np.asarray(found, dtype=np.float64).reshape(-1, 1)
    # Neighbours that are seen change an output by about itself, rounding by less than a thousandth of that.
    return (
        Quantity(
            name=L1,
            events=(event,),
            here=here,
            there=np.zeros(here.shape),
            rtol=0.0,
            atol=1e-3 * float(here.max(initial=0.0)),
        ),
    )


def quantities(
    finding: Finding, case: Case, own: Played, other: Played, layer: str, *, tolerance: Tolerance
) -> tuple[Quantity, ...]:
    """Running statistics, what the finding is about, and whatever else is outside the tolerance."""
    a, b = own.trace, other.trace
    series = [each for each in pair_series(case, a, b, same_program(a, b)) if each.layer in (layer, "")]
    paired = [each for each in series if each.quantity in ORDER]
    found = [q for each in paired if (q := quantity(each, a, bool(layer), tolerance=tolerance)) is not None]
    wanted = {*ALWAYS, finding.quantity, *(["counter"] if finding.cause == "counter-skew" else [])}
    wanted |= set() if layer else {"output"}  # a network without a BatchNorm layer has nothing else to look at
    return tuple(sorted((q for q in found if q.name in wanted or q.outside), key=lambda q: ORDER.index(q.name)))


def quantity(series: Series, own: Trace, layer: bool, *, tolerance: Tolerance) -> Quantity | None:
    """The rows of a run's series that a script can look at; None where it has none.

    ``layer`` says whether it looks at one: then outputs of several sizes are none of its matters.
    """
    kept = rows_in_sight(series, own, layer)
    here, there = (side[kept].astype(np.float64) for side in (series.a, series.b))
    if series.quantity in LOOSE and kept:  # without the zeros that fill a row up to the longest
        width = own.arrays[f"{series.quantity}/{series.events[kept[0]]}"].size
        here, there = here[:, :width], there[:, :width]
    if not here.size:
        return None
    rtol, atol = tolerance.at(series.dtype)
    return Quantity(
        name=series.quantity,
        events=tuple(int(series.events[row]) for row in kept),
        here=here,
        there=there,
        rtol=rtol,
        atol=atol,
    )


def rows_in_sight(series: Series, own: Trace, layer: bool) -> list[int]:
    """States at every step's end; gradients of backwards that went through; outputs of one size, which a script reads
    by one line: large ones are sampled, small ones are not, and an eval forward may be read at another layer."""
    rows = range(len(series.events))
    if series.quantity in GRADIENTS:
        return [row for row in rows if own.events[series.events[row]].status == "ok"]
    if series.quantity not in LOOSE:
        return list(rows)
    sizes = [own.arrays[f"{series.quantity}/{event}"].size for event in series.events]
    held = [size for size in sizes if size]
    if not held or (layer and len(set(held)) != 1):
        return []
    most = max(held, key=held.count)
    return [row for row in rows if sizes[row] == most]
