"""Running BatchNorm: training batches are normalised with running averages of sums, of squares and of counts.

RunningBatchNorm2d is the idea done carefully; each class after it has one of the faults that people reported.
"""

import torch
from torch import nn


class RunningBatchNorm2d(nn.Module):
    """Averages of sums and counts, debiased by the averaged count, detached before they move, squares clamped."""

    def __init__(self, channels, eps=1e-5, momentum=0.1, affine=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        # As if one value of mean 0 and variance 1 had been seen: there is something to divide by from the start.
        self.register_buffer("sums", torch.zeros(channels))
        self.register_buffer("squares", torch.ones(channels))
        self.register_buffer("count", torch.ones(()))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    @property
    def running_mean(self):
        return self.sums / self.count

    @property
    def running_var(self):
        return self.variance(self.sums / self.count)

    def variance(self, mean):
        return (self.squares / self.count - mean**2).clamp(min=0)

    def rate(self, x):
        """Weight of the new batch."""
        return self.momentum

    def forward(self, x):
        if self.training:
            self.update(x)
        mean = self.sums / self.count
        y = self.normalise(x, mean, self.variance(mean))
        self.let_go()
        return y

    def let_go(self):
        """Keep the numbers, not the graph: this step's backward has what it needs in y."""
        self.sums, self.squares = self.sums.detach(), self.squares.detach()

    def update(self, x):
        rate = self.rate(x)
        self.num_batches_tracked += 1
        self.sums = self.sums + rate * (x.sum(dim=(0, 2, 3)) - self.sums)
        self.squares = self.squares + rate * ((x * x).sum(dim=(0, 2, 3)) - self.squares)
        self.count = self.count + rate * (x.numel() / x.shape[1] - self.count)

    def normalise(self, x, mean, var):
        y = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + self.eps)
        if self.weight is None:
            return y
        return y * self.weight[:, None, None] + self.bias[:, None, None]


class EmptyRunningBatchNorm2d(RunningBatchNorm2d):
    """Nothing counted at the start: eval before any training divides 0 by 0."""

    def __init__(self, channels, eps=1e-5, momentum=0.1, affine=True):
        super().__init__(channels, eps, momentum, affine)
        self.squares.zero_()
        self.count.zero_()


class CancellingRunningBatchNorm2d(EmptyRunningBatchNorm2d):
    """No clamp: E[x²] − E[x]² falls below zero where the mean is large, and the root of that is NaN."""

    def variance(self, mean):
        return self.squares / self.count - mean**2


class BatchOneRunningBatchNorm2d(RunningBatchNorm2d):
    """A rate that depends on the batch size, with a zero under the root at batch size 1."""

    def rate(self, x):
        return 1 - (1 - self.momentum) / (x.shape[0] - 1) ** 0.5


class UndetachedRunningBatchNorm2d(RunningBatchNorm2d):
    """The averages keep the graph of the step before, which its backward has freed."""

    def let_go(self):
        pass


class InplaceRunningBatchNorm2d(RunningBatchNorm2d):
    """The count is moved in place; the division of the step before still needs it as it was."""

    def update(self, x):
        count = self.count
        super().update(x)
        self.count = count.lerp_(torch.full_like(count, x.numel() / x.shape[1]), self.momentum)


class EverySecondRunningBatchNorm2d(RunningBatchNorm2d):
    """Statistics move only in every second training step, to save time."""

    def update(self, x):
        self.num_batches_tracked += 1
        if self.num_batches_tracked % 2:
            self.num_batches_tracked -= 1
            super().update(x)
