"""Layers like those that public packages have, written anew for test_check.py; torch only. Each says what it does
otherwise than BatchNorm."""

import torch
from torch import nn


def column(value):
    return value.reshape(1, -1, 1, 1)


class Own2d(nn.Module):
    """Nothing."""

    divisor = 1

    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(num_features)), nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def spread(self, var):
        return (var + self.eps).sqrt()

    @torch.no_grad()
    def update(self, mean, var, n):
        self.running_mean += self.momentum * (mean - self.running_mean)
        self.running_var += self.momentum * (var * n / (n - self.divisor) - self.running_var)
        self.num_batches_tracked += 1

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            self.update(mean, var, x.numel() / x.shape[1])
        return (x - column(mean)) / column(self.spread(var)) * column(self.weight) + column(self.bias)


class DividesByN(Own2d):
    divisor = 0


class BetaTakenBack(Own2d):
    """Adds beta and takes it away again: no effect, and the gradient 0."""

    def forward(self, x):
        return super().forward(x) - self.bias[:, None, None]


class AsksForGradients(Own2d):
    """Trains where gradients are on, whatever train() and eval() said; its state is in no buffer."""

    def __init__(self, num_features, num_dims=4):
        nn.Module.__init__(self)
        self.gamma, self.beta = nn.Parameter(torch.ones(num_features)), nn.Parameter(torch.zeros(num_features))
        self.moving_mean, self.moving_var = torch.zeros(num_features), torch.ones(num_features)

    def forward(self, x):
        mean, var = self.moving_mean, self.moving_var
        if torch.is_grad_enabled():
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            self.moving_mean = (0.9 * self.moving_mean + 0.1 * mean).detach()
            self.moving_var = (0.9 * self.moving_var + 0.1 * var).detach()
        return (x - column(mean)) / column((var + 1e-5).sqrt()) * column(self.gamma) + column(self.beta)


class MeanOfVariances(Own2d):
    """Averages the variances of the samples."""

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((2, 3), unbiased=False).mean(0)
            self.update(mean, var, x.numel() / x.shape[1])
        return (x - column(mean)) / column(self.spread(var)) * column(self.weight) + column(self.bias)


class EpsOutside(Own2d):
    def spread(self, var):
        return var.sqrt() + self.eps


class Leaky(Own2d):
    """Keeps the graph of every step."""

    def update(self, mean, var, n):
        self.running_mean = (1 - self.momentum) * self.running_mean + self.momentum * mean
        self.running_var = (1 - self.momentum) * self.running_var + self.momentum * var * n / (n - 1)
        self.num_batches_tracked += 1


class Activated(nn.BatchNorm2d):
    """A ReLU behind it."""

    def forward(self, x):
        return torch.relu(super().forward(x))


class Frozen(nn.Module):
    """Never updated, in training the running statistics; no arguments but the channels."""

    def __init__(self, n):
        super().__init__()
        for name, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
            self.register_buffer(name, torch.full((n,), value))

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * column(scale) + column(self.bias - self.running_mean * scale)


class OneDeeper(nn.Module):
    """Other names in the state dict, and nothing else."""

    def __init__(self, num_features):
        super().__init__()
        self.module = nn.BatchNorm2d(num_features)

    def forward(self, x):
        return self.module(x)


class Domains(nn.Module):
    """The halves of a batch by themselves."""

    def __init__(self, planes):
        super().__init__()
        self.bns = nn.ModuleList([nn.BatchNorm2d(planes) for _ in range(2)])

    def forward(self, x):
        if not self.training:
            return self.bns[0](x)
        return torch.cat([bn(part) for bn, part in zip(self.bns, x.chunk(2), strict=True)])


class Ghost(nn.Module):
    """Virtual batches of 128."""

    def __init__(self, input_dim, virtual_batch_size=128, momentum=0.01):
        super().__init__()
        self.size, self.bn = virtual_batch_size, nn.BatchNorm1d(input_dim, momentum=momentum)

    def forward(self, x):
        return torch.cat([self.bn(part) for part in x.chunk(-(-x.shape[0] // self.size), 0)])
