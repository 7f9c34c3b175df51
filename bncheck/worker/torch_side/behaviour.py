"""Layers whose buffers behave like a running mean and variance, whatever they are called.

Loaded by torch_side/watching.py by path. A buffer is a running mean if one forward moved every channel of it by the
same share of the way to the mean of its input: new = old + a (mean - old) with one a. Likewise the variance, biased or
not, the standard deviation, its inverse, the logarithm of either, averaged as they are or by way of the variance.
Python 3.7 syntax.
"""

import sys

import numpy as np

LARGEST = 1 << 16  # values of a buffer: tables of positions and kernels are larger
TRIES = 3  # forwards in training after which a module whose buffers stand still is left alone
CLEAR = 10.0  # so many times as far off is the next best form
CLOSE = 1e-3  # of the largest step: float32 arithmetic stays far below, any other rule far above
# Of its own step, and of what it holds: how far one channel may be from the share of all.
EACH, ROUNDINGS = 1e-4, 1e-6


def suspect(module, plain=False):
    """A Suspect where a module holds two buffers of the same size, or one that can be both, else None. ``plain``: also
    of tensors that are no buffers."""
    sizes, held = {}, tensors(module, plain)
    for name, value in held.items():
        if value.is_floating_point() and 2 <= value.numel() <= LARGEST:
            sizes.setdefault(value.numel(), []).append(name)
    pairs = {size: names for size, names in sizes.items() if len(names) >= 2}
    near = all(value.device.type == "cpu" for value in held.values())
    return Suspect(pairs, plain) if pairs and near else None


def tensors(module, plain):
    keeping = sys.modules["bncheck_torch_keeping"]  # watching.py has loaded it
    found = {name: value for name, value in module._buffers.items() if value is not None}
    if plain:
        kind = sys.modules["torch"].Tensor  # an attribute of another kind may raise whatever it is asked
        others = {name: each for name, each in module.__dict__.items() if isinstance(each, kind)}
        theirs = not type(module).__module__.startswith("torch.")  # a frozen Linear has nothing to show
        found = dict(others, **(keeping.unlearnt(module) if theirs else found))
    found = {name: value for name, value in found.items() if not hasattr(value, "materialize")}
    parts = [keeping.parts_of(name, value) for name, value in found.items() if value.is_floating_point()]
    return dict(found, **{name: part for each in parts for name, part in each.items()})


def forms(module, variances):
    """(words that say how a buffer holds the variance, what it may move towards), the plain one first: by way of the
    variance itself, or as it is held."""
    deviations = [np.sqrt(var) for var in variances]
    eps = getattr(module, "eps", None)
    inside = {"eps": eps} if isinstance(eps, float) else {"eps": 0.0, "unsure": True}  # a literal one shows too little
    yield {}, variances
    yield {"form": "deviation"}, variances
    yield {"form": "deviation", "raw": True}, deviations
    yield {"form": "logarithm"}, variances
    yield {"form": "log deviation"}, variances
    with np.errstate(all="ignore"):
        yield {"form": "logarithm", "raw": True}, [np.log(var) for var in variances]
        yield {"form": "log deviation", "raw": True}, [np.log(each) for each in deviations]
    yield dict(inside, form="inverse"), variances
    with np.errstate(all="ignore"):
        yield dict(inside, form="inverse", raw=True), [(var + inside["eps"]) ** -0.5 for var in variances]


def read(words):
    """How to read a buffer that is averaged as it is, or by way of the variance."""
    return {} if words.get("raw") else words


def off(old, new, goal):
    """How far one step is from a constant share of the way to a goal, relative to the step."""
    way, step = goal - old, new - old
    if not way.any() or not np.isfinite(step).all() or not np.isfinite(way).all():
        return np.inf
    share = float(way @ step / (way @ way))
    if not 0 < share <= 1 + CLOSE:
        return np.inf
    return float(np.abs(step - share * way).max() / np.abs(step).max())


def in_each(old, new, goal, beyond):
    """Whether each channel goes one share of its own way: of a form that is no straight line one channel near 0 makes a
    step beside which all others are none. ``beyond``: the goals lie one number further, an eps that nobody knows."""
    way, step, size = goal - old, new - old, np.abs(old) + np.abs(new) + np.abs(goal)
    columns = np.stack([way, np.ones_like(way)] if beyond and len(way) > 2 else [way], 1)
    shares = np.linalg.lstsq(columns / size[:, None], step / size, rcond=None)[0]
    return bool((np.abs(step - columns @ shares) <= EACH * np.abs(step) + ROUNDINGS * size).all())


def nearest(steps, goals):
    """The name, of {name: (before, after)}, that comes nearest to one of the goals; "" where none is near."""
    found = [
        (off(*(each.astype(np.float64) for each in pair), goal), name) for name, pair in steps.items() for goal in goals
    ]
    return min([each for each in found if each[0] < CLOSE], default=(0.0, ""))[1]


class Suspect:
    """Buffers of one module, by size, and their values before the forward that runs."""

    def __init__(self, sizes, plain=False):
        self.plain = plain
        self.keeping = sys.modules["bncheck_torch_keeping"]
        self.sizes, self.before, self.after, self.tries = sizes, {}, {}, TRIES

    def look(self, module, held):
        self.before = self.values(module, held)

    def tensors(self, module):
        return tensors(module, self.plain)

    def values(self, module, held):
        known, now = [name for names in self.sizes.values() for name in names], self.tensors(module)
        return {name: held(value) for name, value in now.items() if name in known or value.numel() == 1}

    def words(self, torch, module, x, moments, rest=False):
        """The names of mean, variance (or deviation) and counter; None where this forward did not show them. ``rest``:
        beside a mean, the one other buffer of its size that moves is the second statistic, wherever it moves to."""
        self.after = self.values(module, moments.held)
        known = [
            name for name, value in self.after.items() if name in self.before and self.before[name].shape == value.shape
        ]
        moved = [name for name in known if not np.array_equal(self.after[name], self.before[name])]
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
            mean = self.nearest(names, moved, (mean,))[1]
            if not mean:
                continue
            spread, form = self.second(module, names, moved, mean, (var, var * count / (count - 1)))
            if rest and not spread:
                spread, form = self.other(names, moved, mean), {"guessed": True}
            if spread:
                return self.named(module, size, mean, spread, form, moved)
        return None

    def second(self, module, names, moved, mean, variances):
        """(the buffer that holds the variance, in which form); "" where none does, or two forms fit alike: of variances
        near 1, a deviation moves as they do."""
        others = [name for name in names if name != mean]
        found = [
            self.nearest(others, moved, goals, read(words)) + (words,) for words, goals in forms(module, variances)
        ]
        best, after = sorted(found, key=lambda each: each[0])[:2]
        told = best[0] < CLOSE and after[0] > CLEAR * best[0]
        return (best[1], best[2]) if told else ("", {})

    def other(self, names, moved, mean):
        """The only one beside the mean that moves; "" where there are more, or it takes values that no variance has."""
        found = [name for name in names if name in moved and name != mean]
        both = [values[name] for name in found for values in (self.before, self.after)]
        return found[0] if len(found) == 1 and all((values > 0).all() for values in both) else ""

    def nearest(self, names, moved, goals, words=None):
        """(how far off, name) of the buffer that comes nearest to one of the goals; (inf, "") where none is near."""
        fits = [(self.off(name, goal, words or {}), name) for name in names if name in moved for goal in goals]
        return min([fit for fit in fits if fit[0] < CLOSE], default=(np.inf, ""))

    def off(self, name, goal, words):
        """How far one step of a buffer, as ``words`` say to read it, is from a constant share of the way to a goal,
        relative to the step."""
        with np.errstate(all="ignore"):
            old, new = (
                self.keeping.as_variance(values[name].astype(np.float64), words) for values in (self.before, self.after)
            )
            found = off(old, new, goal)
            return found if found >= CLOSE or not words or in_each(old, new, goal, "unsure" in words) else np.inf

    def named(self, module, size, mean, spread, form, moved):
        gamma, beta = self.keeping.roles(module, size, (mean, spread))
        counter = next(
            (name for name in moved if self.after[name].size == 1 and self.after[name][0] == self.before[name][0] + 1),
            "",
        )
        plain, raw = not form.get("form"), form.get("raw")
        form = {name: value for name, value in form.items() if name != "raw"}
        form = {} if raw and form["form"] not in self.keeping.LOGARITHMS else form  # averaged as it is, it is one
        return {
            "mean": mean,
            "var": spread if plain else "",
            "deviation": "" if plain else spread,
            "counter": counter,
            "gamma": gamma,
            "beta": beta,
            **form,
        }

    def state(self, words):
        """(mean, variance, counter) before the forward that gave the module away."""
        counter = self.before.get(words["counter"])
        return self.before[words["mean"]], self.before[words["var"]], None if counter is None else float(counter[0])
