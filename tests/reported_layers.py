"""Own BatchNorm layers with the mistakes of public reports, for test_reported_layers.py; torch only."""

import torch
from torch import nn


class Base(nn.Module):
    def __init__(self, channels, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def moments(self, x):
        return x.mean(0), x.var(0, unbiased=False)

    def update(self, x):
        with torch.no_grad():
            self.running_mean += self.momentum * (x.mean(0) - self.running_mean)
            self.running_var += self.momentum * (x.var(0) - self.running_var)
            self.num_batches_tracked += 1

    def forward(self, x):
        mean, var = (self.running_mean, self.running_var) if not self.training else self.moments(x)
        if self.training:
            self.update(x)
        return (x - mean) / torch.sqrt(var + self.eps) * self.weight + self.bias


class Right(Base):
    pass


class SampleVariance(Base):
    """y is divided by the deviation of n - 1."""

    def moments(self, x):
        return x.mean(0), x.var(0)


class LostUpdate(Base):
    """The update goes into copies."""

    def update(self, x):
        pass


class BetaTakenBack(Base):
    """Adds beta and takes it away again: it has no effect and the gradient 0."""

    def forward(self, x):
        return super().forward(x) - self.bias


class Fused(Base):
    """Normalises with the running statistics in training too, and never moves them."""

    def moments(self, x):
        return self.running_mean, self.running_var

    def update(self, x):
        pass


class Halves(Base):
    """Statistics of the first half of the batch."""

    def moments(self, x):
        return super().moments(x[: len(x) // 2])

    def update(self, x):
        super().update(x[: len(x) // 2])


class Chunks(nn.Module):
    """Ghost BatchNorm: chunks of 8, each normalised by itself; shows no counter."""

    def __init__(self, channels, eps=1e-5, momentum=0.1):
        super().__init__()
        self.inner = nn.BatchNorm1d(channels, eps=eps, momentum=momentum)

    weight = property(lambda self: self.inner.weight)
    bias = property(lambda self: self.inner.bias)
    running_mean = property(lambda self: self.inner.running_mean)
    running_var = property(lambda self: self.inner.running_var)

    def forward(self, x):
        return torch.cat([self.inner(part) for part in x.split(8)])


class WithRelu(nn.BatchNorm1d):
    """An activation behind the normalisation."""

    def forward(self, x):
        return torch.relu(super().forward(x))


class PerSample(nn.Module):
    """No statistics of the batch at all."""

    def __init__(self, channels, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + self.eps) * self.weight + self.bias


class GradScaled(Base):
    """dgamma is 0.1 % too large; y is right to the bit."""

    def forward(self, x):
        y = super().forward(x)
        return y + 0.001 * (self.weight - self.weight.detach()) * y.detach()


class Clamped:
    """Over any of the others: y is cut off at ±1 in training, which no running statistic does."""

    def forward(self, x):
        y = super().forward(x)
        return y.clamp(-1, 1) if self.training else y


class ClampedLostUpdate(Clamped, LostUpdate):
    pass


class ClampedDivisor(Clamped, Base):
    """The variance that is averaged is divided by n."""

    def update(self, x):
        super().update(x)
        self.running_var += self.momentum * (x.var(0, unbiased=False) - x.var(0))


class ClampedUncounted(Clamped, Base):
    """The counter stands still."""

    def update(self, x):
        super().update(x)
        self.num_batches_tracked -= 1


class ClampedPoisoned(Clamped, Base):
    """running_var becomes NaN after the first batch."""

    def update(self, x):
        super().update(x)
        self.running_var += torch.nan


class NoGradientToInput(Base):
    """What stands in front never learns."""

    def forward(self, x):
        return super().forward(x.detach())


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.scale = scale
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.scale, None


class EpsOutsideScaledGradients(Base):
    """Two mistakes: eps stands beside the root, and all gradients are 1 % too large."""

    def __init__(self, channels, eps=1e-5, momentum=0.1):
        super().__init__(channels, 0.0, momentum)
        self.outside = 0.05

    def forward(self, x):
        mean, var = (self.running_mean, self.running_var) if not self.training else self.moments(x)
        if self.training:
            self.update(x)
        y = (x - mean) / (torch.sqrt(var) + self.outside) * self.weight + self.bias
        return _Scaled.apply(y, 1.01)


class NanBesideDivisor(Base):
    """running_var is NaN in one channel, and divided by n in the others."""

    def update(self, x):
        super().update(x)
        self.running_var += self.momentum * (x.var(0, unbiased=False) - x.var(0))
        self.running_var[0] = torch.nan


class OneGradientLost(nn.BatchNorm2d):
    """dx of a single element is 0."""

    def forward(self, x):
        return super().forward(_Masked.apply(x))


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone()
        grad.view(-1)[5] = 0
        return grad


class OtherVariance(nn.BatchNorm2d):
    """running_var grows by 0.05 % more than it should."""

    def forward(self, x):
        before = self.running_var.clone()
        y = super().forward(x)
        if self.training:
            self.running_var.data += 0.0005 * (self.running_var - before).abs()
        return y


class HealsNan(Base):
    """NaN and Inf go into no statistic."""

    def moments(self, x):
        return x.nan_to_num(0, 0, 0).mean(0), x.nan_to_num(0, 0, 0).var(0, unbiased=False)

    def update(self, x):
        super().update(x.nan_to_num(0, 0, 0))


class HealsNanScaled(HealsNan):
    """And its running mean is 3 % too large in a channel that the NaN does not reach."""

    def update(self, x):
        super().update(x)
        self.running_mean[1] *= 1.03


class Negated(nn.BatchNorm2d):
    def forward(self, x):
        return -super().forward(x)


class Plain(nn.BatchNorm2d):
    pass
