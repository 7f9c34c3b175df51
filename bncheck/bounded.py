"""Reading a file that somebody else may have put there: a regular one, of a size that is known before it is read.

A device such as /dev/zero says that it has no bytes and never ends; a pipe makes its reader wait for ever.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_bounded(path: Path, most: int) -> bytes:
    """The file's bytes. OSError for what is no regular file or longer than ``most``, FileNotFoundError as usual."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as handle:
        found = os.fstat(handle.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"its {found.st_size:,} bytes are more than bncheck reads", str(path))
        return handle.read()
