"""The framework's import, begun before bncheck's own and before there is a plan: no answer comes before it ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bncheck.environments.backend_file import find_backends
from bncheck.environments.devices import cores, threads
from bncheck.environments.pythons import Ready, find_ready, make_ready
from bncheck.environments.targets import parse_target
from bncheck.errors import BncheckError
from bncheck.playing.nursery import CAN_FORK, Nursery


def begin(targets: Sequence[str], pythons: Sequence[str], at_once: int | None) -> Nursery | None:
    """A nursery for the first of the targets that can be forked and needs no installation. What is wrong with one is
    for those to say who carry the request out."""
    if not CAN_FORK:
        return None
    backends = find_backends()
    given = {name: Path(path) for name, _, path in (text.rpartition("=") for text in pythons)}
    for text in targets:
        try:
            target = parse_target(text, backends)
            backend = backends[target.backend]
            if backend.may_fork(target.variant, target.device):
                named = {target.name, target.backend} & given.keys()
                place = make_ready(target, backend, given, no_report) if named else find_ready(target, backend)
                if not isinstance(place, Ready):
                    return None
                return Nursery(place.python, backend.module, threads(at_once or cores()))
        except (BncheckError, OSError, ValueError):
            continue
    return None


def no_report(text: str) -> None:
    """Nothing is made: an interpreter was given."""
