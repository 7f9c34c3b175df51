"""Who sits where: a target with the interpreter that plays it, or the reason why there is none."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bncheck.environments.backend_file import BackendFile, find_backends
from bncheck.environments.pythons import Ready, Unavailable, find_ready, make_ready, parse_pythons
from bncheck.environments.targets import Target, parse_targets
from bncheck.errors import BncheckError
from bncheck.run_folder.results import TargetResult


@dataclass(frozen=True)
class Seat:
    """A target with the interpreter that will play it; ``result`` already says unavailable when there is none."""

    result: TargetResult
    backend_path: Path
    python: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)  # variables for its process
    forks: str = ""  # the framework that a process may have imported before it forks this target's
    documented: Sequence[Mapping[str, Any]] = ()  # what its backend's file says that the framework documents


def seated(target: Target, backend: BackendFile, place: Ready | Unavailable) -> Seat:
    """A target with the interpreter that will play it, or the reason why there is none."""
    result = TargetResult(
        name=target.name,
        slug=target.slug,
        backend=target.backend,
        variant=target.variant,
        version=target.version,
        device=target.device,
    )
    if isinstance(place, Ready):
        own = place.origin == "environment"
        anew = f"make its environment anew: bncheck env create {shlex.quote(target.name)}" if own else ""
        return Seat(replace(result, remedy=anew), backend.path, place.python, forks=framework_of(target, backend))
    return Seat(replace(result, status="unavailable", reason=place.reason, remedy=place.remedy), backend.path)


def seats_at_hand(results: Iterable[TargetResult], pythons: Sequence[str]) -> dict[str, Seat]:
    """Seats, by target, for those of a run's targets that can be played here and now: nothing is installed."""
    backends = find_backends()
    given = parse_pythons(pythons, backends)
    found = {result.name: (result, python_at_hand(result, backends, given)) for result in results}
    return {
        name: Seat(
            result,
            backend.path,
            python,
            forks=framework_of(result, backend),
            documented=backend.documented,
        )
        for name, (result, python) in found.items()
        if python is not None and (backend := backends[result.backend])
    }


def framework_of(target: Target | TargetResult, backend: BackendFile) -> str:
    """What a process may have imported before it forks this target's; "" where none may."""
    return backend.module if backend.may_fork(target.variant, target.device) else ""


def python_at_hand(result: TargetResult, backends: Mapping[str, BackendFile], given: Mapping[str, Path]) -> Path | None:
    try:
        target: Target = parse_targets([result.name], backends)[0]
        backend = backends[target.backend]
        if given and {target.name, target.backend} & set(given):
            answer = make_ready(target, backend, given, lambda text: None)
            return answer.python if isinstance(answer, Ready) else None
        ready = find_ready(target, backend)
    except BncheckError:
        return None  # a target of a backend file that this bncheck does not have
    return ready.python if ready is not None else None
