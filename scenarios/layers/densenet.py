"""DenseNet as its paper describes it (Huang et al. 2017), with a linear embedding of length 1; random weights.

Every step is a module, also ReLU and concatenation, so that each one can be looked at on its own.
"""

from collections import OrderedDict

import torch
from torch import nn

BLOCKS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32)}


class Normalise(nn.Module):
    def forward(self, x):
        return x / x.norm(dim=1, keepdim=True)


class Concatenate(nn.Module):
    def forward(self, old, new):
        return torch.cat([old, new], dim=1)


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 1x1 convolution to four times the growth; the same with 3x3 down to the growth; append."""

    def __init__(self, channels, growth, norm):
        super().__init__()
        self.norm1, self.relu1 = norm(channels), nn.ReLU()
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2, self.relu2 = norm(4 * growth), nn.ReLU()
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.append = Concatenate()

    def forward(self, x):
        y = self.conv1(self.relu1(self.norm1(x)))
        return self.append(x, self.conv2(self.relu2(self.norm2(y))))


def transition(channels, norm):
    layers = OrderedDict(norm=norm(channels), relu=nn.ReLU())
    layers.update(conv=nn.Conv2d(channels, channels // 2, 1, bias=False), pool=nn.AvgPool2d(2))
    return nn.Sequential(layers)


def build(depth=169, blocks=None, growth=32, width=64, embedding=256, track_running_stats=True, batch_weight=0.1):
    """The network; ``blocks`` (layers per block) in place of a known ``depth`` makes a small one."""

    def norm(channels):
        return nn.BatchNorm2d(channels, momentum=batch_weight, track_running_stats=track_running_stats)

    stem = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    layers = OrderedDict(conv=stem, norm=norm(width), relu=nn.ReLU(), pool=nn.MaxPool2d(3, stride=2, padding=1))
    channels = width
    sizes = BLOCKS[depth] if blocks is None else blocks
    for block, size in enumerate(sizes, 1):
        for number in range(1, size + 1):
            layers[f"dense{block}_{number}"] = DenseLayer(channels, growth, norm)
            channels += growth
        if block < len(sizes):
            layers[f"transition{block}"] = transition(channels, norm)
            channels //= 2
    layers.update(last_norm=norm(channels), last_relu=nn.ReLU(), average=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    layers.update(embed=nn.Linear(channels, embedding), normalise=Normalise())
    net = nn.Sequential(layers)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return net
