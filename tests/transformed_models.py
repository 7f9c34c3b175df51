"""One model, and what PyTorch makes of it (compiled, scripted, frozen, exported), for test_transformed.py."""

import torch
from torch import nn


def build(eps=1e-5):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=eps), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, eps=eps)
    )
    with torch.no_grad():
        for _ in range(20):
            net(torch.randn(16, 3, 8, 8) * 3 + 1)
    return net.eval()


def compiled():
    return torch.compile(build())


def scripted():
    return torch.jit.script(build())


def frozen():
    return torch.jit.freeze(scripted())


def frozen_with_another_eps():
    return torch.jit.freeze(torch.jit.script(build(eps=1e-2)))


def program_in_training_mode():
    return torch.export.export(build().train(), (torch.randn(64, 3, 8, 8),))


def program():
    return torch.export.export(build(), (torch.randn(64, 3, 8, 8),))


def compiled_inside():
    net = build()
    net[1] = torch.compile(net[1])
    return net


def parallel():
    return nn.DataParallel(build())


def other_statistics():
    """The second layer holds the statistics of the first, and parameters of its own."""
    net = build()
    nn.init.uniform_(net[4].weight, 0.5, 1.5)
    net[4].load_state_dict({**net[4].state_dict(), **{key: net[1].state_dict()[key] for key in STATISTICS}})
    return net


def out_of_reach():
    net = build()
    net[1].running_mean[2] = 1e30
    return net


STATISTICS = ("running_mean", "running_var")
