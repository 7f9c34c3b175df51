"""What the Flax scripts share: a small network, and images whose brightness decides their class."""

from __future__ import annotations

import jax
import numpy as np
import optax
from flax import nnx

rng = np.random.default_rng(0)


class Network(nnx.Module):
    def __init__(self, momentum: float = 0.9) -> None:
        rngs = nnx.Rngs(0)
        self.conv1 = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(8, momentum=momentum, rngs=rngs)
        self.conv2 = nnx.Conv(8, 8, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(8, momentum=momentum, rngs=rngs)
        self.head = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm1(self.conv1(x)))
        x = nnx.relu(self.norm2(self.conv2(x)))
        return self.head(x.mean((1, 2)))


def optimiser_of(net: Network) -> nnx.Optimizer:
    return nnx.Optimizer(net, optax.sgd(0.05), wrt=nnx.Param)


def batch(size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    y = rng.integers(0, 2, size)
    x = rng.normal(size=(size, 8, 8, 3)) + 0.6 * y[:, None, None, None]
    return x.astype("float32"), y


def loss_of(net: Network, x: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(net(x), y).mean()


def eager_step(net: Network, optimiser: nnx.Optimizer, x: jax.Array, y: jax.Array) -> jax.Array:
    loss, gradients = nnx.value_and_grad(loss_of)(net, x, y)
    optimiser.update(net, gradients)
    return loss


train_step = nnx.jit(eager_step)


@nnx.jit
def accuracy(net: Network, x: jax.Array, y: jax.Array) -> jax.Array:
    return (net(x).argmax(1) == y).mean()
