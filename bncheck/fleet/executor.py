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
from typing import Any

from bncheck.errors import BncheckError, UsageError

ADDRESS = re.compile(r"dask://(\[[0-9A-Fa-f:.]+\]|[\w.-]+):([0-9]{1,5})/?")
EXAMPLE = "dask://HOST:8786"
SECONDS = 10.0  # that a scheduler may take to answer


class FleetError(BncheckError):
    """A fleet that was asked for and does not answer, or has nobody to play."""

    exit_code = 3


@dataclass(frozen=True)
class Fleet:
    """``slots`` is how many parts it plays at once, ``workers`` how many workers it has now."""

    address: str
    executor: Executor
    slots: int
    workers: Callable[[], int]


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
    reach(host, port, address)
    try:
        distributed: Any = import_module("distributed")
    except ImportError as error:
        raise FleetError(
            f"--executor {address} needs Dask, which cannot be imported here: {error}.",
            "install it beside bncheck: pip install distributed",
        ) from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it would log is said in our sentences
    try:
        client = distributed.Client(f"tcp://{host}:{port}", timeout=SECONDS, set_as_default=False, name="bncheck")
    except (OSError, ValueError, TypeError) as error:
        raise FleetError(
            f"What listens at {host}:{port} does not answer as a Dask scheduler: {first_line(error)}.",
            f"look at its address and at its version (here: distributed {distributed.__version__})",
        ) from error
    try:
        slots = sum(client.nthreads().values())
        if not slots:
            raise FleetError(
                f"The Dask scheduler at {host}:{port} has no workers.",
                f"start one on each machine that shall play: dask worker tcp://{host}:{port} --nthreads 1",
            )
        executor = client.get_executor(pure=False)
        try:
            yield Fleet(address, executor, slots, lambda: len(client.nthreads()))
        finally:
            executor.shutdown(wait=False)
    finally:
        client.close(timeout=SECONDS)


def reach(host: str, port: int, address: str) -> None:
    """Dask itself tries for as long as its timeout, also where the machine says at once that nobody listens."""
    try:
        socket.create_connection((host.strip("[]"), port), timeout=SECONDS).close()
    except (OSError, UnicodeError) as error:
        raise FleetError(
            f"Nobody answers at {address}: {getattr(error, 'strerror', None) or error}.",
            f"start a scheduler there (dask scheduler --port {port}), or correct the address",
        ) from error


def first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:300] or type(error).__name__
