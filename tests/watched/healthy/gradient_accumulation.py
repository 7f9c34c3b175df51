"""Four small batches per optimiser step; BatchNorm sees each of them once."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from parts import batches, network
from torch import nn

torch.manual_seed(0)
net = network().train()
optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
for number, (x, y) in enumerate(batches(160, size=8)):
    (nn.functional.cross_entropy(net(x), y) / 4).backward()
    if number % 4 == 3:
        optimiser.step()
        optimiser.zero_grad()
