"""A watched command that attacks its watcher; needs no framework, for it writes the recording of one by itself.

Each argument is ``PLACE=WHAT``: what to put into the run folder there. OWN is this process's recording."""

import json
import os
import shutil
import socket
import sys
from pathlib import Path

FOLDER = Path(os.environ["BNCHECK_WATCH"].split(" ", 2)[2])
RUN = FOLDER.parent
OUTSIDE = RUN.parent / "outside"
OWN = f"watched/{os.getpid()}-0"


def record():
    about = {"framework": "torch", "version": "2", "program": "p", "command": ["p"], "pid": os.getpid()}
    state = {"steps": 3, "forwards": 3, "left_out": 0, "ended": True}
    (RUN / OWN).mkdir(parents=True)
    for name, text in (("about.json", json.dumps(about)), ("state.json", json.dumps(state)), ("log.jsonl", "")):
        (RUN / OWN / name).write_text(text)


def bind(path):
    os.chdir(path.parent)  # a socket's whole path would be too long
    socket.socket(socket.AF_UNIX).bind(path.name)


MAKE = {
    "fifo": os.mkfifo,
    "folder": lambda path: (path / "inner").mkdir(parents=True),
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "file outside": lambda path: path.symlink_to(OUTSIDE / "secret"),
    "folder outside": lambda path: path.symlink_to(OUTSIDE),
    "itself": lambda path: path.symlink_to(path.name),
    "garbage": lambda path: path.write_bytes(b"\xff{[" * 1000),
    "socket": bind,
    "nothing": lambda path: None,
}


def instead(path, make):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.is_symlink() or path.exists():
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path)


record()
for word in sys.argv[1:]:
    place, _, what = word.partition("=")
    instead(RUN / place.replace("OWN", OWN) if place else RUN, MAKE[what])
