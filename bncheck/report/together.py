"""Pictures drawn by two processes: each takes a tenth of a second, and none hangs on another."""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from bncheck.environments.devices import cores, may_fork
from bncheck.report.picture import Picture

FEWEST = 4  # pictures for which a second process is worth its start

Draw = Callable[[int], Picture | None]


def draw_together(draw: Draw, count: int) -> list[Picture | None]:
    """``draw(0)``, ``draw(1)``, …; every second one by a fork, where this process may fork and has a core for it. What
    the fork did not come to is drawn here."""
    if count < FEWEST or cores() < 2 or not may_fork():
        return [draw(number) for number in range(count)]
    mine, theirs = range(0, count, 2), range(1, count, 2)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        draw_as_child(draw, theirs, writer)
    os.close(writer)
    found: dict[int, Picture | None] = {}
    try:
        with os.fdopen(reader, "rb") as told:
            found.update((number, draw(number)) for number in mine)
            lines = told.read().split(b"\n")[:-1]
    finally:
        os.kill(child, signal.SIGKILL)  # it has said all it has to say, or nobody listens any more
        os.waitpid(child, 0)
    found.update((number, picture_of(line)) for number, line in zip(theirs, lines, strict=False))
    return [found[number] if number in found else draw(number) for number in range(count)]


def draw_as_child(draw: Draw, numbers: Iterable[int], writer: int) -> None:
    """Never returns. Its standard streams may be locked by a thread that it does not have."""
    code = 1
    try:
        sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - to the end
        lines = [line_of(draw(number)) for number in numbers]
        with os.fdopen(writer, "wb") as out:  # at the end: it would wait for whoever still draws
            out.writelines(line + b"\n" for line in lines)
        code = 0
    finally:
        os._exit(code)


def line_of(picture: Picture | None) -> bytes:
    if picture is None:
        return b"null"
    png = base64.b64encode(picture.png).decode("ascii")
    return json.dumps([picture.name, picture.svg, picture.caption, png]).encode("utf-8")


def picture_of(line: bytes) -> Picture | None:
    told = json.loads(line)
    if told is None:
        return None
    name, svg, caption, png = told
    return Picture(name=name, svg=svg, caption=caption, png=base64.b64decode(png))
