"""Models of one's own whose normalising layers go by names, forms and ways of their own; and some that make NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

PLACES = (1, -1, 1, 1)


class Mu(nn.Module):
    """BatchNorm as PyTorch's, of buffers whose names say nothing."""

    names = ("mu", "sigma2")
    shape = (-1,)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        for name, value in zip(self.names, (torch.zeros(channels), self.from_var(torch.ones(channels))), strict=True):
            self.register_buffer(name, value.view(self.shape))

    def to_var(self, held: Any) -> Any:
        return held

    def from_var(self, var: Any) -> Any:
        return var

    def keep(self, mean: Any, var: Any) -> None:
        held_mean, held = (getattr(self, name) for name in self.names)
        held_mean.lerp_(mean.view_as(held_mean), 0.1)
        held.copy_(self.from_var(0.9 * self.to_var(held) + 0.1 * var.view_as(held)))

    def forward(self, x: Any) -> Any:
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            with torch.no_grad():
                self.keep(mean, x.var((0, 2, 3)))
        else:
            mean, var = getattr(self, self.names[0]), self.to_var(getattr(self, self.names[1]))
        y = (x - mean.view(PLACES)) / torch.sqrt(var.view(PLACES) + 1e-5)
        return y * self.scale.view(PLACES) + self.shift.view(PLACES)


class Averages(Mu):
    names = ("first", "pos_mean")
    shape = (1, -1, 1, 1)


class Deviation(Mu):
    def to_var(self, held: Any) -> Any:
        return held**2

    def from_var(self, var: Any) -> Any:
        return var**0.5


class Inverse(Mu):
    eps = 1e-5

    def to_var(self, held: Any) -> Any:
        return held**-2 - self.eps

    def from_var(self, var: Any) -> Any:
        return (var + self.eps) ** -0.5


class InverseLiteral(Inverse):
    eps = None

    def to_var(self, held: Any) -> Any:
        return held**-2 - 1e-5

    def from_var(self, var: Any) -> Any:
        return (var + 1e-5) ** -0.5


class InverseOfMore(InverseLiteral):
    """No eps shows in what it keeps: a variance of 0 is the least that it knows."""

    def to_var(self, held: Any) -> Any:
        return super().to_var(held).clamp(min=1e-2)


class InverseBiased(InverseLiteral):
    def keep(self, mean: Any, var: Any) -> None:
        super().keep(mean, var * (287.0 / 288.0))


class Logarithm(Mu):
    def to_var(self, held: Any) -> Any:
        return held.exp()

    def from_var(self, var: Any) -> Any:
        return var.log()


class OnePlus(Logarithm):
    """Names that say nothing of gamma and beta either, and both begin with zeros."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        del self.scale, self.shift
        self.g, self.b = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))

    scale, shift = property(lambda self: 1 + self.g), property(lambda self: self.b)


class Standing(Mu):
    """What it computes it keeps nowhere."""

    def keep(self, mean: Any, var: Any) -> None:
        self.mu.lerp(mean, 0.1)


class MeanAlone(Deviation):
    def keep(self, mean: Any, var: Any) -> None:
        self.mu.lerp_(mean, 0.1)


class TwoWeights(Mu):
    def keep(self, mean: Any, var: Any) -> None:
        self.mu.lerp_(mean, 0.1)
        self.sigma2.lerp_(var, 0.9)


class Exchanged(Mu):
    """Each statistic goes where eval looks for the other."""

    def to_var(self, held: Any) -> Any:
        return held.abs()

    def keep(self, mean: Any, var: Any) -> None:
        self.mu.lerp_(var, 0.1)
        self.sigma2.lerp_(mean, 0.1)


class DeviationAveraged(Deviation):
    def keep(self, mean: Any, var: Any) -> None:
        self.mu.lerp_(mean, 0.1)
        self.sigma2.lerp_(var.sqrt(), 0.1)


class Biased(Mu):
    def keep(self, mean: Any, var: Any) -> None:
        super().keep(mean, var * (287.0 / 288.0))  # 8 samples of 6 by 6


class Precise(Mu):
    """Statistics in float64; lerp_ takes no other dtype beside it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.mu, self.sigma2 = self.mu.double(), self.sigma2.double()

    def keep(self, mean: Any, var: Any) -> None:
        self.mu.lerp_(mean.double(), 0.1)
        self.sigma2.lerp_(var.double(), 0.1)

    def to_var(self, held: Any) -> Any:
        return held.float()

    def forward(self, x: Any) -> Any:
        return super().forward(x).to(x.dtype)


class Wide(Mu):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.scale = nn.Parameter(torch.ones(channels, 6, 6))

    def forward(self, x: Any) -> Any:
        return super().forward(x) if self.scale.dim() == 1 else self.scaled(x)

    def scaled(self, x: Any) -> Any:
        scale, self.scale = self.scale, nn.Parameter(torch.ones(x.shape[1]))
        try:
            return super().forward(x) * scale
        finally:
            self.scale = scale


class FusedWithConv(Mu):
    """Statistics of something else than its input."""

    def forward(self, x: Any) -> Any:
        return super().forward(torch.cumsum(x, 1) ** 2)


class Last(Biased):
    """The channels come last."""

    def forward(self, x: Any) -> Any:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


KINDS = {each.__name__: each for each in (
    Mu, Averages, Deviation, Inverse, InverseLiteral, Logarithm, DeviationAveraged, Biased, Precise, Wide,
    FusedWithConv, Last, OnePlus, Standing, MeanAlone, TwoWeights, InverseOfMore, InverseBiased,
    Exchanged,
)}  # fmt: skip


def through(norm: nn.Module, x: Any) -> Any:
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if isinstance(norm, Last) else norm(x=x)


class Zoo(nn.Module):
    """Each kind behind a convolution of its own, in nested lists and dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.LazyConv2d(4, 3, padding=1), nn.LazyBatchNorm2d(), nn.ReLU())
        self.rest = nn.ModuleDict({
            name: nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1), kind(4)]) for name, kind in KINDS.items()
        })  # fmt: skip
        self.twice = nn.BatchNorm2d(4)

    def forward(self, x: Any) -> Any:
        x = self.twice(self.stem(x))
        found = [through(norm, conv(x)) for conv, norm in self.rest.values()]
        return self.twice(torch.relu(sum(found)))


class Cast(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        with torch.no_grad():
            self.conv.weight.mul_(1e5)
            if way == "weight":
                self.conv.weight[0, 0, 0, 0] = float("nan")

    def forward(self, x: Any) -> Any:
        if self.way == "autocast":
            with torch.autocast("cpu", dtype=torch.float16):
                x = self.conv(x)
            return self.bn(x.float())
        x = self.conv(x)
        if self.way == "cast":
            x = x.half().float()
        if self.way == "numpy":
            x = torch.from_numpy(np.log(x.detach().numpy()))
        if self.way == "log":
            x = torch.log(torch.relu(x))
        if self.way == "mask":
            scores = x.masked_fill(torch.ones(8, 1, 1, 1, dtype=torch.bool), float("-inf"))
            x = x * scores.softmax(3)
        mask = torch.zeros(4, 1, 1).masked_fill(torch.eye(4)[0].bool().view(4, 1, 1), float("-inf"))
        return self.bn(x) + mask.exp()


class FrozenBN(nn.Module):
    """Statistics that never move, as in a detector's backbone."""

    def __init__(self, channels=4):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        return (x - self.running_mean.view(1, -1, 1, 1)) / (self.running_var.view(1, -1, 1, 1) + 1e-5).sqrt()


class Learning(FrozenBN):
    """One that learns more than a gamma and a beta."""

    def __init__(self):
        super().__init__()
        self.mixing = nn.Parameter(torch.ones(4, 4))

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.running_mean.lerp_(x.mean((0, 2, 3)), 0.1)
                self.running_var.lerp_(x.var((0, 2, 3)), 0.1)
        return super().forward(x)


def unjudged(kind):
    layers = {"frozen": [FrozenBN(), FrozenBN()], "learning": [Learning()], "none": []}
    return nn.Sequential(nn.Conv2d(3, 4, 3), *layers[kind])


def build(kind: str = "zoo") -> nn.Module:
    if kind == "half":
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).half()
    return Zoo() if kind == "zoo" else Cast(kind)
