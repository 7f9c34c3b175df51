"""One import of PyTorch for all that the tests of this process play: it takes longer than they do.

Each worker is still a process of its own (``test_nursery.py``). Where systems do not survive a fork there is none, and
workers start as they always do. Commands that are called in this process (``at_the_prompt.here``) share it too, as far
as one that they begin by themselves would be the same: of that Python, in that folder, with those variables.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import pytest

from bncheck.playing.nursery import CAN_FORK, Nursery

PASSING = ("PYTEST_CURRENT_TEST", "COLUMNS", "LINES")  # variables that no framework reads
Sign = tuple[Path, str, Path, frozenset[tuple[str, str]]]

_nurseries: dict[Path, Nursery] = {}
_kept: dict[Path, tuple[Sign, Kept]] = {}


class Kept(Nursery):
    """Who closes it has done with it: what it has forked for them ends, and the next one finds it there."""

    def close(self) -> None:
        for forked in self.forked:
            if forked.pid and forked.poll() is None:
                forked.end()
        self.forked = [forked for forked in self.forked if forked.returncode is None]

    def end(self) -> None:
        super().close()


def nursery_of(python: Path) -> Nursery | None:
    if CAN_FORK and python not in _nurseries:
        _nurseries[python] = Nursery(python, "torch")
    return _nurseries.get(python)


def kept(python: Path, module: str, environment: Mapping[str, str] = MappingProxyType({})) -> Kept:
    """In place of ``Nursery``."""
    passed = {**os.environ, **environment}
    sign = (python, module, Path.cwd(), frozenset(item for item in passed.items() if item[0] not in PASSING))
    known = _kept.get(python)
    if known is not None and (known[0] != sign or known[1].process.poll() is not None):
        _kept.pop(python)[1].end()
    if python not in _kept:
        _kept[python] = sign, Kept(python, module, environment)
    return _kept[python][1]


@contextmanager
def shared() -> Iterator[None]:
    """What commands begin in this process is kept for those that follow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bncheck.playing.begun.Nursery", kept)
        patch.setattr("bncheck.subjects.begun.Nursery", kept)
        yield


def close_nurseries() -> None:
    while _nurseries:
        _nurseries.popitem()[1].close()
    while _kept:
        _kept.popitem()[1][1].end()
