"""How cells become jobs of workers."""

from __future__ import annotations

import pytest

from bncheck.environments.devices import cores
from bncheck.playing.jobs import threads

NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def test_threads_of_all_workers_together_fit_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    assert threads(1) == dict.fromkeys(NAMES, str(cores()))
    assert threads(cores()) == threads(cores() + 1) == dict.fromkeys(NAMES, "1")


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    assert threads(1) == {}
