"""Models as people hand them to bncheck check: healthy, and with a fault planted. For test_check_models.py."""

from collections import namedtuple

import torch
import torch.utils.checkpoint
from torch import nn

Found = namedtuple("Found", "logits features")


class Net(nn.Module):
    def __init__(self, classes=10, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3), norm(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3), norm(16)
        self.fc = nn.Linear(16, classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return {"logits": self.fc(x.mean((2, 3))), "more": [Found(x, None)]}


def build(classes=10):
    return Net(classes)


def trained():
    torch.manual_seed(1)
    net = Net()
    with torch.no_grad():
        for _ in range(40):
            net(torch.randn(16, 3, 12, 12))
    return net.eval()


def negative():
    net = trained()
    net.bn2.running_var.data[3] = -0.5
    return net


def left_training():
    net = trained()
    net.bn1.train()
    return net


class Listed(nn.Module):
    """All of its normalising layers lie in a plain list."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)])
        self.norms = [nn.BatchNorm2d(8), nn.BatchNorm2d(8)]

    def forward(self, x):
        for place, conv in enumerate(self.convs):
            x = torch.relu(self.norms[place](conv(x)))
        return x.mean((2, 3))


class Recomputed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.block = nn.Conv2d(3, 8, 3), nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.block, self.conv(x), use_reentrant=False).mean((2, 3))


def lazy_head():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))


class NoEval(nn.BatchNorm2d):
    """Normalises with the batch in eval, too."""

    def forward(self, x):
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        return (x - mean) / (var + self.eps).sqrt()


def no_eval():
    return Net(norm=NoEval)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.bn, self.out = nn.Embedding(11, 6), nn.BatchNorm1d(6), nn.Linear(6 + 4, 2)

    def forward(self, tokens, numbers):
        return self.out(torch.cat([self.bn(self.table(tokens).mean(1)), numbers], 1))


class NoNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(x)


class RaisesInTraining(Net):
    def forward(self, x, targets=None):
        if self.training and targets is None:
            raise ValueError("targets should be given in training")
        return super().forward(x)


class RaisesAlways(Net):
    def forward(self, x):
        raise ValueError("not today")


def needs(size):
    return Net()


def no_model():
    return 3


def switched_off():
    net = trained()
    net.bn1.track_running_stats = False
    return net


def in_half():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).half()


class CompilesAFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.part = torch.compile(self.normed)

    def normed(self, x):
        return self.bn(self.conv(x))

    def forward(self, x):
        return self.part(x)


class PriorFirst(nn.BatchNorm2d):
    """The number of channels comes second."""

    def __init__(self, prior, num_features, eps=1e-5, momentum=0.1):
        super().__init__(num_features, eps, momentum)
        self.prior = prior


class ChannelsLast(nn.Module):
    """Takes (N, L, C). A batch of two axes goes through it in training, as all values of one channel."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("level", torch.zeros(1, 1, channels))
        self.register_buffer("spread", torch.ones(1, 1, channels))

    def forward(self, x):
        mean, var = self.level, self.spread
        if self.training:
            mean, var = x.mean((0, 1), keepdim=True), x.var((0, 1), keepdim=True, unbiased=False)
            with torch.no_grad():
                self.level.lerp_(mean, 0.1)
                self.spread.lerp_(var, 0.1)
        return (x - mean) / (var + 1e-5).sqrt()


class Pair(nn.Module):
    """Gives the logarithm of its determinant along, as flows do."""

    def __init__(self, features):
        super().__init__()
        self.norm = nn.BatchNorm1d(features)

    def forward(self, x):
        return self.norm(x), x.new_zeros(len(x))


class OfComplex(nn.Module):
    def __init__(self, num_features):
        super().__init__()
        self.real, self.imag = nn.BatchNorm2d(num_features), nn.BatchNorm2d(num_features)

    def forward(self, x):
        return torch.complex(self.real(x.real), self.imag(x.imag))


class Sized(nn.Module):
    """A layer that is told more than its channels."""

    def __init__(self, channels, groups):
        super().__init__()
        self.groups, self.bn = groups, nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.bn(x)


def on_meta():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to("meta")


class OnMeta(nn.BatchNorm2d):
    def __init__(self, num_features):
        super().__init__(num_features)
        self.to("meta")


def lazy_norm():
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.memory, self.bn, self.head = nn.GRU(6, 8, batch_first=True), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, x):
        found, _ = self.memory(x)
        return self.head(self.bn(found.transpose(1, 2)).mean(2))
