"""What an ONNX file that ``--set network.file`` names says of its own input: shape and type, where nobody else does."""

# The reader of files carries no annotations.
# mypy: disallow-untyped-calls=False
from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bncheck.bounded import read_bounded
from bncheck.scenario import DTYPES
from bncheck.scenario_files.toml_text import read_toml
from bncheck.worker.onnx_side import file as onnx_file
from bncheck.worker.onnx_side import oracle as onnx_oracle

INPUT = ("input.shape", "inputs")
MOST_BYTES = 1_000_000  # of a scenario
UNKNOWN = 64
# Images that networks are made for; one that halves its input five times leaves nothing of 6 × 6.
SIDES = (8, 16, 32, 48, 64, 96, 128, 224)
LONGEST = 20.0  # seconds of computing that looking for one may take
# Of images larger than this two are enough.
LARGE = 64 * 64


def with_input_of_file(overrides: Mapping[str, Any], scenario: Path) -> dict[str, Any]:
    """The overrides, and what the file says of its input beside them: the scenario's shape was made for another file.

    Sizes that the file leaves open are the scenario's. A shape that the user sets rules.
    """
    file = overrides.get("network.file")
    if not isinstance(file, str) or any(key.startswith(INPUT) for key in overrides):
        return dict(overrides)
    try:
        raw = read_toml(read_bounded(scenario, MOST_BYTES).decode("utf-8-sig"))
        graph = onnx_file.read(file)
    except (onnx_file.FileError, OSError, ValueError):
        return dict(overrides)  # whoever reads them next says what is wrong, and where
    given = raw.get("input")
    usual = given.get("shape") if isinstance(given, dict) else None
    shape = shape_that_runs(graph, usual) if isinstance(usual, list) and usual else None
    found: dict[str, Any] = {} if shape in (None, usual) else {"input.shape": shape}
    kind = next((kind for kind, _ in graph.inputs.values()), "")
    if kind in DTYPES and kind != raw.get("dtype", "float32") and "dtype" not in overrides:
        found["dtype"] = kind
    return {**overrides, **found}


def shape_that_runs(graph: Any, usual: list[int]) -> list[int] | None:
    """The file's own sizes; the open ones as usual, or where the network needs a larger image, the smallest side with
    which the oracle plays it. None where the file does not say what it takes."""
    shape: list[int] | None = onnx_file.fitting(graph, usual)
    if shape is None:
        return None
    declared = next(iter(graph.inputs.values()))[1] or (None,) * len(shape)
    free = [axis for axis in range(2, len(shape)) if declared[axis] is None]
    began = time.process_time()
    for side in (0, *SIDES) if free else ():
        tried: list[int] = [(side or size) if axis in free else size for axis, size in enumerate(shape)]
        if time.process_time() - began > LONGEST:
            break
        if runs(graph, tried):
            shape = tried
            break
    if declared[0] is None and np.prod(shape[2:]) > LARGE:
        shape[0] = min(shape[0], 2)
    return shape


def runs(graph: Any, shape: list[int]) -> bool:
    """Whether every layer gets values of two samples of this shape. Of a file that the oracle cannot play nobody knows:
    a usual image is large enough for most."""
    try:
        model = onnx_oracle.playing(onnx_file, graph)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # means of nothing are what is looked for
            model.forward(np.zeros([min(shape[0], 2), *shape[1:]], np.float32), "as_is")
    except (NotImplementedError, onnx_file.FileError):
        return max(shape[2:]) >= UNKNOWN
    except (ArithmeticError, ValueError, IndexError):  # two arrays that do not go together, or one that is empty
        return False
    return not model.empty
