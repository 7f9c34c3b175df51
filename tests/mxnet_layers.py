"""Layers and models of one's own in MXNet Gluon, right ones and with one planted fault, for test_own_elsewhere.py."""

from mxnet import autograd, nd
from mxnet.gluon import Block, HybridBlock, nn


class MyBN(HybridBlock):
    def __init__(self, in_channels, momentum=0.9, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.momentum, self.epsilon = momentum, epsilon
        with self.name_scope():
            self.gamma = self.params.get("gamma", shape=(in_channels,), init="ones")
            self.beta = self.params.get("beta", shape=(in_channels,), init="zeros")
            self.running_mean = self.params.get("running_mean", shape=(in_channels,), init="zeros", grad_req="null")
            self.running_var = self.params.get("running_var", shape=(in_channels,), init="ones", grad_req="null")

    def moments(self, F, x):  # noqa: N803 - as Gluon names it
        mean = F.mean(x, axis=1, exclude=True)
        centred = F.broadcast_sub(x, mean.reshape((1, -1, 1, 1)))
        return mean, F.mean(F.square(centred), axis=1, exclude=True)

    def update(self, x, mean, var):
        self.move(self.running_mean, mean, self.momentum)
        self.move(self.running_var, var, self.momentum)

    def move(self, held, new, momentum):
        with autograd.pause():
            held.set_data(momentum * held.data() + (1 - momentum) * new)

    def scaled(self, F, x, mean, var, gamma, beta):  # noqa: N803
        mean, var, gamma, beta = (each.reshape((1, -1, 1, 1)) for each in (mean, var, gamma, beta))
        y = F.broadcast_div(F.broadcast_sub(x, mean), F.sqrt(var + self.epsilon))
        return F.broadcast_add(F.broadcast_mul(y, gamma), beta)

    def hybrid_forward(self, F, x, gamma, beta, running_mean, running_var):  # noqa: N803
        if not autograd.is_training():
            return self.scaled(F, x, running_mean, running_var, gamma, beta)
        mean, var = self.moments(F, x)
        self.update(x, mean, var)
        return self.scaled(F, x, mean, var, gamma, beta)


class Renamed(Block):
    """Right, its state under names of its own."""

    def __init__(self, width, momentum=0.9, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.keep, self.tiny = momentum, epsilon
        self.a = self.params.get("a", shape=(1, width, 1, 1), init="ones")
        self.b = self.params.get("b", shape=(1, width, 1, 1), init="zeros")
        self.mu = self.params.get("mu", shape=(1, width, 1, 1), init="zeros", grad_req="null")
        self.sigma2 = self.params.get("sigma2", shape=(1, width, 1, 1), init="ones", grad_req="null")

    def forward(self, x):
        mean, var = self.mu.data(), self.sigma2.data()
        if autograd.is_training():
            mean = x.mean(axis=1, exclude=True, keepdims=True)
            var = nd.square(x - mean).mean(axis=1, exclude=True, keepdims=True)
            with autograd.pause():
                self.mu.set_data(self.keep * self.mu.data() + (1 - self.keep) * mean)
                self.sigma2.set_data(self.keep * self.sigma2.data() + (1 - self.keep) * var)
        return (x - mean) / nd.sqrt(var + self.tiny) * self.a.data() + self.b.data()


class Unbiased(MyBN):
    def update(self, x, mean, var):
        n = x.size / x.shape[1]
        super().update(x, mean, var * n / (n - 1))


class Swapped(MyBN):
    def move(self, held, new, momentum):
        super().move(held, new, 1 - momentum)


class EpsOutside(MyBN):
    def scaled(self, F, x, mean, var, gamma, beta):  # noqa: N803
        mean, var, gamma, beta = (each.reshape((1, -1, 1, 1)) for each in (mean, var, gamma, beta))
        y = F.broadcast_div(F.broadcast_sub(x, mean), F.sqrt(var) + self.epsilon)
        return F.broadcast_add(F.broadcast_mul(y, gamma), beta)


class NeverEval(MyBN):
    def hybrid_forward(self, F, x, gamma, beta, running_mean, running_var):  # noqa: N803
        mean, var = self.moments(F, x)
        self.update(x, mean, var)
        return self.scaled(F, x, mean, var, gamma, beta)


class NeverMoves(MyBN):
    def update(self, x, mean, var):
        pass


class EpsLiteral(MyBN):
    """Holds an epsilon and adds another."""

    def scaled(self, F, x, mean, var, gamma, beta):  # noqa: N803
        return super().scaled(F, x, mean, var + (1e-2 - self.epsilon), gamma, beta)


class SampleVariance(MyBN):
    def moments(self, F, x):  # noqa: N803
        mean, var = super().moments(F, x)
        n = x.size / x.shape[1]
        return mean, var * n / (n - 1)

    def update(self, x, mean, var):
        n = x.size / x.shape[1]
        super().update(x, mean, var * (n - 1) / n)


class MeanForVariance(MyBN):
    def update(self, x, mean, var):
        super().update(x, var, mean)


class FirstSample(MyBN):
    def moments(self, F, x):  # noqa: N803
        return super().moments(F, x[:1])


class OnePlusGamma(MyBN):
    def scaled(self, F, x, mean, var, gamma, beta):  # noqa: N803
        return super().scaled(F, x, mean, var, 1 + gamma, beta)


class RunningInTraining(MyBN):
    def hybrid_forward(self, F, x, gamma, beta, running_mean, running_var):  # noqa: N803
        if autograd.is_training():
            self.update(x, *self.moments(F, x))
        return self.scaled(F, x, self.running_mean.data(), self.running_var.data(), gamma, beta)


class WithRelu(MyBN):
    """Right, with an activation behind it."""

    def hybrid_forward(self, F, x, **held):  # noqa: N803
        return F.relu(super().hybrid_forward(F, x, **held))


class Derived(nn.BatchNorm):
    """The framework's own under another name."""


class NewMomentum(MyBN):
    """Right; its momentum is the weight of the new batch, and it was given such a one."""

    def __init__(self, in_channels, momentum=0.1, epsilon=1e-5, **kwargs):
        super().__init__(in_channels, momentum, epsilon, **kwargs)

    def move(self, held, new, momentum):
        super().move(held, new, 1 - momentum)


class Raises(MyBN):
    def hybrid_forward(self, F, x, **held):  # noqa: N803
        raise ValueError("not today")


class Net(HybridBlock):
    def __init__(self, norm):
        super().__init__()
        self.conv, self.bn1 = nn.Conv2D(4, 3, padding=1, in_channels=3), norm(in_channels=4)
        self.block = nn.HybridSequential()
        self.block.add(nn.Conv2D(4, 3, padding=1, in_channels=4), norm(in_channels=4), nn.Activation("relu"))
        self.head = nn.Dense(2, in_units=4)

    def hybrid_forward(self, F, x):  # noqa: N803
        return self.head(self.block(F.relu(self.bn1(self.conv(x)))).mean(axis=(2, 3)))


def build(norm="builtin"):
    return Net(nn.BatchNorm if norm == "builtin" else globals()[norm])


class Several(Net):
    def hybrid_forward(self, F, x):  # noqa: N803
        return [self.bn1(self.conv(x)), super().hybrid_forward(F, x)]


def several():
    return Several(nn.BatchNorm)


def unbuilt():
    return nn.BatchNorm()


def nothing():
    return 3


class FineTuned(MyBN):
    """Right; somebody froze its weights."""

    def __init__(self, in_channels):
        super().__init__(in_channels)
        self.gamma.grad_req = self.beta.grad_req = "null"


ZOO = (
    "MyBN", "WithRelu", "NewMomentum", "Derived", "Unbiased", "Swapped", "EpsOutside", "EpsLiteral", "SampleVariance",
    "NeverEval", "NeverMoves", "MeanForVariance", "FirstSample", "OnePlusGamma", "RunningInTraining",
)  # fmt: skip


class Zoo(Block):
    """One layer of each kind, side by side, each under the name of its class."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2D(4, 3, padding=1, in_channels=3), nn.Dense(2, in_units=4)
        for name in (*ZOO, "FineTuned"):
            setattr(self, name, globals()[name](in_channels=4))

    def forward(self, x):
        x = self.conv(x)
        return self.head(sum(getattr(self, name)(x) for name in (*ZOO, "FineTuned")).mean(axis=(2, 3)))


def zoo():
    return Zoo()
