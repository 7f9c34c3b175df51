"""A backend whose running mean outlives the cell: its buffer is made once per process, like a cached primitive."""

import numpy as np

TITLE = "Leaky"
MODULE = ""
DISTRIBUTION = ""
DEFAULT_VERSION = ""
VARIANTS = {"": "one buffer for all cells", "clean": "a buffer per cell"}
DEVICES = ("cpu",)
REQUIREMENTS = []
DOCUMENTED = []
BUFFER = np.zeros(3)


def describe(variant, device):
    return {"version": "1.0"}


def build(network, params, dtype, variant, device):
    return Model(BUFFER if variant == "" else np.zeros(3))


class Model:
    def __init__(self, buffer):
        self.buffer, self.layers, self.seen = buffer, ["bn"], None

    def forward(self, x, mode):
        if mode != "eval":
            self.buffer *= 0.5
            self.buffer += 0.5 * x.mean(axis=0)
        self.seen = (x, x)
        return x

    def backward(self, dys):
        return {"input": dys[-1]}

    def taps(self):
        return {"bn": self.seen}

    def axis(self, layer):
        return 1

    def state(self, layer):
        return {"running_mean": self.buffer.copy(), "running_var": np.ones(3), "training": True}
