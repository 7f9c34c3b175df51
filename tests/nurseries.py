"""One import of PyTorch for all that the tests of this process play: it takes longer than they do.

Each worker is still a process of its own (``test_nursery.py``). Where systems do not survive a fork there is none, and
workers start as they always do. Commands that are called in this process (``at_the_prompt.here``) share one, too; what
they begin by themselves at the prompt is in ``test_begun.py`` and in the tests that start them as processes.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from bncheck.commands import options as command_options
from bncheck.environments.backend_file import find_backends
from bncheck.environments.devices import cores, threads
from bncheck.environments.fork import CAN_FORK
from bncheck.environments.targets import parse_target
from bncheck.playing.begun import python_of
from bncheck.playing.jobs import Options, run_cells
from bncheck.playing.nursery import Forked, Nursery
from bncheck.playing.seats import Seat

# Variables that PyTorch does not read.
PASSING = ("PYTEST_CURRENT_TEST", "COLUMNS", "LINES", "PATH", "VIRTUAL_ENV", "KERAS_BACKEND")

_kept: dict[Path, tuple[dict[str, str], Nursery]] = {}


class Lent:
    """A nursery as a command has one, begun when it first forks, and left for the next command."""

    def __init__(self, python: Path | None, module: str, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        """Of PyTorch's Python, where none is given: it is looked for when somebody asks, which no usage error does."""
        self.given, self.module, self.environment, self.closed = python, module, environment, False

    @property
    def python(self) -> Path:
        return self.given or torch_python() or Path()

    def __getattr__(self, name: str) -> Any:
        return getattr(kept(self.python, self.module, self.environment), name)

    def fork(self, entry: str, folder: Path, environment: Mapping[str, str], output: Path | None = None) -> Forked:
        """It stands in another folder than the command."""
        nursery = kept(self.python, self.module, self.environment)
        return nursery.fork(entry, folder.absolute(), environment, output and output.absolute())

    def close(self) -> None:
        """What it has forked ends with the command."""
        self.closed = True
        python = self.python if _kept else Path()
        for forked in _kept[python][1].forked if python in _kept else ():
            if forked.pid and forked.poll() is None:
                forked.end()


def kept(python: Path, module: str, environment: Mapping[str, str]) -> Nursery:
    """One with these variables, as a command would begin it."""
    passed = {name: value for name, value in {**os.environ, **environment}.items() if name not in PASSING}
    known = _kept.get(python)
    if known is not None and (known[0] != passed or known[1].process.poll() is not None):
        _kept.pop(python)[1].close()
    if python not in _kept:
        with chdir(Path(__file__).parent):  # the folder that a test stands in goes away
            _kept[python] = passed, Nursery(python, module, environment)
    return _kept[python][1]


@contextmanager
def shared() -> Iterator[None]:
    """What commands begin in this process is kept for those that follow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bncheck.playing.begun.Nursery", Lent)
        patch.setattr("bncheck.subjects.begun.Nursery", Lent)
        patch.setattr("bncheck.commands.options.request_of", partial(lending, command_options.request_of))
        patch.setattr("bncheck.repro.minimise.run_cells", run_cells_lent)
        yield


@functools.cache
def torch_python() -> Path | None:
    backends = find_backends()
    target = parse_target("torch", backends)
    return python_of(target, backends[target.backend], {})


def lending(request_of: Any, options: dict[str, Any], *early: Any, **more: Any) -> Any:
    """The request, which names a nursery also where its targets were not known early; not where each cell has a process
    of its own, or a bound on its memory."""
    request = request_of(options, *early, **more)
    how = request.options
    if not CAN_FORK or how.nursery is not None or how.isolate or options["memory"] is not None:
        return request
    return replace(request, options=replace(how, nursery=Lent(None, "torch", threads(how.at_once))))


def run_cells_lent(run: Path, plan: Any, seats: Sequence[Seat], options: Options, *more: Any) -> Any:
    python = next((seat.python for seat in seats if seat.forks == "torch"), None)
    if python is not None and CAN_FORK:
        options = replace(options, nursery=Lent(python, "torch", threads(options.at_once)))  # type: ignore[arg-type]
    return run_cells(run, plan, seats, options, *more)


def nursery_of(python: Path) -> Any:
    """For cells that a test plays by itself."""
    return Lent(python, "torch", threads(cores())) if CAN_FORK else None


def close_nurseries() -> None:
    while _kept:
        _kept.popitem()[1][1].close()
