"""What an ONNX file that ``--set network.file`` names says of its own input: shape and type, where nobody else does."""

# The reader of files carries no annotations.
# mypy: disallow-untyped-calls=False
from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bncheck.scenario import DTYPES
from bncheck.worker import onnx_file

INPUT = ("input.shape", "inputs")


def with_input_of_file(overrides: Mapping[str, Any], scenario: Path) -> dict[str, Any]:
    """The overrides, and what the file says of its input beside them: the scenario's shape was made for another file.

    Sizes that the file leaves open are the scenario's. A shape that the user sets rules.
    """
    file = overrides.get("network.file")
    if not isinstance(file, str) or any(key.startswith(INPUT) for key in overrides):
        return dict(overrides)
    try:
        raw, graph = tomllib.loads(scenario.read_text(encoding="utf-8-sig")), onnx_file.read(file)
    except (onnx_file.FileError, OSError, ValueError):
        return dict(overrides)  # whoever reads them next says what is wrong, and where
    given = raw.get("input")
    usual = given.get("shape") if isinstance(given, dict) else None
    shape = onnx_file.fitting(graph, usual) if isinstance(usual, list) else None
    found = {} if shape in (None, usual) else {"input.shape": shape}
    kind = next((kind for kind, _ in graph.inputs.values()), "")
    if kind in DTYPES and kind != raw.get("dtype", "float32") and "dtype" not in overrides:
        found["dtype"] = kind
    return {**overrides, **found}
