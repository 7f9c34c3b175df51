"""One import of PyTorch for all cells that the tests of this process play by themselves: it takes longer than they do.

Each worker is still a process of its own (``test_nursery.py``). Where systems do not survive a fork there is none, and
workers start as they always do.
"""

from __future__ import annotations

from pathlib import Path

from bncheck.playing.nursery import CAN_FORK, Nursery

_nurseries: dict[Path, Nursery] = {}


def nursery_of(python: Path) -> Nursery | None:
    if CAN_FORK and python not in _nurseries:
        _nurseries[python] = Nursery(python, "torch")
    return _nurseries.get(python)


def close_nurseries() -> None:
    while _nurseries:
        _nurseries.popitem()[1].close()
