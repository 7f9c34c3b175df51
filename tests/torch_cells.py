"""Cells of the torch backend played in real workers, for the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from left_by_cells import arrays_of
from nurseries import nursery_of
from patience import patience

from bncheck.environments.backend_file import find_backends
from bncheck.environments.pythons import Ready, prepare
from bncheck.environments.targets import Target
from bncheck.playing.cases_file import write_cases
from bncheck.playing.job import Job, Limits
from bncheck.playing.workers import play
from bncheck.run_folder.cell import CellRecord, record_or_crash
from bncheck.scenario import Case
from bncheck.scenario_files.files import load_scenario
from bncheck.scenario_files.shipped import find_scenarios

BACKENDS = find_backends()


def python_of(variant: str) -> Path:
    """A Python that has torch, and what the variant needs; skips the test where there is none, with the reason."""
    target = Target("torch", variant)
    answer = prepare([target], BACKENDS)[target]
    if not isinstance(answer, Ready):
        pytest.skip(f"{target}: {answer.reason}. Remedy: {answer.remedy}")
    return answer.python


def shipped(name: str) -> Path:
    return next(path for path in find_scenarios() if path.stem == name)


def cases_of(name: str, **overrides: Any) -> dict[str, Case]:
    """The cases of a shipped scenario, by label."""
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    return {case.label: case for case in load_scenario(shipped(name), keys).cases}


def renamed(case: Case, name: str, **network: Any) -> Case:
    return replace(case, name=name, network=replace(case.network, **network))


@dataclass(frozen=True)
class Cell:
    result: CellRecord
    arrays: Mapping[str, np.ndarray]
    folder: Path
    printed: str

    @property
    def errors(self) -> list[str]:
        return [f"{item['op']}: {item['error_type']}: {item['error']}" for item in self.result.failed]


def play_cells(folder: Path, cases: Sequence[Case], variant: str = "", seconds: float = 300.0) -> dict[str, Cell]:
    """Play the cases in one worker, forked where that can be; returns the cells by the cases' names."""
    python = python_of(variant)
    write_cases(folder, cases)
    job = Job(
        "torch", folder / "cells" / "torch", python, BACKENDS["torch"].path, variant, "cpu",
        tuple(case.id for case in cases), Limits(cell_seconds=patience(seconds)), nursery=nursery_of(python),
    )  # fmt: skip
    reasons = play([job], 1, lambda progress: None)
    assert not reasons, reasons
    return {case.name: read_cell(job.folder / case.id) for case in cases}


def read_cell(folder: Path) -> Cell:
    result = record_or_crash(folder)
    assert result is not None
    printed = folder / "stderr.txt"
    return Cell(result, arrays_of(folder), folder, printed.read_text(encoding="utf-8") if printed.exists() else "")
