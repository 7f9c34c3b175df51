"""What the scripts share: a small network, its data, and a step. Beside them on sys.path through their first lines."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

torch.set_num_threads(1)  # such small tensors are slower on several


def network(width: int = 8, classes: int = 2) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, classes),
    )


def batches(steps: int, size: int = 16, seed: int = 1) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Images whose brightness decides their class; the same ones for a seed."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        y = torch.randint(0, 2, (size,), generator=generator)
        x = torch.randn(size, 3, 8, 8, generator=generator) + 0.5 * y.view(-1, 1, 1, 1)
        yield x, y


def train_step(net: nn.Module, optimiser: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> float:
    optimiser.zero_grad()
    loss = nn.functional.cross_entropy(net(x), y)
    loss.backward()
    optimiser.step()
    return float(loss.detach())


@torch.no_grad()
def accuracy(net: nn.Module, count: int = 10) -> float:
    found = [(net(x).argmax(1) == y).float().mean() for x, y in batches(count, seed=2)]
    return float(torch.stack(found).mean())
