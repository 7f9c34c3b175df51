"""A backend that misbehaves on purpose: the network's first layer name says how. Real faults in real processes."""

import atexit
import ctypes
import os
import resource
import signal
import sys
import time

import numpy as np

TITLE = "Misbehaving"
MODULE = ""
DISTRIBUTION = ""
DEFAULT_VERSION = ""
VARIANTS = {"": "as the layer's name says", "*": "while importing"}
DEVICES = ("cpu",)
REQUIREMENTS = []
DOCUMENTED = []


def describe(variant, device):
    if variant == "missing":
        raise RuntimeError("no such device here")
    if variant == "import-error":
        raise ImportError("libfault.so.1: cannot open shared object file")
    if variant == "import-abort":
        os.abort()
    if variant == "import-hang":
        time.sleep(3600)
    return {"version": "1.0"}


def build(network, params, dtype, variant, device):
    return Model(network["layers"][0]["name"])


class Model:
    def __init__(self, fault):
        self.fault = fault
        self.layers = [fault]
        if fault in ("half-result", "wrong-protocol"):
            # The folder of the running cell is the last line of progress.txt.
            job = sys.argv[1]
            with open(os.path.join(job, "progress.txt")) as handle:
                cell = handle.read().split()[-1]
            os.makedirs(os.path.join(job, cell))
            with open(os.path.join(job, cell, "result.json"), "w") as handle:
                handle.write('{"protocol": 1, "outcome": "o' if fault == "half-result" else '{"protocol": 99}')
            os._exit(0)

        if fault == "room-again":
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def forward(self, x, mode):
        fault = self.fault
        if fault == "no-room":  # files of more than 1,500 bytes cannot be written: a disk that fills up
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            sys.dont_write_bytecode = True
            resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))
        if fault == "half-entry":  # killed while it wrote the cell before
            with open(os.path.join(sys.argv[1], "cells.tar"), "ab") as handle:
                handle.write(b"1-half-entry/trace.npz".ljust(700, b"\0"))
            os._exit(1)
        if fault == "nap":
            time.sleep(0.5)
        if fault == "abort":
            os.abort()
        if fault == "segfault":
            ctypes.string_at(0)
        if fault == "exit":
            os._exit(0)
        if fault == "loop":
            while True:
                pass
        if fault == "allocate":
            kept = [np.zeros(2**24) for _ in range(64)]  # 8 GiB of address space, of which no page need be there
            raise RuntimeError(f"nothing bounds {len(kept)} arrays")
        if fault == "noise":
            line = b"x" * 1023 + b"\n"
            for _ in range(50 * 1024):
                os.write(1, line)
                os.write(2, line)
        if fault == "close-stdout":
            os.close(1)
            sys.stdout.close()
        if fault == "hang-at-exit":
            atexit.register(time.sleep, 600)
        if fault == "raise":
            raise ValueError("refused on purpose")
        return x

    def backward(self, dys):
        return {"input": dys[-1]}

    def taps(self):
        return {}

    def axis(self, layer):
        return 1

    def state(self, layer):
        return {"running_mean": np.zeros(3), "running_var": np.ones(3)}
