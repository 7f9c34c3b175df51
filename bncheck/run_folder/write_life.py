"""A life written as a recorder writes it (``worker/watching/__init__.py``): ``lives.py`` reads it back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from bncheck.life import Happening, LayerLife, Life, Span, Where
from bncheck.run_folder.folder import WATCHED, write_json
from bncheck.run_folder.results import plain
from bncheck.run_folder.whole import write_whole


def write_life(life: Life, run: Path) -> Path:
    """The folder that it became, below the run folder."""
    base = run / WATCHED
    base.mkdir(parents=True, exist_ok=True)
    place = next(each for number in count() if not (each := base / f"{life.pid}-{number}").exists())
    place.mkdir()
    about = {
        "framework": life.framework,
        "version": life.version,
        "program": life.program,
        "pid": life.pid,
        "command": list(life.command),
        "rank": life.rank,
        "world": life.world,
    }
    state = {"steps": life.steps, "forwards": life.forwards, "left_out": life.left_out, "ended": life.code is not None}
    write_json(place / "about.json", about)
    write_whole(place / "log.jsonl", "".join(json.dumps(plain(row)) + "\n" for row in rows(life)))
    write_json(place / "state.json", state)
    arrays = {
        f"{number}/{quantity}": values
        for number, layer in enumerate(life.layers)
        for quantity, values in layer.moments.items()
    }
    if arrays:
        with (place / "first-0-000000.npz").open("wb") as handle:
            np.savez(handle, **arrays)  # type: ignore[arg-type]
    return place


def rows(life: Life) -> Iterator[Mapping[str, Any]]:
    numbers = {layer.name: number for number, layer in enumerate(life.layers)}
    for number, layer in enumerate(life.layers):
        yield layer_row(number, layer)
        yield from (span_row(number, span) for span in layer.spans)
    yield from (happening_row(each, numbers) for each in life.happenings)
    yield from ({"remark": remark} for remark in life.remarks)


def layer_row(number: int, layer: LayerLife) -> Mapping[str, Any]:
    return {
        "layer": number,
        "name": layer.name,
        "kind": layer.kind,
        "channels": layer.channels,
        "names": list(layer.names),
        "registered": layer.registered,
        "tracks": layer.tracks,
        "own": layer.own,
        "dtypes": dict(layer.dtypes),
        "trainable": layer.trainable,
        "made_at": place_of(layer.made_at),
    }


def span_row(number: int, span: Span) -> Mapping[str, Any]:
    return {"span": number, **asdict(span), "called_from": place_of(span.called_from)}


def happening_row(each: Happening, numbers: Mapping[str, int]) -> Mapping[str, Any]:
    return {
        "what": each.what,
        "index": each.index,
        "step": each.step,
        "where": place_of(each.where),
        "layers": [numbers[name] for name in each.layers if name in numbers],
        "detail": dict(each.detail),
    }


def place_of(where: Where | None) -> tuple[str, int, str] | None:
    return None if where is None else (where.file, where.line, where.function)
