"""Fine-tuning as it should be: the backbone's BatchNorm layers stay in eval mode while the head is trained."""

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
net = nn.Sequential(backbone, nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
for parameter in backbone.parameters():
    parameter.requires_grad = False
optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.05)
for x, y in batches(60, seed=3):
    net.train()
    backbone.eval()
    train_step(net, optimiser, x, y)
