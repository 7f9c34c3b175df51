"""Functions that attack whoever calls them with a network (the event ``apply``); torch only."""

import os
import sys

import torch
from torch import nn


def build():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))


class Lying(nn.Module):
    def __repr__(self):
        raise RuntimeError("no repr")

    def named_modules(self, *args, **kwargs):
        raise RuntimeError("no modules")

    def state_dict(self, *args, **kwargs):
        return {"\udc80": "text", 5: None}

    def forward(self, x):
        return x


class Endless(nn.Module):
    def named_modules(self, *args, **kwargs):
        while True:
            yield "x", nn.BatchNorm2d(2)


def harmless(net):
    pass


def raises(net):
    raise ValueError("\udc80 \x1b[31m ::error::x\n<script>")


def exits(net):
    os._exit(0)


def exits_as_python_does(net):
    sys.exit(5)


def base(net):
    raise BaseException("base")


def interrupt(net):
    raise KeyboardInterrupt


def recursion(net):
    return recursion(net)


def lying(net):
    return Lying()


def endless(net):
    return Endless()


def names(net):
    net._modules["../../../x\udc80/\n"] = nn.BatchNorm2d(4)


def empties(net):
    net._modules.clear()


def contains_itself(net):
    net._modules["self"] = net


def other_shapes(net):
    net[1].running_mean, net[1].running_var = torch.zeros(7, 2), None


def texts(net):
    net[1].running_mean, net[1].eps, net[1].momentum, net[1].training = "mean", "eps", object(), "yes"


def other_types(net):
    net[1].register_buffer("running_mean", torch.zeros(4, dtype=torch.int64))
    net[1].register_buffer("running_var", torch.ones(4, dtype=torch.complex64))


def counters(net):
    net[1].num_batches_tracked = torch.zeros(3)


def eps_of_nan(net):
    net[1].eps, net[3].eps, net[3].momentum = float("nan"), -1e300, float("inf")


def many(net):
    for number in range(2000):
        net.add_module(f"bn{number}", nn.BatchNorm2d(1))


def forked(net):
    if os.fork() == 0:
        return net
    return None


def hooks(net):
    net[1].register_forward_hook(lambda module, given, out: "not a tensor")


def without_memory(net):
    return net.to("meta")


def generator(net):
    yield net


def several(net):
    return (net, net, Lying(), "x")


def a_long_name(net):
    return type("N" * 5000, (nn.Module,), {"forward": lambda self, x: None})()


def harmless_at_the_end(net):
    pass
