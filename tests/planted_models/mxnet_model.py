"""A small classifier in Gluon, right and with one fault each, for test_planted.py; ``python FILE FAULT`` trains it.

MXNet moves its statistics in backward, which no frozen first block sees: the second one is frozen here.
"""

import sys

import mxnet as mx
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn


class Block(gluon.Block):
    def __init__(self, channels, width, **settings):
        super().__init__()
        with self.name_scope():
            self.conv = nn.Conv2D(width, 3, padding=1, in_channels=channels, use_bias=False)
            self.norm = nn.BatchNorm(in_channels=width, **settings)

    def forward(self, x):
        return nd.relu(self.norm(self.conv(x)))


class Net(gluon.Block):
    def __init__(self, body=None, **settings):
        super().__init__()
        with self.name_scope():
            self.stem, self.body = Block(3, 8, **settings), Block(8, 8, **(body or settings))
            self.head_norm = nn.BatchNorm(in_channels=8, **settings)
            self.head = nn.Dense(5, in_units=8)

    def forward(self, x):
        return self.head(self.head_norm(self.body(self.stem(x)).mean(axis=(2, 3))))


def batch():
    return nd.random.normal(shape=(16, 3, 8, 8)) * 2 + 1


def trained(net, steps=10):
    mx.random.seed(1)
    net.initialize(mx.init.Xavier())
    loss = gluon.loss.SoftmaxCrossEntropyLoss()
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.05})
    for _ in range(steps):
        x, y = batch(), nd.floor(nd.random.uniform(0, 5, shape=(16,)))
        with autograd.record():
            lost = loss(net(x), y)
        lost.backward()
        trainer.step(16)
    return net


def put(parameter, place, value):
    array = parameter.data().asnumpy()
    array[place] = value
    parameter.set_data(nd.array(array))


def healthy():
    return trained(Net())


class TwoInputs(gluon.Block):
    """One branch for two inputs: its BatchNorm runs twice, and is meant to."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.branch, self.head = Block(3, 8), nn.Dense(5, in_units=8)

    def forward(self, x):
        return self.head((self.branch(x) - self.branch(x.flip(axis=3))).mean(axis=(2, 3)))


def healthy_branch():
    return trained(TwoInputs())


def healthy_frozen_stem():
    """No gradient goes through its first block, so nothing moves there."""
    net = trained(Net())
    net.stem.collect_params().setattr("grad_req", "null")
    return net


class InTrainMode(Net):
    def forward(self, x):
        with autograd.train_mode():
            return super().forward(x)


def no_running_statistics():
    return trained(InTrainMode())


def never_moves():
    return trained(Net(body={"momentum": 1.0}))


def nan_variance():
    net = trained(Net())
    put(net.stem.norm.running_var, 3, float("nan"))
    return net


def negative_variance():
    net = trained(Net())
    put(net.body.norm.running_var, 2, -1.0)
    return net


def statistics_lost():
    net, theirs = Net(), trained(Net())._collect_params_with_prefix()
    net.initialize()
    for name, each in net._collect_params_with_prefix().items():
        if "running" not in name:
            each.set_data(theirs[name].data())
    return net


def frozen_by_halves():
    net = trained(Net())
    net.body.collect_params().setattr("grad_req", "null")
    return net


def at_two_places():
    net = Net()
    net.body.norm = net.stem.norm
    return trained(net)


class Reused(gluon.Block):
    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.one = nn.Conv2D(8, 3, padding=1, in_channels=3)
            self.two = nn.Conv2D(8, 3, padding=1, in_channels=8)
            self.norm, self.head = nn.BatchNorm(in_channels=8), nn.Dense(5, in_units=8)

    def forward(self, x):
        x = nd.relu(self.norm(self.one(x)))
        return self.head(nd.relu(self.norm(self.two(x))).mean(axis=(2, 3)))


def used_twice():
    return trained(Reused())


class Listed(gluon.Block):
    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.conv, self.head = nn.Conv2D(8, 3, padding=1, in_channels=3), nn.Dense(5, in_units=8)
            self.norms = [nn.BatchNorm(in_channels=8), nn.BatchNorm(in_channels=8)]

    def forward(self, x):
        x = self.conv(x)
        for norm in self.norms:
            x = nd.relu(norm(x))
        return self.head(x.mean(axis=(2, 3)))


def in_a_plain_list():
    net = Listed()
    for norm in net.norms:
        norm.initialize()
    return trained(net)


class BatchAlways(nn.BatchNorm):
    def forward(self, x):
        with autograd.train_mode():
            return super().forward(x)


def ignores_eval():
    net = Net()
    with net.name_scope():
        net.body.norm = BatchAlways(in_channels=8)
    return trained(net)


class TrainsBody(Net):
    def forward(self, x):
        x = self.stem(x)
        with autograd.train_mode():
            x = self.body(x)
        return self.head(self.head_norm(x.mean(axis=(2, 3))))


def forward_trains():
    return trained(TrainsBody())


def lags():
    return trained(Net(momentum=0.999), 20)


def low_precision():
    net = trained(Net())
    net.body.norm.running_mean.cast("float16")
    return net


if __name__ == "__main__":
    model = globals()[sys.argv[1]]()
    for _ in range(3):
        model(batch()).wait_to_read()
