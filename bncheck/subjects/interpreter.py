"""The user's own Python: where the things that they check live. Nothing is installed into it.

In this order: ``--python``; the active virtual or conda environment, if it has the framework; bncheck's own Python, if
it has it; bncheck's environment for that framework, in which things of other packages are missing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bncheck.bounded import expanded, is_folder
from bncheck.errors import EnvironmentFailure, UsageError

if TYPE_CHECKING:
    from bncheck.environments.backend_file import BackendFile

ACTIVE = (("VIRTUAL_ENV", "the active virtual environment"), ("CONDA_PREFIX", "the active conda environment"))
PLACES = ("bin/python", "bin/python3", "python.exe", "Scripts/python.exe")


@dataclass(frozen=True)
class UsersPython:
    """``why`` says in words how it was chosen."""

    path: Path
    why: str


def find_python(
    given: str | None,
    backend: BackendFile,
    environment: Mapping[str, str] = os.environ,
    report: Callable[[str], None] = lambda text: None,
) -> UsersPython:
    """The Python that has ``backend``'s framework. UsageError or EnvironmentFailure where there is none."""
    if given is not None:
        return asked_for(given, backend)
    for variable, words in ACTIVE:
        python = active_python({variable: environment.get(variable, "")}, backend.module)
        if python is not None:
            return UsersPython(python, words)
    if has_module(Path(sys.prefix), backend.module):
        return UsersPython(Path(sys.executable), "bncheck's own Python")
    from bncheck.environments.pythons import Unavailable, make_ready
    from bncheck.environments.targets import Target

    ready = make_ready(Target(backend.name), backend, {}, report, devices=False)
    if isinstance(ready, Unavailable):
        raise EnvironmentFailure(
            f"no Python here has {backend.title}: {ready.reason}",
            f"activate your environment, or name its Python: --python PATH; {ready.remedy}",
        )
    return UsersPython(ready.python, f"bncheck's own environment for {backend.title}: no active one has it")


def likely_python(given: str | None, name: str, module: str) -> Path | None:
    """What ``find_python`` will find for a shipped backend of that name, without asking any interpreter: it can import
    its framework meanwhile. None where it has to be made, or is not to be known yet."""
    if given is not None:
        return python_at(given, name)
    active = active_python(os.environ, module)
    if active is not None:
        return active
    if has_module(Path(sys.prefix), module):
        return Path(sys.executable)
    from bncheck.environments.backend_file import find_backends
    from bncheck.environments.pythons import find_ready
    from bncheck.environments.targets import Target

    try:
        ready = find_ready(Target(name), find_backends(())[name])
    except EnvironmentFailure:
        return None
    return None if ready is None else ready.python


def active_python(environment: Mapping[str, str], module: str) -> Path | None:
    """The interpreter of the active environment, if it has a module."""
    for variable, _ in ACTIVE:
        prefix = environment.get(variable, "")
        python = next((path for place in PLACES if prefix and (path := Path(prefix) / place).exists()), None)
        if python is not None and has_module(python.parent.parent, module):
            return python
    return None


def asked_for(given: str, backend: BackendFile) -> UsersPython:
    """``--python PATH``; as in run, ``torch=PATH`` means the same."""
    from bncheck.environments import interpreters
    from bncheck.environments.installed import installed_in

    path = python_at(given, backend.name)
    if interpreters.ask(path) is None:
        raise UsageError(f"--python {given}: {path} does not answer as a CPython 3", "give the path of a python")
    answer = installed_in(path, backend.module)
    missing = [name for name in (backend.module, "numpy") if answer is None or name not in answer[1]]
    if missing:
        raise UsageError(
            f"{path} has no {' and no '.join(missing)}",
            f"{path} -m pip install {' '.join(missing)}, or another --python",
        )
    return UsersPython(path, "--python")


def python_at(given: str, backend: str) -> Path:
    """The interpreter that ``--python`` names: itself, or the environment's folder."""
    text = given.partition("=")[2] if given.startswith(f"{backend}=") else given
    path = expanded(text)
    if is_folder(path):
        path = next((path / place for place in PLACES if (path / place).exists()), path)
    return path.absolute()


def has_module(prefix: Path, module: str) -> bool:
    """Whether an environment holds a package, by its folder: asking the interpreter takes as long as starting it."""
    folders = [prefix / "Lib" / "site-packages", *prefix.glob("lib/python3*/site-packages")]
    return any((folder / module).is_dir() for folder in folders)
