"""BatchNorm by hand in Flax nnx, its state under unusual names: right, with a planted divisor, and as a deviation."""

from flax import nnx
from jax import numpy as jnp


class Kept(nnx.Module):
    def __init__(self, names, shape):
        for name, start in zip(names, (jnp.zeros, jnp.ones), strict=True):
            setattr(self, name, nnx.BatchStat(start(shape)))


class Plain(nnx.Module):
    names, shape, unbiased, power, nested = ("mu", "sigma2"), (8,), False, 1.0, False

    def __init__(self):
        self.a, self.b = nnx.Param(jnp.full(self.shape, 1.5)), nnx.Param(jnp.zeros(self.shape))
        self.training = True
        if self.nested:
            self.stats = Kept(self.names, self.shape)
        else:
            Kept.__init__(self, self.names, self.shape)

    def __call__(self, x):
        kept = [getattr(self.stats if self.nested else self, name) for name in self.names]
        mean, var = kept[0][...], kept[1][...] ** (1 / self.power)
        if self.training:
            axes, n = (0, 1, 2), x.size / x.shape[-1]
            mean, var = x.mean(axes), x.var(axes)
            new = mean, (var * (n / (n - 1) if self.unbiased else 1)) ** self.power
            for held, value in zip(kept, new, strict=True):
                held[...] = 0.99 * held[...] + 0.01 * value.reshape(self.shape)
        return (x - mean) / jnp.sqrt(var + 1e-5) * self.a[...] + self.b[...]


class Wide(Plain):
    names, shape = ("avg_x", "avg_v"), (1, 1, 1, 8)


class SampleVariance(Plain):
    names, unbiased = ("m", "v"), True


class Deviation(Plain):
    names, power = ("mid", "spread"), 0.5


class Inverse(Plain):
    names, power = ("mid", "inv_std"), -0.5


class Nested(Plain):
    nested = True


class Net(nnx.Module):
    kinds = (Plain, Wide, SampleVariance, Deviation, Inverse, Nested)

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.stem, self.head = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.Linear(8, 5, rngs=rngs)
        for kind in self.kinds:
            setattr(self, kind.__name__, kind())

    def __call__(self, x):
        x = self.stem(x)
        return self.head(sum(getattr(self, kind.__name__)(x) for kind in self.kinds).mean((1, 2)))
