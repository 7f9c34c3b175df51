"""What this process and a fork of it do: in order, each once, none missing whatever becomes of the fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from patience import patience

import bncheck.cli  # noqa: F401 - these tests are about the command's own process
from bncheck.environments.devices import cores
from bncheck.environments.fork import do_together, may_fork
from bncheck.errors import RunFolderError
from bncheck.report.picture import Picture
from bncheck.run_folder.writer import only_writer

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


def script(text: str, *words: str) -> subprocess.CompletedProcess[str]:
    done = [sys.executable, "-c", text, *words]
    return subprocess.run(done, capture_output=True, text=True, check=False)


HOST_THAT_IS_KILLED = """
import os, signal, sys, time
from functools import partial
from pathlib import Path
import bncheck.cli
from bncheck.environments.fork import do_together
from bncheck.errors import RunFolderError
from bncheck.run_folder.writer import only_writer
def piece(number):
    if number:
        Path(sys.argv[1], "fork").touch()
        time.sleep(600)
    while not Path(sys.argv[1], "fork").exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
with only_writer(Path(sys.argv[1])):
    do_together([partial(piece, number) for number in range(2)])
"""


@pytest.mark.process
def test_who_goes_on_with_a_run_whose_host_was_killed_need_not_wait_for_its_fork(tmp_path: Path) -> None:
    assert script(HOST_THAT_IS_KILLED, str(tmp_path)).returncode == -signal.SIGKILL
    deadline = time.monotonic() + patience(10)
    while True:
        try:
            with only_writer(tmp_path):
                return
        except RunFolderError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


IN_SOMEBODYS_PROCESS = """
import os
os.register_at_fork(before=lambda: print("a fork"))
from functools import partial
from bncheck.environments.fork import do_together
print(do_together([partial(abs, number) for number in range(4)]))
"""
WHERE_NO_PROCESS_IS_TO_BE_HAD = """
import os, resource
from functools import partial
import bncheck.cli
from bncheck.environments.fork import do_together
if os.getuid() == 0:
    os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
print(do_together([partial(abs, number) for number in range(4)]))
"""


@pytest.mark.process
@pytest.mark.parametrize("text", [IN_SOMEBODYS_PROCESS, WHERE_NO_PROCESS_IS_TO_BE_HAD])
def test_who_cannot_or_may_not_fork_does_all_of_it(text: str) -> None:
    done = script(text)
    assert (done.stdout, done.stderr) == ("[0, 1, 2, 3]\n", "")


INTERRUPTED_IN_THE_MIDDLE = """
import os, signal, sys
from functools import partial
import bncheck.cli
from pathlib import Path
from bncheck.environments.fork import do_together
from bncheck.playing.readied import RUNNER
from bncheck.playing.twin import Twin
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell puts into the background ignores it
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGINT))
words = ["--later", str(os.getpid()), "/nowhere.py", "", "cpu"]
for forks in (lambda: do_together([partial(abs, number) for number in range(4)]), lambda: Twin(RUNNER, words, {})):
    try:
        forks()
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.process
def test_an_interrupt_in_the_middle_of_a_fork_is_not_lost() -> None:
    done = script(INTERRUPTED_IN_THE_MIDDLE)
    assert (done.stdout, done.stderr) == ("interrupted\ninterrupted\n", "")
