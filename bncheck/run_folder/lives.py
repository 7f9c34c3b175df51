"""Recordings of a watched command, read into lives (:mod:`bncheck.life`). ``worker/watching/__init__.py`` says what
lies where.

A recording may have been cut off at any byte: the process was killed. A last line that is not whole, a file that was
still being written, and counts that are a little old are no errors. Everything else is checked as in any run folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bncheck.bounded import printable, read_within
from bncheck.errors import RunFolderError
from bncheck.life import HAPPENINGS, Happening, LayerLife, Life, Span, Where
from bncheck.run_folder.arrays import open_archive
from bncheck.run_folder.folder import WATCHED, read_json
from bncheck.trace import Array

MOST_PROCESSES, MOST_FILES, MOST_BYTES = 1024, 20_000, 2 << 30
LARGEST_LOG = 256 << 20
PROCESS = re.compile(r"\d{1,10}-\d{1,6}")
MOMENTS = re.compile(r"(first|every|last|note)-\d{1,9}-\d{6,9}\.npz")
NUMBERS = (
    "index", "call", "step", "training", "in_backward", "gradients", "n", "samples", "input_bad", "output_bad",
    "counter_before", "counter_after", "eps", "momentum", "used_residual", "output_scale",
)  # fmt: skip
PER_CHANNEL = (
    "input_mean", "input_var", "mean_before", "mean_after", "var_before", "var_after", "gamma", "beta", "used_mean",
    "used_invstd",
)  # fmt: skip
WHOLE = ("index", "call", "step", "n", "samples", "input_bad", "output_bad")

Place = tuple[str, int, str]


class Checked(BaseModel):
    model_config = ConfigDict(extra="ignore")


class About(Checked):
    framework: str = Field(max_length=64)
    version: str = Field(max_length=64)
    program: str = Field(max_length=1000)
    command: tuple[str, ...] = Field(max_length=200)
    pid: int
    rank: int = 0
    world: int = 1
    python: str = Field(default="", max_length=64)
    executable: str = Field(default="", max_length=4000)


class StoredLayer(Checked):
    layer: int = Field(ge=0, le=100_000)
    name: str = Field(max_length=1000)
    kind: str = Field(max_length=1000)
    channels: int = Field(ge=0)
    names: tuple[str, ...] = ()
    registered: bool | None = None
    tracks: bool = True
    own: bool = False
    dtypes: dict[str, str] = {}
    trainable: bool | None = None
    made_at: Place | None = None
    device: str = Field(default="", max_length=1000)
    traced: bool = False


class StoredSpan(Checked):
    span: int
    first_index: int
    last_index: int
    first_step: int
    last_step: int
    forwards: int
    training: bool | None
    in_backward: bool
    gradients: bool
    n: tuple[int, int]
    input_dtype: str = Field(max_length=64)
    moved: int | None
    most_per_step: int
    called_from: Place | None


class StoredHappening(Checked):
    what: str
    index: int
    step: int
    layers: tuple[int, ...] = ()
    where: Place | None = None
    detail: dict[str, Any] = {}
    times: int = 0


class State(Checked):
    steps: int
    forwards: int
    left_out: int
    spans: tuple[StoredSpan, ...] = ()
    again: tuple[StoredHappening, ...] = ()
    ended: bool = False


Stored = TypeVar("Stored", About, State)


def read_lives(run: Path, codes: Mapping[int, int] | None = None) -> tuple[Life, ...]:
    """A life per process of a watched command that ran a normalising layer, in order of rank and process id.

    ``codes``: exit codes of processes by id, where they are known. RunFolderError for what nobody's recorder wrote.
    """
    base = run / WATCHED
    if not base.is_dir():
        return ()
    places = sorted(place for place in base.iterdir() if PROCESS.fullmatch(place.name) and place.is_dir())
    if len(places) > MOST_PROCESSES:
        raise RunFolderError(f"{base} holds {len(places):,} recordings, more than bncheck reads ({MOST_PROCESSES:,}).")
    found = [life for place in places if (life := read_life(place, codes or {})) is not None]
    return tuple(sorted(found, key=lambda life: (life.rank, life.pid)))


def steps_so_far(run: Path) -> int | None:
    """Optimiser steps that the processes of a command have written of, the most that one has; None: nothing yet."""
    found = []
    for path in (run / WATCHED).glob("*/state.json"):
        try:
            found.append(checked(State, path).steps)
        except (RunFolderError, OSError):  # made, and not yet filled
            continue
    return max(found, default=None)


def read_life(place: Path, codes: Mapping[int, int]) -> Life | None:
    """One process; None where it was killed before anything of it was written."""
    if not (place / "state.json").is_file() or not (place / "about.json").is_file():
        return None
    about = checked(About, place / "about.json")
    state = checked(State, place / "state.json")
    layers, spans, happenings, remarks = read_log(place / "log.jsonl")
    spans += state.spans
    moments = read_moments(place, layers)
    names = {number: printable(layer.name) for number, layer in layers.items()}
    by_layer: dict[int, list[StoredSpan]] = {}
    for span in spans:
        by_layer.setdefault(span.span, []).append(span)
    for row in happenings:
        if row.what == "refused":  # no forward of it ended, and that is what there is to tell of it
            for number in row.layers:
                by_layer.setdefault(number, [])
    lived = tuple(
        layer_life(layer, by_layer[number], moments.get(number, {}))
        for number, layer in sorted(layers.items())
        if number in by_layer
    )
    events = sorted((*happenings, *state.again), key=lambda row: row.index)
    code = codes.get(about.pid)
    return Life(
        program=about.program,
        framework=about.framework,
        version=about.version,
        layers=lived,
        happenings=tuple(happening(row, names) for row in events if told(row, by_layer)),
        steps=state.steps,
        forwards=state.forwards,
        left_out=state.left_out,
        python=about.python,
        rank=about.rank,
        world=about.world,
        pid=about.pid,
        command=about.command,
        code=ended_with(events) if code is None and state.ended else code if code is None or code >= 0 else None,
        remarks=tuple(remarks),
    )


def ended_with(events: Sequence[StoredHappening]) -> int | None:
    """The code that a process which nobody waited for says it ended with."""
    codes = [row.detail.get("code") for row in events if row.what == "end"]
    return int(codes[-1]) if codes and isinstance(codes[-1], int) else None


def checked(kind: type[Stored], path: Path) -> Stored:
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        raise RunFolderError(f"{path} cannot be used: {first_fault(error)}.", "The file was edited.") from None


def first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in fault['loc'])[:200]}: {fault['msg'][:200]}"


Log = tuple[dict[int, StoredLayer], tuple[StoredSpan, ...], list[StoredHappening], list[str]]


def read_log(path: Path) -> Log:
    """(layers by number, closed spans, happenings, remarks). A later line about a layer holds."""
    layers: dict[int, StoredLayer] = {}
    spans: list[StoredSpan] = []
    happenings: list[StoredHappening] = []
    remarks: list[str] = []
    for number, row in rows(path):
        try:
            if "layer" in row:
                layer = StoredLayer.model_validate(row)
                layers[layer.layer] = layer
            elif "span" in row:
                spans.append(StoredSpan.model_validate(row))
            elif "what" in row:
                happenings.append(StoredHappening.model_validate(row))
            elif "remark" in row:
                remarks.append(str(row["remark"])[:1000])
        except ValidationError as error:
            raise RunFolderError(
                f"{path}:{number} cannot be used: {first_fault(error)}.", "The file was edited."
            ) from None
    return layers, tuple(spans), happenings, remarks


def rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        raw = read_within(path.parent, path.name, most=LARGEST_LOG)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror or error}.") from error
    lines = raw.split(b"\n")[:-1]  # behind the last line break is nothing, or a line that a kill cut off
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise RunFolderError(f"{path}:{number} is no line of a recording.", "The file was edited.")
        yield number, row


def read_moments(place: Path, layers: Mapping[int, StoredLayer]) -> dict[int, dict[str, Array]]:
    """Layer number → quantity → array, in order of index, each moment once."""
    paths = sorted(path for path in place.iterdir() if MOMENTS.fullmatch(path.name))
    if len(paths) > MOST_FILES or sum(path.stat().st_size for path in paths) > MOST_BYTES:
        raise RunFolderError(
            f"{place} holds {len(paths):,} files of moments, more than bncheck reads.",
            "Watch with a smaller --keep, or do not open this folder: it was edited.",
        )
    chunks: dict[int, list[dict[str, Array]]] = {}
    for path in paths:
        archive = open_archive(path)
        if archive is None:
            continue
        found: dict[int, dict[str, Array]] = {}
        for key in archive:
            layer, _, quantity = key.partition("/")
            if layer.isdecimal() and int(layer) in layers and quantity in NUMBERS + PER_CHANNEL:
                found.setdefault(int(layer), {})[quantity] = archive[key]
        for number, arrays in found.items():
            chunks.setdefault(number, []).append(fitting(path, layers[number], arrays))
    return {number: joined(layers[number], parts) for number, parts in chunks.items()}


def fitting(path: Path, layer: StoredLayer, arrays: dict[str, Array]) -> dict[str, Array]:
    """The arrays, if each is as long as the others and as wide as the layer."""
    index = arrays.get("index")
    if index is None or index.ndim != 1:
        raise RunFolderError(f"{path} has moments of {layer.name} without an index.", "The file was edited.")
    for quantity, array in arrays.items():
        shape = (len(index), layer.channels) if quantity in PER_CHANNEL else (len(index),)
        if array.shape != shape or array.dtype.kind not in "fiub":
            raise RunFolderError(
                f"{path}: {quantity} of {layer.name} has the shape {array.shape} and not {shape}.",
                "The file was edited.",
            )
    return arrays


def joined(layer: StoredLayer, parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    index = np.concatenate([part["index"] for part in parts])
    _, order = np.unique(index, return_index=True)
    found = {}
    for quantity in (*NUMBERS, *PER_CHANNEL):
        if any(quantity in part for part in parts):
            whole = [part.get(quantity, empty(layer, quantity, len(part["index"]))) for part in parts]
            found[quantity] = np.concatenate(whole)[order]
    for quantity in WHOLE:
        if quantity in found:
            found[quantity] = found[quantity].astype(np.int64)
    return found


def empty(layer: StoredLayer, quantity: str, count: int) -> Array:
    """What stands where a moment lacks a quantity that others of its layer have: -1 for a count."""
    return np.full((count, layer.channels) if quantity in PER_CHANNEL else count, -1 if quantity in WHOLE else np.nan)


def layer_life(layer: StoredLayer, spans: Sequence[StoredSpan], moments: Mapping[str, Array]) -> LayerLife:
    return LayerLife(
        name=printable(layer.name),
        kind=layer.kind,
        channels=layer.channels,
        moments=moments,
        spans=tuple(span_of(each) for each in sorted(spans, key=lambda each: each.first_index)),
        tracks=layer.tracks,
        own=layer.own,
        registered=layer.registered,
        names=layer.names,
        dtypes=layer.dtypes,
        trainable=layer.trainable,
        made_at=where_of(layer.made_at),
        device=layer.device,
        traced=layer.traced,
    )


def span_of(stored: StoredSpan) -> Span:
    return Span(
        first_index=stored.first_index,
        last_index=stored.last_index,
        first_step=stored.first_step,
        last_step=stored.last_step,
        forwards=stored.forwards,
        training=stored.training,
        in_backward=stored.in_backward,
        gradients=stored.gradients,
        n=stored.n,
        input_dtype=stored.input_dtype,
        moved=stored.moved,
        most_per_step=stored.most_per_step,
        called_from=where_of(stored.called_from),
    )


def where_of(place: Place | None) -> Where | None:
    return None if place is None else Where(file=place[0][:4000], line=place[1], function=place[2][:1000])


def told(row: StoredHappening, ran: Mapping[int, Any]) -> bool:
    """Whether a happening is about the program, or about a layer that ran: a copy that never does is none."""
    return row.what in HAPPENINGS and (not row.layers or any(number in ran for number in row.layers))


def happening(row: StoredHappening, names: Mapping[int, str]) -> Happening:
    # The recorder logs the first of those that are alike; ``times`` of the others it counted, and this is the last.
    detail = {**row.detail, "times": row.times} if row.times else row.detail
    return Happening(
        what=row.what,
        index=row.index,
        step=row.step,
        layers=tuple(names[number] for number in row.layers if number in names),
        where=where_of(row.where),
        detail=detail,
    )
