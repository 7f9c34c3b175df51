"""ResNet with bottleneck blocks as its paper describes it (He et al. 2016), an embedding of length 1; random weights.

Every step is a module, also ReLU and the sum, so that each one can be looked at on its own.
"""

from collections import OrderedDict

from torch import nn

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class Normalise(nn.Module):
    def forward(self, x):
        return x / x.norm(dim=1, keepdim=True)


class Add(nn.Module):
    def forward(self, x, shortcut):
        return x + shortcut


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each with BatchNorm, and a shortcut around them."""

    def __init__(self, channels, width, stride, norm):
        super().__init__()
        out = 4 * width
        self.conv1, self.norm1, self.relu1 = nn.Conv2d(channels, width, 1, bias=False), norm(width), nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.norm2, self.relu2 = norm(width), nn.ReLU()
        self.conv3, self.norm3 = nn.Conv2d(width, out, 1, bias=False), norm(out)
        same = stride == 1 and channels == out
        shortcut = [] if same else [nn.Conv2d(channels, out, 1, stride=stride, bias=False), norm(out)]
        self.shortcut, self.add, self.relu3 = nn.Sequential(*shortcut), Add(), nn.ReLU()

    def forward(self, x):
        y = self.relu1(self.norm1(self.conv1(x)))
        y = self.norm3(self.conv3(self.relu2(self.norm2(self.conv2(y)))))
        return self.relu3(self.add(y, self.shortcut(x)))


def build(depth=50, blocks=None, width=64, embedding=256, track_running_stats=True, batch_weight=0.1):
    """The network; ``blocks`` (blocks per stage) in place of a known ``depth`` makes a small one."""

    def norm(channels):
        return nn.BatchNorm2d(channels, momentum=batch_weight, track_running_stats=track_running_stats)

    stem = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    layers = OrderedDict(conv=stem, norm=norm(width), relu=nn.ReLU(), pool=nn.MaxPool2d(3, stride=2, padding=1))
    channels = width
    for stage, size in enumerate(BLOCKS[depth] if blocks is None else blocks):
        for block in range(size):
            stride = 2 if stage and not block else 1
            layers[f"block{stage + 1}_{block + 1}"] = Bottleneck(channels, width << stage, stride, norm)
            channels = 4 * (width << stage)
    layers.update(average=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), embed=nn.Linear(channels, embedding))
    layers["normalise"] = Normalise()
    net = nn.Sequential(layers)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return net
