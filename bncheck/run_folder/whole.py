"""Files written whole: under a temporary name, then renamed, so that a full disk or a kill leaves no half of one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

Stamp = tuple[int, int, int, int]


def write_whole(path: Path, content: bytes | str | Iterable[str]) -> Path:
    """Write bytes, or text as UTF-8; pieces of text are never in memory together. Returns the path.

    The temporary file is a new one, whatever stood under its name: a link would lead the bytes somewhere else, and a
    pipe would never take them.
    """
    pieces = (content,) if isinstance(content, bytes | str) else content
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    with os.fdopen(os.open(part, flags, 0o666), "wb") as handle:
        handle.writelines(encoded(piece) if isinstance(piece, str) else piece for piece in pieces)
    return part.replace(path)


def encoded(text: str) -> bytes:
    """UTF-8. Half of a surrogate pair is no character (it stands for a byte of a file's name that is not UTF-8, say),
    and becomes the mark for what cannot be shown."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return whole_characters(text).encode()


def whole_characters(text: str) -> str:
    """The text with U+FFFD in the place of each lone surrogate."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def stamp_of(path: Path) -> Stamp:
    """Tells one state of a file from another."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
