"""Real recordings for tests: a script of tests/watched is run with the recorder, and read.

python tests/watched_lives.py faulty/momentum_zero    prints what its layers lived through
"""

from __future__ import annotations

import sys
import tempfile
from functools import cache
from pathlib import Path

from bncheck.environments.backend_file import find_backends
from bncheck.environments.pythons import Ready, prepare
from bncheck.environments.targets import parse_target
from bncheck.life import Life
from bncheck.run_folder.lives import read_lives
from bncheck.subjects.launch import Ended, launch

SCRIPTS = Path(__file__).parent / "watched"
KEEP = "first:50,last:50,every:100"


@cache
def torch_python() -> Path:
    """An interpreter with torch, as a user has one: bncheck itself need not be in it."""
    backends = find_backends(())
    target = parse_target("torch", backends)
    place = prepare([target], backends)[target]
    assert isinstance(place, Ready), place
    return place.python


def record(folder: Path, *command: str, keep: str = KEEP, steps: int | None = None) -> tuple[Ended, tuple[Life, ...]]:
    """Run a command of that interpreter and read what was recorded into ``folder``."""
    ended = launch([str(torch_python()), *command], folder, keep, steps, torch_python())
    return ended, read_lives(folder, {ended.pid: ended.code})


def lives_of(script: str, folder: Path, keep: str = KEEP) -> tuple[Life, ...]:
    """The lives of ``healthy/…`` or ``faulty/…``, one per process, recorded into a new folder."""
    ended, lives = record(folder, str(SCRIPTS / f"{script}.py"), keep=keep)
    assert ended.code == 0, f"{script} ended with {ended.code}"
    return lives


if __name__ == "__main__":
    for name in sys.argv[1:]:
        for life in lives_of(name, Path(tempfile.mkdtemp())):
            print(
                name,
                f"rank {life.rank} of {life.world}, {life.steps} steps, {life.forwards} forwards, code {life.code}",
            )
            for layer in life.layers:
                kept = len(layer.moments.get("index", ()))
                print(f"  {layer.name} ({layer.kind}, {layer.channels}), {kept} kept, registered {layer.registered}")
                for span in layer.spans:
                    print(f"    {span}")
            for each in life.happenings:
                print(f"  {each.what:13} {each.index:5} {each.step:5} {each.layers} {each.where} {dict(each.detail)}")
            print(*(f"  remark: {remark}" for remark in life.remarks), sep="\n")
