"""Lives of single layers, simulated: float32 arithmetic on drawn batches, with the rules of the layer as parameters.

What is recorded is made as a recorder makes it: float64 moments of the batch as it went in, and the least squares of
what came out against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bncheck.life import Happening, LayerLife, Life, Span
from bncheck.trace import Array


@dataclass
class Rules:
    """How a layer behaves; the defaults are those of torch.nn.BatchNorm."""

    weight: float | None = 0.1  # of the new batch; None: cumulative
    held: float | None = None  # momentum as it is held, where it is another
    divisor: str = "n-1"
    eps: float = 1e-5
    held_eps: float | None = None
    outside: bool = False  # eps is added to the deviation
    train_divisor: str = "n"
    train_source: str = "batch"  # running, blend
    eval_source: str = "running"  # batch
    statistic: str = "variance"  # std, second-moment
    times: int = 1  # updates per forward
    affine: bool = True


@dataclass
class Layer:
    """A layer that lives; ``moments`` are collected as a recorder would keep them."""

    channels: int
    rules: Rules = field(default_factory=Rules)
    name: str = "bn"
    kind: str = "BatchNorm1d"
    own: bool = False
    keep: Callable[[int], bool] = lambda forward: True
    dtype: type = np.float32
    counts: bool = True

    def __post_init__(self) -> None:
        self.m = np.zeros(self.channels, self.dtype)
        self.v = np.ones(self.channels, self.dtype)
        self.gamma = np.ones(self.channels, self.dtype)
        self.beta = np.zeros(self.channels, self.dtype)
        self.count, self.index, self.step = 0, 0, 0
        self.rows: list[dict[str, object]] = []
        self.spans: list[Span] = []
        self.happenings: list[Happening] = []
        self.left_out = 0

    def forward(self, x: Array, training: bool, gradients: bool | None = None) -> Array:
        """x (n, C) of the layer's dtype."""
        r, f = self.rules, self.dtype
        n = len(x)
        mean, var = x.mean(axis=0, dtype=f), x.var(axis=0, dtype=f)
        before = (self.m.copy(), self.v.copy(), self.count)
        unbiased = var * f(n / max(n - 1, 1))
        own = {
            "batch": (mean, unbiased if r.train_divisor == "n-1" else var),
            "running": (self.m, self.v),
            "blend": (f(0.5) * (mean + self.m), f(0.5) * (var + self.v)),
        }[r.train_source if training else r.eval_source]
        own = tuple(part.copy() for part in own)
        if training:
            self.update(mean, var, unbiased)
        eps = f(r.eps)
        scale = f(1) / (np.sqrt(own[1]) + eps) if r.outside else f(1) / np.sqrt(own[1] + eps)
        gamma, beta = (self.gamma, self.beta) if r.affine else (f(1), f(0))
        y = (gamma * ((x - own[0]) * scale) + beta).astype(f)
        self.record(x, y, training, before, training if gradients is None else gradients)
        return y

    def update(self, mean: Array, var: Array, unbiased: Array) -> None:
        r, f = self.rules, self.dtype
        self.count += 1
        u = unbiased if r.divisor == "n-1" else var
        u = {"variance": u, "std": np.sqrt(u), "second-moment": u + mean * mean}[r.statistic]
        for _ in range(r.times):
            a = f(1.0 / self.count if r.weight is None else r.weight)
            self.m = ((f(1) - a) * self.m + a * mean).astype(f)
            self.v = ((f(1) - a) * self.v + a * u).astype(f)

    def record(self, x: Array, y: Array, training: bool, before: tuple[Array, Array, int], gradients: bool) -> None:
        r = self.rules
        wide = x.astype(np.float64)
        m, v = wide.mean(axis=0), wide.var(axis=0)
        self.spans.append(
            Span(
                first_index=self.index, last_index=self.index, first_step=self.step, last_step=self.step, forwards=1,
                training=training, gradients=gradients, n=(len(x), len(x)), input_dtype=np.dtype(self.dtype).name,
            )
        )  # fmt: skip
        self.index += 1
        if not self.keep(self.index - 1):
            self.left_out += 1
            return
        out = y.astype(np.float64)
        with np.errstate(all="ignore"):
            slope = ((wide - m) * (out - out.mean(axis=0))).mean(axis=0) / v
            off = np.abs(out - out.mean(axis=0) - slope * (wide - m)).max()
            r_used = slope / self.gamma.astype(np.float64)
            used = m - (out.mean(axis=0) - self.beta) / slope
            residual = off / np.abs(out - self.beta).max()
        held = r.held if r.held is not None else r.weight
        self.rows.append({
            "index": self.index - 1, "step": self.step, "training": int(training), "in_backward": 0,
            "gradients": int(gradients), "n": len(x), "samples": len(x),
            "input_mean": m, "input_var": v, "input_bad": 0, "output_bad": 0,
            "mean_before": before[0], "mean_after": self.m.copy(), "var_before": before[1], "var_after": self.v.copy(),
            "counter_before": float(before[2]) if self.counts else np.nan,
            "counter_after": float(self.count) if self.counts else np.nan,
            "gamma": self.gamma.copy(), "beta": self.beta.copy(),
            "eps": r.eps if r.held_eps is None else r.held_eps,
            "momentum": np.nan if held is None else held,
            "used_mean": used, "used_invstd": r_used, "used_residual": residual,
            "output_scale": float(out.std()),
        })  # fmt: skip

    def tell(self, what: str, **detail: object) -> None:
        self.happenings.append(Happening(what, self.index, self.step, (self.name,), None, detail))

    @property
    def life(self) -> LayerLife:
        whole = ("index", "step", "n", "samples", "input_bad", "output_bad")
        flags = ("training", "in_backward", "gradients")
        moments = {}
        for name in self.rows[0] if self.rows else ():
            kind = np.int64 if name in whole else np.int8 if name in flags else None
            moments[name] = np.array([row[name] for row in self.rows], dtype=kind)
        dtype = np.dtype(self.dtype).name
        return LayerLife(
            name=self.name, kind=self.kind, channels=self.channels, moments=moments, spans=tuple(self.spans),
            own=self.own, dtypes={"running_mean": dtype, "running_var": dtype},
        )  # fmt: skip


def life_of(*layers: Layer, framework: str = "torch") -> Life:
    return Life(
        program="train.py",
        framework=framework,
        version="2.13.0",
        layers=tuple(layer.life for layer in layers),
        happenings=tuple(each for layer in layers for each in layer.happenings),
        steps=max(layer.step for layer in layers),
        forwards=sum(layer.index for layer in layers),
        left_out=sum(layer.left_out for layer in layers),
    )


@dataclass
class Data:
    """A stream of batches whose level and spread wander, as those inside a network do while it learns."""

    rng: np.random.Generator
    channels: int
    level: Array
    spread: Array
    drift: float = 0.0  # deviations that the level goes per step, in all
    kinds: Sequence[Array] = ()  # levels of unlike batches, in deviations, in turn
    turn: int = 0

    def step(self) -> None:
        self.level = self.level + self.drift * self.spread * self.rng.standard_normal(self.channels)

    def batch(self, n: int, shift: Array | float = 0.0, wider: float = 1.0) -> Array:
        level = self.level + self.spread * shift
        if len(self.kinds):
            level = level + self.spread * self.kinds[self.turn % len(self.kinds)]
            self.turn += 1
        found = level + wider * self.spread * self.rng.standard_normal((n, self.channels))
        return found.astype(np.float32)


def drawn(rng: np.random.Generator, drift: float = 0.0, channels: int | None = None) -> Data:
    c = channels or int(rng.integers(1, 17))
    spread = np.exp(rng.normal(0, 0.7, c))
    return Data(rng, c, spread * rng.normal(0, rng.choice([0.1, 1.0, 3.0]), c), spread, drift)


def train(layer: Layer, data: Data, steps: int, n: int, lr: float = 0.01) -> None:
    for _ in range(steps):
        layer.forward(data.batch(n).astype(layer.dtype), True)
        data.step()
        layer.step += 1
        layer.gamma = (layer.gamma + lr * data.rng.standard_normal(layer.channels)).astype(layer.dtype)
        layer.beta = (layer.beta + lr * data.rng.standard_normal(layer.channels)).astype(layer.dtype)


def evaluate(layer: Layer, data: Data, batches: int, n: int, shift: Array | float = 0.0, wider: float = 1.0) -> None:
    for _ in range(batches):
        layer.forward(data.batch(n, shift, wider).astype(layer.dtype), False, gradients=False)


def healthy(rng: np.random.Generator) -> Layer:
    """A layer whose training and evaluation are as they should be: shapes, weights, drift and dtype vary."""
    data = drawn(rng, drift=float(rng.choice([0.0, 0.01, 0.03])))
    weight = float(rng.choice([0.1, 0.1, 0.05, 0.3, 0.01]))
    cumulative = rng.random() < 0.15
    n = int(rng.choice([4, 8, 16, 32, 100, 256]))
    # An average holds (1 − a)^k of its start: enough steps for what is left to be little.
    steps = int(rng.integers(20, 60) if cumulative or weight >= 0.1 else 6 / weight * rng.uniform(1.0, 1.3))
    layer = Layer(
        data.channels,
        Rules(weight=None if cumulative else weight, eps=float(rng.choice([1e-5, 1e-3]))),
        dtype=np.float64 if rng.random() < 0.1 else np.float32,
    )
    if rng.random() < 0.3:
        layer.keep = thinned(int(rng.integers(5, 40)), int(rng.integers(2, 20)))
    if rng.random() < 0.3:
        evaluate(layer, data, 2, n)  # a check before the training
    train(layer, data, steps, n, lr=float(rng.choice([0.0, 0.001, 0.05])))
    evaluate(layer, data, int(rng.integers(1, 6)), int(rng.choice([n, 2 * n, max(n, 16)])))
    return layer


PLANTED = ("few-updates", "never-updated", "batch-weight", "stale-state", "mixed-batches", "data-shift")


def planted(rng: np.random.Generator, fault: str) -> tuple[Layer, bool]:
    """A layer with one fault of random size, and whether it is identifiable: the truth behind the data says that its
    outputs are off by more than 1.3 of their deviations, and that the fault makes 0.7 of that and more."""
    data = drawn(rng, drift=float(rng.choice([0.0, 0.01, 0.02])))
    rules, n = Rules(weight=float(rng.choice([0.3, 0.2, 0.1]))), int(rng.choice([8, 16, 32, 100]))
    layer, steps, shift, wider, count = Layer(data.channels, rules), int(rng.integers(40, 70)), 0.0, 1.0, n
    if fault in ("few-updates", "never-updated"):
        rules.weight = 0.0 if fault == "never-updated" else float(rng.choice([0.001, 0.003, 0.01]))
        steps, data.level = int(rng.integers(3, 40)), data.level + data.spread * rng.uniform(0.5, 4)
    elif fault == "batch-weight":
        rules.weight, n, count = float(rng.uniform(0.9, 1.0)), int(rng.choice([2, 3])), 64
    elif fault == "stale-state":
        rules.weight = float(rng.choice([0.02, 0.03, 0.05]))
        steps = int(4 / rules.weight + rng.integers(0, 30))
    elif fault == "mixed-batches":
        kinds = rng.normal(0, 1, (2, data.channels))
        data.kinds = tuple(kinds * rng.uniform(1, 4) / np.sqrt((kinds**2).mean()))
    elif fault == "data-shift":
        shift = rng.normal(0, 1, data.channels) * rng.uniform(1, 4)
        wider, count = float(rng.uniform(0.7, 2)), max(n, 16)
    pace = float(rng.uniform(0.02, 0.15)) * data.spread * rng.choice([-1, 1], data.channels)
    for _ in range(steps):
        train(layer, data, 1, n)
        if fault == "stale-state":
            data.level = data.level + pace  # one way, as weights go that follow a gradient
    met = (data.level + data.spread * shift, data.spread * wider)
    if fault == "mixed-batches":
        data.kinds = (data.kinds[int(rng.integers(2))],)
        met, count = (data.level + data.spread * data.kinds[0], data.spread), max(n, 16)
    running = (layer.m.astype(float), layer.v.astype(float))
    off = apart(met, (running[0], np.sqrt(running[1])))
    # What would be off with the statistics of the training data themselves; of the last three causes that is the fault.
    rest = apart(met, (data.level, data.spread)) if fault in ("few-updates", "stale-state", "batch-weight") else 0.0
    evaluate(layer, data, int(rng.integers(2, 5)), count, shift, wider)
    chance = float(np.sqrt(1.5 / n))  # of one training batch
    least = {"stale-state": 3 * chance, "data-shift": (5 + 4 / np.sqrt(data.channels)) * chance}.get(fault, 0.0)
    return layer, bool(off > max(1.3, least) and rest < 0.3 * off)


def apart(met: tuple[Array, Array], used: tuple[Array, Array]) -> float:
    """How far an output is off, in deviations, when data of (mean, deviation) are normalised with others."""
    return float(np.sqrt(np.mean(((met[0] - used[0]) / used[1]) ** 2 + (met[1] / used[1] - 1.0) ** 2)))


def thinned(first: int, every: int) -> Callable[[int], bool]:
    return lambda forward: forward < first or forward % every == 0


def lives(count: int, make: Callable[[np.random.Generator], Layer], seed: int = 0) -> Iterator[Life]:
    for number in range(count):
        yield life_of(make(np.random.default_rng([seed, number])))


def with_moments(life: Life, layer: str, **arrays: Array) -> Life:
    """The life with some arrays of one layer replaced."""
    changed = tuple(
        replace(each, moments={**each.moments, **arrays}) if each.name == layer else each for each in life.layers
    )
    return replace(life, layers=changed)
