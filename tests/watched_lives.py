"""Real recordings for tests: a script of tests/watched is run with the recorder, and read.

python tests/watched_lives.py faulty/momentum_zero    prints what its layers lived through
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bncheck.environments.backend_file import find_backends
from bncheck.environments.pythons import Ready, prepare
from bncheck.environments.targets import parse_target
from bncheck.life import Happening, Life
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


# Imports what all of them import once, with the recorder attached; each program is a process of its own all the same,
# in which recording begins anew. An optimiser imports torch._dynamo, which takes as long as torch itself.
FORKING = """
import gc, json, os, runpy, sys
import torch, torch._dynamo
gc.freeze()  # at its end each fork looked through all of it: 1.3 s of CPU time, and 0.4 so
ended = {}
for path in sys.argv[2:]:
    child = os.fork()
    if not child:
        sys.argv = [path]
        runpy.run_path(path, run_name="__main__")
        sys.exit()
    status = os.waitpid(child, 0)[1]
    ended[os.path.basename(path)] = child, -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
with open(sys.argv[1], "w") as said:
    json.dump(ended, said)
"""


@dataclass(frozen=True)
class Forks:
    """Programs that were recorded into one folder: file name → (process id, exit code or −signal)."""

    ended: Mapping[str, tuple[int, int]]
    lives: tuple[Life, ...]

    def life(self, name: str, code: int = 0) -> Life:
        """Of the program that ended so."""
        pid, found = self.ended[name]
        assert found == code, f"{name} ended with {found}"
        return next(life for life in self.lives if life.pid == pid)

    def others(self) -> list[Life]:
        """Of processes that are none of these programs."""
        known = {pid for pid, _ in self.ended.values()}
        return [life for life in self.lives if life.pid not in known]


def record_apart(folder: Path, *programs: Path) -> Forks:
    said = folder.parent / "ended.json"
    ended = launch([str(torch_python()), "-c", FORKING, str(said), *map(str, programs)], folder, KEEP, None)
    assert ended.code == 0
    found = {name: (pid, code) for name, (pid, code) in json.loads(said.read_text()).items()}
    return Forks(found, read_lives(folder, dict(found.values())))


def happened(life: Life, what: str, layer: str = "") -> list[Happening]:
    return [each for each in life.happenings if each.what == what and (not layer or layer in each.layers)]


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
