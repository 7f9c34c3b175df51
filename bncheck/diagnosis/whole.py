"""The layers inside a whole network of the user's, each judged by itself, target by target: no second one is needed.

The framework's own are held against what it documents, forward by forward; those of the user's were played by
themselves beside the framework's (``inside``). ``bncheck check`` of a model asks the same two. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bncheck.diagnosis.alone import judge_life
from bncheck.diagnosis.inside import (
    TELLING,
    Framework,
    Verdict,
    findings_inside,
    headed,
    read_alone,
    remarks_inside,
    verdicts,
)
from bncheck.diagnosis.kept import kept_in_eval
from bncheck.diagnosis.lived.innocence import innocence
from bncheck.diagnosis.lived.judged import lived
from bncheck.diagnosis.lived.played import layers_told, life_in
from bncheck.diagnosis.shared import at_several_places
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.life import Life
from bncheck.scenario import op_of

ROW = 5  # words of what a worker says of a module (torch_side/leaves.py); own_side/leaves.py adds two lists of sums
# Of the largest: what two kernels make of one thing lies nearer than this, float32 behind some layers 1e-5.
NEAR = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
GROWS = 10  # a module differs by itself where it makes so many times as much of what differs before it
DEPARTS = "forwards that depart"  # evidence of a finding about what a layer did (rules/departing.py)


# Where a layer runs as a copy that is put together anew.
HIDES = {"flax": ", as of one that runs inside nnx.jit(), nnx.remat() or nnx.scan()"}


@dataclass(frozen=True)
class Inside:
    """What is said of one cell: ``judged``, of how many layers; where of none, ``unjudged`` says why, one by one."""

    findings: tuple[Finding, ...] = ()
    remarks: tuple[str, ...] = ()
    judged: int = 0
    unjudged: tuple[str, ...] = ()


def inside(view: CellView, documented: Sequence[Mapping[str, Any]]) -> Inside:
    """Nothing where the cell is none of a whole network, or left no trace."""
    cell = view.notes.get("cell")
    if view.case.network.model is None or view.trace is None or not isinstance(cell, Mapping):
        return Inside()
    code = view.case.network.model.rpartition(":")[0]
    home = Framework(view.backend, documented, str(view.environment.get("version", "")))
    found = verdicts(read_alone(cell.get("alone"), view.trace.arrays, code), home)
    life = life_in(view)
    alone = findings_inside(found)
    held = {name for verdict in found if not verdict.remark for name in verdict.names}
    judged = judge_life(life) if life is not None else ()
    acted = [item for item in judged if telling(item, held)]
    shared = [item for item in judged if item.cause == "shared-state"]
    shared += at_several_places(life, cell.get("places"), view.target, shared)
    done = lived(life) if life is not None else ()
    replayed = [each.name for each in done if each.conduct.judged and not each.life.own]
    said = "" if life is None or idle(view, life) else innocence(life, others=False)
    named = {place for item in acted for place, _ in item.places}
    odd = [
        each.name
        for each in done
        if each.name in replayed and each.name not in named and not each.conduct.innocent
        if "instance" not in each.life.kind.lower()  # of each sample by itself, as its own documentation says
    ]
    return Inside(
        findings=tuple(of_cell(item, view) for item in (*alone, *acted, *shared)),
        remarks=(
            *([said] if said else []),
            *([] if sets_modes(view) else kept_in_eval(life)),
            *([f"{headed(odd)}: not what {home.title} documents, and no known rule makes it."] if odd else []),
            *sentences(cell.get("shown")),
            *remarks_inside(found, left_out(view, found, life), home.title),
            *([f"{each}." for each in alike(idle(view, life))] if life is not None else []),
        ),
        judged=len({*held, *replayed}),
        unjudged=() if held or replayed else unjudged(view, found, life),
    )


def sets_modes(view: CellView) -> bool:
    """Whether the program itself puts single layers into a mode, or freezes them."""
    rows = [op_of(event.op) for event in view.case.events]
    return any("mode" in row.changes and not row.forward for row in rows)


def unjudged(view: CellView, found: Sequence[Verdict], life: Life | None) -> tuple[str, ...]:
    """Why each layer was not held against what its framework documents, a sentence for those alike."""
    told = layers_told(view)
    if not told:
        return ("no layer in it is known to normalise by running statistics",)
    why = {name: verdict.remark for verdict in found for name in verdict.names}
    why.update((name, reason) for name, _, reason in left_out(view, found, life))
    reasons = {name: why.get(name) or unseen(view, name, each) for name, each in told.items()}
    return tuple(alike([(name, str(each.get("kind", "")), reasons[name]) for name, each in told.items()]))


def alike(layers: Sequence[tuple[str, str, str]]) -> list[str]:
    """``layers``: (name, class, what is said of it)."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, kind, reason in layers:
        groups.setdefault((kind, reason), []).append(name)
    return [f"{headed(names)} ({kind}): {reason}" for (kind, reason), names in groups.items()]


def idle(view: CellView, life: Life) -> list[tuple[str, str, str]]:
    """(name, class, why) of the framework's own layers of which no call was recorded: what they did is not known."""
    seen = {layer.name for layer in life.layers}
    told = {name: each for name, each in layers_told(view).items() if not each.get("own") and name not in seen}
    return [(name, str(each.get("kind", "")), unseen(view, name, each)) for name, each in told.items()]


def unseen(view: CellView, name: str, told: Mapping[str, Any]) -> str:
    """Why the record of a layer that nothing else is said of does not tell."""
    if told.get("calls") == 0:
        return "nobody sees it run in a network that is compiled"
    counts = view.trace.get(name, "n") if view.trace is not None else None
    if counts is not None and bool((counts >= 0).any()):
        return "what it got and gave does not show what it did"
    return f"no call of it was seen{HIDES.get(view.backend, '')}"


def sentences(said: object) -> list[str]:
    return [each for each in said if isinstance(each, str)] if isinstance(said, list) else []


def telling(item: Finding, held: Collection[str]) -> bool:
    """Whether it says how a layer departs that was not played by itself, which shows more."""
    return DEPARTS in item.evidence and item.cause in TELLING and not {place for place, _ in item.places} & set(held)


def left_out(view: CellView, found: Sequence[Verdict], life: Life | None) -> list[tuple[str, str, str]]:
    """(name, class, why) of the user's layers that ran and were not taken out."""
    known = {name for verdict in found for name in verdict.names}
    ran = {layer.name for layer in life.layers} if life is not None else set()
    told = layers_told(view)
    return [
        (name, str(each.get("kind", "")), str(each.get("why") or ""))
        for name, each in told.items()
        if each.get("own") is True and name not in known and name in ran
    ]


def apart(a: CellView, b: CellView, same: bool) -> str:
    """Of two targets whose figures are not the ``same``: that BatchNorm is innocent of it, and which module is the
    first to part by itself; "" where not every layer of both did what is documented, or nobody says."""
    lives = [life_in(view) for view in (a, b)]
    if same or any(life is None or not innocence(life, others=False) for life in lives):
        return ""
    if any(life is not None and idle(view, life) for view, life in zip((a, b), lives, strict=True)):
        return ""
    first = first_apart(a, b)
    if first is None or first[0] in {layer.name for life in lives if life is not None for layer in life.layers}:
        return ""
    name, kind, why = first
    count = len(lives[0].layers) if lives[0] is not None else 0
    who = {1: "its one layer does", 2: "both layers do"}.get(count, f"all {count} layers do")
    return (
        f"BatchNorm is innocent of what {a.target} and {b.target} differ in: {who} on both what the framework "
        f"documents. The first module that differs by itself is {name} ({kind}): {why}."
    )


@dataclass(frozen=True)
class Ran:
    """A module in one forward: its name and class, digests of what it got, held and gave, and where the worker says
    them a few sums of what it got and gave, the largest number last."""

    name: str
    kind: str
    got: str
    held: str
    gave: str
    takes: tuple[float, ...] = ()
    gives: tuple[float, ...] = ()


def first_apart(a: CellView, b: CellView) -> tuple[str, str, str] | None:
    """(name, class, in which way) of the first module that got the same and gave something else."""
    one, two = modules(a), modules(b)
    for mode in one:
        for mine, theirs in zip(one[mode], two.get(mode, ()), strict=False):
            if (mine.name, mine.kind) != (theirs.name, theirs.kind) or not reached_alike(mine, theirs, a.case.dtype):
                return None  # what reaches it differs already, and nothing in front of it did so by itself
            if mine.held != theirs.held:
                return mine.name, mine.kind, "its weights are not the same on both"
            if mine.takes and theirs.takes:
                differ, before = gap(mine.gives, theirs.gives), gap(mine.takes, theirs.takes)
                if differ <= NEAR[a.case.dtype]:
                    continue
                if differ < GROWS * before:
                    return None
                if mine.got != theirs.got:
                    return mine.name, mine.kind, "of an input alike but for rounding it makes other numbers"
            if mine.gave != theirs.gave:
                return (
                    mine.name,
                    mine.kind,
                    "of the same input and the same weights, to the bit, it makes other numbers",
                )
    return None


def reached_alike(mine: Ran, theirs: Ran, dtype: str) -> bool:
    """Whether both got the same, to the bit or but for rounding, and whether it is known what they gave."""
    if mine.takes and theirs.takes:
        return gap(mine.takes, theirs.takes) <= NEAR.get(dtype, 0.0) and bool(mine.gives and theirs.gives)
    return bool(mine.got and mine.got == theirs.got and mine.gave and theirs.gave)


def gap(one: Sequence[float], two: Sequence[float]) -> float:
    """The largest difference, over the largest of both; infinite where they are not as many."""
    if len(one) != len(two) or not one:
        return float("inf")
    largest = max(abs(one[-1]), abs(two[-1]))
    return max(abs(a - b) for a, b in zip(one, two, strict=True)) / largest if largest else 0.0


def modules(view: CellView) -> dict[str, list[Ran]]:
    """{mode: modules in the order in which they ran}; rows of another shape, as of an edited run, are left out."""
    cell = view.notes.get("cell")
    told = cell.get("modules") if isinstance(cell, Mapping) else None
    found = told.items() if isinstance(told, Mapping) else ()
    return {
        str(mode): [ran for row in rows if (ran := ran_of(row)) is not None]
        for mode, rows in found
        if isinstance(rows, list)
    }


def ran_of(row: object) -> Ran | None:
    if (
        not isinstance(row, list)
        or len(row) not in (ROW, ROW + 2)
        or not all(isinstance(each, str) for each in row[:ROW])
    ):
        return None
    if not all(isinstance(each, list) and all(map(is_finite, each)) for each in row[ROW:]):
        return None
    name, kind, got, held, gave = row[:ROW]
    sums = [tuple(map(float, each)) for each in row[ROW:]] or [(), ()]
    return Ran(name=name, kind=kind, got=got, held=held, gave=gave, takes=sums[0], gives=sums[1])


def is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def of_cell(item: Finding, view: CellView) -> Finding:
    return replace(item, targets=(view.target,), scenario=view.case.scenario, case=view.case.name)


def together(found: Sequence[Finding]) -> list[Finding]:
    """What is said of several targets alike is said once, of all of them."""
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for item in found:
        groups.setdefault((item.code, item.title, item.kind, item.layer), []).append(item)
    return [
        replace(first, targets=tuple(dict.fromkeys(name for item in group for name in item.targets)))
        for group in groups.values()
        for first in group[:1]
    ]
