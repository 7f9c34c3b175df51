"""Layers and models of one's own in Paddle, right ones and such with one planted fault, for test_own_elsewhere.py."""

import paddle
from paddle import nn


class MyBN(nn.Layer):
    def __init__(self, num_features, momentum=0.9, epsilon=1e-5):
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.weight = self.create_parameter([num_features], default_initializer=nn.initializer.Constant(1.0))
        self.bias = self.create_parameter([num_features], is_bias=True)
        self.register_buffer("_mean", paddle.zeros([num_features]))
        self.register_buffer("_variance", paddle.ones([num_features]))

    def moments(self, x):
        axes = [0, *range(2, x.ndim)]
        return x.mean(axes), x.var(axes, unbiased=False)

    def update(self, x, mean, var):
        self.move(self._mean, mean, self.momentum)
        self.move(self._variance, var, self.momentum)

    def move(self, held, new, momentum):
        with paddle.no_grad():
            held.set_value(momentum * held + (1 - momentum) * new)

    def scaled(self, x, mean, var):
        shape = [1, -1] + [1] * (x.ndim - 2)
        y = (x - mean.reshape(shape)) / paddle.sqrt(var.reshape(shape) + self.epsilon)
        return y * self.weight.reshape(shape) + self.bias.reshape(shape)

    def forward(self, x):
        if not self.training:
            return self.scaled(x, self._mean, self._variance)
        mean, var = self.moments(x)
        self.update(x, mean, var)
        return self.scaled(x, mean, var)


class Renamed(nn.Layer):
    """Right, its state under names of its own."""

    def __init__(self, width, momentum=0.9, epsilon=1e-5):
        super().__init__()
        self.keep, self.tiny = momentum, epsilon
        self.a = self.create_parameter([width], default_initializer=nn.initializer.Constant(1.0))
        self.b = self.create_parameter([width], is_bias=True)
        self.register_buffer("mu", paddle.zeros([width]))
        self.register_buffer("sigma2", paddle.ones([width]))

    def forward(self, x):
        mean, var, shape = self.mu, self.sigma2, [1, -1] + [1] * (x.ndim - 2)
        if self.training:
            axes = [0, *range(2, x.ndim)]
            mean, var = x.mean(axes), x.var(axes, unbiased=False)
            with paddle.no_grad():
                self.mu.set_value(self.keep * self.mu + (1 - self.keep) * mean)
                self.sigma2.set_value(self.keep * self.sigma2 + (1 - self.keep) * var)
        y = (x - mean.reshape(shape)) / paddle.sqrt(var.reshape(shape) + self.tiny)
        return y * self.a.reshape(shape) + self.b.reshape(shape)


class Unbiased(MyBN):
    def update(self, x, mean, var):
        n = x.numel() / x.shape[1]
        super().update(x, mean, var * n / (n - 1))


class Swapped(MyBN):
    def move(self, held, new, momentum):
        super().move(held, new, 1 - momentum)


class EpsOutside(MyBN):
    def scaled(self, x, mean, var):
        shape = [1, -1] + [1] * (x.ndim - 2)
        y = (x - mean.reshape(shape)) / (paddle.sqrt(var.reshape(shape)) + self.epsilon)
        return y * self.weight.reshape(shape) + self.bias.reshape(shape)


class NeverEval(MyBN):
    def forward(self, x):
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
        self.n = x.numel() / x.shape[1]
        return mean, var * self.n / (self.n - 1)

    def update(self, x, mean, var):
        super().update(x, mean, var * (self.n - 1) / self.n)


class MeanForVariance(MyBN):
    def update(self, x, mean, var):
        super().update(x, var, mean)


class FirstSample(MyBN):
    def moments(self, x):
        return super().moments(x[:1])


class OnePlusGamma(MyBN):
    def scaled(self, x, mean, var):
        shape = [1, -1] + [1] * (x.ndim - 2)
        plain = (x - mean.reshape(shape)) / paddle.sqrt(var.reshape(shape) + self.epsilon)
        return plain * (1 + self.weight.reshape(shape)) + self.bias.reshape(shape)


class RunningInTraining(MyBN):
    def forward(self, x):
        if self.training:
            self.update(x, *self.moments(x))
        return self.scaled(x, self._mean, self._variance)


class WithRelu(MyBN):
    """Right, with an activation behind it."""

    def forward(self, x):
        return nn.functional.relu(super().forward(x))


class NewMomentum(MyBN):
    """Right; its momentum is the weight of the new batch, and it was given such a one."""

    def __init__(self, num_features, momentum=0.1, epsilon=1e-5):
        super().__init__(num_features, momentum, epsilon)

    def move(self, held, new, momentum):
        super().move(held, new, 1 - momentum)


class Derived(nn.BatchNorm2D):
    """The framework's own under another name."""


class PlainName(nn.Layer):
    """Right, and no word of its name says what it is; its settings have names of their own."""

    def __init__(self, width, share=0.05, tiny=1e-3):
        super().__init__()
        self.share, self.tiny = share, tiny
        self.weight = self.create_parameter([width], default_initializer=nn.initializer.Constant(1.0))
        self.bias = self.create_parameter([width], is_bias=True)
        self.register_buffer("_mean", paddle.zeros([width]))
        self.register_buffer("_variance", paddle.ones([width]))

    def forward(self, x):
        shape, mean, var = [1, -1] + [1] * (x.ndim - 2), self._mean, self._variance
        if self.training:
            axes = [0, *range(2, x.ndim)]
            mean, var = x.mean(axes), x.var(axes, unbiased=False)
            with paddle.no_grad():
                self._mean.set_value((1 - self.share) * self._mean + self.share * mean)
                self._variance.set_value((1 - self.share) * self._variance + self.share * var)
        y = (x - mean.reshape(shape)) / paddle.sqrt(var.reshape(shape) + self.tiny)
        return y * self.weight.reshape(shape) + self.bias.reshape(shape)


class Unsaved(MyBN):
    def __init__(self, num_features, momentum=0.9, epsilon=1e-5):
        super().__init__(num_features, momentum, epsilon)
        self.register_buffer("_mean", paddle.zeros([num_features]), persistable=False)
        self.register_buffer("_variance", paddle.ones([num_features]), persistable=False)


class Raises(MyBN):
    def forward(self, x):
        raise ValueError("not today")


class Net(nn.Layer):
    def __init__(self, norm):
        super().__init__()
        self.conv, self.bn1 = nn.Conv2D(3, 4, 3, padding=1), norm(4)
        self.block = nn.Sequential(nn.Conv2D(4, 4, 3, padding=1), norm(4), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.block(nn.functional.relu(self.bn1(self.conv(x))))
        return self.head(x.mean([2, 3]))


def build(norm="builtin"):
    return Net(nn.BatchNorm2D if norm == "builtin" else globals()[norm])


class Several(Net):
    def forward(self, x):
        return {"features": self.bn1(self.conv(x)), "logits": super().forward(x)}


def several():
    return Several(nn.BatchNorm2D)


def nothing():
    return 3


class FineTuned(MyBN):
    """Right; somebody froze its weights."""

    def __init__(self, num_features):
        super().__init__(num_features)
        for each in self.parameters():
            each.stop_gradient = True


ZOO = (
    "MyBN", "WithRelu", "NewMomentum", "Derived", "Unbiased", "Swapped", "EpsOutside", "EpsLiteral", "SampleVariance",
    "NeverEval", "NeverMoves", "MeanForVariance", "FirstSample", "OnePlusGamma", "RunningInTraining",
)  # fmt: skip


class Zoo(nn.Layer):
    """One layer of each kind, side by side, each under the name of its class."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2D(3, 4, 3, padding=1), nn.Linear(4, 2)
        for name in (*ZOO, "FineTuned", "PlainName"):
            setattr(self, name, globals()[name](4))

    def forward(self, x):
        x = self.conv(x)
        return self.head(sum(getattr(self, name)(x) for name in (*ZOO, "FineTuned", "PlainName")).mean([2, 3]))


def zoo():
    return Zoo()
