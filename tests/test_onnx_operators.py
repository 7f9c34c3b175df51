"""Operators of the oracle, in the forms that exporters write, against onnxruntime: one process, one-node models."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bncheck.environments.backend_file import find_backends
from bncheck.environments.pythons import Ready, prepare
from bncheck.environments.targets import Target
from bncheck.worker.onnx_side import oracle

SCRIPT = Path(__file__).parent / "onnx_operators.py"


@pytest.fixture(scope="module")
def gaps() -> dict[str, float | str]:
    target = Target("onnxruntime")
    place = prepare([target], find_backends(()))[target]
    if not isinstance(place, Ready):
        pytest.skip(f"onnxruntime: {place.reason}. Remedy: {place.remedy}")
    folder = Path(oracle.__file__).parent
    done = subprocess.run(
        [place.python, str(SCRIPT), str(folder)], capture_output=True, text=True, check=True, timeout=120
    )
    found: dict[str, float | str] = json.loads(done.stdout)
    return found


def test_the_oracle_computes_what_onnxruntime_computes(gaps: dict[str, float | str]) -> None:
    assert len(gaps) > 120
    assert {name: gap for name, gap in gaps.items() if isinstance(gap, str) or gap > 1e-5} == {}
