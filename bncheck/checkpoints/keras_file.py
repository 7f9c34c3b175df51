"""Keras: ``.h5`` of every version, ``.weights.h5`` and ``.keras`` (an archive of such a file and the model's config).

The names in a file of Keras 3 are numbers (``layers/batch_normalization/vars/0``); the order is gamma, beta,
moving_mean, moving_variance, without what the layer leaves out, which the config tells.
"""

from __future__ import annotations

import importlib.util
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bncheck.checkpoints import hdf5
from bncheck.checkpoints.tensor import Stretch, Tensor, damaged, in_memory, natural, whole_file
from bncheck.checkpoints.zipped import Entry, entries
from bncheck.errors import CheckpointError

LARGEST_CONFIG = 64 * 2**20
LARGEST_UNPACKED = 2**30
NORM = re.compile(r"(^|/)(sync_)?batch_norm\w*$")
ORDER = ("gamma", "beta", "moving_mean", "moving_variance")


@dataclass
class Settings:
    """What a config says of one BatchNormalization layer."""

    name: str
    scale: bool = True
    center: bool = True
    numbers: dict[str, float] = field(default_factory=dict)


def read_archive(path: Path, entries: Mapping[str, Entry]) -> tuple[dict[str, Any], list[str]]:
    """The names of a ``.keras`` file, and remarks."""
    config = entries.get("config.json")
    settings = settings_of(path, config.read(LARGEST_CONFIG)) if config is not None else {}
    weights = entries["model.weights.h5"]
    if weights.stretch is None and weights.size > LARGEST_UNPACKED:
        raise CheckpointError(f"{path} unpacks to {weights.size:,} bytes, more than bncheck reads.")
    return named(group_of(weights.whole()), settings)


def read_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    group = group_of(whole_file(path))
    return named(group, settings_of(path, group.attributes.get("model_config", "").encode()))


def holds_model(path: Path) -> bool:
    """Whether the model itself is in a file, not its weights alone."""
    if whole_file(path).read(0, 4) == b"PK\x03\x04":
        return "config.json" in entries(path)
    return bool(group_of(whole_file(path)).attributes.get("model_config"))


def group_of(file: Stretch) -> hdf5.Group:
    """The file by bncheck's own reader, or by h5py where it is beyond that and h5py is here."""
    try:
        return hdf5.read(file)
    except hdf5.UnknownPart as part:
        if importlib.util.find_spec("h5py") is None:
            raise CheckpointError(
                f"{file.path} uses a part of HDF5 that bncheck does not read by itself ({part}).",
                "install h5py beside bncheck: pip install 'bncheck[keras]'",
            ) from None
    return by_library(file)


def by_library(stretch: Stretch) -> hdf5.Group:
    import h5py  # type: ignore[import-not-found, unused-ignore]

    def group(node: Any, depth: int) -> hdf5.Group:
        found = hdf5.Group()
        for key in node if depth < hdf5.DEEPEST else ():
            if node.get(key, getlink=True).__class__.__name__ != "HardLink":
                continue
            value = node[key]
            if isinstance(value, h5py.Group):
                found.members[key] = group(value, depth + 1)
            elif value.dtype.kind in "fiub":
                found.members[key] = in_memory(value[()])
        found.attributes.update({str(key): value for key, value in node.attrs.items() if isinstance(value, str)})
        return found

    try:
        with h5py.File(io.BytesIO(stretch.read(0, stretch.size)), "r") as file:
            return group(file, 0)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise damaged(stretch.path, str(error)) from None


# ---------------------------------------------------------------------------------------------------------- names


def named(group: hdf5.Group, settings: Mapping[str, Settings]) -> tuple[dict[str, Any], list[str]]:
    """Path → tensor, with the words of quantities in the place of Keras 3's numbers; numbers of the config too."""
    found: dict[str, Any] = {}
    remarks: list[str] = []
    for name, node in walk(group, ""):
        if name.endswith("/vars") and isinstance(node, hdf5.Group) and NORM.search(name.removesuffix("/vars")):
            place = name.removesuffix("/vars").removeprefix("_layer_checkpoint_dependencies/")
            arrays = [node.members[key] for key in sorted(node.members, key=natural)]
            said = settings.get(place)
            words = words_of(arrays, said)
            layer = said.name if said is not None else place.replace("layers/", "")
            if len(words) != len(arrays):
                remarks.append(f"{place} holds {len(arrays)} arrays, which is no BatchNormalization bncheck knows.")
                continue
            found |= {f"{layer}/{word}": array for word, array in zip(words, arrays, strict=True)}
            if said is not None:
                found |= {f"{layer}.{key}": value for key, value in said.numbers.items()}
    taken = {id(value) for value in found.values()}
    for name, node in walk(group, ""):
        if isinstance(node, Tensor) and id(node) not in taken and not name.startswith(("optimizer", "_optimizer")):
            found[undoubled(name.removeprefix("model_weights/"))] = node
    by_name = {each.name: each for each in settings.values()}
    for name in list(found):
        layer, _, word = name.rpartition("/")
        known = by_name.get(layer) or by_name.get(layer.rpartition("/")[2])
        said = known if word.startswith("moving_variance") else None
        if said is not None:
            found |= {f"{layer}.{key}": value for key, value in said.numbers.items()}
    return found, remarks


def words_of(arrays: list[Any], said: Settings | None) -> tuple[str, ...]:
    """Which quantity each array is; ``affine`` is gamma or beta, where no config says which of them is left out."""
    if said is not None:
        return tuple(word for word in ORDER if (said.scale or word != "gamma") and (said.center or word != "beta"))
    return {4: ORDER, 3: ("affine", *ORDER[2:]), 2: ORDER[2:]}.get(len(arrays), ())


def undoubled(name: str) -> str:
    """``bn/bn/gamma:0`` and ``bn/sequential/bn/gamma`` as ``bn/gamma``: a layer's group before the variable's path."""
    parts = name.split("/")
    again = [place for place in range(1, len(parts) - 1) if parts[place] == parts[0]]
    return "/".join(parts[again[-1] :] if again else parts)


def walk(group: hdf5.Group, name: str) -> Iterator[tuple[str, Any]]:
    for key in sorted(group.members, key=natural):
        node = group.members[key]
        path = f"{name}/{key}" if name else key
        yield path, node
        if isinstance(node, hdf5.Group):
            yield from walk(node, path)


# --------------------------------------------------------------------------------------------------------- config


def settings_of(path: Path, raw: bytes) -> dict[str, Settings]:
    """Place in the weights' file ("layers/batch_normalization_1") → what the config says of that layer."""
    if not raw:
        return {}
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError):
        raise damaged(path, "the config of the model is no JSON") from None
    return dict(layers_in(config, "", "", 0))


def layers_in(model: Any, place: str, name: str, depth: int) -> Iterator[tuple[str, Settings]]:
    config = model.get("config") if isinstance(model, dict) else None
    layers = config.get("layers") if isinstance(config, dict) else None
    used: dict[str, int] = {}
    for layer in layers if isinstance(layers, list) and depth < hdf5.DEEPEST else ():
        inner = layer.get("config") if isinstance(layer, dict) else None
        if not isinstance(inner, dict) or not isinstance(layer.get("class_name"), str):
            continue
        word = snake(layer["class_name"])
        count = used[word] = used.get(word, -1) + 1
        below = f"{place}layers/{word}{f'_{count}' if count else ''}"
        own = f"{name}{inner.get('name', word)}"
        if "BatchNorm" in layer["class_name"]:
            yield (
                below,
                Settings(own, bool(inner.get("scale", True)), bool(inner.get("center", True)), numbers_of(inner)),
            )
        yield from layers_in(layer, f"{below}/", f"{own}/", depth + 1)


def numbers_of(config: Mapping[str, Any]) -> dict[str, float]:
    words = {"epsilon": "eps", "momentum": "momentum"}
    said = {word: config.get(key) for key, word in words.items()}
    return {word: float(value) for word, value in said.items() if isinstance(value, int | float) and abs(value) < 1e300}


def snake(name: str) -> str:
    """BatchNormalization → batch_normalization, as Keras does it."""
    name = re.sub(r"\W+", "", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()
