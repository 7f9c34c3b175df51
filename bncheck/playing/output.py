"""What a process has written into its folder, read within bounds: whatever runs in it can put anything there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bncheck.bounded import open_within
from bncheck.worker.archive import digest

KEPT_NOISE = 64 * 1024
MOST_REASON = 4000  # letters of a sentence that a process says of itself


def digest_of(path: Path) -> str:
    with open_within(path.parent, path.name) as handle:
        return str(digest(handle.read()))


def read_from(folder: Path, name: str, start: int, most: int) -> bytes:
    """At most so many bytes of a file of the protocol; none where no regular file has that name."""
    try:
        with open_within(folder.parent, folder.name, name) as handle:
            return os.pread(handle.fileno(), most, start)
    except OSError:
        return b""


def size_of(folder: Path, name: str) -> int:
    try:
        found = (folder / name).lstat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def printed(folder: Path) -> bytes:
    """The last of what a process printed."""
    size = size_of(folder, "stderr.txt")
    return read_from(folder, "stderr.txt", max(0, size - KEPT_NOISE), KEPT_NOISE)


def last_line(folder: Path) -> str:
    lines = [line for line in printed(folder).decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip()[:MOST_REASON] if lines else "it printed nothing"
