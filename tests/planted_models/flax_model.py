"""A small classifier in Flax nnx, right and with one fault each, for test_planted.py; ``python FILE FAULT`` trains it.

A freeze is the optimiser's matter there, and a module in a plain list is refused by nnx itself: neither is a model's.
"""

import sys

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp

DICE = np.random.default_rng(1)


class Block(nnx.Module):
    def __init__(self, channels, width, rngs, **settings):
        self.conv = nnx.Conv(channels, width, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs, **settings)

    def __call__(self, x):
        return nnx.relu(self.norm(self.conv(x)))


class Net(nnx.Module):
    def __init__(self, seed=0, **settings):
        rngs = nnx.Rngs(seed)
        self.stem, self.body = Block(3, 8, rngs, **settings), Block(8, 8, rngs, **settings)
        self.head_norm = nnx.BatchNorm(8, rngs=rngs, **settings)
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        return self.head(self.head_norm(self.body(self.stem(x)).mean((1, 2))))


def batch():
    return jnp.asarray(DICE.standard_normal((16, 8, 8, 3)) * 2 + 1, dtype="float32")


def loss_of(net, x, y):
    return -jax.nn.log_softmax(net(x))[jnp.arange(len(y)), y].mean()


@nnx.jit
def step(net, x, y):
    grads = nnx.grad(loss_of)(net, x, y)
    params = nnx.state(net, nnx.Param)
    nnx.update(net, jax.tree.map(lambda held, grad: held - 0.05 * grad, params, grads))


def trained(net, steps=10, step=step):
    net.train()
    for _ in range(steps):
        step(net, batch(), jnp.asarray(DICE.integers(0, 5, 16)))
    return net


def healthy():
    return trained(Net(momentum=0.9))


class TwoInputs(nnx.Module):
    """One branch for two inputs: its BatchNorm runs twice, and is meant to."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.branch, self.head = Block(3, 8, rngs), nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        return self.head((self.branch(x) - self.branch(x[:, :, ::-1])).mean((1, 2)))


def healthy_branch():
    return trained(TwoInputs())


class AlwaysBatch(Net):
    def __call__(self, x):
        for part in (self.stem, self.body):
            x = nnx.relu(part.norm(part.conv(x), use_running_average=False))
        return self.head(self.head_norm(x.mean((1, 2)), use_running_average=False))


def no_running_statistics():
    return trained(AlwaysBatch())


def never_moves():
    net = Net()
    net.body.norm = nnx.BatchNorm(8, momentum=1.0, rngs=nnx.Rngs(0))
    return trained(net)


def nan_variance():
    net = trained(Net())
    net.stem.norm.var[...] = net.stem.norm.var[...].at[3].set(jnp.nan)
    return net


def negative_variance():
    net = trained(Net())
    net.body.norm.var[...] = net.body.norm.var[...].at[2].set(-1.0)
    return net


def statistics_lost():
    net = Net(seed=3)
    nnx.update(net, nnx.state(trained(Net()), nnx.Param))
    return net


def at_two_places():
    net = Net()
    net.body.norm = net.stem.norm
    return trained(net)


class Reused(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.one, self.two = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.Conv(8, 8, (3, 3), rngs=rngs)
        self.norm, self.head = nnx.BatchNorm(8, rngs=rngs), nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.one(x)))
        return self.head(nnx.relu(self.norm(self.two(x))).mean((1, 2)))


def used_twice():
    return trained(Reused())


class BatchAlways(nnx.BatchNorm):
    def __call__(self, x, use_running_average=None, **more):
        return super().__call__(x, use_running_average=False, **more)


def ignores_eval():
    net = Net()
    net.body.norm = BatchAlways(8, rngs=nnx.Rngs(0))
    return trained(net)


class Trains(Net):
    def __call__(self, x):
        self.stem.norm.train()
        self.body.norm.train()
        return super().__call__(x)


def forward_trains():
    return trained(Trains())


def lags():
    return trained(Net(momentum=0.999), 20, step.__wrapped__ if __name__ == "__main__" else step)


def low_precision():
    net = trained(Net())
    net.body.norm.mean = nnx.BatchStat(net.body.norm.mean[...].astype(jnp.bfloat16))
    return net


if __name__ == "__main__":
    model = globals()[sys.argv[1]]()
    model.eval()
    for _ in range(3):
        model(batch())
