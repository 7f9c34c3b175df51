"""What the Paddle scripts share: a small network, and images whose brightness decides their class."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn

paddle.seed(0)
rng = np.random.default_rng(0)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2D(3, 8, 3, bias_attr=False),
        nn.BatchNorm2D(8),
        nn.ReLU(),
        nn.Conv2D(8, 8, 3, bias_attr=False),
        nn.BatchNorm2D(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2D(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


def batch(size: int = 16) -> tuple[paddle.Tensor, paddle.Tensor]:
    y = rng.integers(0, 2, size)
    x = rng.normal(size=(size, 3, 8, 8)) + 0.6 * y[:, None, None, None]
    return paddle.to_tensor(x.astype("float32")), paddle.to_tensor(y)


def train_step(net: nn.Layer, optimiser: paddle.optimizer.Optimizer) -> None:
    x, y = batch()
    nn.functional.cross_entropy(net(x), y).backward()
    optimiser.step()
    optimiser.clear_grad()


@paddle.no_grad()
def accuracy(net: nn.Layer) -> float:
    x, y = batch(128)
    return float((net(x).argmax(1) == y).astype("float32").mean())
