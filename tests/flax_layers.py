"""Layers and models of one's own in Flax nnx, right ones and such with one planted fault, for test_own_elsewhere.py."""

import jax
import jax.numpy as jnp
from flax import nnx


class MyBN(nnx.Module):
    def __init__(self, num_features, momentum=0.99, epsilon=1e-5, *, rngs: nnx.Rngs):
        self.momentum, self.epsilon = momentum, epsilon
        self.use_running_average = False
        self.scale = nnx.Param(jnp.ones(num_features))
        self.bias = nnx.Param(jnp.zeros(num_features))
        self.mean = nnx.BatchStat(jnp.zeros(num_features))
        self.var = nnx.BatchStat(jnp.ones(num_features))

    def moments(self, x):
        axes = tuple(range(x.ndim - 1))
        return x.mean(axes), x.var(axes)

    def update(self, x, mean, var):
        self.move(self.mean, mean, self.momentum)
        self.move(self.var, var, self.momentum)

    def move(self, held, new, momentum):
        held[...] = momentum * held[...] + (1 - momentum) * new

    def scaled(self, x, mean, var):
        return (x - mean) / jnp.sqrt(var + self.epsilon) * self.scale[...] + self.bias[...]

    def __call__(self, x):
        if self.use_running_average:
            return self.scaled(x, self.mean[...], self.var[...])
        mean, var = self.moments(x)
        self.update(x, mean, var)
        return self.scaled(x, mean, var)


class Renamed(nnx.Module):
    """Right, its state under names of its own, its mode an argument of the call."""

    def __init__(self, width, momentum=0.99, epsilon=1e-5):
        self.keep, self.tiny = momentum, epsilon
        self.a, self.b = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.mu, self.sigma2 = nnx.BatchStat(jnp.zeros(width)), nnx.BatchStat(jnp.ones(width))

    def __call__(self, x, training=True):
        mean, var = self.mu[...], self.sigma2[...]
        if training:
            axes = tuple(range(x.ndim - 1))
            mean, var = x.mean(axes), x.var(axes)
            self.mu[...] = self.keep * self.mu[...] + (1 - self.keep) * mean
            self.sigma2[...] = self.keep * self.sigma2[...] + (1 - self.keep) * var
        return (x - mean) / jnp.sqrt(var + self.tiny) * self.a[...] + self.b[...]


class Unbiased(MyBN):
    def update(self, x, mean, var):
        n = x.size / x.shape[-1]
        super().update(x, mean, var * n / (n - 1))


class Swapped(MyBN):
    def move(self, held, new, momentum):
        super().move(held, new, 1 - momentum)


class EpsOutside(MyBN):
    def scaled(self, x, mean, var):
        return (x - mean) / (jnp.sqrt(var) + self.epsilon) * self.scale[...] + self.bias[...]


class NeverEval(MyBN):
    def __call__(self, x):
        mean, var = self.moments(x)
        self.update(x, mean, var)
        return self.scaled(x, mean, var)


class NeverMoves(MyBN):
    def update(self, x, mean, var):
        pass


class EpsLiteral(MyBN):
    """Holds an epsilon and adds another."""

    def scaled(self, x, mean, var):
        return super().scaled(x, mean, var + (1e-2 - self.epsilon))


class SampleVariance(MyBN):
    def moments(self, x):
        mean, var = super().moments(x)
        n = x.size / x.shape[-1]
        return mean, var * n / (n - 1)

    def update(self, x, mean, var):
        n = x.size / x.shape[-1]
        super().update(x, mean, var * (n - 1) / n)


class MeanForVariance(MyBN):
    def update(self, x, mean, var):
        super().update(x, var, mean)


class FirstSample(MyBN):
    def moments(self, x):
        return super().moments(x[:1])


class OnePlusGamma(MyBN):
    def scaled(self, x, mean, var):
        return (x - mean) / jnp.sqrt(var + self.epsilon) * (1 + self.scale[...]) + self.bias[...]


class RunningInTraining(MyBN):
    def __call__(self, x):
        if not self.use_running_average:
            self.update(x, *self.moments(x))
        return self.scaled(x, self.mean[...], self.var[...])


class WithRelu(MyBN):
    """Right, with an activation behind it."""

    def __call__(self, x):
        return jax.nn.relu(super().__call__(x))


class NewMomentum(MyBN):
    """Right; its momentum is the weight of the new batch, and it was given such a one."""

    def __init__(self, num_features, momentum=0.1, epsilon=1e-5, *, rngs: nnx.Rngs):
        super().__init__(num_features, momentum, epsilon, rngs=rngs)

    def move(self, held, new, momentum):
        super().move(held, new, 1 - momentum)


class Derived(nnx.BatchNorm):
    """The framework's own under another name."""


class Branches(MyBN):
    """Right, and branches on a value, which jax.jit refuses."""

    def __call__(self, x):
        if not self.use_running_average and bool(jnp.isnan(x).any()):
            return x
        return super().__call__(x)


class BranchesNeverEval(NeverEval):
    def __call__(self, x):
        return x if x.max() > 1e30 else super().__call__(x)


class Raises(MyBN):
    def __call__(self, x):
        raise ValueError("not today")


class Net(nnx.Module):
    def __init__(self, norm, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.bn1 = norm(4, rngs=rngs)
        self.block = nnx.Sequential(nnx.Conv(4, 4, (3, 3), rngs=rngs), norm(4, rngs=rngs), jax.nn.relu)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.block(jax.nn.relu(self.bn1(self.conv(x)))).mean((1, 2)))


def build(norm="builtin"):
    return Net(nnx.BatchNorm if norm == "builtin" else globals()[norm], nnx.Rngs(0))


class Several(Net):
    def __call__(self, x):
        return {"features": self.bn1(self.conv(x)), "logits": super().__call__(x)}


def several():
    return Several(nnx.BatchNorm, nnx.Rngs(0))


def nothing():
    return 3


ZOO = (
    "MyBN", "WithRelu", "NewMomentum", "Derived", "Unbiased", "Swapped", "EpsOutside", "EpsLiteral", "SampleVariance",
    "NeverEval", "NeverMoves", "MeanForVariance", "FirstSample", "OnePlusGamma", "RunningInTraining",
)  # fmt: skip


class Zoo(nnx.Module):
    """One layer of each kind, side by side, each under the name of its class."""

    def __init__(self, rngs):
        self.conv, self.head = nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.Linear(4, 2, rngs=rngs)
        for name in (*ZOO, "Branches"):
            setattr(self, name, globals()[name](4, rngs=rngs))

    def __call__(self, x):
        x = self.conv(x)
        return self.head(sum(getattr(self, name)(x) for name in (*ZOO, "Branches")).mean((1, 2)))


def zoo():
    return Zoo(nnx.Rngs(0))
