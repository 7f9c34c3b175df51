"""Work done by two processes, this one and a fork of it, that begins with all that is known here."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from bncheck.environments.devices import cores

CAN_FORK = sys.platform.startswith("linux")  # elsewhere system libraries do not survive a fork
QUIET = "_RefreshThread"  # rich's, which touches nothing but the terminal; any other may hold a lock while we fork
LENGTH = 8  # bytes that say how many follow

T = TypeVar("T")


def may_fork() -> bool:
    """Whether a fork of this process can go on like this one."""
    others = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    return CAN_FORK and all(type(thread).__name__ == QUIET for thread in others)


def do_together(work: Sequence[Callable[[], T]]) -> list[T]:
    """What each piece of work gives, in order; every second one by a fork, where this process may fork and has a core
    for it. Whatever becomes of the fork, what it did not do is done here."""
    if len(work) < 2 or cores() < 2 or not may_fork():
        return [each() for each in work]
    mine, theirs = range(0, len(work), 2), range(1, len(work), 2)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        do_as_child([work[number] for number in theirs], writer)
    os.close(writer)
    found: dict[int, T] = {}
    try:
        with os.fdopen(reader, "rb") as told:
            found.update((number, work[number]()) for number in mine)
            said = told.read()
    finally:
        os.kill(child, signal.SIGKILL)  # it has said all it has to say, or nobody listens any more
        os.waitpid(child, 0)
    if len(said) > LENGTH and int.from_bytes(said[:LENGTH], "little") == len(said) - LENGTH:
        found.update(zip(theirs, pickle.loads(said[LENGTH:]), strict=True))  # our own process's words
    return [found[number] if number in found else each() for number, each in enumerate(work)]


def do_as_child(work: Sequence[Callable[[], object]], writer: int) -> None:
    """Never returns. Its standard streams may be locked by a thread that it does not have."""
    code = 1
    try:
        sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - to the end
        content = pickle.dumps([each() for each in work], pickle.HIGHEST_PROTOCOL)
        with os.fdopen(writer, "wb") as out:  # at the end: it would wait for whoever is still at work
            out.write(len(content).to_bytes(LENGTH, "little") + content)
        code = 0
    finally:
        os._exit(code)
