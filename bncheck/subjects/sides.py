"""The two things of ``diff``, as they are named on the command line."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bncheck.bounded import is_regular
from bncheck.errors import UsageError
from bncheck.gate.bar import Bar
from bncheck.subjects.thing import EXPORTED, Thing, existing, parse_thing

if TYPE_CHECKING:
    from bncheck.playing.nursery import Nursery

# What bncheck cannot hold side by side yet: suffix → what it is.
UNSUPPORTED = {
    ".pb": "a TensorFlow graph", ".engine": "a TensorRT engine", ".plan": "a TensorRT engine",
    ".mlmodel": "a Core ML file", ".mlpackage": "a Core ML file", ".torchscript": "a TorchScript file",
}  # fmt: skip
PAIRS = "two checkpoints, two models, a model and its ONNX, TFLite, OpenVINO or Keras file, two of such files"
KERAS = (".keras", ".h5", ".hdf5")  # a checkpoint, and where the model's config is in it, a model too


@dataclass(frozen=True)
class Side:
    """One of the two. ``state`` is a state inside a checkpoint ("" where it is not said which)."""

    kind: Literal["code", "onnx", "checkpoint", "exported", "keras"]
    text: str
    path: Path | None = None
    state: str = ""
    thing: Thing | None = None


@dataclass(frozen=True)
class AskedDiff:
    """What a user asked of ``diff``."""

    a: Side
    b: Side
    after: Side | None = None  # a function of the user's, called with a
    inputs: Sequence[str] = ()
    weights: Path | None = None
    data: Path | None = None
    python: str | None = None
    out: Path | None = None
    seconds: float = 120.0
    bar: Bar = Bar(fail_on="convention")
    formats: Sequence[str] = ("csv", "plots", "html")
    command: str = field(default_factory=lambda: shlex.join(["bncheck", *sys.argv[1:]]))
    nursery: Nursery | None = None  # has begun to import what a model of the two is made of

    def nursery_of(self, python: Path) -> Nursery | None:
        return self.nursery if self.nursery is not None and self.nursery.python == python else None


def parse_side(text: str) -> Side:
    """``FILE``, ``FILE:state``, ``file.py:Name``, ``package:Name``. UsageError for what cannot be compared."""
    suffix = Path(text).suffix.lower()
    if suffix in UNSUPPORTED:
        raise UsageError(
            f"{text}: {UNSUPPORTED[suffix]} is unsupported.",
            f"bncheck diff compares {PAIRS}; where you can, export the model to ONNX and compare that",
        )
    file, colon, state = text.rpartition(":")
    if colon and is_regular(Path(file)) and Path(file).suffix != ".py":
        return Side(kind="checkpoint", text=text, path=Path(file), state=state)
    if suffix in EXPORTED:
        return Side(kind="exported", text=text, path=existing(Path(text)).absolute())
    thing = parse_thing(text)
    if thing.framework != "torch":
        raise UsageError(
            f"{text} is not made of PyTorch, and diff plays no other code.",
            f"Compare files of it: bncheck diff compares {PAIRS}.",
        )
    return Side(kind=thing.kind, text=text, path=thing.path, thing=thing)


def names_of(a: Side, b: Side) -> tuple[str, str]:
    """What sentences call the two: the names of the files where they differ, else as much more as tells them apart."""
    if a.text == b.text:
        return f"{short(a)} (first)", f"{short(b)} (second)"
    for parts in range(1, 20):
        one, two = short(a, parts), short(b, parts)
        if one != two:
            return one, two
    return a.text, b.text


def short(side: Side, parts: int = 1) -> str:
    if side.kind == "code" or side.path is None:
        return "/".join(side.text.replace("\\", "/").split("/")[-parts:])
    name = "/".join(side.path.parts[-parts:]) or side.text
    return f"{name}:{side.state}" if side.state else name
