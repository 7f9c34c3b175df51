"""Training scripts in a few words, for the tests of rules: what a recorder would have kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bncheck.life import Happening, LayerLife, Life, Span, Where

TRAIN = Where("train.py", 30, "main")
VALIDATE = Where("engine.py", 88, "evaluate")
CHANNELS = 4
INTERLEAVED = 8  # forwards of a layer after which a recorder ends a span


@dataclass
class Layer:
    """A BatchNorm layer: its state, its spans and its moments."""

    name: str
    momentum: float = 0.1
    mean: np.ndarray = field(default_factory=lambda: np.zeros(CHANNELS))
    var: np.ndarray = field(default_factory=lambda: np.ones(CHANNELS))
    gamma: np.ndarray = field(default_factory=lambda: np.ones(CHANNELS))
    beta: np.ndarray = field(default_factory=lambda: np.zeros(CHANNELS))
    training: bool = True
    trainable: bool = True
    optimised: bool = True
    more: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    spans: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0

    def life(self) -> LayerLife:
        whole = {"index", "step", "n", "samples", "input_bad", "output_bad", "training", "in_backward", "gradients"}
        moments = {
            name: np.array([row[name] for row in self.rows], dtype=np.int64 if name in whole else np.float64)
            for name in (self.rows[0] if self.rows else ())
        }
        plain = [{key: value for key, value in span.items() if key not in ("at", "within")} for span in self.spans]
        if not self.more.get("tracks", True):  # nobody looked whether anything moved
            plain = [{**span, "moved": None} for span in plain]
        known = {"names": (self.name,), "registered": True, "trainable": self.trainable, **self.more}
        return LayerLife(
            name=self.name, kind=known.pop("kind", "BatchNorm2d"), channels=CHANNELS, moments=moments,
            spans=tuple(Span(**{**span, "n": tuple(span["n"])}) for span in plain), **known,
        )  # fmt: skip


class Program:
    """A program that runs layers. Every batch has another mean, by a fixed rule; a step moves gamma and beta."""

    def __init__(self, *names: str, **each: Any) -> None:
        self.layers = {name: Layer(name, **each) for name in names}
        self.index = self.steps = self.batch = self.calls = 0
        self.happenings: list[Happening] = []
        self.more: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Layer:
        return self.layers[name]

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean, variance) of the next batch."""
        self.batch += 1
        wave = np.sin(self.batch * np.arange(1, CHANNELS + 1))
        return np.array([1.0, -2.0, 0.5, 3.0]) + 0.2 * wave, np.array([1.0, 4.0, 0.5, 2.0]) * (1 + 0.1 * wave)

    def forward(
        self, line: Where = TRAIN, *, layers: Sequence[str] = (), gradients: bool = True, again: bool = False,
        n: int = 64, batch: tuple[Any, Any] | None = None, moves: bool = True, dtype: str = "float32",
        within: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """One call of the model, or more of the last one: each layer runs in the mode that it is in."""
        self.calls += not within
        mean, var = (np.asarray(part, dtype=float) for part in (batch or self.data()))
        for name in layers or self.layers:
            layer = self.layers[name]
            before = (layer.mean.copy(), layer.var.copy())
            if layer.training and moves:
                weight = 1 / (layer.count + 1) if np.isnan(layer.momentum) else layer.momentum
                layer.mean = layer.mean + weight * (mean - layer.mean)
                layer.var = layer.var + weight * (var - layer.var)
                layer.count += 1
            moved = not (np.array_equal(before[0], layer.mean) and np.array_equal(before[1], layer.var))
            self.span(layer, line, gradients, again, n, moved, dtype)
            layer.rows.append({
                "index": self.index, "call": self.calls, "step": self.steps, "training": layer.training,
                "in_backward": again, "gradients": gradients, "n": n, "samples": n, "input_mean": mean,
                "input_var": var, "input_bad": int((~np.isfinite(mean)).sum()), "output_bad": 0,
                "mean_before": before[0], "mean_after": layer.mean, "var_before": before[1], "var_after": layer.var,
                "counter_before": np.nan, "counter_after": np.nan, "gamma": layer.gamma, "beta": layer.beta,
                "eps": 1e-5, "momentum": layer.momentum,
            })  # fmt: skip
            self.index += 1
        return mean, var

    def span(self, layer: Layer, line: Where, gradients: bool, again: bool, n: int, moved: bool, dtype: str) -> None:
        """As the recorder counts: on with a span that was left for a few forwards only."""
        key = {"training": layer.training, "in_backward": again, "gradients": gradients, "input_dtype": dtype,
               "called_from": line}  # fmt: skip
        at = sum(span["forwards"] for span in layer.spans)
        known = [span for span in layer.spans if all(span[name] == value for name, value in key.items())]
        if known and at - known[-1]["at"] <= INTERLEAVED:
            span = known[-1]
        else:
            span = {**key, "first_index": self.index, "first_step": self.steps, "last_step": self.steps, "forwards": 0,
                    "n": [n, n], "moved": 0, "most_per_step": 0, "within": 0}  # fmt: skip
            layer.spans.append(span)
        span["within"] = span["within"] + 1 if span["last_step"] == self.steps else 1
        span.update(
            last_index=self.index, last_step=self.steps, forwards=span["forwards"] + 1, moved=span["moved"] + moved,
            n=[min(n, span["n"][0]), max(n, span["n"][1])], most_per_step=max(span["most_per_step"], span["within"]),
            at=at + 1,
        )  # fmt: skip

    def step(self) -> None:
        self.steps += 1
        for layer in self.layers.values():
            if layer.trainable and layer.optimised:
                push = 0.01 * np.cos(self.steps * np.arange(1, CHANNELS + 1))
                layer.gamma, layer.beta = layer.gamma + push, layer.beta - push

    def tell(self, what: str, line: Where | None = TRAIN, layers: Sequence[str] = (), **detail: Any) -> None:
        self.happenings.append(Happening(what, self.index, self.steps, tuple(layers), line, detail))

    def mode(self, training: bool, line: Where = TRAIN, layers: Sequence[str] = (), module: str = "Net") -> None:
        """train() or eval() of a module that holds some layers; of the whole network where none are named."""
        for name in layers or self.layers:
            self.layers[name].training = training
        self.tell("train" if training else "eval", line, layers, module=module)

    def train(self, steps: int = 20, **options: Any) -> None:
        for _ in range(steps):
            self.forward(**options)
            self.step()

    def evaluate(self, batches: int = 10, line: Where = VALIDATE, **options: Any) -> None:
        for _ in range(batches):
            self.forward(line, gradients=False, **options)

    @property
    def life(self) -> Life:
        return Life(
            program="train.py", framework="torch", version="2.13.0", steps=self.steps, forwards=self.index, code=0,
            layers=tuple(layer.life() for layer in self.layers.values()), happenings=tuple(self.happenings),
            **self.more,
        )  # fmt: skip
