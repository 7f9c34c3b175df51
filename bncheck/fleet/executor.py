"""Whoever plays the parts: an executor of ``concurrent.futures``, found by an address. Dask is imported when asked."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pkgutil import resolve_name
from typing import Any

from bncheck import __version__
from bncheck.errors import BncheckError, UsageError

ADDRESS = re.compile(r"dask://(\[[0-9A-Fa-f:.]+\]|[\w.-]+):([0-9]{1,5})/?")
EXAMPLE = "dask://HOST:8786"
VERSION = "bncheck.fleet.player:__version__"
HANDSHAKE, LONGEST_GREETING = b"pickle-protocol", 65_536  # a key of it; bytes
SECONDS = 10.0  # that a scheduler may take to answer


class FleetError(BncheckError):
    """A fleet that was asked for and does not answer, or has nobody to play."""

    exit_code = 3


@dataclass(frozen=True)
class Fleet:
    """``slots`` is how many parts it plays at once, ``workers`` how many workers it has now; ``remark`` is what the
    user is to know of it."""

    address: str
    executor: Executor
    slots: int
    workers: Callable[[], int]
    remark: str = ""


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of ``dask://HOST:PORT``; UsageError for anything else."""
    match = ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match[2]) < 65536:
        raise UsageError(f"--executor {text} is no address of a fleet.", f"Write {EXAMPLE}: a Dask scheduler.")
    return match[1], int(match[2])


@contextmanager
def open_fleet(address: str) -> Iterator[Fleet]:
    """A Dask scheduler's workers, until the block is left. FleetError where nobody answers, or Dask is missing here."""
    host, port = parse_address(address)
    with reach(host, port, address) as connection:
        distributed = import_dask(address)
        if not greets(connection):
            raise FleetError(
                f"What listens at {host}:{port} is no Dask scheduler.",
                "look at the address: the port is the one that the scheduler names, not that of its dashboard",
            )
    hush()
    try:
        client = distributed.Client(f"tcp://{host}:{port}", timeout=SECONDS, set_as_default=False, name="bncheck")
    except (OSError, ValueError, TypeError) as error:
        raise FleetError(
            f"The Dask scheduler at {host}:{port} does not answer: {first_line(error)}.",
            f"look at its version (here: distributed {distributed.__version__}) and at its log",
        ) from error
    try:
        with hired(client, address) as fleet:
            yield fleet
    finally:
        client.close(timeout=SECONDS)


@contextmanager
def hired(client: Any, address: str) -> Iterator[Fleet]:
    """Those of a client's workers that have this bncheck. One that has none would end when it is sent a part: Dask does
    not survive a function that cannot be imported."""
    threads: dict[str, int] = client.nthreads()
    if not threads:
        scheduler = address.replace("dask:", "tcp:", 1)
        raise FleetError(
            f"The Dask scheduler at {address} has no workers.",
            f"start one on each machine that shall play: dask worker {scheduler} --nthreads 1",
        )
    # A function of Python's own, and a name: it can be asked of any worker.
    versions = client.run(resolve_name, VERSION, on_error="return")
    able = [worker for worker in threads if versions.get(worker) == __version__]
    others = [said(versions.get(worker)) for worker in threads if worker not in able]
    if not able:
        raise FleetError(
            f"No worker of {address} can play: {', '.join(dict.fromkeys(others))}, where {__version__} is needed.",
            "install the same bncheck in the Python of each worker, and start the workers again",
        )
    executor = client.get_executor(pure=False, workers=able)
    left_out = f"{len(others)} of {len(threads)} workers left out: {', '.join(dict.fromkeys(others))}" if others else ""
    try:
        slots = sum(threads[worker] for worker in able)
        yield Fleet(address, executor, slots, lambda: sum(worker in client.nthreads() for worker in able), left_out)
    finally:
        executor.shutdown(wait=False)


def hush() -> None:
    """What Dask would log is said in our sentences. It gives each of its loggers a level of its own."""
    for name in ("asyncio", *logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("asyncio", "distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def said(version: object) -> str:
    return f"bncheck {version}" if isinstance(version, str) else "no bncheck that can be imported"


def reach(host: str, port: int, address: str) -> socket.socket:
    """A connection, or FleetError. Dask's own client tries for as long as its timeout where nobody listens, and waits
    for ever for one that never answers."""
    try:
        return socket.create_connection((host.strip("[]"), port), timeout=SECONDS)
    except (OSError, UnicodeError) as error:
        raise FleetError(
            f"Nobody answers at {address}: {getattr(error, 'strerror', None) or error}.",
            f"start a scheduler there (dask scheduler --port {port}), or correct the address",
        ) from error


def import_dask(address: str) -> Any:
    try:
        return import_module("distributed")
    except ImportError as error:
        raise FleetError(
            f"--executor {address} needs Dask, which cannot be imported here: {error}.",
            "install it beside bncheck: pip install distributed",
        ) from error


def greets(connection: socket.socket) -> bool:
    """Whether what the other side says first is Dask's handshake; it speaks without being asked."""
    said = b""
    try:
        while HANDSHAKE not in said and len(said) < LONGEST_GREETING and (more := connection.recv(4096)):
            said += more
    except OSError:  # it waits for us to begin, or has gone away
        return False
    return HANDSHAKE in said


def first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:300] or type(error).__name__
