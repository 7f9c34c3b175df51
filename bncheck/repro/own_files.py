"""User files that a scenario names, read so that a script can contain them or ship with them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from bncheck.bounded import read_bounded
from bncheck.errors import BncheckError
from bncheck.scenario import Case

# A layer of the user's own is a few pages; more is not copied into a script.
MAX_SOURCE = 256 * 1024
MAX_MODEL = 16 * 1024 * 1024  # trackers take no larger attachments


def custom_source(case: Case) -> str:
    """The file of the user's own layer or network, where the scenario names one that is still here."""
    path_text, _, name = (case.network.custom or case.network.model or "").rpartition(":")
    text = source_text(Path(path_text)) if path_text else ""
    if not re.search(rf"^((class|def) {re.escape(name)}\b|{re.escape(name)}\s*[:=])", text, re.MULTILINE):
        return ""
    return with_neighbours(text, Path(path_text).parent, {Path(path_text).stem})


def model_file(case: Case) -> bytes:
    """The ONNX file of a case, of modest size; b"" where there is none."""
    try:
        return read_bounded(Path(case.network.file), MAX_MODEL) if case.network.file else b""
    except (OSError, BncheckError):
        return b""


def source_text(path: Path) -> str:
    """A Python file of modest size, or "" where there is none."""
    try:
        if path.suffix != ".py" or path.stat().st_size > MAX_SOURCE:
            return ""
        return read_bounded(path, MAX_SOURCE).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def with_neighbours(text: str, folder: Path, seen: set[str]) -> str:
    """The text as part of a script: ``from neighbour import …`` is replaced by that neighbour's own text, once, and
    what it does when it is itself the program is left out. "" for what cannot be part of another file."""
    try:
        nodes = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # whatever stands in a file that may be anybody's
        return ""
    given, lines, done = text.splitlines(), list[str](), 0
    for node in nodes:
        taken = replaced(node, folder, seen)
        if taken is None:
            continue
        if taken == UNSAID:
            return ""
        lines += [*given[done : node.lineno - 1], *taken.splitlines()]
        done = node.end_lineno or node.lineno
    return "\n".join([*lines, *given[done:]])


UNSAID = "a neighbour that is imported as a module"


def replaced(node: ast.stmt, folder: Path, seen: set[str]) -> str | None:
    """What stands in a script for this statement; None for the statement itself."""
    if isinstance(node, ast.Import):
        return UNSAID if any(source_text(folder / f"{item.name}.py") for item in node.names) else None
    if isinstance(node, ast.If):
        return "" if "__name__" in ast.unparse(node.test) else None
    if not isinstance(node, ast.ImportFrom) or node.module == "__future__":
        return "" if isinstance(node, ast.ImportFrom) else None
    beside = source_text(folder / f"{node.module}.py")
    if not beside and node.module not in seen:
        return None
    again = [f"{item.asname} = {item.name}" for item in node.names if item.asname and item.asname != item.name]
    if node.module not in seen:
        seen.add(str(node.module))
        again.insert(0, with_neighbours(beside, folder, seen))
    return "\n".join(again)
