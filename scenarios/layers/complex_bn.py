"""BatchNorm for complex numbers: real parts in the first half of the channels, imaginary parts in the second.

Each complex channel is whitened with the inverse root of its 2×2 covariance, so that real and imaginary part come out
uncorrelated and of variance 1. LeakyComplexBatchNorm2d is the same with averages that keep their graph.
"""

import torch
from torch import nn


class ComplexBatchNorm2d(nn.Module):
    """Keeps running_mean (real parts, then imaginary) and running_covar (rows: real, mixed, imaginary)."""

    def __init__(self, channels, eps=1e-5, momentum=0.1, affine=False):
        super().__init__()
        if channels % 2:
            raise ValueError(f"complex channels come in pairs, and {channels} is odd")
        if affine:
            raise ValueError("a complex scale is a 2x2 matrix per channel, which this example leaves out")
        self.eps, self.momentum = eps, momentum
        ones, zeros = torch.ones(channels // 2), torch.zeros(channels // 2)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_covar", torch.stack([ones, zeros, ones]))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x):
        if self.training:
            mean = x.mean(dim=(0, 2, 3))
            real, imaginary = (x - mean[:, None, None]).chunk(2, dim=1)
            products = (real * real, real * imaginary, imaginary * imaginary)
            covar = torch.stack([product.mean(dim=(0, 2, 3)) for product in products])
            self.update(mean, covar, x.numel() // x.shape[1])
        else:
            mean, covar = self.running_mean, self.running_covar
            real, imaginary = (x - mean[:, None, None]).chunk(2, dim=1)
        return whiten(real, imaginary, covar, self.eps)

    @torch.no_grad()
    def update(self, mean, covar, count):
        self.running_mean += self.momentum * (mean - self.running_mean)
        self.running_covar += self.momentum * (covar * count / (count - 1) - self.running_covar)
        self.num_batches_tracked += 1


class LeakyComplexBatchNorm2d(ComplexBatchNorm2d):
    """The averages are results of autograd: memory grows with every step."""

    def update(self, mean, covar, count):
        keep = 1 - self.momentum
        self.running_mean = self.momentum * mean + keep * self.running_mean
        self.running_covar = self.momentum * (covar * count / (count - 1)) + keep * self.running_covar
        self.num_batches_tracked += 1


def whiten(real, imaginary, covar, eps):
    """Multiply (real, imaginary) with the inverse root of [[a, b], [b, c]], written out for 2×2."""
    a, b, c = covar[0] + eps, covar[1], covar[2] + eps
    root = torch.sqrt(a * c - b * b)
    scale = 1 / (root * torch.sqrt(a + c + 2 * root))
    rr, ri, ii = ((value * scale)[:, None, None] for value in (c + root, -b, a + root))
    return torch.cat([rr * real + ri * imaginary, ri * real + ii * imaginary], dim=1)
