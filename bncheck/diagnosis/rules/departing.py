"""Layers of a life that do not follow the rules: the finding, and the words that every such cause shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bncheck.diagnosis.lived.departures import Departure, departures
from bncheck.diagnosis.lived.innocence import NAMES
from bncheck.diagnosis.rules.layer_names import of_all, verb
from bncheck.diagnosis.rules.lives.words import Said, of_life
from bncheck.finding import Finding
from bncheck.life import Life

# (what it does, what to do about it) of the first departure; in it ``{who}`` is the layers, ``{s}`` a verb's ending.
Says = Callable[[Departure], tuple[str, str]]


def about_departures(life: Life, code: str, cause: str, says: Says) -> list[Finding]:
    """A finding per rule that some layers follow instead of the documented one."""
    groups: dict[tuple[object, ...], list[Departure]] = {}
    for each in departures(life):
        if each.cause == cause:
            value = round(each.value, 3) if isinstance(each.value, float) else each.value
            groups.setdefault((each.own, each.layer.life.kind, value, each.mode), []).append(each)
    return [found for group in groups.values() for found in about(life, code, cause, group, says)]


def about(life: Life, code: str, cause: str, group: list[Departure], says: Says) -> list[Finding]:
    first = group[0]
    layers = tuple(each.layer.name for each in group)
    does, advice = says(first)
    who = f"{of_all(layers, life)} ({first.layer.life.kind}{', a layer of your own' if first.own else ''})"
    does = does.format(who=who, s=verb(layers, "s", ""), es=verb(layers, "es", ""))
    against = "" if first.own else f" {NAMES.get(life.framework, life.framework)} documents something else."
    said = Said(
        layers=layers,
        title=f"{does}{against}",
        advice=advice,
        kind="hazard" if first.own else "defect",
        quantity="output" if first.mode else "running_var" if cause in VARIANCE else "running_mean",
        step=first.step,
        evidence={"forwards that depart": first.moments, "measured": first.value, "due": first.due},
    )
    found = of_life(life, code, cause, [said])
    return [replace(item, departs_from="documentation") if not first.own else item for item in found]


VARIANCE = ("variance-divisor", "wrong-statistic")
