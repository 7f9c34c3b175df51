"""Own BatchNorm layers with one mistake in what they keep or in eval alone, for test_mistaken_layers.py; torch only."""

import torch
from torch import nn
from unusual_layers import Own, across


class Held(Own):
    """``held``: mean and variance of eval; ``put``: mean and variance that are averaged."""

    def held(self):
        return self.running_mean, self.running_var

    def put(self, x):
        return x.mean(across(x)[0]), x.var(across(x)[0])

    def weight_of(self, count):
        return self.momentum

    @torch.no_grad()
    def update(self, x):
        self.num_batches_tracked += 1
        weight = self.weight_of(int(self.num_batches_tracked))
        for held, put in zip((self.running_mean, self.running_var), self.put(x), strict=True):
            held.lerp_(put, weight)

    def in_eval(self, x, mean, var):
        return self.normalise(x, mean, var)

    def forward(self, x):
        if self.training:
            return super().forward(x)
        shape = across(x)[1]
        h = self.in_eval(x, *(each.view(shape) for each in self.held()))
        return self.scaled(h, self.weight.view(shape), self.bias.view(shape))


# ------------------------------------------------------------------------------------------------- in eval alone


class Exchanged(Held):
    """The root of a mean below zero is NaN."""

    def held(self):
        return self.running_var, self.running_mean


class MinusMean(Held):
    def held(self):
        return -self.running_mean, self.running_var


class Reversed(Held):
    def in_eval(self, x, mean, var):
        return -self.normalise(x, mean, var)


class Times(Held):
    def in_eval(self, x, mean, var):
        return (x - mean) * self.deviation(var)


class NotCentred(Held):
    def held(self):
        return torch.zeros_like(self.running_mean), self.running_var


class NotScaled(Held):
    def in_eval(self, x, mean, var):
        return x - mean


class EvalEps(Held):
    def in_eval(self, x, mean, var):
        return (x - mean) / torch.sqrt(var + 0.02)


class TrainEps(Held):
    def forward(self, x):
        eps, self.eps = self.eps, 0.02 if self.training else self.eps
        y = super().forward(x)
        self.eps = eps
        return y


class Began(Held):
    """What eval takes was kept when the layer was made; an update makes new tensors."""

    def __init__(self, channels, eps=1e-5, momentum=0.1):
        super().__init__(channels, eps, momentum)
        self.first = (self.running_mean, self.running_var)

    def held(self):
        return self.first

    @torch.no_grad()
    def update(self, x):
        put = self.put(x)
        self.running_mean, self.running_var = (
            held.lerp(each, self.momentum)
            for held, each in zip((self.running_mean, self.running_var), put, strict=True)
        )
        self.num_batches_tracked += 1


class FirstEval(Held):
    """Scale and shift are worked out in the first eval."""

    def in_eval(self, x, mean, var):
        if not hasattr(self, "known"):
            self.known = mean.clone(), var.clone()
        return super().in_eval(x, *self.known)


# --------------------------------------------------------------------------------------------- what is averaged


class Added(Held):
    @torch.no_grad()
    def update(self, x):
        self.num_batches_tracked += 1
        for held, put in zip((self.running_mean, self.running_var), self.put(x), strict=True):
            held.add_(put * self.momentum)


class OneLate(Held):
    def weight_of(self, count):
        return 1.0 / max(count - 1, 1)


class NoLess(Held):
    def weight_of(self, count):
        return max(0.3, 1.0 / count)


class Alternating(Held):
    def weight_of(self, count):
        return 0.2 if count % 2 else 0.05


class Around(Held):
    def put(self, x):
        yield x.mean(across(x)[0])
        yield ((x - self.running_mean.view(across(x)[1])) ** 2).mean(across(x)[0])


class Squares(Held):
    """Eval takes the mean's square off the mean of the squares."""

    def put(self, x):
        return x.mean(across(x)[0]), (x * x).mean(across(x)[0])

    def held(self):
        return self.running_mean, self.running_var - self.running_mean**2


# ------------------------------------------------------------------------------------------- how it is kept


class AsParameters(nn.Module):
    """BatchNorm as PyTorch's; each class below keeps the same in another way."""

    def __init__(self, channels, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.begin(torch.zeros(channels), torch.ones(channels))

    def begin(self, mean, var):
        self.running_mean, self.running_var = (nn.Parameter(each, requires_grad=False) for each in (mean, var))

    def read(self):
        return self.running_mean, self.running_var

    def write(self, mean, var):
        self.running_mean.copy_(mean)
        self.running_var.copy_(var)

    def averaged(self, held, put):
        return held.lerp(put, self.momentum)

    def variance(self, x):
        return x.var(across(x)[0])

    def forward(self, x):
        axes, shape = across(x)
        mean, var = self.read()
        if self.training:
            put = x.mean(axes), self.variance(x)
            with torch.no_grad():
                self.write(*(self.averaged(held, each) for held, each in zip((mean, var), put, strict=True)))
            mean, var = x.mean(axes), x.var(axes, unbiased=False)
        h = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        return h * self.weight.view(shape) + self.bias.view(shape)


class Together(AsParameters):
    """Both statistics in one buffer."""

    axis = 0

    def begin(self, mean, var):
        self.register_buffer("stats", torch.stack([mean, var], self.axis))

    def read(self):
        return self.stats.select(self.axis, 0), self.stats.select(self.axis, 1)

    def write(self, mean, var):
        self.stats.copy_(torch.stack([mean, var], self.axis))


class TogetherLast(Together):
    axis = 1


class TogetherParameter(Together):
    def begin(self, mean, var):
        self.stats = nn.Parameter(torch.stack([mean, var]), requires_grad=False)


class TogetherBiased(Together):
    def variance(self, x):
        return x.var(across(x)[0], unbiased=False)


class LogDeviation(AsParameters):
    def begin(self, mean, var):
        self.register_buffer("mu", mean)
        self.register_buffer("log_std", 0.5 * var.log())

    def read(self):
        return self.mu, (2.0 * self.log_std).exp()

    def write(self, mean, var):
        self.mu.copy_(mean)
        self.log_std.copy_(0.5 * var.log())


class LogAveraged(LogDeviation):
    """Averages the logarithm itself."""

    def write(self, mean, var):
        self.mu.copy_(mean)
        self.log_std.copy_(var)

    def averaged(self, held, put):
        return held.lerp(put, self.momentum) if held is self.mu else (0.5 * held.log()).lerp(0.5 * put.log(), 0.1)


def build():
    """A model of one layer of each that is not alike in what it keeps."""
    kinds = AsParameters, Together, TogetherLast, TogetherParameter, TogetherBiased, LogDeviation, Exchanged, EvalEps
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    for kind in kinds:
        model.add_module(kind.__name__, nn.Sequential(kind(4), nn.Conv2d(4, 4, 1)))
    return model
