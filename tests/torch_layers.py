"""Layers of one's own in PyTorch inside a model, right ones and such with one planted fault, for test_inside.py."""

import torch
from torch import nn


class MyBN(nn.Module):
    def __init__(self, channels, momentum=0.1, eps=1e-5):
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def moments(self, x):
        return x.mean([0, 2, 3]), x.var([0, 2, 3], unbiased=False)

    def update(self, x, mean, var):
        n = x.numel() / x.shape[1]
        self.move(self.running_mean, mean)
        self.move(self.running_var, var * n / (n - 1))

    def move(self, held, new):
        with torch.no_grad():
            held.mul_(1 - self.momentum).add_(self.momentum * new)

    def scale(self):
        return self.weight

    def scaled(self, x, mean, var):
        y = (x - mean.view(1, -1, 1, 1)) / torch.sqrt(var.view(1, -1, 1, 1) + self.eps)
        return y * self.scale().view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)

    def forward(self, x):
        if not self.training:
            return self.scaled(x, self.running_mean, self.running_var)
        mean, var = self.moments(x)
        self.update(x, mean, var)
        return self.scaled(x, mean, var)


class WithRelu(MyBN):
    """Right, with an activation behind it."""

    def forward(self, x):
        return torch.relu(super().forward(x))


class NewMomentum(MyBN):
    """Right; its momentum is the weight of the old average, and it was given such a one."""

    def __init__(self, channels, momentum=0.9, eps=1e-5):
        super().__init__(channels, momentum, eps)

    def move(self, held, new):
        with torch.no_grad():
            held.mul_(self.momentum).add_((1 - self.momentum) * new)


class Derived(nn.BatchNorm2d):
    """The framework's own under another name."""

    def __init__(self, channels):
        super().__init__(channels, eps=1e-3, momentum=0.01)


class FrozenBN(MyBN):
    """Right: what it is says its name."""

    def forward(self, x):
        return self.scaled(x, self.running_mean, self.running_var)


class FineTuned(MyBN):
    """Right; somebody froze its weights."""

    def __init__(self, channels):
        super().__init__(channels)
        for each in self.parameters():
            each.requires_grad_(False)


class PlainName(nn.Module):
    """Right, and no word of its name says what it is; its settings have names of their own."""

    def __init__(self, width, share=0.05, tiny=1e-3):
        super().__init__()
        self.share, self.tiny = share, tiny
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = x.mean([0, 2, 3]), x.var([0, 2, 3], unbiased=False)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.share)
                self.running_var.lerp_(x.var([0, 2, 3]), self.share)
        y = (x - mean.view(1, -1, 1, 1)) / torch.sqrt(var.view(1, -1, 1, 1) + self.tiny)
        return y * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class Unbiased(MyBN):
    """Unlike PyTorch's, the variance of n goes in."""

    def update(self, x, mean, var):
        self.move(self.running_mean, mean)
        self.move(self.running_var, var)


class Swapped(MyBN):
    def move(self, held, new):
        with torch.no_grad():
            held.mul_(self.momentum).add_((1 - self.momentum) * new)


class EpsOutside(MyBN):
    def scaled(self, x, mean, var):
        y = (x - mean.view(1, -1, 1, 1)) / (torch.sqrt(var.view(1, -1, 1, 1)) + self.eps)
        return y * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class EpsLiteral(MyBN):
    """Holds an eps and adds another."""

    def scaled(self, x, mean, var):
        return super().scaled(x, mean, var + (1e-2 - self.eps))


class SampleVariance(MyBN):
    def moments(self, x):
        return x.mean([0, 2, 3]), x.var([0, 2, 3])

    def update(self, x, mean, var):
        self.move(self.running_mean, mean)
        self.move(self.running_var, var)


class Standardised(nn.Module):
    """No name says that it is BatchNorm: it divides by the deviation of n - 1."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = x.mean([0, 2, 3]), x.var([0, 2, 3])
            with torch.no_grad():
                self.running_mean.lerp_(mean, 0.1)
                self.running_var.lerp_(var, 0.1)
        y = (x - mean.view(1, -1, 1, 1)) / torch.sqrt(var.view(1, -1, 1, 1) + 1e-5)
        return y * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class NeverEval(MyBN):
    def forward(self, x):
        mean, var = self.moments(x)
        self.update(x, mean, var)
        return self.scaled(x, mean, var)


class NeverMoves(MyBN):
    def update(self, x, mean, var):
        pass


class MeanForVariance(MyBN):
    def update(self, x, mean, var):
        n = x.numel() / x.shape[1]
        self.move(self.running_mean, var * n / (n - 1))
        self.move(self.running_var, mean)


class FirstSample(MyBN):
    def moments(self, x):
        return super().moments(x[:1])

    def update(self, x, mean, var):
        super().update(x[:1], mean, var)


class OnePlusGamma(MyBN):
    def scale(self):
        return 1 + self.weight


class RunningInTraining(MyBN):
    def forward(self, x):
        if self.training:
            self.update(x, *self.moments(x))
        return self.scaled(x, self.running_mean, self.running_var)


ZOO = (
    "MyBN", "WithRelu", "NewMomentum", "Derived", "Unbiased", "Swapped", "EpsOutside", "EpsLiteral", "SampleVariance",
    "Standardised", "NeverEval", "NeverMoves", "MeanForVariance", "FirstSample", "OnePlusGamma", "RunningInTraining",
)  # fmt: skip


class Zoo(nn.Module):
    """One layer of each kind, side by side, each under the name of its class."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)
        self.names = (*ZOO, "FineTuned", "PlainName", "FrozenBN")
        for name in self.names:
            self.add_module(name, globals()[name](4))

    def forward(self, x):
        x = self.conv(x)
        return self.head(sum(getattr(self, name)(x) for name in self.names).mean((2, 3)))


def zoo():
    return Zoo()
