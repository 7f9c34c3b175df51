"""A whole model of the user's in a framework other than PyTorch, made as the run made it. Pure.

Where a layer lies in it, and what it calls its state, its worker says in the cell's notes: foreign text, of which
names and numbers are taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bncheck.repro.spares import called, copied
from bncheck.repro.standalone.literal import identifier, keywords
from bncheck.repro.standalone.own_layer import OURS, Made
from bncheck.repro.standalone.subject import CannotWriteError, Subject

LAYER = "layer"  # the script's name for the layer that it looks at
PLACE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", re.ASCII)


def is_whole(subject: Subject) -> bool:
    return bool(subject.case.network.model)


def made_of(subject: Subject) -> Made:
    """How its layer is read; ``call`` makes the model."""
    network = subject.case.network
    if network.output is not None:
        raise CannotWriteError(
            "a model of which one of several outputs was compared has no script of this framework yet"
        )
    if subject.case.dtype != "float32" or subject.target.device != "cpu":
        raise CannotWriteError("there is a script of this framework for float32 on the CPU only")
    if any(spec.view != "contiguous" for spec in subject.case.inputs.values()):
        raise CannotWriteError("batches that lie in memory otherwise have no script of this framework yet")
    told = told_of(subject)
    names, flags = told.get("names"), told.get("flags")
    if not (isinstance(names, Mapping) and isinstance(flags, Mapping)):
        raise CannotWriteError("what the run says of the layer has a wrong shape")
    words = [*(part for name in names.values() for part in str(name).split(".")), *flags]
    if not all(isinstance(word, str) and word.isidentifier() and word.isascii() for word in words):
        raise CannotWriteError("the layer keeps its state under names that are none")
    if not all(what in names for what in ("running_mean", "running_var")):
        raise CannotWriteError("the layer keeps its state in another form, or in another layer inside it")
    cell = subject.notes.get("cell")
    remarks = cell.get("remarks") if isinstance(cell, Mapping) else None
    return Made(
        call=call(subject),
        names={str(key): str(value) for key, value in names.items()},
        flags={str(key): bool(value) for key, value in flags.items()},
        eager=isinstance(remarks, list) and any("without jax.jit" in str(each) for each in remarks),
        holder=LAYER,
    )


def told_of(subject: Subject) -> Mapping[str, Any]:
    cell = subject.notes.get("cell")
    layers = cell.get("layers") if isinstance(cell, Mapping) else None
    facts = layers.get(subject.layer) if isinstance(layers, Mapping) else None
    told = facts.get("made") if isinstance(facts, Mapping) else None
    if not isinstance(told, Mapping):
        raise CannotWriteError("the run does not say where the layer lies; run it again with this version of bncheck")
    return told


def place(subject: Subject) -> str:
    """The path of the layer in the model, "" for the model itself."""
    found = told_of(subject).get("place")
    if not isinstance(found, str) or (found and not PLACE.fullmatch(found)):
        raise CannotWriteError("what the run says of the layer has a wrong shape")
    return found


def number(subject: Subject) -> int:
    """The layer's number among all of the model's."""
    found = told_of(subject).get("place")
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise CannotWriteError("what the run says of the layer has a wrong shape")
    return found


def call(subject: Subject) -> str:
    name = str(subject.case.network.model).rpartition(":")[2]
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise CannotWriteError("the function that builds the network has no plain name")
    return f"{called(name)}({keywords(dict(subject.case.network.arguments))})"


def source(subject: Subject, taken: Sequence[str]) -> list[str]:
    """The user's code as it stands in the file."""
    name = str(subject.case.network.model).rpartition(":")[2]
    return copied(subject.custom_source, name, {*OURS, *taken, LAYER}, "model")


def first_batch(subject: Subject) -> str:
    """What the run looked at the model with, before it played anything."""
    name = next(key[2:] for key in subject.inputs if key.startswith("x/"))
    return "X[0]" if name == "main" else f"X_{identifier(name)}[0]"
