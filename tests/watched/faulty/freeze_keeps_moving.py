"""The fault: the backbone is frozen by requires_grad=False alone; its running statistics drift on with the new data."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from parts import batches, network, train_step
from torch import nn

torch.manual_seed(0)
backbone = network()
optimiser = torch.optim.SGD(backbone.parameters(), lr=0.05)
for x, y in batches(60):
    train_step(backbone, optimiser, x, y)

backbone[-1] = nn.Identity()
net = nn.Sequential(backbone, nn.Linear(8, 2))
for parameter in backbone.parameters():
    parameter.requires_grad = False  # the fault: their BatchNorm layers stay in training mode
optimiser = torch.optim.SGD(net[1].parameters(), lr=0.05)
net.train()
for x, y in batches(60, seed=3):
    train_step(net, optimiser, 2 * x - 1, y)
