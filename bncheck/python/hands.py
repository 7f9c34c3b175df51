"""What of ``bncheck/worker`` reaches into the user's framework in this very process, loaded by its path.

Which framework that is, the user's own object says: the package that its classes come from.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from bncheck.bounded import is_regular
from bncheck.environments.backend_file import BackendFile, find_backends
from bncheck.errors import UsageError

WORKER = Path(__file__).parents[1] / "worker"


def load(name: str, path: Path) -> ModuleType:
    """A file of the worker as a module; once, since its hooks and caches belong to the process."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def backend_of(thing: Any) -> BackendFile | None:
    """The framework whose class a thing is, or is an object of; None where it is none's."""
    kind = thing if isinstance(thing, type) else type(thing)
    roots = {base.__module__.partition(".")[0] for base in kind.__mro__}
    return next((each for each in find_backends(()).values() if each.module in roots), None)


def imported_backends() -> list[BackendFile]:
    """The frameworks that the program has imported and that can be watched: Keras runs on another one's."""
    return [each for each in find_backends(()).values() if each.module in sys.modules and can_watch(each)]


def can_watch(backend: BackendFile) -> bool:
    return "\ndef watch(recorder)" in backend.path.read_text(encoding="utf-8")


def watchable(thing: Any) -> list[BackendFile]:
    """The frameworks to watch: that of a model, or all that are imported. UsageError where there is none."""
    backend = None if thing is None else backend_of(thing)
    found = imported_backends() if thing is None else [backend] if backend is not None and can_watch(backend) else []
    if found:
        return found
    what = "No framework that bncheck watches is imported" if thing is None else f"{kind_of(thing)} is no model"
    ways = [each.title for each in find_backends(()).values() if can_watch(each)]
    raise UsageError(
        f"{what} of a framework that bncheck watches." if thing is not None else f"{what}.",
        f"Watched are: {', '.join(ways)}. For others: bncheck.judge(recording), docs/recording.md",
    )


def side(thing: Any) -> ModuleType:
    """The hands on a framework's modules (``asserting.py`` of its side). UsageError where there are none."""
    backend = backend_of(thing)
    path = WORKER / f"{backend.name}_side" / "asserting.py" if backend is not None else None
    if backend is None or path is None or not is_regular(path):
        raise UsageError(
            f"{kind_of(thing)} is no module of a framework that bncheck asserts about.", "These are: PyTorch."
        )
    return load(f"bncheck_asserting_{backend.name}", path)


def kind_of(thing: Any) -> str:
    return thing.__name__ if isinstance(thing, type) else f"A {type(thing).__name__}"
