"""``bncheck.judge``: what the rules say of a recording that anybody made, on plain arrays (docs/recording.md)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bncheck.bounded import is_folder, is_regular, read_bounded
from bncheck.errors import UsageError
from bncheck.life import Life
from bncheck.python.result import Result, result_of
from bncheck.run_folder.arrays import open_archive
from bncheck.run_folder.recordings import SEE, life_of

LARGEST = 512 * 1024**2


def judge(recording: Mapping[str, Any] | str | os.PathLike[str], name: str = "") -> Result:
    """Judge a recording: a mapping, a ``.json`` or ``.npz`` file, or a run folder of ``bncheck watch``.

    UsageError in a sentence for what is no recording."""
    if isinstance(recording, Mapping):
        lives: Sequence[Life] = (life_of(recording),)
        subject = name or lives[0].program
    else:
        path = Path(recording)
        lives, subject = read(path), name or path.name
    return result_of(lives, subject or "recording", "bncheck.judge()")


def read(path: Path) -> Sequence[Life]:
    if is_folder(path):
        from bncheck.run_folder.folder import refuse_links
        from bncheck.run_folder.lives import read_lives

        refuse_links(path)
        found = read_lives(path)
        if not found:
            raise UsageError(f"{path} holds no recording.", "Make one with: bncheck watch -- python train.py")
        return found
    if not is_regular(path):
        raise UsageError(f"There is no recording {path}.", SEE)
    if path.suffix == ".npz":
        return (life_of(of_arrays(path)),)
    try:
        value = json.loads(read_bounded(path, LARGEST))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {str(error)[:200]}.", SEE) from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds no object.", SEE)
    return (life_of(value),)


def of_arrays(path: Path) -> Mapping[str, Any]:
    """``layer/quantity`` → array, as in a trace; a layer's name may hold slashes."""
    archive = open_archive(path.resolve())  # a file of the user's own, which may be a link
    layers: dict[str, dict[str, NDArray[Any]]] = {}
    for key in archive or ():
        layer, _, quantity = key.rpartition("/")
        layers.setdefault(layer, {})[quantity] = archive[key]  # type: ignore[index]
    return {"program": path.stem, "layers": layers}
