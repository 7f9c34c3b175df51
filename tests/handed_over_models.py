"""A network whose BatchNorm state was spoilt before it is handed over, for test_handed_over.py; torch only."""

import torch
from torch import nn


def build(spoilt="nothing"):
    torch.manual_seed(3)
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
    with torch.no_grad():
        for _ in range(30):
            net.train()(torch.randn(8, 3, 6, 6) * 3 - 1)
    net.eval()
    with torch.no_grad():
        if spoilt == "counters":
            net[0].num_batches_tracked.zero_()
        if spoilt == "statistics":
            net[0].reset_running_stats()
        if spoilt == "weight":
            net[0].momentum = net[2].momentum = 0.99
        if spoilt == "mode":
            net[2].train()
        if spoilt == "variance":
            net[2].running_var[4] = -2.0
    return net
