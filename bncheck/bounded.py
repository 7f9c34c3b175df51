"""Reading a file that somebody else may have put there: a regular one, of a size that is known before it is read.

A device such as /dev/zero says that it has no bytes and never ends; a pipe makes its reader wait for ever.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path


def open_regular(path: Path) -> io.BufferedReader:
    """The file, opened for reading bytes. OSError for what is no regular file, FileNotFoundError as usual."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_bounded(path: Path, most: int) -> bytes:
    """The file's bytes. OSError for what is no regular file or longer than ``most``, FileNotFoundError as usual."""
    with open_regular(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"its {size:,} bytes are more than bncheck reads", str(path))
        return handle.read()
