"""The fault: the very first batch has one sample, and behind a global pool that is one value per channel: this layer
never ends a forward. The script goes on without what is behind it."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
net = nn.Sequential(stem, nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8))
try:
    net(torch.randn(1, 3, 8, 8))  # the fault
except ValueError as error:
    print(error)
