"""What the MXNet scripts share: a small network, and images whose brightness decides their class."""

from __future__ import annotations

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

mx.random.seed(0)
rng = np.random.default_rng(0)
loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()


def network(momentum: float = 0.9) -> nn.HybridSequential:
    net = nn.HybridSequential()
    for _ in range(2):
        net.add(nn.Conv2D(8, 3, use_bias=False), nn.BatchNorm(momentum=momentum), nn.Activation("relu"))
    net.add(nn.GlobalAvgPool2D(), nn.Dense(2))
    net.initialize(mx.init.Xavier())
    return net


def trainer_of(net: nn.HybridSequential) -> mx.gluon.Trainer:
    return mx.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.05})


def batch(size: int = 16) -> tuple[mx.nd.NDArray, mx.nd.NDArray]:
    y = rng.integers(0, 2, size)
    x = rng.normal(size=(size, 3, 8, 8)) + 0.6 * y[:, None, None, None]
    return mx.nd.array(x), mx.nd.array(y)


def train_step(net: nn.HybridSequential, trainer: mx.gluon.Trainer, x: mx.nd.NDArray, y: mx.nd.NDArray) -> None:
    with mx.autograd.record():
        value = loss(net(x), y)
    value.backward()
    trainer.step(len(y))


def accuracy(net: nn.HybridSequential) -> float:
    x, y = batch(64)
    return float((net(x).argmax(1) == y).mean().asscalar())
