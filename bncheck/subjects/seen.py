"""What came back from the process of a model that was played: what it said, what it holds, what it lived through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from bncheck.bounded import printable
from bncheck.diagnosis.inside import Alone, Framework, Verdict, read_alone, verdicts
from bncheck.environments.backend_file import find_backends
from bncheck.life import Held, Holding, LayerLife, Life
from bncheck.run_folder.arrays import open_archive
from bncheck.run_folder.lives import read_lives
from bncheck.run_folder.recordings import life_of

QUANTITIES = ("running_mean", "running_var", "gamma", "beta")


@dataclass(frozen=True)
class Seen:
    """Everything that came back: what the model's process said, what it holds, what it lived through (None: nothing was
    played)."""

    said: Mapping[str, Any]
    holding: Holding
    life: Life | None
    alone: tuple[Alone, ...] = ()  # layers of the user's, each played by itself

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What layers of the user's do unlike the framework's own."""
        documented = find_backends(())[self.holding.framework].documented
        version = str(self.said.get("version", self.said.get("torch", "")))
        return verdicts(self.alone, Framework(self.holding.framework, documented, version))


def read(name: str, said: Mapping[str, Any], folder: Path, framework: str = "torch") -> Seen:
    said = {**said, "layers": [{**each, "name": printable(str(each["name"]))} for each in said["layers"]]}
    holding = holding_of(name, said, folder / "held.npz", framework)
    played = open_archive(folder / "alone.npz") if said.get("alone") else None
    alone = read_alone(said.get("alone"), {} if played is None else played, name.rpartition(":")[0])
    handed = folder / "recording.npz"
    if handed.is_file():
        life = handed_in(holding.name, said, handed, framework)
        return Seen(said=said, holding=holding, life=life, alone=alone)
    lives = read_lives(folder)
    return Seen(said=said, holding=holding, life=lives[0] if lives else None, alone=alone)


def handed_in(name: str, said: Mapping[str, Any], path: Path, framework: str) -> Life | None:
    """A life that the model's process wrote down as plain arrays; None where no layer ran."""
    layers: dict[str, dict[str, Any]] = {}
    archive = open_archive(path)
    for key in archive or ():
        layer, _, quantity = key.rpartition("/")
        layers.setdefault(printable(layer), {})[quantity] = archive[key]  # type: ignore[index]
    if not layers:
        return None
    known = {str(layer["name"]): layer for layer in said["layers"]}
    for layer, found in layers.items():
        found.update(kind=str(known[layer]["kind"]), own=bool(known[layer]["own"]))
    life = life_of(
        {
            "program": name,
            "framework": framework,
            "version": str(said["version"]),
            "steps": int(said["steps"]),
            "layers": layers,
            "happenings": said["happenings"],
        }
    )
    return replace(life, layers=tuple(described(layer, known[layer.name]) for layer in life.layers))


def described(layer: LayerLife, facts: Mapping[str, Any]) -> LayerLife:
    """With what arrays do not show: whether it is trained, and dtypes that NumPy lacks."""
    dtypes = {**layer.dtypes, **{str(what): str(each) for what, each in (facts.get("dtypes") or {}).items()}}
    return replace(layer, trainable=facts.get("trainable"), dtypes=dtypes)


def holding_of(name: str, said: Mapping[str, Any], path: Path, framework: str = "torch") -> Holding:
    archive = open_archive(path)
    arrays: Mapping[str, Any] = {} if archive is None else {key: archive[key] for key in archive}
    layers = [held_of(place, layer, arrays) for place, layer in enumerate(said["layers"])]
    others = {str(key): tuple(shape) for key, shape in said["others"].items()}
    short = name.replace("\\", "/").rpartition("/")[2]
    return Holding(name=short, framework=framework, format="model", layers=tuple(layers), others=others)


def held_of(place: int, layer: Mapping[str, Any], arrays: Mapping[str, Any]) -> Held:
    found = {what: arrays[f"{place}/{what}"] for what in QUANTITIES if f"{place}/{what}" in arrays}
    if layer.get("own"):
        found = {what: array for what, array in found.items() if per_channel(array, found)}
    counter = arrays.get(f"{place}/counter")
    there = [*found, *(["counter"] if counter is not None else [])]
    path = "" if layer["name"] == layer["kind"] else f"{layer['name']}."
    return Held(
        layer=str(layer["name"]),
        running_mean=flat(found.get("running_mean")),
        running_var=flat(found.get("running_var")),
        counter=float(counter.reshape(-1)[0]) if counter is not None and counter.size == 1 else None,
        gamma=flat(found.get("gamma")),
        beta=flat(found.get("beta")),
        eps=layer["eps"],
        momentum=layer["momentum"],
        training=layer["training"],
        weighed=not layer.get("own") or layer["momentum"] is not None or layer.get("cumulative") is True,
        dtypes={what: str(arrays[f"{place}/{what}/dtype"]) for what in there},
        shapes={what: found[what].shape for what in found},
        keys={what: path + str(arrays[f"{place}/{what}/key"]) for what in there},
        kind=str(layer["kind"]),
    )


def per_channel(array: Any, found: Mapping[str, Any]) -> bool:
    """Whether a layer of the user's holds a number for each channel there, or one for all: a scale for each position is
    no gamma."""
    return "running_mean" not in found or array.size in (1, found["running_mean"].size)


def flat(array: Any) -> Any:
    return None if array is None else array.reshape(-1)


# --------------------------------------------------------------------------- what became of its layers


def unregistered(seen: Seen) -> list[dict[str, Any]]:
    """Layers that ran and that the model does not reach, as the worker describes those that it does."""
    layers = seen.life.layers if seen.life is not None else ()
    return [
        {"name": layer.name, "kind": layer.kind, "training": None, "tracks": layer.tracks}
        for layer in layers
        if layer.registered is False
    ] + [dict(each, training=None, tracks=True) for each in seen.said.get("aside") or ()]


def not_run(seen: Seen) -> list[str]:
    """Layers that no forward reached, or none that could be seen."""
    ran = {layer.name for layer in seen.life.layers} if seen.life is not None else set()
    return [str(layer["name"]) for layer in seen.said["layers"] if str(layer["name"]) not in ran]


def none_ran(seen: Seen) -> bool:
    return len(not_run(seen)) == len(seen.said["layers"]) and not unregistered(seen)


def unplayed(seen: Seen, phase: str) -> bool:
    """Whether a forward of that phase did not come to its end."""
    return any(str(remark).startswith(f"{phase} was not played") for remark in seen.said.get("remarks") or ())


def stopped(seen: Seen) -> str:
    """What the recorder says where it ended before the model did; "" where it did not."""
    remarks = seen.life.remarks if seen.life is not None else ()
    return next((remark for remark in remarks if remark.startswith("The recorder stopped")), "")


def untold(seen: Seen) -> list[tuple[str, str, str]]:
    """(name, class, why) of the user's layers that ran and were not taken out."""
    why = seen.said.get("unplayed") or {}
    known = {name for verdict in seen.verdicts for name in verdict.names}
    idle = not_run(seen)
    return [
        (str(layer["name"]), str(layer["kind"]), str(why.get(layer["name"]) or ""))
        for layer in seen.said["layers"]
        if layer.get("own") and layer["name"] not in known and layer["name"] not in idle
    ]
