"""One file per framework that writes a case in that framework's own idiom; found by folder, named like the backend.

A file has ``setup(subject)`` (imports, layers, initial state), ``play(subject, step, x, dys)`` (one event),
``held(subject)`` (quantity → expression of the state as held), ``requirements(target)``, and raises
``CannotWriteError(reason)`` for what it cannot say. Optional: ``definitions(subject)`` (what stands in front of the
setup and is there once, also where a script plays its case twice), ``before_look(subject)`` (lines in front of a look
at the state), ``after(subject)`` (lines behind the program), ``files(subject)`` (ending → bytes of a file beside the
script).
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

WORD = re.compile(r"[a-z][a-z0-9_]{0,40}")


def writer_of(backend: str) -> ModuleType | None:
    """The module that writes scripts of a framework; None where nobody has written one yet."""
    known = {path.stem for path in Path(__file__).parent.glob("[a-z]*.py")}
    return importlib.import_module(f"{__name__}.{backend}") if WORD.fullmatch(backend) and backend in known else None
