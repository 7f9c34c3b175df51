"""What this process and a fork of it do: in order, each once, none missing whatever becomes of the fork."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import pytest

from bncheck.environments.devices import cores
from bncheck.environments.fork import do_together, may_fork
from bncheck.report.picture import Picture

T = TypeVar("T")
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or cores() < 2, reason="it forks on Linux, and where a second core is free"
)


def picture(number: int) -> Picture:
    return Picture(name=f"picture-{number}", svg="<svg>\n✗</svg>", caption=str(os.getpid()), png=b"\x89PNG\n\xff")


def numbered(draw: Callable[[int], T], count: int) -> list[Callable[[], T]]:
    return [partial(draw, number) for number in range(count)]


def test_a_fork_does_every_second_one() -> None:
    assert may_fork()
    found = do_together(numbered(lambda number: None if number == 3 else picture(number), 6))
    named = [None if each is None else each.name for each in found]
    assert named == ["picture-0", "picture-1", "picture-2", None, "picture-4", "picture-5"]
    mine = [each is None or each.caption == str(os.getpid()) for each in found]
    assert mine == [True, False, True, True, True, False]
    assert found[5] == Picture("picture-5", "<svg>\n✗</svg>", found[5].caption if found[5] else "", b"\x89PNG\n\xff")


@pytest.mark.parametrize("dies", [lambda: 1 / 0, lambda: os.kill(os.getpid(), signal.SIGKILL)])
def test_what_the_fork_did_not_do_is_done_here(dies: object) -> None:
    here = os.getpid()

    def draw(number: int) -> Picture:
        if number == 3 and os.getpid() != here:
            dies()  # type: ignore[operator]
        return picture(number)

    found = do_together(numbered(draw, 6))
    assert [each.name for each in found if each] == [f"picture-{number}" for number in range(6)]
    assert {each.caption for each in found if each} == {str(here)}


def test_one_is_done_here_and_all_beside_other_threads() -> None:
    assert {each.caption for each in do_together(numbered(picture, 1)) if each} == {str(os.getpid())}
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        assert {each.caption for each in do_together(numbered(picture, 6)) if each} == {str(os.getpid())}
    finally:
        done.set()
        other.join()
