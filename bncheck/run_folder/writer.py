"""Who writes into a run folder: one process at a time, from its plan to its reports.

Two of them would play the same cells twice and append to one ``cells.tar`` at the same time.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from bncheck.bounded import NO_FILE
from bncheck.errors import RunFolderError

NAME = "writer.json"
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # a file system that has none: some network disks
MOST = 1000  # bytes


@contextmanager
def only_writer(run: Path) -> Iterator[None]:
    """Hold the run folder; RunFolderError that says who else does.

    The operating system lets go of it when the holder ends, however it ends. The file stays: removing it could give two
    processes two different ones.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(run / NAME, flags, 0o644)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, NO_FILE, str(run / NAME))
        take(descriptor, run)
        yield
    finally:
        os.close(descriptor)


def take(descriptor: int, run: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        who = holder(os.pread(descriptor, MOST, 0))
        raise RunFolderError(
            f"{run} is being written by another bncheck{who}.", "Wait for it, or end it; then go on with this command."
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    said = {"process": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(said).encode(), 0)


def holder(raw: bytes) -> str:
    """Which process, and since when; nothing where the file does not say so in our words."""
    found = re.fullmatch(rb'\{"process": (\d{1,10}), "since": "([0-9T:+-]{1,40})"\}', raw)
    return f" (process {found[1].decode()}, since {found[2].decode()})" if found else ""
