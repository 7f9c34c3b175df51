"""The layers inside a whole network of the user's, each judged by itself, target by target: no second one is needed.

The framework's own are held against what it documents, forward by forward; those of the user's were played by
themselves beside the framework's (``inside``). ``bncheck check`` of a model asks the same two. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bncheck.diagnosis.alone import judge_life
from bncheck.diagnosis.inside import (
    TELLING,
    Framework,
    Verdict,
    findings_inside,
    read_alone,
    remarks_inside,
    verdicts,
)
from bncheck.diagnosis.lived.innocence import innocence
from bncheck.diagnosis.lived.judged import lived
from bncheck.diagnosis.lived.played import layers_told, life_in
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.life import Life

DEPARTS = "forwards that depart"  # evidence of a finding about what a layer did (rules/departing.py)


@dataclass(frozen=True)
class Inside:
    """What is said of one cell: ``judged``, how many layers it is said of."""

    findings: tuple[Finding, ...] = ()
    remarks: tuple[str, ...] = ()
    judged: int = 0


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
    acted = [item for item in (judge_life(life) if life is not None else ()) if telling(item, alone)]
    held = [name for verdict in found if not verdict.remark for name in verdict.names]
    done = lived(life) if life is not None else ()
    replayed = [each.name for each in done if each.conduct.judged and not each.life.own]
    said = innocence(life, others=False) if life is not None else ""
    return Inside(
        findings=tuple(of_cell(item, view) for item in (*alone, *acted)),
        remarks=(
            *([said] if said else []),
            *sentences(cell.get("shown")),
            *remarks_inside(found, left_out(view, found, life), home.title),
        ),
        judged=len({*held, *replayed}),
    )


def sentences(said: object) -> list[str]:
    return [each for each in said if isinstance(each, str)] if isinstance(said, list) else []


def telling(item: Finding, alone: Sequence[Finding]) -> bool:
    """Whether it says how a layer departs, and nobody has said so."""
    said = {place for one in alone if one.cause == item.cause for place, _ in one.places}
    return DEPARTS in item.evidence and item.cause in TELLING and not {place for place, _ in item.places} <= said


def left_out(view: CellView, found: Sequence[Verdict], life: Life | None) -> list[tuple[str, str]]:
    """(name, class) of the user's layers that ran and were not taken out."""
    known = {name for verdict in found for name in verdict.names}
    ran = {layer.name for layer in life.layers} if life is not None else set()
    told = layers_told(view)
    return [
        (name, str(each.get("kind", "")))
        for name, each in told.items()
        if each.get("own") is True and name not in known and name in ran
    ]


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
