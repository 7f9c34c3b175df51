"""A layer whose file attacks when it is imported, in a process that a nursery has forked; EVIL names how."""

import ctypes
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from torch import nn

FOLDER = Path(sys.argv[1])
WHAT, _, KIND = os.environ["EVIL"].partition(" ")


def nursery():
    return json.loads((FOLDER / "job.json").read_text())["host"]


def reply(words):
    """Into the pipe on which the nursery answers."""
    for path in Path(f"/proc/{nursery()}/fd").iterdir():
        if str(path.readlink()).startswith("pipe:"):
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            os.write(descriptor, words)
            os.close(descriptor)


def instead(path, kind):
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind != "nothing":
        path.write_text(kind)


if WHAT == "replies":
    reply({"garbage": b"\xff{[garbage\n", "ghost": b'{"pid": 99999, "code": 0}\n', "endless": b"x" * 60000}[KIND])
if WHAT == "forges":
    reply(json.dumps({"pid": os.getppid(), "code": 0}).encode() + b"\n")
if WHAT == "answers":
    instead(FOLDER / "subject.json", KIND)
    os._exit(0)
if WHAT == "output":
    instead(FOLDER / "output.txt", KIND)
    ctypes.string_at(0)
if WHAT == "kills":
    os.kill({"nursery": nursery, "guard": os.getppid}[KIND](), signal.SIGKILL)
if WHAT == "stops":
    os.kill(nursery(), signal.SIGSTOP)
if WHAT == "removes":
    shutil.rmtree(FOLDER)
if WHAT == "children" and os.fork() == 0:
    os.setsid()
    os.execvp("sleep", ["sleep", os.environ["EVIL_SLEEP"]])


class Layer(nn.BatchNorm2d):
    pass
