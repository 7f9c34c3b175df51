"""The frameworks' imports, begun before bncheck's own and before there is a plan: no answer comes before they end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bncheck.environments.backend_file import BackendFile, find_backends
from bncheck.environments.devices import cores, threads
from bncheck.environments.fork import CAN_FORK
from bncheck.environments.pythons import Ready, find_ready, make_ready
from bncheck.environments.targets import Target, parse_target
from bncheck.errors import BncheckError
from bncheck.playing.nursery import Nursery
from bncheck.playing.readied import Readied
from bncheck.playing.twin import is_single, may_become


@dataclass(frozen=True)
class Begun:
    """What has begun to import: a process that forks for every target of one framework, and one for each of others."""

    nursery: Nursery | None = None
    ready: tuple[Readied, ...] = ()

    def close(self) -> None:
        """End all of it that nobody has taken."""
        for each in (self.nursery, *self.ready):
            if each is not None:
                each.close()


@contextmanager
def begun(targets: Sequence[str], pythons: Sequence[str], at_once: int | None) -> Iterator[Begun]:
    """Of the targets that need no installation, as many as play at once. What is wrong with one is for those to say who
    carry the request out."""
    count = at_once or cores()
    found = begin(targets, pythons, count)
    try:
        yield found
    finally:
        found.close()


def begin(targets: Sequence[str], pythons: Sequence[str], count: int) -> Begun:
    backends, variables = find_backends(), threads(count)
    given = {name: Path(path) for name, _, path in (text.rpartition("=") for text in pythons)}
    nursery: Nursery | None = None
    ready: list[Readied] = []
    bare: list[tuple[Target, BackendFile]] = []
    for text in targets:
        try:
            target = parse_target(text, backends)
            backend = backends[target.backend]
            if not backend.distribution:
                bare.append((target, backend))  # they need NumPy alone, and come when the others' imports have begun
                continue
            python = python_of(target, backend, given) if len(ready) + (nursery is not None) < count else None
            if python is None:
                continue
            if not (CAN_FORK and backend.may_fork(target.variant, target.device)):
                ready.append(Readied(python, backend.path, target.variant, target.device, variables))
            elif nursery is None:
                nursery = Nursery(python, backend.module, variables)
        except (BncheckError, OSError, ValueError):
            continue
    for target, backend in bare:
        try:
            python = python_of(target, backend, given)
            twin = python is not None and imported_alone(python, variables)
            if python is not None and (twin or len(ready) + (nursery is not None) < count):
                ready.append(Readied(python, backend.path, target.variant, target.device, variables, twin))
        except (BncheckError, OSError, ValueError):
            continue
    return Begun(nursery, tuple(ready))


def imported_alone(python: Path, variables: Mapping[str, str]) -> bool:
    """Import NumPy here, with the threads that a worker's has; whether a worker may then be a fork of this process."""
    said = {**os.environ, **variables}
    count = said.get("OPENBLAS_NUM_THREADS") or said.get("OMP_NUM_THREADS")
    if count != "1" or not may_become(python):
        return False
    os.environ.update(variables)
    try:
        return is_single()
    finally:
        for name in variables:
            del os.environ[name]


def python_of(target: Target, backend: BackendFile, given: Mapping[str, Path]) -> Path | None:
    named = {target.name, target.backend} & given.keys()
    place = make_ready(target, backend, given, no_report) if named else find_ready(target, backend)
    return place.python if isinstance(place, Ready) else None


def no_report(text: str) -> None:
    """Nothing is made: an interpreter was given."""
