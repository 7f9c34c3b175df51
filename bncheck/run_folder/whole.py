"""Files written whole: under a temporary name, then renamed, so that a full disk or a kill leaves no half of one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def write_whole(path: Path, content: bytes | str | Iterable[str]) -> Path:
    """Write bytes, or text as UTF-8; pieces of text are never in memory together. Returns the path."""
    pieces = (content,) if isinstance(content, bytes | str) else content
    part = path.with_name(path.name + ".part")
    with part.open("wb") as handle:
        handle.writelines(piece.encode() if isinstance(piece, str) else piece for piece in pieces)
    return part.replace(path)
