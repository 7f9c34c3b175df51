"""BatchNorm by hand in Paddle, its state under unusual names: right, with a planted divisor, and as a deviation."""

import paddle
from paddle import nn


class Plain(nn.Layer):
    names, shape, unbiased, power = ("mu", "sigma2"), (8,), False, 1.0

    def __init__(self):
        super().__init__()
        self.a = self.create_parameter(self.shape, default_initializer=nn.initializer.Constant(1.5))
        self.b = self.create_parameter(self.shape, is_bias=True)
        keeper = self.keeper()
        keeper.register_buffer(self.names[0], paddle.zeros(self.shape))
        keeper.register_buffer(self.names[1], paddle.ones(self.shape))

    def keeper(self):
        return self

    def forward(self, x):
        kept = [getattr(self.keeper(), name) for name in self.names]
        mean, var = (each.reshape([1, -1, 1, 1]) for each in (kept[0], kept[1] ** (1 / self.power)))
        if self.training:
            mean, var = x.mean([0, 2, 3], keepdim=True), x.var([0, 2, 3], unbiased=False, keepdim=True)
            n = x.size / x.shape[1]
            new = mean, (var * (n / (n - 1) if self.unbiased else 1)) ** self.power
            with paddle.no_grad():
                for held, value in zip(kept, new, strict=True):
                    held.set_value(0.9 * held + 0.1 * value.reshape(self.shape))
        a, b = self.a.reshape([1, -1, 1, 1]), self.b.reshape([1, -1, 1, 1])
        return (x - mean) / paddle.sqrt(var + 1e-5) * a + b


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
            self.stats = nn.Layer()
        return self.stats


class Net(nn.Layer):
    kinds = (Plain, Wide, SampleVariance, Deviation, Inverse, Nested)

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2D(3, 8, 3, padding=1), nn.Linear(8, 5)
        for kind in self.kinds:
            setattr(self, kind.__name__, kind())

    def forward(self, x):
        x = self.stem(x)
        return self.head(sum(getattr(self, kind.__name__)(x) for kind in self.kinds).mean([2, 3]))
