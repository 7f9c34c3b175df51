"""BatchNorm for complex numbers: each channel is whitened with the inverse root of the 2×2 covariance of its parts.

Real and imaginary part come out uncorrelated and of variance 1. ComplexBatchNorm2d takes and gives one complex tensor
(network.parts = "complex"), PairedBatchNorm2d two real ones (network.parts = 2), LeakyComplexBatchNorm2d is the first
with averages that keep their graph.
"""

import torch
from torch import nn


class ComplexBatchNorm2d(nn.Module):
    """Keeps running_mean, complex, and running_covar: rows of real with real, real with imaginary, imaginary alone."""

    def __init__(self, channels, eps=1e-5, momentum=0.1, affine=False):
        super().__init__()
        if affine:
            raise ValueError("a complex scale is a 2x2 matrix per channel, which this example leaves out")
        self.eps, self.momentum = eps, momentum
        ones, zeros = torch.ones(channels), torch.zeros(channels)
        self.register_buffer("running_mean", torch.zeros(channels, dtype=torch.complex64))
        self.register_buffer("running_covar", torch.stack([ones, zeros, ones]))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, z):
        count = z.numel() // z.shape[1]
        mean = z.mean(dim=(0, 2, 3)) if self.training else self.running_mean
        centred = z - mean[:, None, None]
        covar = self.covariance(centred, count) if self.training else self.running_covar
        if self.training:
            self.update(mean, covar, count)
        return torch.complex(*whiten(centred.real, centred.imag, covar, self.eps))

    def covariance(self, centred, count):
        real, imaginary = centred.real, centred.imag
        return [(a * b).mean(dim=(0, 2, 3)) for a, b in ((real, real), (real, imaginary), (imaginary, imaginary))]

    @torch.no_grad()
    def update(self, mean, covar, count):
        self.running_mean += self.momentum * (mean - self.running_mean)
        self.running_covar += self.momentum * (torch.stack(covar) * count / (count - 1) - self.running_covar)
        self.num_batches_tracked += 1


class LeakyComplexBatchNorm2d(ComplexBatchNorm2d):
    """The averages are results of autograd, the covariance is even written row by row: memory grows with every step."""

    def covariance(self, centred, count):
        real, imaginary = centred.real, centred.imag
        rows = [part.pow(2).sum(dim=(0, 2, 3)) / count + self.eps for part in (real, imaginary)]
        return [rows[0], (real * imaginary).mean(dim=(0, 2, 3)), rows[1]]

    def update(self, mean, covar, count):
        keep = 1 - self.momentum
        self.running_mean = self.momentum * mean + keep * self.running_mean
        for row, value in enumerate(covar):
            self.running_covar[row] = self.momentum * value * count / (count - 1) + keep * self.running_covar[row]
        self.num_batches_tracked += 1


class DetachedComplexBatchNorm2d(ComplexBatchNorm2d):
    """Averages of detached tensors keep nothing either."""

    def update(self, mean, covar, count):
        keep, covar = 1 - self.momentum, torch.stack(covar).detach() * count / (count - 1)
        self.running_mean = self.momentum * mean.detach() + keep * self.running_mean
        self.running_covar = self.momentum * covar + keep * self.running_covar
        self.num_batches_tracked += 1


class PairedBatchNorm2d(nn.Module):
    """The same for two real tensors, with a buffer (2, channels) of means and (2, 2, channels) of covariances."""

    def __init__(self, channels, eps=1e-5, momentum=0.1, affine=False):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.register_buffer("running_mean", torch.zeros(2, channels))
        self.register_buffer("running_covar", torch.eye(2)[:, :, None].repeat(1, 1, channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, real, imaginary):
        both = torch.stack([real, imaginary])
        if self.training:
            mean = both.mean(dim=(1, 3, 4))
            centred = both - mean[:, None, :, None, None]
            covar = torch.einsum("inchw,jnchw->ijc", centred, centred) / (real.numel() // real.shape[1])
            self.update(mean, covar, real.numel() // real.shape[1])
        else:
            centred, covar = both - self.running_mean[:, None, :, None, None], self.running_covar
        return whiten(centred[0], centred[1], (covar[0, 0], covar[0, 1], covar[1, 1]), self.eps)

    @torch.no_grad()
    def update(self, mean, covar, count):
        self.running_mean.lerp_(mean, self.momentum)
        self.running_covar.lerp_(covar * count / (count - 1), self.momentum)
        self.num_batches_tracked += 1


class BiasedPairedBatchNorm2d(PairedBatchNorm2d):
    """Averages the biased covariance: below the unbiased one by (n - 1) / n."""

    def update(self, mean, covar, count):
        super().update(mean, covar * (count - 1) / count, count)


def whiten(real, imaginary, covar, eps):
    """Multiply (real, imaginary) with the inverse root of [[a, b], [b, c]], written out for 2×2."""
    a, b, c = covar[0] + eps, covar[1], covar[2] + eps
    root = torch.sqrt(a * c - b * b)
    scale = 1 / (root * torch.sqrt(a + c + 2 * root))
    rr, ri, ii = ((value * scale)[:, None, None] for value in (c + root, -b, a + root))
    return rr * real + ri * imaginary, ri * real + ii * imaginary
