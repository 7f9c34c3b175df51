"""BatchNorm by hand in Gluon, its state under unusual names: right, with a planted divisor, and as a deviation."""

from mxnet import autograd, gluon, init, nd
from mxnet.gluon import nn


class Plain(gluon.Block):
    names, shape, unbiased, power = ("mu", "sigma2"), (8,), False, 1.0

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.a = self.params.get("a", shape=self.shape, init=init.Constant(1.5))
            self.b = self.params.get("b", shape=self.shape, init="zeros")
            keeper = self.keeper()
            for name, start in zip(self.names, ("zeros", "ones"), strict=True):
                setattr(keeper, name, keeper.params.get(name, shape=self.shape, init=start, grad_req="null"))

    def keeper(self):
        return self

    def forward(self, x):
        kept, wide = [getattr(self.keeper(), name) for name in self.names], (1, -1, 1, 1)
        mean, var = kept[0].data().reshape(wide), (kept[1].data() ** (1 / self.power)).reshape(wide)
        if autograd.is_training():
            mean = x.mean(axis=(0, 2, 3), keepdims=True)
            var = ((x - mean) ** 2).mean(axis=(0, 2, 3), keepdims=True)
            n = x.size / x.shape[1]
            with autograd.pause():
                new = mean, (var * (n / (n - 1) if self.unbiased else 1)) ** self.power
                for held, value in zip(kept, new, strict=True):
                    held.set_data(0.9 * held.data() + 0.1 * value.reshape(self.shape))
        return (x - mean) / nd.sqrt(var + 1e-5) * self.a.data().reshape(wide) + self.b.data().reshape(wide)


class Wide(Plain):
    names, shape = ("avg_x", "avg_v"), (1, 8, 1, 1)


class SampleVariance(Plain):
    names, unbiased = ("m", "v"), True


class Deviation(Plain):
    names, power = ("mid", "spread"), 0.5


class Inverse(Plain):
    names, power = ("mid", "inv_std"), -0.5


class Nested(Plain):
    def keeper(self):
        if not hasattr(self, "stats"):
            self.stats = gluon.Block()
        return self.stats


class Waiting(gluon.Block):
    """Its convolution and its second BatchNorm have no shape before the first batch."""

    def __init__(self, wide=4):
        super().__init__()
        with self.name_scope():
            self.stem, self.wide, self.head = nn.Conv2D(8, 3, padding=1), nn.Conv2D(wide, 1), nn.Dense(5)
            self.plain, self.bn, self.v = Plain(), nn.BatchNorm(), SampleVariance()

    def forward(self, x):
        return self.head(self.bn(self.wide(self.v(self.plain(self.stem(x))))))


class Misfit(Waiting):
    def forward(self, x):
        return super().forward(x.reshape((4, -1)))


class Net(gluon.Block):
    kinds = (Plain, Wide, SampleVariance, Deviation, Inverse, Nested)

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.stem, self.head = nn.Conv2D(8, 3, padding=1, in_channels=3), nn.Dense(5, in_units=8)
            for kind in self.kinds:
                setattr(self, kind.__name__, kind())

    def forward(self, x):
        x = self.stem(x)
        return self.head(sum(getattr(self, kind.__name__)(x) for kind in self.kinds).mean(axis=(2, 3)))
