"""A BatchNorm2d written out in tensor operations, equal to nn.BatchNorm2d up to rounding."""

import torch
from torch import nn


class GoodBatchNorm2d(nn.Module):
    """Normalises with the biased batch variance, averages the unbiased one, and keeps no graph in its buffers."""

    def __init__(self, channels, eps=1e-5, momentum=0.1, affine=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x):
        if self.training:
            mean, var = self.moments(x)
            self.update(mean, var, x.numel() // x.shape[1])
        else:
            mean, var = self.running_mean, self.running_var
        return self.normalise(x, mean, var)

    def moments(self, x):
        """Mean and biased variance of each channel, in two passes."""
        mean = x.mean(dim=(0, 2, 3))
        return mean, ((x - mean[:, None, None]) ** 2).mean(dim=(0, 2, 3))

    @torch.no_grad()
    def update(self, mean, var, count):
        """Move the running statistics towards this batch; ``count`` is the number of values per channel."""
        unbiased = var * count / (count - 1)
        self.running_mean += self.momentum * (mean - self.running_mean)
        self.running_var += self.momentum * (unbiased - self.running_var)
        self.num_batches_tracked += 1

    def normalise(self, x, mean, var):
        y = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + self.eps)
        if self.weight is None:
            return y
        return y * self.weight[:, None, None] + self.bias[:, None, None]
