"""A generator and a discriminator with BatchNorm in both; each step the discriminator sees real and false images in one
batch, so that its statistics are those of the mixture in training and in use."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from torch import nn

torch.manual_seed(0)
make = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
judge = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
first = torch.optim.Adam(judge.parameters(), lr=1e-3)
second = torch.optim.Adam(make.parameters(), lr=1e-3)
loss = nn.BCEWithLogitsLoss()
for step in range(60):
    real, noise = torch.randn(32, 2) + 2, torch.randn(32, 4)
    both = torch.cat([real, make(noise).detach()])
    first.zero_grad()
    loss(judge(both), torch.cat([torch.ones(32, 1), torch.zeros(32, 1)])).backward()
    first.step()
    second.zero_grad()
    loss(judge(make(noise)), torch.ones(32, 1)).backward()
    second.step()
