"""One normalising layer at several places of a model that is played, as its structure shows it: by the names that lead
to it, and by what runs before and behind it. ``check`` of a model and ``run`` of a scenario with one ask here. Pure.

Where the data that reach the places are seen to be unlike, the rule itself says so (rules/lives/reach): that comes
first. A layer that keeps no running statistics shares none, and one that no training moves mixes none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bncheck.diagnosis.rules.layer_names import named, together
from bncheck.diagnosis.rules.lives.reading import moves
from bncheck.finding import Finding
from bncheck.life import LayerLife, Life

MIX = "its running statistics mix what reaches these places, and each training step moves them more than once."
ADVICE = "give each place a BatchNorm layer of its own; other weights may be shared"


def at_several_places(life: Life | None, places: object, target: str, others: Sequence[Finding]) -> list[Finding]:
    """Layers of a life, and ``places`` as a worker says them ({layer: [[module before, module behind], …]}), that no
    finding of ``others`` names as shared."""
    found = [] if life is None else list(by_names(life, target, others))
    mixes = {layer.name: mixing(layer) for layer in life.layers} if life is not None else {}
    told = {name: calls for name, calls in told_places(places).items() if mixes.get(name, True)}
    return [*found, *by_neighbours(told, target, [*others, *found])]


def told_places(places: object) -> dict[str, list[tuple[str, str]]]:
    """What a worker says of places; rows of another shape, as of an edited run, are left out."""
    if not isinstance(places, Mapping):
        return {}
    return {
        str(name): [(str(before), str(behind)) for before, behind in calls]
        for name, calls in places.items()
        if isinstance(calls, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in calls)
    }


def mixing(layer: LayerLife) -> bool:
    """Whether it keeps running statistics, and training moves them, or is not known to leave them alone."""
    trained = [span for span in layer.spans if span.gradients and not span.in_backward and span.moved is not None]
    return layer.tracks and (not trained or any(moves(span) for span in trained))


def by_names(life: Life, target: str, others: Sequence[Finding]) -> Iterator[Finding]:
    """One layer under several names that runs more than once in a call. Branches that are alike by name (left.bn,
    right.bn) are one network for two inputs, and meant so."""
    known = shared_in(others)
    for layer in life.layers:
        ends = {name.rpartition(".")[2] for name in layer.names}
        calls = layer.get("call")
        if layer.name in known or len(ends) < 2 or calls is None or len(np.unique(calls)) == len(calls):
            continue
        if mixing(layer):
            yield shared(
                target,
                layer.name,
                f"{together(layer.names)} are one layer, which runs more than once in a call of the model: {MIX}",
                {"names": len(layer.names), "forwards": layer.forwards},
            )


def by_neighbours(
    places: Mapping[str, Sequence[tuple[str, str]]], target: str, others: Sequence[Finding]
) -> Iterator[Finding]:
    """One layer that runs behind one module and before another, and elsewhere between two others. Where one of the two
    is the same each time, a whole part of the model runs more than once: two inputs of one network, steps of a
    recurrence."""
    known = shared_in(others)
    for name, calls in places.items():
        before, behind = ([pair[side] for pair in calls] for side in (0, 1))
        if name in known or len(set(before)) < 2 or len(set(behind)) < 2:
            continue
        times = "twice" if len(calls) == 2 else f"{len(calls)} times"
        ends = [f"behind {each}" if each else "at the model's input" for each in dict.fromkeys(before)]
        yield shared(
            target,
            name,
            f"{named(name)} runs {times} in a call of the model, {' and '.join(ends[:4])}: {MIX}",
            {"forwards in a call": len(calls), "places": len(ends)},
        )


def shared_in(others: Sequence[Finding]) -> set[str]:
    return {place for item in others if item.cause == "shared-state" for place, _ in item.places}


def shared(target: str, layer: str, title: str, evidence: Mapping[str, Any]) -> Finding:
    return Finding(
        code="BN408",
        cause="shared-state",
        kind="hazard",
        title=title[:1].upper() + title[1:] if title.startswith(("layer ", "layers ")) else title,
        targets=(target,),
        scenario="check",
        case="",
        layer=layer,
        quantity="running_mean",
        evidence=dict(evidence),
        advice=ADVICE,
    )
