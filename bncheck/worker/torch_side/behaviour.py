"""Layers whose buffers behave like a running mean and variance, whatever they are called.

Loaded by torch_side/watching.py by path. A buffer is a running mean if one forward moved every channel of it by the
same share of the way to the mean of its input: new = old + a (mean − old) with one a. Likewise the variance, biased or
not, and the standard deviation. Python 3.7 syntax.
"""

import sys

import numpy as np

LARGEST = 1 << 16  # values of a buffer: tables of positions and kernels are larger
TRIES = 3  # forwards in training after which a module whose buffers stand still is left alone
CLOSE = 1e-3  # of the largest step: float32 arithmetic stays far below, any other rule far above


def suspect(module):
    """A Suspect where a module holds two buffers of the same size, else None."""
    sizes = {}
    for name, value in module._buffers.items():
        if value is not None and value.is_floating_point() and 2 <= value.numel() <= LARGEST:
            sizes.setdefault(value.numel(), []).append(name)
    pairs = {size: names for size, names in sizes.items() if len(names) >= 2}
    return Suspect(pairs) if pairs and value_is_plain(module) else None


def value_is_plain(module):
    return all(value is None or value.device.type == "cpu" for value in module._buffers.values())


class Suspect:
    """Buffers of one module, by size, and their values before the forward that runs."""

    def __init__(self, sizes):
        self.sizes, self.before, self.after, self.tries = sizes, {}, {}, TRIES

    def look(self, module, held):
        self.before = self.values(module, held)

    def values(self, module, held):
        names = [name for names in self.sizes.values() for name in names]
        names += [name for name, value in module._buffers.items() if value is not None and value.numel() == 1]
        return {name: held(module._buffers[name]) for name in names if module._buffers.get(name) is not None}

    def words(self, torch, module, x, moments):
        """The names of mean, variance (or deviation) and counter; None where this forward did not show them."""
        self.after = self.values(module, moments.held)
        moved = [name for name, value in self.after.items() if not np.array_equal(value, self.before.get(name))]
        if module.training or moved:
            self.tries -= 1
        for size, names in self.sizes.items():
            fitting = [dim for dim in range(x.dim()) if x.shape[dim] == size]
            if not fitting or not set(names) & set(moved):
                continue
            axis = 1 if 1 in fitting else fitting[-1]
            with torch.no_grad():
                mean, var, bad = moments.input_moments(torch, x.detach(), axis)
            count = x.numel() / size
            if bad or count < 2:
                continue
            goals = {
                "mean": [mean],
                "var": [var, var * count / (count - 1)],
                "deviation": [np.sqrt(var), np.sqrt(var * count / (count - 1))],
            }
            found = {word: self.nearest(names, moved, values) for word, values in goals.items()}
            if found["mean"] and (found["var"] or found["deviation"]):
                return self.named(module, size, found, moved)
        return None

    def nearest(self, names, moved, goals):
        fits = ((self.off(name, goal), name) for name in names if name in moved for goal in goals)
        close = sorted(pair for pair in fits if pair[0] < CLOSE)
        return close[0][1] if close else ""

    def off(self, name, goal):
        """How far one step of a buffer is from a constant share of the way to a goal, relative to the step."""
        old, new = self.before[name].astype(np.float64), self.after[name].astype(np.float64)
        way, step = goal - old, new - old
        if not way.any() or not np.isfinite(step).all():
            return np.inf
        share = float(way @ step / (way @ way))
        if not 0 < share <= 1 + CLOSE:
            return np.inf
        return float(np.abs(step - share * way).max() / np.abs(step).max())

    def named(self, module, size, found, moved):
        gamma, beta = sys.modules["bncheck_torch_keeping"].roles(module, size)
        counter = next(
            (name for name in moved if self.after[name].size == 1 and self.after[name][0] == self.before[name][0] + 1),
            "",
        )
        deviation = "" if found["var"] else found["deviation"]
        return {
            "mean": found["mean"],
            "var": found["var"],
            "deviation": deviation,
            "counter": counter,
            "gamma": gamma,
            "beta": beta,
        }

    def state(self, words):
        """(mean, variance, counter) before the forward that gave the module away."""
        counter = self.before.get(words["counter"])
        return self.before[words["mean"]], self.before[words["var"]], None if counter is None else float(counter[0])
