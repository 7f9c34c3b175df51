"""A backend that attacks its host: the variant names the attack, which comes in the third cell that is built."""

import ctypes
import json
import os
import shutil
import sys
import time

import numpy as np

TITLE = "Evil"
MODULE = ""
DISTRIBUTION = ""
DEFAULT_VERSION = ""
VARIANTS = {"": "well behaved", "*": "an attack"}
DEVICES = ("cpu",)
REQUIREMENTS = []
DOCUMENTED = []
BUILT = []


def describe(variant, device):
    said = {"version": "1.0"}
    if variant == "says-surrogates":
        said = {"version": "1\udc80", "k\udcff": "\ud800"}
    if variant == "says-much":
        said["version"] = "1" * 2000000
    if variant == "says-deep":
        for _ in range(900):
            said = {"version": "1", "deep": said}
    return said


def build(network, params, dtype, variant, device):
    BUILT.append(1)
    return Model(network["layers"][0]["name"], variant if len(BUILT) == 3 else "")


def file(name):
    return os.path.join(sys.argv[1], name)


def cell():
    with open(file("progress.txt")) as handle:
        return handle.read().split()[-1]


def instead(name, make):
    """Something else in the place of a file of the protocol."""
    if os.path.isdir(file(name)):
        shutil.rmtree(file(name))
    elif os.path.lexists(file(name)):
        os.unlink(file(name))
    make(file(name))


def zero(path):
    os.symlink("/dev/zero", path)


def outside(path):
    os.symlink(file("../../../outside"), path)


def garbage(path):
    with open(path, "wb") as handle:
        handle.write(b"\xff{[garbage" * 1000)


def a_list(path):
    with open(path, "w") as handle:
        handle.write("[1]")


def progress(words):
    with open(file("progress.txt"), "ab") as handle:
        handle.write(words)
    ctypes.string_at(0)


def noise_and_death(make):
    instead(cell(), make)
    os.write(1, b"noise")
    ctypes.string_at(0)


def children(apart):
    """Two processes; ``apart``: in sessions of their own, the second with nobody above it."""
    for daemon in (False, apart):
        if os.fork() == 0:
            os.setsid() if apart else None
            if daemon and os.fork():
                os._exit(0)
            os.execvp("sleep", ["sleep", os.environ["EVIL_SLEEP"]])


def spoil(kind):
    """What belongs to another target, named in the environment, or to all of them."""
    victim = json.loads(os.environ.get("EVIL_VICTIMS", "{}")).get(kind)
    if victim is None:
        return
    folder, cells = file("../" + victim), file("../" + victim + "/cells.tar")
    forged = json.dumps({"protocol": 1, "outcome": "raised", "event": 0, "error": {"type": "Fault", "message": "bad"}})
    archive = sys.modules["bncheck_worker_archive"]
    if kind == "links":
        keep_linking(folder, cell())
    for _ in range(500):  # nothing is spoilt of what is not played yet; it may be waiting for this one to end
        if os.path.isfile(os.path.join(folder, "progress.txt")):
            with open(os.path.join(folder, "progress.txt"), "rb") as handle:
                if handle.read().endswith(b".\n"):
                    break
        time.sleep(0.01)
    if kind == "truncates":
        os.truncate(cells, 700)
    if kind == "flips":
        with open(cells, "r+b") as handle:
            raw = handle.read()
            handle.seek(raw.index(b'"outcome": "ok"') + 13)
            handle.write(b"k")
    if kind == "swaps":
        shutil.copyfile(file("cells.tar"), cells)
    if kind == "removes":
        shutil.rmtree(folder)
    if kind == "moves":
        os.rename(folder, folder + "-away")
        os.symlink(os.environ["EVIL_ELSEWHERE"], folder)
    if kind == "forges":
        os.makedirs(os.path.join(folder, cell()), exist_ok=True)
        archive.write_file(os.path.join(folder, cell(), "result.json"), forged.encode())
    if kind == "appends":
        entry = archive.seal(os.path.basename(sys.argv[1]), cell(), forged.encode())
        archive.append_entries(cells, [(cell() + "/result.json", entry)])
    if kind == "pipes" and os.path.lexists(cells):
        os.unlink(cells)
        os.mkfifo(cells)
    if kind == "inputs":
        for name in os.listdir(file("../../inputs")):
            os.truncate(file("../../inputs/" + name), 100)
        os.truncate(file("../../cases.jsonl"), 100)


def keep_linking(folder, name):
    """For a second, from before the other target has ended: its host clears the folder then, and looks at it."""
    until = time.monotonic() + 1
    while time.monotonic() < until:
        try:
            os.symlink(file("../../../outside"), os.path.join(folder, name))
        except OSError:
            time.sleep(0.0001)


def reply(kind):
    """Into the pipe on which a nursery answers, as if this came from it."""
    with open(file("job.json")) as handle:
        host = json.load(handle)["host"]
    words = {
        "garbage": b"\xff{[garbage\n",
        "ghost": b'{"pid": 99999, "code": 0}\n',
        "endless": b"x" * 5000,
    }[kind]
    for name in os.listdir(f"/proc/{host}/fd"):
        path = f"/proc/{host}/fd/{name}"
        if os.readlink(path).startswith("pipe:"):
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            os.write(descriptor, words)
            os.close(descriptor)


def die(*_):
    ctypes.string_at(0)


def attack(name):
    kinds = {
        "fifo": os.mkfifo,
        "folder": os.mkdir,
        "zero": zero,
        "outside": outside,
        "garbage": garbage,
        "list": a_list,
    }
    what, _, kind = name.partition(" ")
    places = {"progress": "progress.txt", "output": "stderr.txt", "tar": "cells.tar", "environment": "environment.json"}
    if what in places and kind in kinds:
        instead(places[what], kinds[kind])
        if what == "output":
            die()
    if what == "cell":
        noise_and_death(kinds[kind])
    if what == "names":
        climbing = b"../../../outside\n/\n\xff\xfe\n\n" + b"x" * 5000 + b"\n"
        progress({"climbing": climbing, "last": json.dumps(cell()).encode() + b"\n"}[kind])
    if what == "run.json":
        os.makedirs(file("../../run.json/inner"), exist_ok=True)
    if what == "link":
        os.makedirs(file(cell()))
        outside(os.path.join(file(cell()), "model.onnx"))
    if what == "cases":  # of all targets
        try:
            os.unlink(file("../../cases.jsonl"))
            kinds[kind](file("../../cases.jsonl"))
        except OSError:
            pass  # another attack was faster
        die()
    if what == "plots":  # where the report puts its pictures
        os.symlink(file("../../../elsewhere"), file("../../plots"))
    if what == "page":
        os.mkfifo(file("../../index.html"))
        os.makedirs(file("../../findings.csv.part/inner"))
    if what == "tar" and kind == "grows":
        os.truncate(file("cells.tar"), 2**40)
    if what == "replies":
        reply(kind)
    if what == "kids":
        children("apart" in kind)
        if "die" in kind:
            die()
        while kind == "stay":
            time.sleep(1)
    if what == "spoils":
        spoil(kind)
    if what == "raises":
        raise ValueError("path \udc80\udcff \ud800 gone")


class Model:
    def __init__(self, layer, name):
        self.layers, self.name, self.seen = [layer], name, {}
        self.mean = np.zeros(3, np.float32)

    def forward(self, x, mode):
        if self.name:
            name, self.name = self.name, self.name if self.name.startswith("holds") else ""
            attack(name)
        self.seen = {self.layers[0]: (x, x)}
        return x

    def backward(self, dys):
        return {"input": dys[-1]}

    def set_mode(self, training, layer=None):
        pass

    def flush(self):
        pass

    def taps(self):
        return self.seen

    def axis(self, layer):
        return 1

    def state(self, layer):
        mean = self.mean
        if self.name == "holds objects":
            mean = np.array([None, {}, 1])
        return {"running_mean": mean, "running_var": np.ones(3, np.float32)}

    def facts(self):
        if self.name == "holds deep facts":
            found = {}
            for _ in range(900):
                found = {"x": found}
            return found
        return None
