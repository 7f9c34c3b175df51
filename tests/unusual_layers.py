"""Own BatchNorm layers that part from the built-in one by one rule each, for test_unusual_layers.py; torch only."""

import torch
from torch import nn
from torch.nn import functional


def across(x):
    """The axes of all but the channels, and the shape of one number per channel."""
    return [axis for axis in range(x.dim()) if axis != 1], (1, -1, *[1] * (x.dim() - 2))


class Own(nn.Module):
    """Right as it stands; each class below changes one method."""

    def __init__(self, channels, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def values(self, x):
        return x

    def moments(self, x):
        x = self.values(x)
        return x.mean(across(x)[0]), x.var(across(x)[0], unbiased=False)

    @torch.no_grad()
    def update(self, x):
        x = self.values(x)
        self.running_mean.lerp_(x.mean(across(x)[0]), self.momentum)
        self.running_var.lerp_(x.var(across(x)[0]), self.momentum)
        self.num_batches_tracked += 1

    def deviation(self, var):
        return torch.sqrt(var + self.eps)

    def normalise(self, x, mean, var):
        shape = across(x)[1]
        return (x - mean.view(shape)) / self.deviation(var).view(shape)

    def behind(self, y):
        return y

    def forward(self, x):
        if self.training:
            h = self.normalise(x, *self.moments(x))
            self.update(x)
        else:
            h = self.normalise(x, self.running_mean, self.running_var)
        shape = across(x)[1]
        return self.behind(self.scaled(h, self.weight.view(shape), self.bias.view(shape)))

    def scaled(self, h, gamma, beta):
        return h * gamma + beta


class Chunks(Own):
    """Ghost batches of 8, without a counter that counts them."""

    size = 8

    def forward(self, x):
        if not self.training or len(x) <= self.size:
            return super().forward(x)
        return torch.cat([super(Chunks, self).forward(part) for part in x.split(self.size)])


class UnevenChunks(Chunks):
    size = 5


class ChunksOneUpdate(Chunks):
    """Each chunk is normalised by itself, the whole batch is averaged."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        y = torch.cat([self.normalise(part, *self.moments(part)) for part in x.split(self.size)])
        self.update(x)
        return y * self.weight.view(across(x)[1]) + self.bias.view(across(x)[1])


class Domains(Own):
    """Source and target halves each by their own statistics; the source's are averaged."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        one, two = x.chunk(2)
        y = torch.cat([self.normalise(part, *self.moments(part)) for part in (one, two)])
        self.update(one)
        return y * self.weight.view(across(x)[1]) + self.bias.view(across(x)[1])


class OwnDomains(Domains):
    """Each half by a layer of its own, with its own gamma and beta; eval by the first."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        super().__init__(num_features, eps, momentum)
        self.other = nn.BatchNorm2d(num_features, eps, momentum)

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        one, two = x.chunk(2)
        return torch.cat([Own.forward(self, one), self.other(two)])


class BatchAlone(nn.Module):
    """No running statistics: eval normalises by the batch too."""

    def __init__(self, num_features, eps=1e-5):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(num_features)), nn.Parameter(torch.zeros(num_features))
        self.eps = eps

    def forward(self, x):
        return functional.batch_norm(x, None, None, self.weight, self.bias, True, eps=self.eps)


class Gated(BatchAlone):
    """Each value by a gate of its own: y is no straight line over x, and knows no batch."""

    def forward(self, x):
        y = x * torch.sigmoid(x) / (x.var((2, 3), unbiased=False, keepdim=True) + self.eps).sqrt()
        return y * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class Pixelwise(nn.Module):
    """LayerNorm over the channels of each position, as behind a permute; its weights have no usual names there."""

    def __init__(self, num_features, eps=1e-5):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(num_features)), nn.Parameter(torch.zeros(num_features))
        self.eps = eps

    def forward(self, x):
        y = functional.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)


class HalfInstance(nn.Module):
    """Half of the channels by each sample, half by the batch: it holds statistics for two of four."""

    def __init__(self, num_features):
        super().__init__()
        self.one, self.two = nn.InstanceNorm2d(num_features // 2), nn.BatchNorm2d(num_features // 2)

    def forward(self, x):
        a, b = x.chunk(2, dim=1)
        return torch.cat([self.one(a), self.two(b)], dim=1)


class Masked(Own):
    """The second half of all positions is padding."""

    def values(self, x):
        return x[..., : x.shape[-1] // 2]


class FirstSamples(Own):
    def values(self, x):
        return x[:5]


class OnlyStatisticsOfHalf(Own):
    """Normalises with the whole batch, averages half of it."""

    def update(self, x):
        super().update(x[: len(x) // 2])


class PerSample(Own):
    """Instance statistics in training and in eval; nothing is averaged."""

    def forward(self, x):
        y = functional.instance_norm(x, eps=self.eps)
        return y * self.weight.view(across(x)[1]) + self.bias.view(across(x)[1])


class Relu(Own):
    def behind(self, y):
        return y.relu()


class Leaky(Own):
    def behind(self, y):
        return functional.leaky_relu(y, 0.2)


class Silu(Own):
    def behind(self, y):
        return functional.silu(y)


class Gelu(Own):
    def behind(self, y):
        return functional.gelu(y)


class Elu(Own):
    def behind(self, y):
        return functional.elu(y)


class Tanh(Own):
    def behind(self, y):
        return y.tanh()


class EpsOutside(Own):
    def deviation(self, var):
        return torch.sqrt(var) + self.eps


class NoEps(Own):
    def deviation(self, var):
        return torch.sqrt(var)


class OnePlusGamma(Own):
    def scaled(self, h, gamma, beta):
        return h * (1 + gamma) + beta


class SizeOfGamma(Own):
    def scaled(self, h, gamma, beta):
        return h * gamma.abs() + beta


class ShiftFirst(EpsOutside):
    def scaled(self, h, gamma, beta):
        return (h + beta) * gamma


class Exchanged(Own):
    def scaled(self, h, gamma, beta):
        return h * beta + gamma


class OtherEps(Own):
    def deviation(self, var):
        return torch.sqrt(var + 0.02)


class SampleDeviation(Own):
    def moments(self, x):
        return x.mean(across(x)[0]), x.var(across(x)[0])


class ReluOutside(Relu, EpsOutside):
    """Two rules: an activation, and eps beside the root in front of it."""


class ChunksRelu(Relu, Chunks):
    """Two rules."""


class Blend(Own):
    """Three parts batch, one part running, in training."""

    def moments(self, x):
        mean, var = super().moments(x)
        return 0.75 * mean + 0.25 * self.running_mean, 0.75 * var + 0.25 * self.running_var


class Switchable(Own):
    """A mixture of instance, layer and batch statistics."""

    def forward(self, x):
        axes = across(x)[0]
        mean_in, var_in = x.mean(axes[1:], keepdim=True), x.var(axes[1:], unbiased=False, keepdim=True)
        mean_ln, var_ln = (
            x.mean([1, *axes[1:]], keepdim=True), x.var([1, *axes[1:]], unbiased=False, keepdim=True)
        )  # fmt: skip
        shape = across(x)[1]
        if self.training:
            mean, var = (part.view(shape) for part in self.moments(x))
            self.update(x)
        else:
            mean, var = self.running_mean.view(shape), self.running_var.view(shape)
        mean, var = 0.5 * mean + 0.3 * mean_in + 0.2 * mean_ln, 0.4 * var + 0.4 * var_in + 0.2 * var_ln
        return (x - mean) / torch.sqrt(var + self.eps) * self.weight.view(shape) + self.bias.view(shape)


class Renorm(Own):
    """Batch renormalisation; r is clipped at 1.5 and d at 0.5."""

    def normalise(self, x, mean, var):
        if not self.training:
            return super().normalise(x, mean, var)
        shape = across(x)[1]
        held = self.deviation(self.running_var)
        r = (self.deviation(var) / held).detach().clamp(1 / 1.5, 1.5)
        d = ((mean - self.running_mean) / held).detach().clamp(-0.5, 0.5)
        return super().normalise(x, mean, var) * r.view(shape) + d.view(shape)


class HeldDeviation(Own):
    """running_var holds a standard deviation."""

    @torch.no_grad()
    def update(self, x):
        self.running_mean.lerp_(x.mean(across(x)[0]), self.momentum)
        self.running_var.lerp_(x.std(across(x)[0]), self.momentum)
        self.num_batches_tracked += 1

    def forward(self, x):
        if self.training:
            return super().forward(x)
        h = (x - self.running_mean.view(across(x)[1])) / (self.running_var.view(across(x)[1]) + self.eps)
        return h * self.weight.view(across(x)[1]) + self.bias.view(across(x)[1])


class FirstReplaces(Own):
    """The first batch's statistics replace the start."""

    def update(self, x):
        momentum, self.momentum = self.momentum, 1.0 if not self.num_batches_tracked else self.momentum
        super().update(x)
        self.momentum = momentum


class Debiased(Own):
    """Like Adam's averages: what is held is divided by 1 - (1 - momentum)^k, whatever it began with."""

    def update(self, x):
        rest = 1 - self.momentum
        k = int(self.num_batches_tracked)
        momentum, self.momentum = self.momentum, self.momentum / (1 - rest ** (k + 1))
        super().update(x)
        self.momentum = momentum


class Twice(Own):
    """Every batch is averaged twice; the counter does not tell."""

    def update(self, x):
        super().update(x)
        super().update(x)
        self.num_batches_tracked -= 1


class TwiceUncounted(Own):
    """The same, and no counter at all."""

    def __init__(self, channels, eps=1e-5, momentum=0.1):
        super().__init__(channels, eps, momentum)
        del self.num_batches_tracked

    def update(self, x):
        for _ in range(2):
            self.running_mean.lerp_(x.detach().mean(across(x)[0]), self.momentum)
            self.running_var.lerp_(x.detach().var(across(x)[0]), self.momentum)


class AverageOfNothingKnown(Own):
    """No average that has a name: the median of the batch goes in. What does not need one is still measured."""

    def update(self, x):
        with torch.no_grad():
            self.running_mean.lerp_(x.flatten(2).median(2).values.median(0).values if x.dim() > 2
                                    else x.median(0).values, self.momentum)  # fmt: skip
            self.running_var.lerp_(x.abs().amax(across(x)[0]), self.momentum)
            self.num_batches_tracked += 1

    def deviation(self, var):
        return torch.sqrt(var + 0.02)
