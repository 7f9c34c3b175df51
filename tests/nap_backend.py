"""A backend whose forwards take a moment each, and which has started a process: something to be killed in."""

import os
import subprocess
import time

import numpy as np

TITLE = "Napping"
MODULE = ""
DISTRIBUTION = ""
DEFAULT_VERSION = ""
VARIANTS = {"": "with a child", "second": "a child in a session of its own"}
DEVICES = ("cpu",)
REQUIREMENTS = []
DOCUMENTED = []


def describe(variant, device):
    if "NAP_SLEEP" in os.environ:
        subprocess.Popen(["sleep", os.environ["NAP_SLEEP"]], start_new_session=variant == "second")
    return {"version": "1.0"}


def build(network, params, dtype, variant, device):
    return Model(network["layers"][0]["name"])


class Model:
    def __init__(self, layer):
        self.layers, self.seen, self.mean = [layer], {}, np.zeros(3)

    def forward(self, x, mode):
        time.sleep(0.01)
        self.mean = 0.5 * self.mean + 0.5 * x.mean(axis=0)
        self.seen = {self.layers[0]: (x, x)}
        return x

    def backward(self, dys):
        return {"input": dys[-1]}

    def taps(self):
        return self.seen

    def axis(self, layer):
        return 1

    def state(self, layer):
        return {"running_mean": self.mean.copy(), "running_var": np.ones(3), "training": True}
