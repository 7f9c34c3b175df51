"""A small classifier in Paddle, right and with one fault each, for test_planted.py; ``python FILE FAULT`` trains it."""

import sys

import paddle
from paddle import nn
from paddle.nn import functional


class Block(nn.Layer):
    def __init__(self, channels, width, **settings):
        super().__init__()
        self.conv = nn.Conv2D(channels, width, 3, padding=1, bias_attr=False)
        self.norm = nn.BatchNorm2D(width, **settings)

    def forward(self, x):
        return functional.relu(self.norm(self.conv(x)))


class Net(nn.Layer):
    def __init__(self, **settings):
        super().__init__()
        self.stem, self.body = Block(3, 8, **settings), Block(8, 8, **settings)
        self.head_norm = nn.BatchNorm1D(8, **settings)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.head_norm(self.body(self.stem(x)).mean((2, 3))))


def batch():
    return paddle.randn([16, 3, 8, 8]) * 2 + 1


def trained(net, steps=10):
    paddle.seed(1)
    optimiser = paddle.optimizer.SGD(0.05, parameters=net.parameters())
    net.train()
    for _ in range(steps):
        functional.cross_entropy(net(batch()), paddle.randint(0, 5, [16])).backward()
        optimiser.step()
        optimiser.clear_grad()
    return net


def put(tensor, place, value):
    array = tensor.numpy().copy()
    array[place] = value
    tensor.set_value(array)


def healthy():
    return trained(Net())


class TwoInputs(nn.Layer):
    """One branch for two inputs: its BatchNorm runs twice, and is meant to."""

    def __init__(self):
        super().__init__()
        self.branch, self.head = Block(3, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.head((self.branch(x) - self.branch(x.flip(-1))).mean((2, 3)))


def healthy_branch():
    return trained(TwoInputs())


def healthy_head_alone():
    """All but the head frozen, and the whole network in eval: no layer is frozen by halves."""
    net = trained(Net())
    for each in (*net.stem.parameters(), *net.body.parameters(), *net.head_norm.parameters()):
        each.stop_gradient = True
    for each in (net.stem.norm, net.body.norm, net.head_norm):
        each._use_global_stats = True
    return net


def no_running_statistics():
    return trained(Net(use_global_stats=False))


def never_moves():
    net = Net()
    net.body.norm = nn.BatchNorm2D(8, momentum=1.0)
    return trained(net)


def nan_variance():
    net = trained(Net())
    put(net.stem.norm._variance, 3, float("nan"))
    return net


def negative_variance():
    net = trained(Net())
    put(net.body.norm._variance, 2, -1.0)
    return net


def statistics_lost():
    net, state = Net(), trained(Net()).state_dict()
    net.set_state_dict({key: each for key, each in state.items() if not key.endswith(("_mean", "_variance"))})
    return net


def frozen_by_halves():
    net = trained(Net())
    for each in net.stem.parameters():
        each.stop_gradient = True
    return net


def at_two_places():
    net = Net()
    net.body.norm = net.stem.norm
    return trained(net)


class Reused(nn.Layer):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2D(3, 8, 3, padding=1), nn.Conv2D(8, 8, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2D(8), nn.Linear(8, 5)

    def forward(self, x):
        x = functional.relu(self.norm(self.one(x)))
        return self.head(functional.relu(self.norm(self.two(x))).mean((2, 3)))


def used_twice():
    return trained(Reused())


class Listed(nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2D(3, 8, 3, padding=1), nn.Linear(8, 5)
        self.norms = [nn.BatchNorm2D(8), nn.BatchNorm2D(8)]

    def forward(self, x):
        x = self.conv(x)
        for norm in self.norms:
            x = functional.relu(norm(x))
        return self.head(x.mean((2, 3)))


def in_a_plain_list():
    return trained(Listed())


class BatchAlways(nn.BatchNorm2D):
    def forward(self, x):
        held = (self._mean, self._variance, self.weight, self.bias)
        return functional.batch_norm(x, *held, True, self._momentum, self._epsilon)


def ignores_eval():
    net = Net()
    net.body.norm = BatchAlways(8)
    return trained(net)


class Trains(Net):
    def forward(self, x):
        self.stem.norm.train()
        self.body.norm.train()
        return super().forward(x)


def forward_trains():
    return trained(Trains())


def lags():
    return trained(Net(momentum=0.999), 20)


def low_precision():
    net = trained(Net())
    net.body.norm.to(dtype="bfloat16")
    return net


if __name__ == "__main__":
    model = globals()[sys.argv[1]]()
    model.eval()
    with paddle.no_grad():
        for _ in range(3):
            model(batch())
