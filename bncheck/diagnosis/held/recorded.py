"""What a worker recorded of a function that it called with a model (worker/torch_side/applied.py), read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bncheck.diagnosis.held.applied import Application, Moment
from bncheck.diagnosis.held.likeness import QUANTITIES
from bncheck.diagnosis.held.reading import Others
from bncheck.life import Held, Holding
from bncheck.trace import Array

PLAYS = ("eval", "nudged", "given", "restored")


def application_of(
    notes: Any, arrays: Mapping[str, Array], name: str, framework: str, which: Mapping[str, str] | None = None
) -> Application | None:
    """None for what makes no sense: notes and arrays may come from anybody. ``which`` maps an array's name in the
    protocol to its name in ``arrays``, where that is another."""
    named = {key: arrays[key] for key in arrays} if which is None else {key: arrays[at] for key, at in which.items()}
    try:
        others = notes["others"]
        return Application(
            function=str(notes["function"])[:200],
            before=moment(notes["before"], named, "before", name, framework),
            after=moment(notes["after"], named, "after", name, framework),
            plays={play: found for play in PLAYS if (found := in_order(named, play))},
            unplayed={str(key): str(text)[:1000] for key, text in notes["unplayed"].items()},
            precision=float(notes["precision"]) or 2.0**-23,
            others=Others(same=int(others["same"]), different=tuple(map(str, others["different"]))),
            flipped=tuple(map(str, notes["flipped"])),
            replaced=tuple(map(str, notes["replaced"])),
            returned=str(notes["returned"])[:200],
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError):
        return None


def in_order(named: Mapping[str, Array], play: str) -> list[Array]:
    found: list[Array] = []
    while f"{play}/{len(found)}" in named:
        found.append(named[f"{play}/{len(found)}"])
    return found


def moment(notes: Mapping[str, Any], named: Mapping[str, Array], side: str, name: str, framework: str) -> Moment:
    layers: Sequence[Mapping[str, Any]] = notes["layers"]
    held = tuple(held_of(layer, named, f"{side}/{place}") for place, layer in enumerate(layers))
    return Moment(
        holding=Holding(name=name, framework=framework, format="model", layers=held),
        training=bool(notes["training"]),
        cumulative=frozenset(str(layer["name"]) for layer in layers if layer["cumulative"]),
        frozen=frozenset(str(layer["name"]) for layer in layers if layer["frozen"]),
        kinds={str(layer["name"]): str(layer["kind"]) for layer in layers},
    )


def held_of(layer: Mapping[str, Any], named: Mapping[str, Array], place: str) -> Held:
    found = {what: named[f"{place}/{what}"] for what in QUANTITIES if f"{place}/{what}" in named}
    counter = named.get(f"{place}/counter")
    texts = layer["texts"]
    flat = {what: value.reshape(-1) for what, value in found.items()}
    return Held(
        layer=str(layer["name"]),
        running_mean=flat.get("running_mean"),
        running_var=flat.get("running_var"),
        gamma=flat.get("gamma"),
        beta=flat.get("beta"),
        counter=float(counter.reshape(-1)[0]) if counter is not None and counter.size == 1 else None,
        eps=setting(layer["eps"]),
        momentum=setting(layer["momentum"]),
        training=None if layer["training"] is None else bool(layer["training"]),
        dtypes={what: str(texts[f"{what}/dtype"]) for what in found if f"{what}/dtype" in texts},
        shapes={what: value.shape for what, value in found.items()},
    )


def setting(value: Any) -> float | None:
    return None if value is None else float(value)
