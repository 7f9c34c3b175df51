"""Work done by two processes, this one and a fork of it, that begins with all that is known here."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from bncheck.environments.devices import cores

CAN_FORK = sys.platform.startswith("linux")  # elsewhere system libraries do not survive a fork
QUIET = "_RefreshThread"  # rich's, which touches nothing but the terminal; any other may hold a lock while we fork
COMMAND = "bncheck.cli"  # which nobody imports but who is started as bncheck
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)  # what may raise in the middle of anything
PDEATHSIG = 1  # of prctl
LENGTH = 8  # bytes that say how many follow

T = TypeVar("T")


def may_fork() -> bool:
    """Whether a fork of this process can go on like this one: of the command's alone. In a process of the user's are
    threads of whatever else is in it, which Python does not know; JAX warns there of any fork."""
    others = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    return CAN_FORK and COMMAND in sys.modules and all(type(thread).__name__ == QUIET for thread in others)


def do_together(work: Sequence[Callable[[], T]]) -> list[T]:
    """What each piece of work gives, in order; every second one by a fork, where this process may fork and has a core
    for it. Whatever becomes of the fork, what it did not do is done here."""
    if len(work) < 2 or cores() < 2 or not may_fork():
        return [each() for each in work]
    mine, theirs = range(0, len(work), 2), range(1, len(work), 2)
    reader, writer = os.pipe()
    host, child, found, said = os.getpid(), None, dict[int, T](), b""
    try:
        with undisturbed():
            child = fork_or_none()
            if child == 0:
                os.close(reader)
                do_as_child([work[number] for number in theirs], writer, host)
        os.close(writer)
        with os.fdopen(reader, "rb") as told:
            found.update((number, work[number]()) for number in mine)
            said = told.read()
    finally:
        if child is not None:
            os.kill(child, signal.SIGKILL)  # it has said all it has to say, or nobody listens any more
            os.waitpid(child, 0)
    if len(said) > LENGTH and int.from_bytes(said[:LENGTH], "little") == len(said) - LENGTH:
        found.update(zip(theirs, pickle.loads(said[LENGTH:]), strict=True))  # our own process's words
    return [found[number] if number in found else each() for number, each in enumerate(work)]


@contextmanager
def undisturbed() -> Iterator[None]:
    """Signals that come meanwhile come behind it. What one raises in the middle of a fork Python drops: whoever was
    interrupted goes on, and logging, say, keeps the lock that it took for the fork, for which others wait for ever."""
    heard: list[int] = []
    usual = {each: signal.getsignal(each) for each in ENDING if callable(signal.getsignal(each))}
    try:
        for each in usual:
            signal.signal(each, lambda number, frame: heard.append(number))
        yield
    finally:
        for each, handler in usual.items():
            signal.signal(each, handler)
        for number in heard:
            signal.raise_signal(number)


def end_as_usual() -> None:
    """In a fork: what this process does when such a signal comes is not for that one to do."""
    for each in ENDING:
        if callable(signal.getsignal(each)):
            signal.signal(each, signal.SIG_DFL)


def end_with(host: int) -> None:
    """In a fork: the kernel ends it when the host ends. That may have ended before it was asked."""
    import ctypes

    ctypes.CDLL(None).prctl(PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != host:
        os._exit(1)


def fork_or_none() -> int | None:
    """None where the system has no process to give."""
    try:
        return os.fork()
    except OSError:
        return None


def do_as_child(work: Sequence[Callable[[], object]], writer: int, host: int) -> None:
    """Never returns, and ends with the host: it holds the run folder as that does. Its standard streams may be locked
    by a thread that it does not have."""
    code = 1
    try:
        end_as_usual()
        end_with(host)
        sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - to the end
        content = pickle.dumps([each() for each in work], pickle.HIGHEST_PROTOCOL)
        with os.fdopen(writer, "wb") as out:  # at the end: it would wait for whoever is still at work
            out.write(len(content).to_bytes(LENGTH, "little") + content)
        code = 0
    finally:
        os._exit(code)
