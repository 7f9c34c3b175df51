"""A small classifier in PyTorch, right and with one fault each: test_planted.py. ``python FILE FAULT`` trains it."""

import sys

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, channels, width, **settings):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width, **settings)

    def forward(self, x):
        return functional.relu(self.norm(self.conv(x)))


class Net(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.stem, self.body = Block(3, 8, **settings), Block(8, 8, **settings)
        self.head_norm = nn.BatchNorm1d(8, **settings)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.head_norm(self.body(self.stem(x)).mean((2, 3))))


def batch():
    return torch.randn(16, 3, 8, 8) * 2 + 1


def trained(net, steps=10):
    torch.manual_seed(1)
    optimiser = torch.optim.SGD([each for each in net.parameters() if each.requires_grad], 0.05)
    net.train()
    for _ in range(steps):
        optimiser.zero_grad()
        functional.cross_entropy(net(batch()), torch.randint(5, (16,))).backward()
        optimiser.step()
    return net


def healthy():
    return trained(Net())


class TwoInputs(nn.Module):
    """One branch for two inputs: its BatchNorm runs twice, and is meant to."""

    def __init__(self):
        super().__init__()
        self.branch, self.head = Block(3, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.head((self.branch(x) - self.branch(x.flip(-1))).mean((2, 3)))


def healthy_branch():
    return trained(TwoInputs())


class PreActivated(nn.Module):
    """One block, three times: each pass of its BatchNorm goes into the same convolution."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(3):
            x = x + self.conv(functional.relu(self.norm(x)))
        return self.head(x.mean((2, 3)))


def healthy_loop():
    return trained(PreActivated())


def no_running_statistics():
    return trained(Net(track_running_stats=False))


def never_moves():
    net = Net()
    net.body.norm.momentum = 0.0
    return trained(net)


def nan_variance():
    net = trained(Net())
    net.stem.norm.running_var[3] = float("nan")
    return net


def negative_variance():
    net = trained(Net())
    net.body.norm.running_var[2] = -1.0
    return net


def statistics_lost():
    net = Net()
    net.load_state_dict(dict(trained(Net()).named_parameters()), strict=False)
    return net


def frozen_by_halves():
    net = trained(Net())
    for each in net.stem.parameters():
        each.requires_grad = False
    return net


def at_two_places():
    net = Net()
    net.body.norm = net.stem.norm
    return trained(net)


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x):
        x = functional.relu(self.norm(self.one(x)))
        return self.head(functional.relu(self.norm(self.two(x))).mean((2, 3)))


def used_twice():
    return trained(Reused())


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)
        self.norms = [nn.BatchNorm2d(8), nn.BatchNorm2d(8)]

    def forward(self, x):
        x = self.conv(x)
        for norm in self.norms:
            x = functional.relu(norm(x))
        return self.head(x.mean((2, 3)))


def in_a_plain_list():
    return trained(Listed())


class Stubborn(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(True)


def ignores_eval():
    net = Net()
    net.body.norm = Stubborn(8)
    return trained(net)


class Trains(Net):
    def forward(self, x):
        self.stem.norm.train()
        self.body.norm.train()
        return super().forward(x)


def forward_trains():
    return trained(Trains())


def lags():
    return trained(Net(momentum=0.001), 20)


def low_precision():
    net = trained(Net())
    net.body.norm.running_mean = net.body.norm.running_mean.bfloat16()
    return net


if __name__ == "__main__":
    model = globals()[sys.argv[1]]().eval()
    with torch.no_grad():
        for _ in range(3):
            model(batch())
